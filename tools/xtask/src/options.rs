//! The command line of `cargo xtask`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringside_conform::options::SuiteOptions;
use ringside_tests::machine::{Access, Disk, Publish};
use ringside_tests::testbed::{KvmPolicy, Testbed};
use shared_abi::tour::WEB_PORT;
use std::path::PathBuf;

/// Sets up, builds, boots, tests and measures Ringside.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands take.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Install nothing: only say what is missing
    #[arg(long, global = true)]
    no_install: bool,
    /// Treat /dev/kvm as absent
    #[arg(long, global = true)]
    no_kvm: bool,
    /// Which compiler builds the guest
    #[arg(long, global = true, value_enum, default_value = "auto", hide_default_value = true)]
    pub(crate) toolchain: ToolchainChoice,
}

impl Common {
    pub(crate) fn kvm(&self) -> KvmPolicy {
        if self.no_kvm { KvmPolicy::Absent } else { KvmPolicy::Use }
    }

    pub(crate) fn installing(&self) -> Installing {
        if self.no_install { Installing::ReportOnly } else { Installing::Allowed }
    }
}

/// Whether setup may install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installing {
    Allowed,
    ReportOnly,
}

/// Which compiler builds the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ToolchainChoice {
    /// rustup's, or Debian's packages where rustup cannot
    Auto,
    /// The installed toolchain with rustup's target
    Rustup,
    /// Debian's packages, the core library built from source
    Debian,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install what is missing, saying what and why; nothing if nothing is
    Setup,
    /// Build the guest, the host, the image and the sample disk
    Build,
    /// Boot the image and show the tour
    Run(RunOptions),
    /// Run all tests, here and on every testbed present, and print a table
    Test(TestOptions),
    /// Run the conformance suite on every testbed present, and print the matrix and every failure with its rule
    Conform(ConformOptions),
    /// Build the conformance suite as one static program with the guest and the profiles inside: target/dist/ringside-conform
    Dist,
    /// Write what docs/ quotes of the guest; a test fails while it is stale
    Docs,
    /// Fuzz what reads bytes from strangers, guided by coverage: device models, drivers, the control socket, the command line,
    /// images; all targets one after the other, or those named. Exit status 1 after a crash
    Fuzz(FuzzOptions),
    /// Build the guest, its loaders and the images a second time, elsewhere, and compare the bytes
    Reproduce,
    /// Measure
    Bench {
        #[command(subcommand)]
        what: BenchCommand,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConformOptions {
    #[command(flatten)]
    pub(crate) suite: SuiteOptions,
    /// List the checks with their rules, and run nothing
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Guest instructions from entry to ready, on QEMU with counted instructions
    Boot,
    /// What page-table updates cost alone and in a batch, in every world that can be booted here
    Pte,
    /// What each operation costs: instructions in line, hypercalls, exits, ticks, in every world
    Ops,
    /// Our own time for a bootable disk of 64 MiB
    Image,
    /// Time from the start of ringside to the guest's first byte, next to a bare C program; and its memory
    Start,
}

#[derive(Debug, Args)]
pub(crate) struct TestOptions {
    /// Also the long forms of tests that repeat: 200 kills and 200 signals at random points while a guest writes, a thousand
    /// seeds of devices that lie
    #[arg(long)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FuzzOptions {
    /// What to fuzz: a folder of tests/fuzz/corpus [default: all]
    pub(crate) targets: Vec<String>,
    /// Minutes for each target; 0: only run what was found so far again
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) minutes: u64,
    /// Do not fuzz: give the target this one input, such as a crash that was found
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Afterwards, choose the inputs with the most coverage for tests/fuzz/corpus, which is committed
    #[arg(long, conflicts_with = "input")]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Stay in the guest's shell instead of showing the tour
    #[arg(long)]
    pub(crate) shell: bool,
    /// Where to boot: host-kvm, qemu-tcg-q35, qemu-tcg-microvm, host-kvm-in-tcg or xen-pv [default: host-kvm where /dev/kvm works, else qemu-tcg-q35]
    #[arg(long, value_name = "TESTBED", value_parser = parse_testbed)]
    pub(crate) on: Option<Testbed>,
    /// Memory of the guest, with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse_memory)]
    pub(crate) mem: u64,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(crate) cpus: u32,
    /// More words for the kernel's command line, such as pvops=unpatched or drivers=reference
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub(crate) cmdline: String,
    /// A raw disk instead of the sample disk; read only unless ",rw" follows (the tour writes sectors and restores them)
    #[arg(long, value_name = "FILE[,rw]", value_parser = parse_disk)]
    pub(crate) disk: Option<Disk>,
    /// Lead connections to 127.0.0.1:HOSTPORT to the guest's GUESTPORT [default: a free port to port 80]
    #[arg(long, value_name = "HOSTPORT:GUESTPORT", value_parser = parse_publish)]
    pub(crate) publish: Option<Publish>,
}

fn parse_testbed(text: &str) -> Result<Testbed, String> {
    let names = Testbed::ALL.map(Testbed::name).join(", ");
    Testbed::from_name(text).ok_or_else(|| format!("no such testbed; there are {names}"))
}

fn parse_memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 32 << 20;
    const MOST: u64 = 1 << 40;
    let bytes = mkimage::size::parse(text).map_err(|error| error.to_string())?;
    if !(LEAST..=MOST).contains(&bytes) || !bytes.is_multiple_of(1 << 20) {
        return Err("a guest has whole MiB of memory, from 32M to 1T".into());
    }
    Ok(bytes)
}

fn parse_disk(text: &str) -> Result<Disk, String> {
    let (path, access) = match text.strip_suffix(",rw") {
        Some(path) => (path, Access::ReadWrite),
        None => (text.strip_suffix(",ro").unwrap_or(text), Access::ReadOnly),
    };
    let path = PathBuf::from(path);
    let metadata = path.metadata().map_err(|error| format!("cannot use {}: {error}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("cannot use {}: it is not a regular file", path.display()));
    }
    let path = path.canonicalize().map_err(|error| format!("cannot use {}: {error}", path.display()))?;
    Ok(Disk { path, access })
}

fn parse_publish(text: &str) -> Result<Publish, String> {
    let ports = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
    match ports {
        Some((host, guest)) if host != 0 && guest != 0 => Ok(Publish { host, guest }),
        _ => Err(format!("two ports from 1 to 65535 are needed, as in 8080:{WEB_PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_parse_and_nonsense_is_refused() {
        assert_eq!(parse_memory("128M"), Ok(128 << 20));
        assert!(parse_memory("1M").is_err() && parse_memory("1000001K").is_err() && parse_memory("9999T").is_err());
        assert_eq!(parse_publish("8080:80"), Ok(Publish { host: 8080, guest: 80 }));
        for text in ["80", "0:80", "80:0", "70000:80", "a:b", "1:2:3"] {
            assert!(parse_publish(text).is_err(), "{text}");
        }
        assert!(parse_testbed("vmware").unwrap_err().contains("qemu-tcg-microvm"));
        assert!(parse_disk("/nonexistent").is_err() && parse_disk("/tmp").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().display().to_string();
        assert_eq!(parse_disk(&name).unwrap().access, Access::ReadOnly);
        assert_eq!(parse_disk(&format!("{name},rw")).unwrap().access, Access::ReadWrite);
    }
}
