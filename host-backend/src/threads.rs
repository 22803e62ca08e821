//! Interrupting threads that may sit in a system call, by a signal that does nothing else: to end or to pause them.

#[cfg(feature = "models")]
mod modelled;

#[cfg(feature = "models")]
pub use modelled::*;
#[cfg(not(feature = "models"))]
pub use real::*;

fn interrupt_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Makes the interrupting signal harmless for the process. Needed before all others here.
pub fn prepare() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing; without SA_RESTART the signal ends KVM_RUN and blocking writes.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(interrupt_signal(), &raw const action, std::ptr::null_mut());
    }
}

#[cfg(not(feature = "models"))]
mod real {
    use super::interrupt_signal;
    use std::os::unix::thread::JoinHandleExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread::JoinHandle;

    /// Whether a thread that was asked to end has done so. Interrupts the system call in which it may be: a signal that comes
    /// just before the call is lost, so ask again, but not so often that the thread does nothing else.
    pub fn has_ended(thread: &JoinHandle<()>) -> bool {
        interrupt(thread);
        thread.is_finished()
    }

    /// Interrupts the system call in which a thread may be.
    pub fn interrupt(thread: &JoinHandle<()>) {
        if !thread.is_finished() {
            // SAFETY: the thread has not been joined, so its id is valid.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), interrupt_signal()) };
        }
    }

    /// Where a thread can be found by those who have no handle of it.
    #[derive(Debug, Default)]
    pub struct Seat(Mutex<Option<libc::pthread_t>>);

    impl Seat {
        /// The calling thread sits here until it leaves, which it must do before it ends.
        pub fn take(&self) {
            // SAFETY: pthread_self takes no arguments.
            *self.lock() = Some(unsafe { libc::pthread_self() });
        }

        /// Not in use any more.
        pub fn leave(&self) {
            *self.lock() = None;
        }

        /// Interrupts the system call in which the thread may be, if there is one here. A signal that comes just before the
        /// call is lost.
        pub fn interrupt(&self) {
            if let Some(thread) = *self.lock() {
                // SAFETY: the thread cannot end before it has left its seat, and for that it needs the lock.
                unsafe { libc::pthread_kill(thread, interrupt_signal()) };
            }
        }

        fn lock(&self) -> MutexGuard<'_, Option<libc::pthread_t>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(all(test, not(feature = "models")))]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_thread_in_a_system_call_is_interrupted() {
        prepare();
        let thread = std::thread::spawn(|| {
            // SAFETY: pause takes no arguments.
            unsafe { libc::pause() };
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while !has_ended(&thread) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
