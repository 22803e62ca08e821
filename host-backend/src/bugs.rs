//! Deliberate bugs in the device models, so that a suite of checks can prove that it finds bugs. They exist only with the
//! feature `test-faults` (and in the unit tests), never in the program that is shipped: there `is_injected` is a constant
//! `false`.
//!
//! A model asks at the place where it would go wrong. One bug at a time: `inject` for a whole process (the hidden
//! option `--fault`), `inject_here` for one thread, on which tests run their devices.

use shared_abi::virtio::{DeviceType, Status};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "test-faults", derive(clap::ValueEnum))]
#[repr(u8)]
pub enum Bug {
    /// A used length is larger than the chain.
    UsedLengthTooLong,
    /// A used id is the one behind the right one.
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
    /// A device that has asked for a reset asks for one again behind it.
    FaultOutlivesReset,
    /// What makes no sense ends the host.
    FaultEndsHost,
    /// No bug, but what a PC's serial port does: OUT2 gates its interrupt, and that pin is held back in loop-back mode.
    GatedLoopback,
    /// No bug, but what the strictest devices do: they insist on the order of 3.1.1, and on all queues that it calls for.
    StrictDriver,
}

/// For [`Bug::StrictDriver`]: the features are read before there is a driver.
pub(crate) fn is_too_early(status: Status) -> bool {
    is_injected(Bug::StrictDriver) && !status.contains(Status::DRIVER)
}

/// For [`Bug::StrictDriver`]: the status is written as no step of 3.1.1 has it.
pub(crate) fn is_out_of_step(before: Status, value: u32) -> bool {
    let steps = [Status::ACKNOWLEDGE, Status::DRIVER, Status::FEATURES_OK, Status::DRIVER_OK];
    let reached = |step: usize| steps[..step].iter().fold(Status::empty(), |status, bit| status | *bit);
    let known = (0..steps.len()).any(|step| before == reached(step) && value == u32::from(reached(step + 1).bits()));
    let failed = value & u32::from(Status::FAILED.bits()) != 0 && before.contains(Status::DRIVER);
    is_injected(Bug::StrictDriver) && !known && !failed && value != u32::from(before.bits())
}

/// For [`Bug::StrictDriver`]: a queue is missing that every driver of the device sets up.
pub(crate) fn lacks_queues(device_type: DeviceType, ready: &[bool]) -> bool {
    let needed = match device_type {
        DeviceType::BALLOON => ready.len(),
        DeviceType::NET | DeviceType::CONSOLE => 2,
        _ => 1,
    };
    is_injected(Bug::StrictDriver) && ready.iter().take(needed).any(|ready| !ready)
}

#[cfg(not(any(test, feature = "test-faults")))]
mod switch {
    use super::Bug;

    /// No.
    #[inline(always)]
    pub(crate) const fn is_injected(_: Bug) -> bool {
        false
    }
}

#[cfg(any(test, feature = "test-faults"))]
mod switch {
    use super::Bug;
    use std::cell::Cell;
    use std::sync::OnceLock;

    static EVERYWHERE: OnceLock<Bug> = OnceLock::new();

    thread_local! {
        static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Injects a bug into all devices of this process. Only the first call counts.
    pub fn inject(bug: Bug) {
        let _ = EVERYWHERE.set(bug);
    }

    /// Injects a bug into devices that run on this thread, until the result is dropped.
    #[must_use]
    pub fn inject_here(bug: Bug) -> Injected {
        Injected(HERE.replace(Some(bug)))
    }

    /// Keeps a bug where it is.
    #[derive(Debug)]
    pub struct Injected(Option<Bug>);

    impl Drop for Injected {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }

    /// Whether the device is to go wrong in this way.
    pub(crate) fn is_injected(bug: Bug) -> bool {
        HERE.get().or(EVERYWHERE.get().copied()) == Some(bug)
    }
}

pub(crate) use switch::is_injected;
#[cfg(any(test, feature = "test-faults"))]
pub use switch::{Injected, inject, inject_here};

/// How much too long [`Bug::UsedLengthTooLong`] makes a length: more than what a driver may take for the readable part.
pub(crate) const TOO_LONG: u32 = 1 << 16;

#[cfg(test)]
#[path = "bugs_tests.rs"]
mod tests;
