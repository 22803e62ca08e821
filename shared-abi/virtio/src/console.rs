//! The console (section 5.3 "Console Device"), one port: queue 0 receives, queue 1 transmits.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Input to the guest.
pub const RECEIVE_QUEUE: u16 = 0;
/// Output of the guest.
pub const TRANSMIT_QUEUE: u16 = 1;

/// Control messages to the guest, with MULTIPORT.
pub const CONTROL_RECEIVE_QUEUE: u16 = 2;
/// Control messages of the guest, with MULTIPORT.
pub const CONTROL_TRANSMIT_QUEUE: u16 = 3;

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

/// `virtio_console_control`; a name may follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// Port number.
    pub id: u32,
    /// See [`event`].
    pub event: u16,
    /// Its meaning is the event's.
    pub value: u16,
}
assert_layout!(Control, size 8, event at 4, value at 6);

/// Values of [`Control::event`].
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_REMOVE: u16 = 2;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}
