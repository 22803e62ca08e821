//! How much memory a process had at its peak.

use std::mem;
use std::process::Child;

/// The most memory in bytes that a child, or one of its own, had at a time. Known from its end until it is waited for;
/// `None` before and after.
pub fn peak_memory(child: &Child) -> Option<u64> {
    // SAFETY: all zeroes are valid for both.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes at most a siginfo and an rusage. The library's waitid has no room for the latter.
    let result =
        unsafe { libc::syscall(libc::SYS_waitid, libc::P_PID, child.id(), &raw mut info, options, &raw mut usage) };
    // SAFETY: written by the call, or zero.
    let ended = result == 0 && unsafe { info.si_pid() } != 0;
    ended.then(|| usage.ru_maxrss as u64 * 1024).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    #[test]
    fn a_child_that_has_ended_tells_its_peak_until_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("0.05").spawn().unwrap();
        assert_eq!(peak_memory(&child), None);
        let deadline = Instant::now() + Duration::from_secs(10);
        let peak = loop {
            if let Some(peak) = peak_memory(&child) {
                break peak;
            }
            assert!(Instant::now() < deadline, "it has not ended");
            sleep(Duration::from_millis(10));
        };
        assert!((64 << 10..1 << 30).contains(&peak), "{peak}");
        assert!(child.wait().unwrap().success());
        assert_eq!(peak_memory(&child), None);
    }
}
