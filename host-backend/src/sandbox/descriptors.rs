//! Descriptors that the parent left open, by mistake or not: a guest that takes over this process would have them.

use super::Error;
use std::fs;
use std::io;
use std::os::fd::RawFd;

/// Descriptors from before the program's start, without the three standard ones.
#[derive(Debug, Default)]
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Those that are open now: to be called before anything is opened. They stay open until the sandbox closes them, since
    /// the command line may name one as `/dev/fd/N`; no helper inherits them.
    ///
    /// # Errors
    /// When they cannot be found out.
    pub fn find() -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc/self/fd")? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|fd| *fd > 2));
        }
        // One of them was the folder itself.
        found.retain(|fd| set_close_on_exec(*fd));
        Ok(Self(found))
    }

    /// Closes them; returns how many there were.
    pub(super) fn close(self) -> Result<usize, Error> {
        for fd in &self.0 {
            // SAFETY: nothing in this process knows a descriptor that it has not opened.
            if unsafe { libc::close(*fd) } != 0 {
                return Err(Error::last(format!("close descriptor {fd}")));
            }
        }
        Ok(self.0.len())
    }
}

fn set_close_on_exec(fd: RawFd) -> bool {
    // SAFETY: fcntl with F_SETFD touches no memory.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) == 0 }
}
