//! What the harness and the first process of the inner Linux must agree on: paths in the initrd and the last line.
//!
//! The testbed host-kvm-in-tcg is a stock Linux with `kvm-amd` inside of QEMU's software CPU, and our host program on
//! its `/dev/kvm`. The harness packs the initrd, the program of this package brings the Linux up.

mod memory;

pub use memory::peak_memory;

/// Kernel modules, loaded in the order of their names.
pub const MODULES: &str = "modules";
/// Our host program, linked statically.
pub const RINGSIDE: &str = "ringside";
/// The guest's image.
pub const IMAGE: &str = "guest.elf";
/// The arguments of the host program, one a line.
pub const ARGUMENTS: &str = "arguments";
/// Command lines of the guest, one a line: the host program runs once for each, with that in place of the one in
/// [`ARGUMENTS`]. Without this file it runs once.
pub const RUNS: &str = "runs";
/// The start of the line before each run of [`RUNS`]; what follows is the command line.
pub const RUN: &str = "inner: run ";
/// The start of the line after each run of [`RUNS`], before [`ENDED`]: the most memory that it had, in bytes.
pub const PEAK: &str = "inner: peak memory ";
/// Seconds after which a run of [`RUNS`] is ended.
pub const RUN_SECONDS_MAX: u64 = 30;
/// Where QEMU's disk appears; NVMe, because stock kernels have the driver built in.
pub const DISK: &str = "/dev/nvme0n1";
/// The host program's control socket; everything on the second serial line is for it.
pub const CONTROL: &str = "/tmp/control";
/// The socket that the host program's network link connects to; its frames go out through [`CARD`].
pub const NETWORK: &str = "/tmp/network";
/// QEMU's network card.
pub const CARD: &str = "eth0";
/// The start of the last line, and of the last one of each run; what follows is the end of the host program as [`std::process::ExitStatus`] shows it.
pub const ENDED: &str = "inner: ringside ended with ";
