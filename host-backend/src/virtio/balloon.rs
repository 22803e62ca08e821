//! The memory balloon (section 5.5 "Traditional Memory Balloon Device"): gives the pages that the guest puts into it, and
//! the free pages that it reports, back to the system.
//!
//! A page counts once, however often the guest names it: the host keeps its own map of what is in the balloon and
//! believes nothing that the guest says about it. A deflated page needs nothing but to be touched again.

use super::queue::Chain;
use super::{BATCH, ConfigSpace, Counters, Device, Fault, Io, Progress, read_config_bytes};
use crate::event::{EventFd, event};
use crate::mistake::{Mistake, made};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::vmm::GuestRam;
use serde::Serialize;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::balloon::{Config, Features, PAGE_SIZE, Queues, Stat, queues, stat_tag};
use shared_abi::virtio::mmio::InterruptStatus;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;
use zerocopy::{FromZeros, IntoBytes};

const FEATURES: Features = Features::STATS_VQ.union(Features::DEFLATE_ON_OOM).union(Features::REPORTING);
const QUEUES: Queues = queues(FEATURES);
const PAGE: u64 = PAGE_SIZE as u64;
/// Page numbers processed together; adjacent ones are given back together.
const CHUNK: usize = 1024;
/// Pages of one request, at most: 1 GiB. Drivers name 256 at once; it takes some tenths of a second.
const PAGES_MAX: u64 = 1 << 18;
/// Most statistics that are read; the specification has ten.
const STATS_MAX: usize = 32;

/// A balloon.
pub struct Balloon {
    shared: Arc<Shared>,
    inside: PageMap,
    /// The statistics buffer, which the device keeps until it wants new numbers.
    stats_buffer: Option<u16>,
}

/// The host's end of a balloon.
#[derive(Clone)]
pub struct BalloonHandle(Arc<Shared>);

struct Shared {
    pages: u32,
    target: AtomicU32,
    /// The target that a live driver sees: it changes together with the configuration's generation.
    shown: Mutex<Option<u32>>,
    actual: AtomicU32,
    inside: AtomicU64,
    returned_total: AtomicU64,
    reported_total: AtomicU64,
    stats: Mutex<Stats>,
    /// The device has a buffer to ask the guest for statistics with.
    can_ask: AtomicBool,
    stats_changed: Condvar,
    /// Written when the target changed or new statistics are wanted.
    poke: EventFd,
}

#[derive(Default)]
struct Stats {
    version: u64,
    values: BTreeMap<&'static str, u64>,
    target_changed: bool,
    /// New ones were requested: a returned buffer is that request to the guest, whatever else happens.
    wanted: bool,
}

/// The numbers of a balloon, in pages of 4096 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BalloonNumbers {
    /// Pages that the host wants in the balloon.
    pub target_pages: u32,
    /// Pages that the guest says are in it.
    pub actual_pages: u32,
    /// Pages that are in it and were given back to the system.
    pub returned_pages: u64,
    /// Pages given back through the balloon since the start.
    pub returned_total_pages: u64,
    /// Free pages that the guest reported and that were given back, since the start.
    pub reported_total_pages: u64,
    /// The guest's last memory statistics, in bytes or events.
    pub guest: BTreeMap<&'static str, u64>,
}

impl Balloon {
    /// A balloon for a guest with this memory.
    ///
    /// # Errors
    /// When the system has no event file descriptor left.
    pub fn new(memory: &GuestRam) -> std::io::Result<Self> {
        let bytes: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
        let shared = Shared {
            pages: u32::try_from(bytes / PAGE).unwrap_or(u32::MAX),
            target: AtomicU32::new(0),
            shown: Mutex::default(),
            actual: AtomicU32::new(0),
            inside: AtomicU64::new(0),
            returned_total: AtomicU64::new(0),
            reported_total: AtomicU64::new(0),
            stats: Mutex::default(),
            can_ask: AtomicBool::new(false),
            stats_changed: Condvar::new(),
            poke: event()?,
        };
        Ok(Self { shared: Arc::new(shared), inside: PageMap::default(), stats_buffer: None })
    }

    /// The host's end.
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle(self.shared.clone())
    }

    /// Takes page numbers out of a chain, chunk by chunk, and gives `each` the sorted ones that exist.
    fn for_pages(memory: &GuestRam, chain: &Chain, counters: &Counters, mut each: impl FnMut(&[u32])) {
        let most = (memory.iter().map(GuestMemoryRegion::len).sum::<u64>() / PAGE).min(PAGES_MAX);
        let named = chain.readable_len() / size_of::<u32>() as u64;
        if named > most || !chain.readable_len().is_multiple_of(size_of::<u32>() as u64) {
            counters.errors.add(1);
        }
        counters.oversized.add((named > most).into());
        let mut pfns = [0u32; CHUNK];
        let mut at = 0;
        while at < named.min(most) {
            let count = (named.min(most) - at).min(CHUNK as u64) as usize;
            chain.read(memory, at * size_of::<u32>() as u64, pfns[..count].as_mut_bytes());
            counters.bytes_from_guest.add((count * size_of::<u32>()) as u64);
            let chunk = &mut pfns[..count];
            chunk.sort_unstable();
            let exists = |pfn: &u32| memory.check_range(GuestAddress(u64::from(*pfn) * PAGE), PAGE_SIZE);
            let good = chunk.iter().filter(|pfn| exists(pfn)).count();
            if good == count {
                each(chunk);
            } else {
                counters.errors.add((count - good) as u64);
                each(&chunk.iter().copied().filter(exists).collect::<Vec<_>>());
            }
            at += count as u64;
        }
    }

    fn inflate(&mut self, memory: &GuestRam, chain: &Chain, counters: &Counters) {
        Self::for_pages(memory, chain, counters, |pfns| {
            let mut added = 0;
            for pfn in pfns {
                added += u64::from(self.inside.insert(*pfn));
            }
            for (start, len) in runs(pfns) {
                if !give_back(memory, start, len) {
                    counters.errors.add(1);
                }
            }
            self.shared.inside.fetch_add(added, Ordering::Relaxed);
            self.shared.returned_total.fetch_add(added, Ordering::Relaxed);
        });
    }

    fn deflate(&mut self, memory: &GuestRam, chain: &Chain, counters: &Counters) {
        Self::for_pages(memory, chain, counters, |pfns| {
            let removed: u64 = pfns.iter().map(|pfn| u64::from(self.inside.remove(*pfn))).sum();
            self.shared.inside.fetch_sub(removed, Ordering::Relaxed);
        });
    }

    /// Gives back the whole pages of each reported range.
    fn report(&self, memory: &GuestRam, chain: &Chain, counters: &Counters) {
        for (address, len) in chain.writable_ranges() {
            let start = address.0.next_multiple_of(PAGE);
            let end = (address.0 + u64::from(len)) / PAGE * PAGE;
            if start >= end {
                continue;
            }
            if give_back(memory, start, end - start) {
                self.shared.reported_total.fetch_add((end - start) / PAGE, Ordering::Relaxed);
            } else {
                counters.errors.add(1);
            }
        }
    }

    /// Takes the numbers out of each statistics buffer and keeps the last buffer.
    fn take_stats(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        for _ in 0..BATCH {
            if io.interrupted() {
                break;
            }
            // The driver refills only what it gets back, so notifications stay on.
            let Some(chain) = io.queues[index].pop_or_arm(io.memory)? else { return Ok(Progress::Done) };
            self.return_stats_buffer(index, io)?;
            let mut stats = [Stat::new_zeroed(); STATS_MAX];
            let got = chain.read(io.memory, 0, stats.as_mut_bytes()) / size_of::<Stat>();
            self.shared.set_stats(&stats[..got]);
            self.stats_buffer = Some(chain.head());
            self.shared.can_ask.store(true, Ordering::Relaxed);
            io.signal.counters.requests.add(1);
        }
        Ok(Progress::More)
    }

    fn return_stats_buffer(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        if let Some(head) = self.stats_buffer.take() {
            self.shared.can_ask.store(false, Ordering::Relaxed);
            io.queues[index].push_used(io.memory, head, 0)?;
            io.interrupt(index)?;
        }
        Ok(())
    }
}

impl ConfigSpace for Shared {
    fn read(&self, offset: usize, data: &mut [u8]) {
        let shown = *self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let num_pages = shown.unwrap_or_else(|| self.target.load(Ordering::Relaxed));
        let config = Config { num_pages, actual: self.actual.load(Ordering::Relaxed), ..Config::default() };
        read_config_bytes(config.as_bytes(), offset, data);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        if offset == offset_of!(Config, actual)
            && let Ok(bytes) = data.try_into()
        {
            self.actual.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn show(&self, target: Option<u32>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    fn set_stats(&self, stats: &[Stat]) {
        let mut slot = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        slot.values = stats.iter().filter_map(|stat| Some((stat_name(stat.tag)?, stat.value))).collect();
        slot.version += 1;
        self.stats_changed.notify_all();
    }

    fn poke(&self) {
        // A full counter is readable too.
        let _ = self.poke.write(1);
    }
}

impl BalloonHandle {
    /// Pages of the guest's memory.
    pub fn pages(&self) -> u32 {
        self.0.pages
    }

    /// Asks the guest to put this many pages into the balloon; false if it does not have so many.
    pub fn set_target(&self, pages: u32) -> bool {
        if pages > self.0.pages {
            return false;
        }
        if made(Mistake::PokeBeforeTarget) {
            self.0.poke();
        }
        self.0.target.store(pages, Ordering::Relaxed);
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).target_changed = true;
        if !made(Mistake::PokeBeforeTarget) {
            self.0.poke();
        }
        true
    }

    /// The numbers as they are known.
    pub fn numbers(&self) -> BalloonNumbers {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BalloonNumbers {
            target_pages: self.0.target.load(Ordering::Relaxed),
            actual_pages: self.0.actual.load(Ordering::Relaxed),
            returned_pages: load(&self.0.inside),
            returned_total_pages: load(&self.0.returned_total),
            reported_total_pages: load(&self.0.reported_total),
            guest: self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).values.clone(),
        }
    }

    /// Asks the guest for new numbers, if it can be asked, and does not wait for them.
    pub(crate) fn ask(&self) {
        if self.0.can_ask.load(Ordering::Relaxed) {
            self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).wanted = true;
            self.0.poke();
        }
    }

    /// The numbers after asking the guest for new ones, which it has `patience` to give. A guest that cannot be asked is
    /// not waited for.
    pub fn fresh_numbers(&self, patience: Duration) -> BalloonNumbers {
        if !self.0.can_ask.load(Ordering::Relaxed) {
            return self.numbers();
        }
        let mut slot = self.0.stats.lock().unwrap_or_else(PoisonError::into_inner);
        slot.wanted = true;
        let before = slot.version;
        self.0.poke();
        if made(Mistake::StatisticsWithoutEnd) {
            drop(self.0.stats_changed.wait_while(slot, |slot| slot.version == before));
            return self.numbers();
        }
        drop(self.0.stats_changed.wait_timeout_while(slot, patience, |slot| slot.version == before));
        self.numbers()
    }
}

impl Device for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::BALLOON
    }

    fn features(&self) -> u64 {
        FEATURES.bits()
    }

    fn queue_count(&self) -> usize {
        4
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.shared.clone()
    }

    fn activate(&mut self, _features: u64) {
        self.shared.show(Some(self.shared.target.load(Ordering::Relaxed)));
    }

    /// A new driver starts with an empty balloon: it knows nothing of what an earlier one put in.
    fn reset(&mut self) {
        self.inside = PageMap::default();
        self.stats_buffer = None;
        self.shared.can_ask.store(false, Ordering::Relaxed);
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).wanted = false;
        self.shared.show(None);
        self.shared.actual.store(0, Ordering::Relaxed);
        self.shared.inside.store(0, Ordering::Relaxed);
    }

    fn reset_queue(&mut self, index: usize) {
        if Some(index as u16) == QUEUES.stats {
            self.stats_buffer = None;
            self.shared.can_ask.store(false, Ordering::Relaxed);
        }
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let number = Some(index as u16);
        if number == QUEUES.stats {
            return if io.queues[index].ready() { self.take_stats(index, io) } else { Ok(Progress::Done) };
        }
        io.drain(index, |memory, chain, signal| {
            let counters = &signal.counters;
            if number == Some(QUEUES.inflate) {
                self.inflate(memory, chain, counters);
            } else if number == Some(QUEUES.deflate) {
                self.deflate(memory, chain, counters);
            } else {
                self.report(memory, chain, counters);
            }
            Ok(0)
        })
    }

    fn event_source(&self) -> Option<(RawFd, EventSet)> {
        Some((self.shared.poke.as_raw_fd(), EventSet::IN))
    }

    fn process_event(&mut self, _events: EventSet, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let _ = self.shared.poke.read();
        let mut slot = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut slot.target_changed) {
            io.signal.change_config(|| self.shared.show(Some(self.shared.target.load(Ordering::Relaxed))));
            io.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
        let wanted = std::mem::take(&mut slot.wanted);
        drop(slot);
        if let Some(index) = QUEUES.stats.filter(|_| wanted) {
            self.return_stats_buffer(index.into(), io)?;
        }
        Ok(Progress::Done)
    }
}

/// Runs of adjacent pages in sorted page numbers: address and length.
fn runs(pfns: &[u32]) -> impl Iterator<Item = (u64, u64)> + '_ {
    pfns.chunk_by(|a, b| b - a <= 1).map(|run| {
        let (first, last) = (u64::from(run[0]), u64::from(run[run.len() - 1]));
        (first * PAGE, (last + 1 - first) * PAGE)
    })
}

/// Gives whole pages of guest memory back to the system; they read as zero afterwards.
fn give_back(memory: &GuestRam, start: u64, len: u64) -> bool {
    let Ok(slice) = memory.get_slice(GuestAddress(start), len as usize) else { return false };
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range is inside the anonymous mapping of guest memory, to which the host holds no references; the
    // guest said that it does not use these pages.
    unsafe { libc::madvise(guard.as_ptr().cast(), guard.len(), libc::MADV_DONTNEED) == 0 }
}

/// A set of page numbers, as large as the largest one put in.
#[derive(Default)]
struct PageMap(Vec<u64>);

impl PageMap {
    /// True if it was not there.
    fn insert(&mut self, pfn: u32) -> bool {
        let (word, bit) = (pfn as usize / 64, 1 << (pfn % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// True if it was there.
    fn remove(&mut self, pfn: u32) -> bool {
        let (word, bit) = (pfn as usize / 64, 1 << (pfn % 64));
        match self.0.get_mut(word) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                true
            }
            _ => false,
        }
    }
}

fn stat_name(tag: u16) -> Option<&'static str> {
    Some(match tag {
        stat_tag::SWAP_IN => "swap_in",
        stat_tag::SWAP_OUT => "swap_out",
        stat_tag::MAJOR_FAULTS => "major_faults",
        stat_tag::MINOR_FAULTS => "minor_faults",
        stat_tag::FREE_MEMORY => "free_memory",
        stat_tag::TOTAL_MEMORY => "total_memory",
        stat_tag::AVAILABLE_MEMORY => "available_memory",
        stat_tag::DISK_CACHES => "disk_caches",
        stat_tag::HUGETLB_ALLOCATIONS => "hugetlb_allocations",
        stat_tag::HUGETLB_FAILURES => "hugetlb_failures",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "balloon_tests.rs"]
mod tests;
