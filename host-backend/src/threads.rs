//! Ending threads that may sit in a system call: a signal that does nothing but interrupt it.

use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

fn interrupt_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Makes the interrupting signal harmless for the process. Needed before [`has_ended`].
pub fn prepare() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing; without SA_RESTART the signal ends KVM_RUN and blocking writes.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(interrupt_signal(), &raw const action, std::ptr::null_mut());
    }
}

/// Whether a thread that was told to end has done so. Interrupts the system call in which it may be: a signal that comes
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

#[cfg(test)]
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
