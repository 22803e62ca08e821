//! A virtual machine on one of the testbeds: what it is made of, and its command line.
//!
//! The same [`Machine`] describes all testbeds, so that the same image bytes meet the same devices everywhere.

use crate::control::{Control, Protocol};
use crate::firmware::Firmware;
use crate::inner::Inner;
use crate::quoted::quoted;
use crate::running::Running;
use crate::testbed::{QEMU, Testbed};
use crate::xen::Xen;
use anyhow::{Context, Result, anyhow};
use inner_init::{CONTROL, DISK, IMAGE, NETWORK};
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The path of a Unix socket has at most 107 bytes; this leaves some for its name.
const SOCKET_FOLDER_MAX: usize = 80;
/// CPUs of the inner Linux, however many the guest has: with two, QEMU's software SVM loses track of interrupts
/// (docs/conformance.md, finding 11).
const INNER_CPUS: u32 = 1;
/// What the inner Linux takes for itself.
const INNER_MEMORY: u64 = 384 << 20;
/// Memory that Xen keeps for itself.
const XEN_MEMORY: u64 = 512 << 20;

/// Whether the guest may write to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// A disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// What the guest may do.
    pub access: Access,
}

/// A forwarded TCP port of the loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// On the loopback.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

impl Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

/// Where the guest's serial line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialLine {
    /// To us.
    Captured,
    /// To the terminal that we run on, both ways.
    Terminal,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel, which the VMM loads.
    Kernel {
        /// The image.
        image: PathBuf,
        /// Files for it.
        initrd: Option<PathBuf>,
    },
    /// The machine's own disk. QEMU leaves that to firmware; our host takes kernel, command line and initrd out of it.
    Disk(Firmware),
}

impl Boot {
    /// An image alone.
    pub fn kernel(image: impl Into<PathBuf>) -> Self {
        Self::Kernel { image: image.into(), initrd: None }
    }
}

/// A virtual machine with a disk, a network card, a balloon and an entropy device.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where.
    pub testbed: Testbed,
    /// The image.
    pub boot: Boot,
    /// Added to the image's own command line, unless firmware boots it.
    pub cmdline: String,
    /// Bytes.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// The disk.
    pub disk: Disk,
    /// The forwarded port.
    pub publish: Publish,
    /// Arguments that are added to those of our host.
    pub more: Vec<String>,
    /// Our host program.
    pub ringside: PathBuf,
    /// What is between QEMU and the guest, for [`Testbed::HostInTcg`].
    pub inner: Option<Inner>,
    /// What is there for [`Testbed::XenPv`].
    pub xen: Option<Xen>,
    /// For sockets; see [`run_folder`].
    pub folder: PathBuf,
}

/// A folder for the files of one run, below `base` where socket paths stay short enough.
///
/// # Errors
/// When it cannot be made.
pub fn run_folder(base: &Path) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("ringside-run-");
    let folder = if base.as_os_str().len() > SOCKET_FOLDER_MAX { builder.tempdir() } else { builder.tempdir_in(base) };
    folder.with_context(|| format!("cannot create a folder in {}", base.display()))
}

impl Machine {
    /// The command that starts it.
    pub fn command(&self, serial: SerialLine) -> Command {
        match self.testbed {
            Testbed::Host => self.ringside_command(),
            Testbed::HostInTcg => self.inner_command(serial),
            Testbed::Qemu => self.qemu_command(serial, Bus::Pci),
            Testbed::QemuMicrovm => self.qemu_command(serial, Bus::Mmio),
            Testbed::XenPv => self.xen_command(serial),
        }
    }

    /// The same on QEMU, captured, with its network card on a socket that listens, in QEMU's stream framing.
    pub fn command_on_wire(&self, socket: &Path) -> Command {
        let usual = self.command(SerialLine::Captured);
        let mut command = Command::new(usual.get_program());
        for arg in usual.get_args() {
            if arg.to_string_lossy().starts_with("user,id=n0") {
                command.arg(format!("stream,id=n0,server=off,addr.type=unix,addr.path={}", quoted(socket)));
            } else {
                command.arg(arg);
            }
        }
        command
    }

    fn ringside_command(&self) -> Command {
        let mut command = Command::new(&self.ringside);
        command.arg("run");
        match &self.boot {
            Boot::Kernel { image, initrd } => {
                command.arg("--kernel").arg(image);
                if let Some(initrd) = initrd {
                    command.arg("--initrd").arg(initrd);
                }
            }
            Boot::Disk(_) => {
                command.arg("--image").arg(&self.disk.path);
            }
        }
        command.args(self.sizes());
        command.arg("--disk").arg(self.disk_argument(self.disk.path.as_os_str()));
        command.args(["--net", "passt", "--publish", &self.publish.to_string(), "--balloon", "--rng", "--control"]);
        command.arg(self.socket()).args(&self.more);
        command
    }

    /// The same machine in the words of the inner Linux, where QEMU's disk, card and serial lines are its outside.
    fn inner_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["run".into(), "--kernel".into(), format!("/{IMAGE}")];
        arguments.extend(self.sizes());
        arguments
            .extend(["--disk".into(), format!("{},queues=4", self.disk_argument(OsStr::new(DISK)).to_string_lossy())]);
        arguments.extend(["--net".into(), format!("stream={NETWORK}"), "--balloon".into(), "--rng".into()]);
        arguments.extend(["--control".into(), CONTROL.into()]);
        arguments.extend(self.more.iter().cloned());
        arguments
    }

    fn sizes(&self) -> [String; 6] {
        let (memory, cpus) = (format!("{}K", self.memory >> 10), self.cpus.to_string());
        ["--cmdline".into(), self.cmdline.clone(), "--mem".into(), memory, "--cpus".into(), cpus]
    }

    fn disk_argument(&self, path: &OsStr) -> OsString {
        let mut disk = path.to_owned();
        if self.disk.access == Access::ReadOnly {
            disk.push(",ro");
        }
        disk
    }

    fn inner_command(&self, serial: SerialLine) -> Command {
        let mut command = self.qemu(serial, &["-M", "q35"], "max", self.memory + INNER_MEMORY, INNER_CPUS);
        if let Some(inner) = &self.inner {
            command.arg("-kernel").arg(inner.linux.kernel());
        }
        command.arg("-initrd").arg(self.inner_initrd());
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
        command.args(["-chardev", &format!("socket,id=c0,server=on,wait=off,path={}", quoted(&self.socket()))]);
        command.args(["-serial", "chardev:c0"]);
        command.args(["-device", "nvme,drive=d0,serial=d0"]);
        // Its frames are led to another virtual machine: they must be whole.
        command.args(["-device", "virtio-net-pci,netdev=n0,romfile=,csum=off,guest_csum=off"]);
        command
    }

    fn qemu_command(&self, serial: SerialLine, bus: Bus) -> Command {
        let board: &[&str] = match bus {
            Bus::Pci => &["-M", "q35"],
            Bus::Mmio => &["-M", "microvm,acpi=off", "-global", "virtio-mmio.force-legacy=false"],
        };
        let mut command = self.qemu(serial, board, "max", self.memory, self.cpus);
        let block = match &self.boot {
            Boot::Kernel { image, initrd } => {
                command.arg("-kernel").arg(image).arg("-append").arg(&self.cmdline);
                if let Some(initrd) = initrd {
                    command.arg("-initrd").arg(initrd);
                }
                BLOCK
            }
            Boot::Disk(firmware) => {
                command.args(firmware.arguments(&self.folder));
                BOOT_BLOCK
            }
        };
        self.add_devices(&mut command, bus, &[block, NET, BALLOON, RNG]);
        command
    }

    /// The image is Xen's first module, and its command line follows the file's name; the initrd is the second. The balloon
    /// is Xen's own.
    fn xen_command(&self, serial: SerialLine) -> Command {
        // With SMAP, Xen in TCG ends a paravirtual first domain when it is to bounce an exception to it.
        let mut command = self.qemu(serial, &["-M", "q35"], "max,-smap,-smep", self.memory + XEN_MEMORY, self.cpus);
        if let Some(xen) = &self.xen {
            command.arg("-kernel").arg(xen.file());
        }
        let memory = self.memory >> 10;
        command.args([
            "-append",
            &format!("console=com1 com1=115200,8n1 guest_loglvl=all dom0_mem={memory}K,max:{memory}K"),
        ]);
        if let Boot::Kernel { image, initrd } = &self.boot {
            let module = format!("{} {}", quoted(image), self.cmdline.replace(',', ",,"));
            let mut modules = module.trim_end().to_owned();
            initrd.iter().for_each(|initrd| modules.extend([",", &quoted(initrd)]));
            command.args(["-initrd", &modules]);
        }
        self.add_devices(&mut command, Bus::Pci, &[BLOCK, NET, RNG]);
        command
    }

    fn add_devices(&self, command: &mut Command, bus: Bus, devices: &[(&str, &str, &str)]) {
        for (device, options, pci_options) in devices {
            let mut text = match bus {
                Bus::Pci => format!("{device}-pci,disable-legacy=on{pci_options}"),
                Bus::Mmio => format!("{device}-device"),
            };
            if !options.is_empty() {
                text.push(',');
                text.push_str(options);
            }
            command.args(["-device", &text]);
        }
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", quoted(&self.socket()))]);
    }

    /// QEMU on a board, with the disk and the network that devices are to use.
    fn qemu(&self, serial: SerialLine, board: &[&str], cpu: &str, memory: u64, cpus: u32) -> Command {
        let mut command = Command::new(QEMU);
        command.args(board);
        command.args(["-accel", "tcg", "-cpu", cpu, "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-m", &format!("{}k", memory >> 10), "-smp", &cpus.to_string()]);
        command.args(match serial {
            SerialLine::Captured => ["-serial", "stdio"],
            SerialLine::Terminal => ["-serial", "mon:stdio"],
        });
        let read_only = if self.disk.access == Access::ReadOnly { "on" } else { "off" };
        let path = quoted(&self.disk.path);
        command.args(["-drive", &format!("if=none,id=d0,format=raw,read-only={read_only},file={path}")]);
        let Publish { host, guest } = self.publish;
        command.args(["-netdev", &format!("user,id=n0,hostfwd=tcp:127.0.0.1:{host}-:{guest}")]);
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control")
    }

    fn inner_initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// Writes the files that its [`command`](Self::command) names and that are its own.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn prepare(&self) -> Result<()> {
        self.prepare_runs(&[])
    }

    /// The same; on [`Testbed::HostInTcg`] the host program runs once for each of these command lines, if there are any.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_runs(&self, runs: &[String]) -> Result<()> {
        let title = self.testbed.title();
        match (&self.boot, self.testbed) {
            (Boot::Kernel { image, initrd: None }, Testbed::HostInTcg) => {
                let inner = self.inner.as_ref().ok_or_else(|| anyhow!("there is no inner Linux to boot"))?;
                inner.pack(image, &self.inner_arguments(), runs, &self.inner_initrd())
            }
            (Boot::Kernel { .. }, Testbed::HostInTcg) => Err(anyhow!("{title} takes no initrd")),
            (Boot::Kernel { .. }, Testbed::XenPv) if self.xen.is_none() => Err(anyhow!("there is no Xen to boot")),
            (Boot::Kernel { .. }, _) | (Boot::Disk(_), Testbed::Host) => Ok(()),
            (Boot::Disk(firmware), Testbed::Qemu) => firmware.prepare(&self.folder),
            (Boot::Disk(_), _) => Err(anyhow!("{title} boots no disk")),
        }
    }

    /// Starts it with its serial line captured.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&self) -> Result<Running> {
        self.prepare()?;
        Running::spawn(self.command(SerialLine::Captured))
    }

    /// Connects to the host side of the running machine.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn control(&self) -> Result<Control> {
        let protocol = match self.testbed {
            Testbed::Host | Testbed::HostInTcg => Protocol::Ringside,
            Testbed::Qemu | Testbed::QemuMicrovm | Testbed::XenPv => Protocol::Qmp { memory: self.memory },
        };
        Control::connect(&self.socket(), protocol)
    }
}

/// A device: its name without the bus, its options, and those on PCI only.
const BLOCK: (&str, &str, &str) = ("virtio-blk", "drive=d0", "");
const BOOT_BLOCK: (&str, &str, &str) = ("virtio-blk", "drive=d0,bootindex=0", "");
const NET: (&str, &str, &str) = ("virtio-net", "netdev=n0", ",romfile=");
const BALLOON: (&str, &str, &str) = ("virtio-balloon", "deflate-on-oom=on,free-page-reporting=on", "");
const RNG: (&str, &str, &str) = ("virtio-rng", "", "");

#[derive(Clone, Copy)]
enum Bus {
    Pci,
    Mmio,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(testbed: Testbed) -> Machine {
        Machine {
            testbed,
            boot: Boot::kernel("/i"),
            cmdline: "tour".into(),
            memory: 128 << 20,
            cpus: 2,
            disk: Disk { path: "/a,b".into(), access: Access::ReadOnly },
            publish: Publish { host: 8000, guest: 80 },
            more: Vec::new(),
            ringside: "/ringside".into(),
            inner: None,
            xen: None,
            folder: "/f".into(),
        }
    }

    fn words(testbed: Testbed) -> String {
        let command = machine(testbed).command(SerialLine::Captured);
        command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_testbed_gets_the_same_machine_in_its_own_words() {
        let host = words(Testbed::Host);
        assert!(host.contains("--mem 131072K --cpus 2 --disk /a,b,ro --net passt --publish 8000:80"), "{host}");
        for (testbed, device) in [
            (Testbed::Qemu, "virtio-blk-pci,disable-legacy=on,drive=d0"),
            (Testbed::QemuMicrovm, "virtio-blk-device,drive=d0"),
        ] {
            let qemu = words(testbed);
            for part in ["-m 131072k -smp 2", "read-only=on,file=/a,,b", "hostfwd=tcp:127.0.0.1:8000-:80", device] {
                assert!(qemu.contains(part), "{part} is not in {qemu}");
            }
        }
        let xen = words(Testbed::XenPv);
        for part in [
            "-cpu max,-smap,-smep",
            "-m 655360k -smp 2",
            "dom0_mem=131072K,max:131072K",
            "-initrd /i tour",
            "read-only=on,file=/a,,b",
            "hostfwd=tcp:127.0.0.1:8000-:80",
            "virtio-net-pci,disable-legacy=on,romfile=,netdev=n0",
        ] {
            assert!(xen.contains(part), "{part} is not in {xen}");
        }
        assert!(!xen.contains("balloon"), "the balloon is the hypervisor's own: {xen}");
        let outside = words(Testbed::HostInTcg);
        for part in
            ["-m 524288k -smp 1", "read-only=on,file=/a,,b", "hostfwd=tcp:127.0.0.1:8000-:80", "-initrd /f/initrd"]
        {
            assert!(outside.contains(part), "{part} is not in {outside}");
        }
        let inside = machine(Testbed::HostInTcg).inner_arguments().join(" ");
        assert!(
            inside.contains("--cmdline tour --mem 131072K --cpus 2 --disk /dev/nvme0n1,ro,queues=4 --net stream="),
            "{inside}"
        );
    }

    #[test]
    fn a_machine_without_the_linux_or_xen_that_it_needs_does_not_start() {
        let error = machine(Testbed::HostInTcg).start().unwrap_err().to_string();
        assert_eq!(error, "there is no inner Linux to boot");
        assert_eq!(machine(Testbed::XenPv).start().unwrap_err().to_string(), "there is no Xen to boot");
    }
}
