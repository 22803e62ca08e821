//! Resource limits: what is not needed any more cannot be had again.

use super::Error;
use serde_json::{Map, Value};
use std::fs;
use std::io;

/// Descriptors that may come after the start: clients and the one that is turned away, a new log, what a reset makes before it
/// lets go of the old.
const DESCRIPTORS_MORE: u64 = 32;

/// Lowers the limits; returns them by name.
pub(super) fn lower() -> Result<Map<String, Value>, Error> {
    let highest = highest_descriptor().map_err(Error::at("count descriptors"))?;
    let limits = [
        ("core", libc::RLIMIT_CORE, 0),
        ("nofile", libc::RLIMIT_NOFILE, highest + 1 + DESCRIPTORS_MORE),
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

/// Found by opening one: descriptors are given from the lowest number on, and a gap below makes the limit a little lower.
fn highest_descriptor() -> io::Result<u64> {
    let mut highest = 2;
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        highest = highest.max(number);
    }
    Ok(highest)
}
