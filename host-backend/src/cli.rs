//! The command line.

use crate::config::sandbox::{Mode, Namespaces, Options, Show};
use crate::config::{self, Config, Console, Disk, Kernel, LogFile, Net, OnReset, Publish, StatsFormat, hostile};
use crate::{control, keeper, log, say, status};
use clap::error::ErrorKind;
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ringside", version, about = "Runs a PVH kernel in a VM of KVM", after_help = status::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one VM until it ends
    #[command(after_help = format!("{}\n\n{}", control::HELP, status::HELP))]
    Run(Box<Run>),
}

#[derive(Args)]
#[command(group = ArgGroup::new("source").required(true).args(["kernel", "image"]))]
struct Run {
    /// Kernel: an ELF file with a PVH entry
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<PathBuf>,
    /// A bootable disk or ISO image made by mkimage, also a disk in a qcow2, vhdx or vmdk file: kernel, command line and
    /// initrd are taken out of it and loaded directly
    #[arg(long, value_name = "DISK", conflicts_with_all = ["kernel", "initrd"])]
    image: Option<PathBuf>,
    /// Initial RAM disk, given to the guest as PVH module 0
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line; with --image, added to the disk's own
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    cmdline: String,
    /// Memory, with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = config::parse_size)]
    mem: u64,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(config::CPUS_MAX)))]
    cpus: u32,
    /// Raw disk image, may be given several times; ro: read only, queues=N: queues for requests,
    /// serial=TEXT: its serial number. bps=SIZE and iops=N: limit bytes and requests per second, of which those of burst=TIME
    /// (such as 500ms, default 1s) are saved while the disk is idle
    #[arg(long = "disk", value_name = "PATH[,ro][,queues=N][,serial=TEXT][,bps=SIZE][,iops=N][,burst=TIME]")]
    disks: Vec<Disk>,
    /// Network card: tap=NAME, passt (started and ended with the VM), stream=SOCKET (any peer of QEMU's stream framing)
    /// or none; mac=ADDRESS may follow. bps=SIZE and pps=N: limit bytes and packets per second, in each direction; burst=TIME as
    /// for --disk
    #[arg(long, value_name = "PEER[,mac=ADDRESS][,bps=SIZE][,pps=N][,burst=TIME]", default_value = "none", value_parser = parse_net)]
    net: OptionalNet,
    /// Forward TCP connections from 127.0.0.1:HOST to the guest's port GUEST (with --net passt)
    #[arg(long, value_name = "HOST:GUEST")]
    publish: Vec<Publish>,
    /// Give the guest a memory balloon
    #[arg(long)]
    balloon: bool,
    /// Give the guest an entropy device
    #[arg(long)]
    rng: bool,
    /// Listen on this Unix socket for JSON lines: status, stats, balloon, disk, link, console, pause,
    /// resume, stop
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Listen on this Unix socket too, for monitoring: status, stats and the balloon's numbers, for processes of our group as
    /// well
    #[arg(long, value_name = "SOCKET")]
    control_readonly: Option<PathBuf>,
    /// Serial port: stdio, or file=PATH (output only). A file grows to at most 64M, or to what ",size=SIZE" says; full ones
    /// are kept as PATH.1, and up to PATH.N with ",keep=N"
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    console: Console,
    /// Give the guest a virtio console: stdio (takes standard input unless the serial port has it), file=PATH as for
    /// --console, or control (read and typed to by the control socket)
    #[arg(long, value_name = "WHERE")]
    virtio_console: Option<Console>,
    /// Output limit of each console in bytes per second, or none; a guest that prints faster waits
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_rate)]
    console_rate: Rate,
    /// What a guest's reset (port 0xcf9, port 0x64 or a triple fault) does. exit: end the VM, with status 0, except for a
    /// triple fault, which is a failure with its registers; reboot: start it again from its kernel
    #[arg(long, value_name = "ACTION", value_enum, default_value_t = OnReset::Exit)]
    on_reset: OnReset,
    /// Print exits by cause and the devices' counters to standard error when the VM ends
    #[arg(long, value_name = "FORMAT", value_enum)]
    stats: Option<StatsFormat>,
    /// Devices lie to the guest, chosen by this seed: a driver that trusts them breaks, and the same seed breaks it
    /// again. device=TYPE: only these (block, net, balloon, console, rng); lies=KIND: only these kinds; rate=N: one lie in N
    /// chances (32). Several types or kinds are joined by +
    #[arg(long, value_name = "SEED[,device=TYPE][,lies=KIND][,rate=N]")]
    hostile_device: Option<hostile::Options>,
    /// Write each lie to this file, one per line, the last before a crash at its end; size= and keep= as for --console
    #[arg(long, value_name = "PATH", requires = "hostile_device")]
    hostile_log: Option<LogFile>,
    /// Become this user, by number, once everything is open; as root without it there is a warning (0: stay root)
    #[arg(long, value_name = "NUMBER", help_heading = SANDBOX)]
    uid: Option<u32>,
    /// Become this group, by number
    #[arg(long, value_name = "NUMBER", help_heading = SANDBOX)]
    gid: Option<u32>,
    /// Make this folder the root directory once everything is open; an empty one will do
    #[arg(long, value_name = "FOLDER", help_heading = SANDBOX)]
    chroot: Option<PathBuf>,
    /// Join the cgroup of this folder before anything is opened, such as /sys/fs/cgroup/vms/a
    #[arg(long, value_name = "FOLDER", help_heading = SANDBOX)]
    cgroup: Option<PathBuf>,
    /// Live in new mount, network, IPC, UTS and cgroup namespaces once everything is open
    #[arg(long, help_heading = SANDBOX)]
    new_namespaces: bool,
    /// Print what is in force, and each system call that is allowed, when the sandbox is on
    #[arg(long, help_heading = SANDBOX)]
    show_sandbox: bool,
    /// Run without the sandbox: a guest that takes over this process then has all that its user has
    #[arg(long, help_heading = SANDBOX, conflicts_with_all = ["uid", "gid", "chroot", "new_namespaces", "show_sandbox"])]
    no_sandbox: bool,
    /// Inject a bug into the machine
    #[cfg(feature = "test-faults")]
    #[arg(long, value_name = "BUG", value_enum, hide = true)]
    fault: Option<crate::faulty::Bug>,
    /// The KVM device
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm", hide = true)]
    kvm: PathBuf,
}

/// The sandbox is on without a word; these say more.
const SANDBOX: &str = "Sandbox";

/// `--net none` is a value too; clap takes a bare `Option` for an absent argument.
#[derive(Clone)]
struct OptionalNet(Option<Net>);

/// As [`OptionalNet`].
#[derive(Clone)]
struct Rate(Option<u64>);

fn parse_rate(text: &str) -> Result<Rate, config::ParseError> {
    config::parse_rate(text).map(Rate)
}

fn parse_net(text: &str) -> Result<OptionalNet, config::ParseError> {
    config::parse_net(text).map(OptionalNet)
}

/// Reads the command line. What is left to do otherwise (help, an error) is done, with its exit status.
///
/// # Errors
/// The exit status.
pub fn parse() -> Result<Config, ExitCode> {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == keeper::ARGUMENT) {
        keeper::run();
        return Err(ExitCode::SUCCESS);
    }
    match Cli::try_parse() {
        Ok(Cli { command: Command::Run(run) }) => {
            #[cfg(feature = "test-faults")]
            if let Some(bug) = run.fault {
                crate::faulty::inject(bug);
            }
            Ok((*run).into())
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            match log::text(&error.to_string()) {
                Ok(()) => Err(ExitCode::SUCCESS),
                Err(error) => {
                    say!("write to standard output: {error}");
                    Err(status::VM_FAILURE.into())
                }
            }
        }
        Err(error) => {
            say!("{}", one_line(&error.to_string()));
            Err(status::BAD_INPUT.into())
        }
    }
}

/// Reads words as they stand on a command line, the program's name first, and does nothing else.
///
/// # Errors
/// Why they describe no VM, in one line; `None` where they ask for help or the version.
pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Config, Option<String>> {
    match Cli::try_parse_from(words) {
        Ok(Cli { command: Command::Run(run) }) => Ok((*run).into()),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Err(None),
        Err(error) => Err(Some(one_line(&error.to_string()))),
    }
}

/// The lines of a clap error that say what is wrong, as one.
fn one_line(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    format!("{} (see ringside run --help)", line.strip_prefix("error: ").unwrap_or(&line))
}

impl From<Run> for Config {
    fn from(run: Run) -> Self {
        Self {
            kernel: match (run.kernel, run.image) {
                (Some(path), _) => Kernel::Elf { path, initrd: run.initrd },
                (None, image) => Kernel::Disk(image.unwrap_or_default()),
            },
            cmdline: run.cmdline,
            memory: run.mem,
            cpus: run.cpus,
            disks: run.disks,
            net: run.net.0,
            publish: run.publish,
            balloon: run.balloon,
            rng: run.rng,
            control: run.control,
            control_readonly: run.control_readonly,
            console: run.console,
            virtio_console: run.virtio_console,
            console_rate: run.console_rate.0,
            on_reset: run.on_reset,
            stats: run.stats,
            hostile: run.hostile_device,
            hostile_log: run.hostile_log,
            kvm: run.kvm,
            sandbox: Options {
                mode: if run.no_sandbox { Mode::Off } else { Mode::On },
                user: run.uid,
                group: run.gid,
                chroot: run.chroot,
                cgroup: run.cgroup,
                namespaces: if run.new_namespaces { Namespaces::New } else { Namespaces::Parents },
                show: if run.show_sandbox { Show::All } else { Show::Nothing },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn bugs_can_be_injected_only_into_the_program_made_for_that() {
        let run = Cli::try_parse_from(["ringside", "run", "--kernel", "k", "--fault", "flush-ignored"]);
        assert_eq!(run.is_ok(), cfg!(feature = "test-faults"));
    }

    #[test]
    fn errors_are_one_line() {
        let error = Cli::try_parse_from(["ringside", "run", "--kernel", "k", "--cpus", "0"]).err().unwrap();
        let line = one_line(&error.to_string());
        assert!(line.contains("--cpus") && !line.contains('\n') && line.len() > 20, "{line}");
        let error = Cli::try_parse_from(["ringside", "run"]).err().unwrap();
        let line = one_line(&error.to_string());
        assert!(line.contains("--kernel") && line.contains("--image"), "{line}");
    }

    #[test]
    fn a_kernel_comes_from_one_place() {
        let accepts = |arguments: &[&str]| Cli::try_parse_from([&["ringside", "run"], arguments].concat()).is_ok();
        assert!(
            accepts(&["--kernel", "k"]) && accepts(&["--kernel", "k", "--initrd", "i"]) && accepts(&["--image", "d"])
        );
        assert!(!accepts(&["--kernel", "k", "--image", "d"]) && !accepts(&["--image", "d", "--initrd", "i"]));
    }
}
