//! Images for Ringside: a kernel ELF that carries its command line, initrd and symbols, disks that firmware boots, and
//! data disks with a FAT file system. Same input, same bytes out.
//!
//! The `mkimage` program is a thin shell around this; `cargo xtask` and the tests call it directly. No input is
//! trusted: every offset of a file is checked before use.
#![forbid(unsafe_code)]

pub mod bootable;
pub mod bundle;
mod bzimage;
pub mod container;
pub mod device;
pub mod disk;
mod error;
pub mod format;
pub mod image;
pub mod initrd;
#[cfg(feature = "inspect")]
pub mod inspect;
mod iso9660;
pub mod kernel;
pub mod loaders;
mod medium;
pub mod output;
pub mod progress;
mod qemu_img;
pub mod size;
pub mod sparse;
pub mod time;

pub use bootable::Image;
pub use error::Error;

/// What everything here returns.
pub type Result<T> = core::result::Result<T, Error>;
