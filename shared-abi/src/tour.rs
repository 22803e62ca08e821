//! The tour: the steps that the guest shows when its command line has the word `tour`, one report line each.
//!
//! Two steps need the other side. For [`WEB`] the guest prints a line with outcome `waiting` and the field `port`; the
//! command fetches `/` from there, and the guest prints the outcome once it has served a page. For [`INFLATE`] the guest
//! prints `waiting` with the field `pages`: the target (in 4 KiB pages) that the command is to set on the host's balloon;
//! for [`DEFLATE`] the target is 0. The guest prints the outcome once its balloon has reached the target.
//!
//! The guest gives up on a waiting step after [`PATIENCE_SECONDS`].

/// The world found: fields `world`, `hypervisor`, `memory_kib`.
pub const WORLD: &str = "world";
/// Patch summary: fields `sites`, `inline`, `direct`, `nop`, `indirect`.
pub const PVOPS: &str = "pvops";
/// A file read from the disk's file system: fields `path`, `bytes`, `crc32` (eight hex digits, CRC-32/ISO-HDLC).
pub const FILE: &str = "file";
/// Sectors written, flushed, read back and compared, then restored: fields `first`, `count`.
pub const SECTORS: &str = "sectors";
/// A page served: fields `port`, `bytes` (of the whole answer, header and body).
pub const WEB: &str = "web";
/// Balloon at its target: fields `pages`, `free_kib` (the guest's free memory).
pub const INFLATE: &str = "balloon-inflate";
/// Balloon empty again: the same fields.
pub const DEFLATE: &str = "balloon-deflate";
/// The last line before the machine is switched off: field `failed`, the number of steps that did not succeed.
pub const POWER_OFF: &str = "power-off";

/// All steps, in order.
pub const STEPS: [&str; 8] = [WORLD, PVOPS, FILE, SECTORS, WEB, INFLATE, DEFLATE, POWER_OFF];

/// The file that the sample disk carries and the tour reads.
pub const SAMPLE_FILE: &str = "README.TXT";
/// The target of the inflate step, in 4 KiB pages: 16 MiB.
pub const INFLATE_PAGES: u32 = 4096;
/// How long the guest waits for the other side in one step.
pub const PATIENCE_SECONDS: u64 = 30;
/// TCP port of the guest's status page.
pub const WEB_PORT: u16 = 80;
