//! A hypervisor as a file: how it is started, where its serial line goes, how it ends, what it offers, and its known
//! defects. Read by the harness from tests/profiles/ and from `--profile`; every key is checked before anything starts.

mod stale;

pub use stale::StaleLine;

use crate::conform::catalogue::{self, Pattern, PatternError};
use crate::conform::fill::{self, FillError};
use crate::conform::media;
use crate::conform::outcome::Outcome;
use crate::conform::version::{self, Printed};
use conformance::host_action::HostAction;
use semver::VersionReq;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The word for our own host program in place of a program's name.
pub const RINGSIDE: &str = "ringside";
/// The word for our host program on the KVM of a stock Linux, which runs on QEMU: the harness knows how.
pub const HOST_IN_TCG: &str = "host-kvm-in-tcg";
/// In `needs`: a `/dev/kvm` that works.
pub const KVM: &str = "kvm";
/// In `needs`: a CPU that reports VMX or SVM, for a program that does not start without.
pub const VMX_OR_SVM: &str = "vmx-or-svm";

/// A larger file is no profile.
const FILE_MAX: u64 = 256 << 10;

/// Why a file is no profile.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Not there, not readable, too large.
    #[error("cannot read {path}: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A wrong key or type; the library says which, and where.
    #[error("{path}: {why}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// One line.
        why: String,
    },
    /// A placeholder that does not exist.
    #[error("{path}: {place}: {why}")]
    Placeholder {
        /// The file.
        path: PathBuf,
        /// Which key.
        place: String,
        /// What is wrong.
        why: FillError,
    },
    /// A known defect, or something left out, that can never apply.
    #[error("{path}: {why}")]
    Stale {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: StaleLine,
    },
    /// Something that the types cannot say.
    #[error("{path}: {why}")]
    Sense {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// Where the guest's serial line comes out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Serial {
    /// On the program's standard output.
    Stdio,
    /// In a named pipe that the harness makes: `{serial}`.
    Pipe,
    /// On a pseudo terminal that the harness makes: the program's standard input and output.
    Pty,
}

/// How a run ends once the guest has said that it is through and has switched the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// The program exits with status 0.
    Exits,
    /// The program exits, with whatever status.
    ExitsAnyhow,
    /// The program stays; the harness ends it.
    Stays,
}

/// A short start that shows whether the program can work here at all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its arguments, without placeholders.
    pub args: Vec<String>,
    /// What it reads from its standard input.
    #[serde(default)]
    pub input: String,
    /// The start of the sentence when it fails, as in "QEMU cannot use this KVM".
    pub otherwise: String,
}

/// Whose words a control socket understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlProtocol {
    /// Our host's: host-backend/src/control.rs.
    Ringside,
    /// QEMU's; the first drive is called `d0`, the network `n0`, the balloon `b0`, and the console's socket is
    /// `{folder}/console`.
    Qmp,
    /// Firecracker's, HTTP; the drive is called `disk` and is the file `{disk}`.
    Firecracker,
    /// Cloud Hypervisor's, HTTP; the disk is called `disk`.
    CloudHypervisor,
}

/// What the harness can change about the machine while it runs, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostActions {
    /// What the socket at `{control}` understands.
    pub protocol: ControlProtocol,
    /// Supported host actions (see `conformance::host_action`); checks that need another one skip themselves.
    /// `balloon/256` is for a balloon that moves by 256 pages.
    pub can: Vec<String>,
}

/// A file that is made for the program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Its name in `{folder}`; values are quoted for JSON when it ends in `.json`.
    pub name: String,
    /// Its text, with placeholders.
    pub text: String,
}

/// Something that is known to fail, and why it is left so.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KnownDefect {
    /// A pattern over the names of checks.
    pub check: String,
    /// For the report.
    pub reason: String,
    /// The versions of the program that show it, as in `>=7.2, <9`; by default those of the profile.
    pub versions: Option<VersionReq>,
    /// It shows in some runs only, as a race does: a check that passes is not said to be fixed.
    #[serde(default)]
    pub sometimes: bool,
}

impl KnownDefect {
    /// Whether it explains an outcome.
    pub fn explains(&self, outcome: Outcome) -> bool {
        !(self.sometimes && outcome == Outcome::Pass)
    }
}

/// A hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// A word: the column of the matrix, and what `--on` takes.
    pub name: String,
    /// For people.
    pub title: String,
    /// Looked up in PATH, or a path, or `ringside`, or `host-kvm-in-tcg` (then `args` are added to those of our host).
    pub program: String,
    /// With placeholders.
    #[serde(default)]
    pub args: Vec<String>,
    /// Where the serial line comes out.
    #[serde(default = "stdio")]
    pub serial: Serial,
    /// How a run ends.
    #[serde(default = "exits")]
    pub ends: Ends,
    /// `kvm`, `vmx-or-svm`, or the name of a program that must be there too.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Groups of checks of which at least one must not skip itself: what the machine of `args` has.
    #[serde(default)]
    pub offers: Vec<String>,
    /// After so long a run is ended.
    pub timeout_seconds: u64,
    /// The guest's memory.
    #[serde(default = "memory")]
    pub memory_mib: u64,
    /// The guest's processors.
    #[serde(default = "one")]
    pub cpus: u32,
    /// What the program may have at most in addition to the guest's memory, checked after each check of the group `hostile`.
    pub overhead_mib: Option<u64>,
    /// Why the group `hostile`, with a machine for each check, is left out.
    pub without_hostile: Option<String>,
    /// Set where nobody has run it yet: what it was written from.
    pub untested: Option<String>,
    /// The arguments with which the program prints its version; none if it does not.
    #[serde(default = "version_args")]
    pub version_args: Vec<String>,
    /// The versions of the program for which `known_defects` and `left_out` hold; by default all.
    pub versions: Option<VersionReq>,
    /// A short start that shows whether it can work here.
    pub probe: Option<Probe>,
    /// Changes to the running machine; without them, checks that need one skip themselves.
    pub host_actions: Option<HostActions>,
    /// Files made for the program.
    #[serde(default)]
    pub files: Vec<ConfigFile>,
    /// What is known to fail.
    #[serde(default)]
    pub known_defects: Vec<KnownDefect>,
    /// What is known to end the machine, and with it all later checks: not tried.
    #[serde(default)]
    pub left_out: Vec<KnownDefect>,
}

fn stdio() -> Serial {
    Serial::Stdio
}

fn exits() -> Ends {
    Ends::Exits
}

fn version_args() -> Vec<String> {
    vec!["--version".into()]
}

fn memory() -> u64 {
    128
}

fn one() -> u32 {
    1
}

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ProfileError`], in one line that names the file and the key.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let failed = |why: String| ProfileError::Read { path: path.into(), why };
        let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > FILE_MAX {
            return Err(failed(format!("a profile is a file of at most {} KiB", FILE_MAX >> 10)));
        }
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(path, &text)
    }

    /// Takes the text of a file apart.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let why = error.message().lines().collect::<Vec<_>>().join(" ");
            ProfileError::Syntax { path: path.into(), why: format!("{line}{why}") }
        })?;
        profile.check(path)?;
        Ok(profile)
    }

    fn check(&self, path: &Path) -> Result<(), ProfileError> {
        let sense = |good: bool, why| if good { Ok(()) } else { Err(ProfileError::Sense { path: path.into(), why }) };
        let word = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !text.is_empty() && text.len() <= 40 && text.bytes().all(plain)
        };
        sense(word(&self.name), "name is a word of letters, digits, - _ and .")?;
        sense(!self.title.trim().is_empty(), "title is empty")?;
        sense(!self.program.is_empty(), "program is empty")?;
        sense((1..=3600).contains(&self.timeout_seconds), "timeout_seconds is from 1 to 3600")?;
        sense((32..=65536).contains(&self.memory_mib), "memory_mib is from 32 to 65536")?;
        sense((1..=64).contains(&self.cpus), "cpus is from 1 to 64")?;
        let groups = catalogue::groups();
        let unknown = self.offers.iter().find(|group| !groups.contains(&group.as_str()));
        if let Some(group) = unknown {
            let why = format!("offers: there is no group {group:?}; there are {}", groups.join(", "));
            return Err(ProfileError::Syntax { path: path.into(), why });
        }
        sense(self.overhead_mib.is_none_or(|mib| mib <= 65536), "overhead_mib is at most 65536")?;
        sense(self.files.iter().all(|file| word(&file.name)), "the name of a file is a word without folders")?;
        let told = self.without_hostile.as_ref().is_none_or(|reason| !reason.trim().is_empty());
        sense(told, "without_hostile has no reason")?;
        let reasons = self.known_defects.iter().chain(&self.left_out).all(|defect| !defect.reason.trim().is_empty());
        sense(reasons, "a known defect has no reason")?;
        let always = self.left_out.iter().all(|defect| !defect.sometimes);
        sense(always, "left_out: what is not run has no sometimes")?;
        let texts = self.args.iter().map(|arg| ("args".to_owned(), arg));
        let texts = texts.chain(self.files.iter().map(|file| (format!("file {}", file.name), &file.text)));
        let mut used = Vec::new();
        for (place, text) in texts {
            let names = fill::names(text);
            used.extend(names.map_err(|why| ProfileError::Placeholder { path: path.into(), place, why })?);
        }
        if let Some(actions) = &self.host_actions {
            let known = actions.can.iter().all(|word| HostAction::able(word).is_some());
            sense(known, "host_actions.can has words out of balloon, disk, link, statistics, type, echo, announce")?;
            let reachable = self.program == HOST_IN_TCG || used.contains(&"control");
            sense(reachable, "host_actions needs {control}: the socket by which the machine is changed")?;
        }
        if self.program == HOST_IN_TCG {
            sense(
                used.is_empty(),
                "program = \"host-kvm-in-tcg\" takes no placeholders: args are added to our host's",
            )?;
            let plain = self.files.is_empty() && self.serial == Serial::Stdio;
            sense(plain, "program = \"host-kvm-in-tcg\" takes no files and no serial")?;
            return self.check_defects(path);
        }
        let boots = |kernels: &[&str]| kernels.iter().any(|kernel| used.contains(kernel));
        let worded = used.contains(&"cmdline") || boots(&media::WITH_CMDLINE);
        sense(worded, "{cmdline} is nowhere: without its words the guest runs no checks")?;
        let some = "{image} is nowhere, nor {bzimage}, {boot_disk} or {boot_iso}: there is nothing to boot";
        sense(boots(&media::KERNELS), some)?;
        let piped = self.serial == Serial::Pipe;
        sense(piped == used.contains(&"serial"), "{serial} and serial = \"pipe\" belong together")?;
        self.check_defects(path)
    }

    fn check_defects(&self, path: &Path) -> Result<(), ProfileError> {
        stale::look(self).map_err(|why| ProfileError::Stale { path: path.into(), why })
    }

    /// Whether a placeholder stands anywhere in it.
    pub fn uses(&self, placeholder: &str) -> bool {
        let texts = self.args.iter().chain(self.files.iter().map(|file| &file.text));
        texts.filter_map(|text| fill::names(text).ok()).flatten().any(|name| name == placeholder)
    }

    /// The known defects of a version of the program, their patterns compiled.
    ///
    /// # Errors
    /// When one is no pattern.
    pub fn defects(&self, version: Option<&Printed>) -> Result<Vec<(Pattern, &KnownDefect)>, PatternError> {
        self.applying(&self.known_defects, version)
    }

    /// The same for what is left out.
    ///
    /// # Errors
    /// The same.
    pub fn left_out(&self, version: Option<&Printed>) -> Result<Vec<(Pattern, &KnownDefect)>, PatternError> {
        self.applying(&self.left_out, version)
    }

    fn applying<'a>(
        &self,
        defects: &'a [KnownDefect],
        version: Option<&Printed>,
    ) -> Result<Vec<(Pattern, &'a KnownDefect)>, PatternError> {
        let range = |defect: &KnownDefect| defect.versions.clone().or_else(|| self.versions.clone());
        let applying = defects.iter().filter(|defect| version::applies(range(defect).as_ref(), version));
        applying.map(|defect| Ok((Pattern::new(&defect.check)?, defect))).collect()
    }

    /// After so long a run is ended.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

/// A file's name, and what it holds or why that is no profile.
pub type Named = (String, Result<Profile, ProfileError>);

/// The profiles of a folder by file name, the broken ones with the reason.
///
/// # Errors
/// When there is no such folder.
pub fn read_folder(folder: &Path) -> Result<Vec<Named>, ProfileError> {
    let failed = |error: std::io::Error| ProfileError::Read { path: folder.into(), why: error.to_string() };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    Ok(paths.into_iter().map(|path| (stem(&path), Profile::read(&path))).collect())
}

/// The name of a file without its folder and extension: the column of a profile that cannot be read.
pub fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
