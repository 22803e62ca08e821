//! The console (section 5.3 "Console Device"), one port: queue 0 receives, queue 1 transmits.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Input to the guest.
pub const RECEIVE_QUEUE: u16 = 0;
/// Output of the guest.
pub const TRANSMIT_QUEUE: u16 = 1;

bitflags::bitflags! {
    /// Feature bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// `cols` and `rows` are valid.
        const SIZE = 1 << 0;
        /// Several ports, with control queues.
        const MULTIPORT = 1 << 1;
        /// `emerg_wr` works.
        const EMERG_WRITE = 1 << 2;
    }
}

/// `virtio_console_config`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the field names are the specification's")]
pub struct Config {
    pub cols: u16,
    pub rows: u16,
    pub max_nr_ports: u32,
    /// A character written here is output at once.
    pub emerg_wr: u32,
}
assert_layout!(Config, size 12, max_nr_ports at 4, emerg_wr at 8);
