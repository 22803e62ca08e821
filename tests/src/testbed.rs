//! The hypervisors that a machine may have, and why one of them cannot be used here.

use crate::package::PROGRAMS;
use anyhow::{Context, Result, anyhow, bail};
use kvm_ioctls::Kvm;
use std::env;
use std::ffi::CString;
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

/// Where an image can boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Testbed {
    /// Our host program on the machine's KVM.
    Host,
    /// QEMU with a software CPU: a PC with virtio-pci.
    Qemu,
    /// QEMU with a software CPU: no PCI, virtio-mmio.
    QemuMicrovm,
    /// Our host program on the KVM of a stock Linux, which runs on QEMU with a software CPU.
    HostInTcg,
    /// The real Xen on QEMU with a software CPU; the image is its first domain, a paravirtual one.
    XenPv,
}

/// What the machine's KVM is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmPolicy {
    /// Used where it works.
    Use,
    /// Treated as absent.
    Absent,
}

impl Testbed {
    /// All of them, the preferred first.
    pub const ALL: [Self; 5] = [Self::Host, Self::Qemu, Self::QemuMicrovm, Self::HostInTcg, Self::XenPv];

    /// Its name everywhere: on the command line, in the documentation, and as that of its profile.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host-kvm",
            Self::Qemu => "qemu-tcg-q35",
            Self::QemuMicrovm => "qemu-tcg-microvm",
            Self::HostInTcg => "host-kvm-in-tcg",
            Self::XenPv => "xen-pv",
        }
    }

    /// What it is, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Host => "our host (ringside on /dev/kvm)",
            Self::Qemu => "QEMU q35, software CPU",
            Self::QemuMicrovm => "QEMU microvm, software CPU",
            Self::HostInTcg => "our host on the KVM (SVM) of a stock Linux in QEMU, software CPU",
            Self::XenPv => "Xen in QEMU, software CPU; a paravirtual domain",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|testbed| testbed.name() == name)
    }

    /// Whether it can be used here.
    ///
    /// # Errors
    /// Why not.
    pub fn available(self, kvm: KvmPolicy) -> Result<()> {
        match self {
            Self::Host => {
                check_kvm(kvm)?;
                find_program("passt").map(drop).ok_or_else(|| anyhow!("passt is not installed (the guest's network)"))
            }
            Self::Qemu | Self::QemuMicrovm => {
                find_program(QEMU).map(drop).ok_or_else(|| anyhow!("{QEMU} is not installed"))
            }
            Self::HostInTcg | Self::XenPv => {
                let missing = [QEMU].into_iter().chain(PROGRAMS).find(|program| find_program(program).is_none());
                missing.map_or(Ok(()), |program| Err(anyhow!("{program} is not installed")))
            }
        }
    }
}

impl Display for Testbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The program of the QEMU testbeds.
pub const QEMU: &str = "qemu-system-x86_64";

/// Looks for a program where a shell would, and where Debian puts what only root is thought to need.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

pub(crate) fn check_kvm(policy: KvmPolicy) -> Result<()> {
    const DEVICE: &str = "/dev/kvm";
    const API_VERSION: i32 = 12;
    if policy == KvmPolicy::Absent {
        bail!("{DEVICE} is treated as absent (--no-kvm)");
    }
    if !Path::new(DEVICE).exists() {
        bail!("there is no {DEVICE}");
    }
    let kvm = Kvm::new_with_path(CString::new(DEVICE)?).with_context(|| format!("cannot open {DEVICE}"))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        bail!("{DEVICE} has API version {version}, not {API_VERSION}");
    }
    kvm.create_vm().with_context(|| format!("{DEVICE} cannot create a VM"))?;
    Ok(())
}

/// Whether the CPU itself reports VMX or SVM. A nested KVM may do without both, but some programs ask CPUID.
pub(crate) fn check_vmx_or_svm() -> Result<()> {
    const CPUINFO: &str = "/proc/cpuinfo";
    let text = fs::read_to_string(CPUINFO).with_context(|| format!("cannot read {CPUINFO}"))?;
    if has_vmx_or_svm(&text) { Ok(()) } else { bail!("this CPU reports neither VMX nor SVM ({CPUINFO})") }
}

fn has_vmx_or_svm(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| key.trim() == "flags");
    flags.flat_map(|(_, words)| words.split_whitespace()).any(|word| word == "vmx" || word == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_treated_as_absent_says_so_and_leaves_qemu_alone() {
        let why = Testbed::Host.available(KvmPolicy::Absent).unwrap_err().to_string();
        assert!(why.contains("--no-kvm"), "{why}");
        let with = Testbed::Qemu.available(KvmPolicy::Use).is_ok();
        assert_eq!(Testbed::Qemu.available(KvmPolicy::Absent).is_ok(), with);
    }

    #[test]
    fn vmx_and_svm_are_found_as_whole_words_among_the_flags_alone() {
        assert!(has_vmx_or_svm("processor\t: 0\nflags\t\t: fpu vme vmx smx\n"));
        assert!(has_vmx_or_svm("flags\t\t: fpu svm"));
        assert!(!has_vmx_or_svm("flags\t\t: fpu svm_lock novmx hypervisor\n"));
        assert!(!has_vmx_or_svm("model name\t: vmx svm\nvmx flags\t: vnmi ept svm\nbugs\t: vmx\n"));
        assert!(!has_vmx_or_svm(""));
    }

    #[test]
    fn names_lead_back_to_their_testbed_and_are_those_of_profiles() {
        for testbed in Testbed::ALL {
            assert_eq!(Testbed::from_name(testbed.name()), Some(testbed));
            let profile =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(testbed.name()).with_extension("toml");
            assert!(profile.is_file(), "a machine has one name: there is no {}", profile.display());
        }
        assert_eq!(Testbed::from_name("bochs"), None);
    }
}
