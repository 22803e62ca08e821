//! Event file descriptors as everything here uses them: they never block, and no program that we start inherits them.

use std::io;
use vmm_sys_util::eventfd::EventFd;

/// A new event, not signalled.
///
/// # Errors
/// When the system has no file descriptor left.
pub fn event() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
}
