//! Ten thousand scripts for each device model. A failing seed is printed, and `HOSTILE_SEED` replays it alone;
//! `HOSTILE_SCRIPTS` asks for another number of them.

use host_backend::virtio::{ConfigSpace, Device, Fault, Io, NoConfig, Progress};
use hostile_device::batch::{self, check_variety};
use hostile_driver::{Ending, Script, Subject, run, run_on};
use shared_abi::virtio::DeviceType;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a script and its device may have on the heap at a time. Two packets, a disk, and the chains of a full queue.
const HEAP_MAX: usize = 512 << 10;

/// The system's allocator, which counts what each thread has.
struct Counting;

thread_local! {
    static HAS: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all work is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counters any more.
        let _ = HAS.try_with(|has| {
            has.set(has.get().wrapping_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(has.get())));
        });
        // SAFETY: per the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HAS.try_with(|has| has.set(has.get().saturating_sub(layout.size())));
        // SAFETY: per the trait's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Plays a script; how it ended, and the most that it had on the heap.
fn play(subject: Subject, seed: u64) -> (Ending, usize) {
    let before = HAS.get();
    PEAK.set(before);
    let ending = run(subject, &mut Script::from_seed(seed));
    let peak = PEAK.get() - before;
    assert!(peak <= HEAP_MAX, "the device takes {peak} bytes");
    (ending, peak)
}

fn play_all(subject: Subject) {
    let Some(played) = batch::play_all(subject, play) else { return };
    let (endings, peaks): (Vec<_>, Vec<_>) = played.into_iter().unzip();
    println!("{subject:?}: at most {} bytes of heap", peaks.into_iter().max().unwrap_or(0));
    check_variety(&endings, [Ending::Served, Ending::Faulted], 100);
}

#[test]
fn block_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Block);
}

#[test]
fn net_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Net);
}

#[test]
fn balloon_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Balloon);
}

#[test]
fn console_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Console);
}

#[test]
fn rng_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Rng);
}

/// An entropy device that believes its driver.
struct Gullible;

impl Device for Gullible {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_count(&self) -> usize {
        1
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(NoConfig)
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        io.drain(index, |memory, chain, _| {
            assert_eq!(chain.readable_len(), 0, "no driver gives an entropy device what it has to read");
            Ok(chain.write(memory, 0, &[7]) as u32)
        })
    }
}

#[test]
fn a_device_that_believes_its_driver_is_found_out() {
    let survives =
        |seed| catch_unwind(AssertUnwindSafe(|| run_on(Gullible, Subject::Rng, &mut Script::from_seed(seed)))).is_ok();
    assert!(!(0..100).all(survives));
}
