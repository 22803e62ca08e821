//! Ten thousand scripts for each device model. A failing seed is printed, and `HOSTILE_SEED` replays it alone;
//! `HOSTILE_SCRIPTS` asks for another number of them.

use host_backend::virtio::{Device, Fault, Io, Progress};
use hostile_driver::{Ending, Script, Subject, run, run_on};
use shared_abi::virtio::DeviceType;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const SCRIPTS: u64 = 10_000;
/// A script takes microseconds; one that takes so long does not end.
const HANGS: Duration = Duration::from_secs(60);
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

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

/// Plays a script; how it ended, and the most that it had on the heap.
fn play(subject: Subject, seed: u64) -> (Ending, usize) {
    let before = HAS.get();
    PEAK.set(before);
    let play = AssertUnwindSafe(|| run(subject, &mut Script::from_seed(seed)));
    let ending = catch_unwind(play).unwrap_or_else(|_| panic!("{subject:?}: HOSTILE_SEED={seed} replays what failed"));
    let peak = PEAK.get() - before;
    assert!(peak <= HEAP_MAX, "{subject:?}: HOSTILE_SEED={seed} makes the device take {peak} bytes");
    (ending, peak)
}

/// Plays every script of the device; what they ended in, by how often.
fn play_all(subject: Subject) {
    if let Some(seed) = number("HOSTILE_SEED") {
        return println!("{subject:?}: {:?}", play(subject, seed));
    }
    let scripts = number("HOSTILE_SCRIPTS").unwrap_or(SCRIPTS);
    static NOW: [AtomicU64; Subject::ALL.len()] = [const { AtomicU64::new(0) }; Subject::ALL.len()];
    let now = &NOW[subject as usize];
    let (done, played) = channel();
    let player = thread::spawn(move || {
        let mut endings = BTreeMap::<String, u64>::new();
        let mut most = 0;
        for seed in 0..scripts {
            now.store(seed, Ordering::Relaxed);
            let (ending, peak) = play(subject, seed);
            most = most.max(peak);
            *endings.entry(format!("{ending:?}")).or_default() += 1;
            let _ = done.send(());
        }
        (endings, most)
    });
    loop {
        match played.recv_timeout(HANGS) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!("{subject:?}: HOSTILE_SEED={} hangs", now.load(Ordering::Relaxed)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let (endings, most) = player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    println!("{subject:?}: {endings:?}, at most {most} bytes of heap");
    // Scripts that all end the same way try nothing.
    let of = |ending: Ending| endings.get(&format!("{ending:?}")).copied().unwrap_or(0);
    assert_eq!(endings.values().sum::<u64>(), scripts);
    assert!([Ending::Served, Ending::Faulted].map(of).iter().all(|count| *count > scripts / 100), "{endings:?}");
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

    fn read_config(&self, _: usize, data: &mut [u8]) {
        data.fill(0);
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
