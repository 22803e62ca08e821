//! What a process has resident, the guest's memory left out.

use anyhow::{Context, Result, anyhow, ensure};
use std::fs;

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    /// The peak of the whole process minus what the guest has now.
    pub(crate) peak_kib: u64,
    /// All mappings but the guest's, now.
    pub(crate) now_kib: u64,
    /// The guest's memory, now.
    pub(crate) guest_kib: u64,
}

/// Reads the numbers of a process whose guest has so many bytes of memory.
pub(crate) fn resident(process: u32, guest_memory: u64) -> Result<Resident> {
    let read = |name: &str| {
        let path = format!("/proc/{process}/{name}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    from_texts(&read("smaps")?, &read("status")?, guest_memory >> 10)
}

fn from_texts(smaps: &str, status: &str, guest_kib: u64) -> Result<Resident> {
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    let (mut size, mut guest, mut rest, mut found) = (0, 0, 0, 0);
    for line in smaps.lines() {
        if line.starts_with("Size:") {
            size = kib(line).unwrap_or(0);
        } else if line.starts_with("Rss:") {
            let rss = kib(line).unwrap_or(0);
            // Nothing else of ours is as large.
            if size >= guest_kib {
                guest += rss;
                found += 1;
            } else {
                rest += rss;
            }
        }
    }
    ensure!(found == 1, "{found} mappings could be the guest's memory of {guest_kib} KiB");
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).and_then(kib);
    let peak = peak.ok_or_else(|| anyhow!("the process has no VmHWM"))?;
    // The kernel keeps approximate counts: the peak may seem lower than the sum.
    Ok(Resident { peak_kib: peak.saturating_sub(guest).max(rest), now_kib: rest, guest_kib: guest })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55d1 r-xp 0 08:01 1 /ringside\nSize:   1000 kB\nRss:     600 kB\n\
7f00-7f01 rw-p 0 00:00 0\nSize: 131072 kB\nRss:   20000 kB\n\
7f02-7f03 rw-p 0 00:00 0 [stack]\nSize:     132 kB\nRss:      40 kB\n";

    #[test]
    fn the_guests_memory_is_left_out() {
        let resident = from_texts(SMAPS, "VmPeak: 1 kB\nVmHWM:   21000 kB\n", 131_072).unwrap();
        assert_eq!(resident, Resident { peak_kib: 1000, now_kib: 640, guest_kib: 20_000 });
    }

    #[test]
    fn a_process_without_the_guests_memory_is_an_error() {
        assert!(from_texts(SMAPS, "VmHWM: 1 kB\n", 262_144).is_err());
    }
}
