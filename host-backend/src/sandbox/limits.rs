//! Resource limits: what is not needed any more cannot be had again. They are lowered last, when all threads have what they
//! need.

use super::Error;
use serde_json::{Map, Value};
use std::io;

/// Descriptors that may come after the start: clients and the one that is turned away, a new log, what a reset makes before it
/// lets go of the old.
const DESCRIPTORS_MORE: u64 = 32;

/// Lowers the limits; returns them by name.
pub(super) fn lower() -> Result<Map<String, Value>, Error> {
    let open = open_descriptors().map_err(Error::at("count descriptors"))?;
    let limits = [
        ("core", libc::RLIMIT_CORE, 0),
        ("nofile", libc::RLIMIT_NOFILE, open + DESCRIPTORS_MORE),
        ("memlock", libc::RLIMIT_MEMLOCK, 0),
        ("msgqueue", libc::RLIMIT_MSGQUEUE, 0),
        ("rtprio", libc::RLIMIT_RTPRIO, 0),
        ("nice", libc::RLIMIT_NICE, 0),
    ];
    let mut set = Map::new();
    for (name, resource, wanted) in limits {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid rlimit, for both calls.
        unsafe {
            if libc::getrlimit(resource, &raw mut limit) != 0 {
                return Err(Error::last(format!("read limit {name}")));
            }
            let wanted = wanted.min(limit.rlim_max);
            limit = libc::rlimit { rlim_cur: wanted, rlim_max: wanted };
            if libc::setrlimit(resource, &raw const limit) != 0 {
                return Err(Error::last(format!("lower limit {name}")));
            }
        }
        set.insert(name.into(), limit.rlim_max.into());
    }
    Ok(set)
}

/// Found by making one: descriptors are given from the lowest number on. If there are gaps below, there are fewer.
fn open_descriptors() -> io::Result<u64> {
    // SAFETY: neither call touches memory; the descriptor is closed again.
    unsafe {
        let lowest = libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 0);
        if lowest < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::close(lowest);
        Ok(lowest as u64)
    }
}
