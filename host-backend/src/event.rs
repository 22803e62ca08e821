//! Event file descriptors as everything here uses them (they never block, and no program that we start inherits them), and
//! the loop that waits for them.

use event_manager::{EventManager, MutEventSubscriber};
use std::io;

#[cfg(feature = "models")]
pub use modelled::EventFd;
#[cfg(not(feature = "models"))]
pub use vmm_sys_util::eventfd::EventFd;

/// A new event, not signalled.
///
/// # Errors
/// When the system has no file descriptor left.
pub fn event() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
}

/// Waits until something has happened, and lets the subscribers handle it.
#[cfg(not(feature = "models"))]
pub fn serve<S: MutEventSubscriber>(manager: &mut EventManager<S>) {
    // It fails only when a signal interrupts it.
    let _ = manager.run();
}

/// The same in a model, where a thread that waits in the system would stop all.
#[cfg(feature = "models")]
pub fn serve<S: MutEventSubscriber>(manager: &mut EventManager<S>) {
    crate::sync::look_again(|| matches!(manager.run_with_timeout(0), Ok(1..)).then_some(()));
}

#[cfg(feature = "models")]
mod modelled {
    use crate::sync::{in_turn, now_changed};
    use std::io;
    use std::ops::Deref;
    use std::os::fd::{AsRawFd, RawFd};
    use vmm_sys_util::eventfd::EventFd as Real;

    /// An event of the system, at which the model's threads meet: none of its calls waits.
    #[derive(Debug)]
    pub struct EventFd(Real);

    impl EventFd {
        /// As the real one's.
        ///
        /// # Errors
        /// As the real one's.
        pub fn new(flags: i32) -> io::Result<Self> {
            Real::new(flags).map(Self)
        }

        /// As the real one's.
        ///
        /// # Errors
        /// As the real one's.
        pub fn write(&self, count: u64) -> io::Result<()> {
            now_changed(|| self.0.write(count))
        }

        /// As the real one's.
        ///
        /// # Errors
        /// As the real one's.
        pub fn read(&self) -> io::Result<u64> {
            in_turn(|| self.0.read())
        }
    }

    impl Deref for EventFd {
        type Target = Real;

        fn deref(&self) -> &Real {
            &self.0
        }
    }

    impl AsRawFd for EventFd {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }
}
