//! What tasks know about the machine.

use crate::devices::Devices;
use crate::fs::files::Tree;
use crate::fs::initrd::{self, Archive};
use crate::mm::Range;
use crate::net;
use alloc::rc::Rc;
use alloc::vec::Vec;
use pvops::detect::Surroundings;

/// What tasks know about the machine.
pub struct System {
    /// What CPUID reports.
    pub found: Surroundings,
    /// Memory as the loader described it.
    pub ram: Vec<Range>,
    /// The initrd, or why it cannot be read.
    pub initrd: Result<Archive<'static>, initrd::Error>,
    /// What came up.
    pub devices: Devices,
    /// The network.
    pub net: Rc<net::Status>,
    /// Time of boot.
    pub started: u64,
}

impl System {
    /// All files that it has.
    pub fn files(&self) -> Tree<'_> {
        Tree { disks: &self.devices.disks, initrd: self.initrd }
    }
}
