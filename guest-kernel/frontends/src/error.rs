//! What can go wrong before a device works ([`InitError`]) and what a device does that it must not ([`Violation`]).

use crate::transport::TransportError;
use virtio_abi::DeviceType;

/// Why a driver did not come up. The device was reset or marked FAILED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The transport belongs to another type of device.
    #[error("device is a {}, not a {}", found.name(), wanted.name())]
    WrongDevice {
        /// The driver's type.
        wanted: DeviceType,
        /// The device's type.
        found: DeviceType,
    },
    /// The status register did not read 0 after a reset.
    #[error("device did not confirm its reset in {polls} reads of its status")]
    ResetTimeout {
        /// Reads that were made.
        polls: u32,
    },
    /// The device does not offer VERSION_1.
    #[error("device is legacy: it does not offer version 1 (features {offered:#x})")]
    Legacy {
        /// The offered features.
        offered: u64,
    },
    /// FEATURES_OK did not stick.
    #[error("device refused the features {wanted:#x}")]
    FeaturesRefused {
        /// What the driver asked for.
        wanted: u64,
    },
    /// A queue that the driver needs is not there, or its size is no power of two.
    #[error("queue {queue} has a size of {size}")]
    BadQueue {
        /// The queue.
        queue: u16,
        /// Its largest size.
        size: u32,
    },
    /// No DMA memory.
    #[error("no memory for {what}")]
    NoMemory {
        /// What it was for.
        what: &'static str,
    },
    /// A configuration field makes no sense.
    #[error("bad configuration: {field} is {value}")]
    BadConfig {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The configuration changed at every attempt to read it.
    #[error("configuration kept changing during {attempts} reads")]
    ConfigUnstable {
        /// Attempts that were made.
        attempts: u32,
    },
    /// The transport is not usable.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// A rule of the ring or of the device type that the device broke. The driver stops, resets it and keeps this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A used id is no descriptor of the queue.
    #[error("queue {queue}: used id {id} is out of range (size {size})")]
    UsedIdOutOfRange {
        /// The queue.
        queue: u16,
        /// The id.
        id: u32,
        /// The queue's size.
        size: u16,
    },
    /// A used id is not the head of a chain in flight: never given, or used twice.
    #[error("queue {queue}: used id {id} is not in flight")]
    UsedIdNotInFlight {
        /// The queue.
        queue: u16,
        /// The id.
        id: u32,
    },
    /// More bytes than the chain has.
    #[error("queue {queue}: used id {id} says {len} bytes written, the chain has {writable}")]
    UsedLengthTooLong {
        /// The queue.
        queue: u16,
        /// The id.
        id: u32,
        /// The length that the device reported.
        len: u32,
        /// The writable bytes.
        writable: u32,
    },
    /// The used index advanced by more than there are chains in flight.
    #[error("queue {queue}: used index advanced by {advance} with {in_flight} chains in flight")]
    UsedIndexJump {
        /// The queue.
        queue: u16,
        /// How far.
        advance: u16,
        /// Chains in flight.
        in_flight: u16,
    },
    /// A received frame claims an impossible number of buffers.
    #[error("frame spans {count} buffers of {limit}")]
    BadBufferCount {
        /// The claim.
        count: u16,
        /// The largest number that is possible.
        limit: u16,
    },
    /// A configuration field makes no sense any more.
    #[error("configuration changed: {field} is {value}")]
    BadConfig {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The device did not answer within the limit for a request.
    #[error("no answer to a request within {milliseconds} ms")]
    Timeout {
        /// The limit.
        milliseconds: u64,
    },
    /// The device set DEVICE_NEEDS_RESET.
    #[error("device asks for a reset")]
    NeedsReset,
    /// The caller shut the driver down.
    #[error("driver was shut down")]
    ShutDown,
}
