//! Deliberate bugs, so that a suite of checks can prove that it finds bugs. They exist only with the feature
//! `test-faults` (and in the unit tests), never in the program that is shipped.
//!
//! The device models have no bugs: one is injected by a wrapper around a part of the machine, when the machine is built.
//!
//! | wrapper | around | bugs about |
//! |---|---|---|
//! | [`device`] | a device, and with [`ring`] the rings of its queues | used elements and flags, interrupts, received frames, configurations |
//! | [`engine`] | the storage of a disk | flushes and zeroes |
//! | [`serial`] | the serial port and its line | loop-back mode |
//! | [`slot`] | the registers of a slot | the status, features, identity, the configuration's generation |
//! | [`clock`] | KVM's clock | its time |

pub mod clock;
pub mod device;
pub mod engine;
pub mod ring;
pub mod serial;
pub mod slot;

use std::sync::OnceLock;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "test-faults", derive(clap::ValueEnum))]
#[repr(u8)]
pub enum Bug {
    /// A used length is larger than the chain.
    UsedLengthTooLong,
    /// A used id is the one after the right one.
    UsedIdWrong,
    /// FEATURES_OK stays set whatever the driver accepted.
    FeaturesOkAlways,
    /// The configuration changes and its generation does not.
    ConfigGenerationStuck,
    /// After a time without interrupts, the first one that is wanted again is lost.
    InterruptLostWhenSuppressed,
    /// With the event index, the interrupt is lost that is due when the used index wraps.
    EventIndexAtWrap,
    /// A flush is answered and not done; what was written is lost when the device is reset.
    FlushIgnored,
    /// Write-zeroes is answered and the sectors stay as they were.
    WriteZeroesIgnored,
    /// The used length of a failed request counts its status, before which nothing was written.
    FailedReadCounted,
    /// A received frame's header counts one buffer too many.
    MergeableCountWrong,
    /// The balloon's `actual` is one page more than the driver wrote.
    BalloonActualWrong,
    /// KVM's clock is set back by 2 ms every 20 ms.
    ClockGoesBack,
    /// The entropy device does not say that it is a virtio device.
    MagicWrong,
    /// An interrupt status that is not 0 has a bit that stands for nothing.
    InterruptStatusStray,
    /// With the event index, the used ring's flags are not 0.
    UsedFlagsStray,
    /// A received frame's header has DATA_VALID, whatever the driver accepted.
    DataValidUnasked,
    /// A padding byte of the disk's configuration is not 0.
    PaddingNotZero,
    /// A device that has asked for a reset asks for one again after it.
    FaultOutlivesReset,
    /// A ring that makes no sense ends the host.
    FaultEndsHost,
    /// No bug, but what a PC's serial port does: OUT2 gates its interrupt, and that pin is held back in loop-back mode.
    GatedLoopback,
    /// No bug, but what the strictest devices do: they insist on the order of 3.1.1, and on all queues that it calls for.
    StrictDriver,
}

static INJECTED: OnceLock<Bug> = OnceLock::new();

/// Injects a bug into the machines that this process builds from now on. Only the first call counts.
pub fn inject(bug: Bug) {
    let _ = INJECTED.set(bug);
}

/// The bug that is injected, if one is.
pub fn injected() -> Option<Bug> {
    INJECTED.get().copied()
}

#[cfg(test)]
mod tests;
