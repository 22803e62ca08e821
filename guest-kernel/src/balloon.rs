//! The balloon in this kernel: its task, its share of the frame allocator, and its part in running out of memory.

use crate::devices::{AnyTransport, Interrupts};
use crate::mm::frames::{FRAMES, MAX_ORDER};
use alloc::rc::Rc;
use balloon::{Balloon, Counters, FreeBlock, PageSource, Pfn, Report, State, Statistics};
use core::cell::{Cell, RefCell};
use frontends::Driver;

/// The reserve: a sixteenth of the memory, at least 4 MiB. Below it the balloon gets nothing.
const RESERVE_DIVISOR: u64 = 16;
const RESERVE_MIN: u64 = 1024;
/// Blocks of this order and larger are reported as free: 2 MiB.
const REPORT_ORDER: usize = 9;
/// How often a target that could not be met is tried again, and free blocks are looked for.
const RETRY: u64 = 500_000_000;
/// Pages taken back at once when the kernel runs out.
const OOM_PAGES: u32 = 256;
/// How long the kernel waits for the host then, in nanoseconds.
const OOM_PATIENCE: u64 = 100_000_000;

/// The balloon.
pub struct KernelBalloon {
    driver: RefCell<Balloon<AnyTransport>>,
    interrupts: Interrupts,
}

/// The frame allocator, seen by the balloon.
pub struct Source;

impl Source {
    fn reserve() -> u64 {
        let counts = FRAMES.lock().counts();
        (counts.total / RESERVE_DIVISOR).max(RESERVE_MIN)
    }
}

impl PageSource for Source {
    fn take_page(&mut self) -> Option<Pfn> {
        let reserve = Self::reserve();
        let mut frames = FRAMES.lock();
        if frames.counts().free <= reserve {
            return None;
        }
        let frame = frames.allocate(0)?;
        match u32::try_from(frame) {
            Ok(number) => Some(Pfn::new(number)),
            // Above 16 TiB the device has no numbers.
            Err(_) => {
                frames.free(frame, 0);
                None
            }
        }
    }

    fn return_page(&mut self, page: Pfn) {
        FRAMES.lock().free(page.number().into(), 0);
    }

    fn spare_pages(&self) -> u32 {
        let free = FRAMES.lock().counts().free;
        u32::try_from(free.saturating_sub(Self::reserve())).unwrap_or(u32::MAX)
    }

    fn statistics(&self) -> Statistics {
        let counts = FRAMES.lock().counts();
        Statistics {
            total: Some(counts.total * 4096),
            free: Some(counts.free * 4096),
            available: Some(counts.free.saturating_sub(Self::reserve()) * 4096),
            ..Statistics::default()
        }
    }

    fn take_free_block(&mut self) -> Option<FreeBlock> {
        let reserve = Self::reserve();
        let mut frames = FRAMES.lock();
        (REPORT_ORDER..=MAX_ORDER).rev().find_map(|order| {
            if frames.counts().free < reserve + (1 << order) {
                return None;
            }
            let first = u32::try_from(frames.take_unreported(order)?).ok()?;
            Some(FreeBlock { first: Pfn::new(first), pages: 1 << order })
        })
    }

    fn return_free_block(&mut self, block: FreeBlock, outcome: Report) {
        let (first, order) = (block.first.number().into(), block.pages.trailing_zeros() as usize);
        match outcome {
            Report::Reported => FRAMES.lock().free_reported(first, order),
            Report::NotReported => FRAMES.lock().free(first, order),
        }
    }
}

impl KernelBalloon {
    /// Takes a driver that is up.
    pub fn new(driver: Balloon<AnyTransport>, interrupts: Interrupts) -> Self {
        Self { driver: RefCell::new(driver), interrupts }
    }

    /// Pages that the host wants.
    pub fn target(&self) -> u32 {
        self.driver.borrow().target()
    }

    /// Pages that the balloon has.
    pub fn actual(&self) -> u32 {
        self.driver.borrow().actual()
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.driver.borrow().state()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.driver.borrow().counters()
    }

    /// Serves the host for ever.
    pub async fn run(self: Rc<Self>) {
        RELIEF.0.set(Some(Rc::as_ptr(&self)));
        loop {
            let state = self.poll();
            if matches!(state, State::Broken(_)) {
                log::error!("balloon: stopped");
                return;
            }
            let retry = pvops::time::now() + RETRY;
            self.interrupts
                .until_deadline(retry, || {
                    let mut driver = self.driver.borrow_mut();
                    let any = self
                        .interrupts
                        .take()
                        .map(|source| driver.interrupt(source))
                        .fold(false, |any, what| any | !what.is_empty());
                    (driver.enable_interrupts() || any).then_some(())
                })
                .await;
        }
    }

    fn poll(&self) -> State {
        let before = self.state();
        let state = self.driver.borrow_mut().poll(&mut Source);
        if let State::Shortfall { wanted, got } = state
            && before != state
        {
            log::warn!("balloon: the host wants {wanted} pages, {got} is all that can be spared");
        }
        state
    }
}

/// The balloon that helps when memory runs out.
struct Relief(Cell<Option<*const KernelBalloon>>);
// SAFETY: only used on the one CPU that runs tasks, never by interrupt handlers.
unsafe impl Sync for Relief {}
static RELIEF: Relief = Relief(Cell::new(None));

/// Called by the heap when the frame allocator has nothing left. True if pages came back.
pub fn relieve() -> bool {
    let Some(balloon) = RELIEF.0.get() else { return false };
    // SAFETY: set by `run`, which keeps the balloon alive and never ends while its device works.
    let balloon = unsafe { &*balloon };
    // The balloon itself may be allocating.
    let Ok(mut driver) = balloon.driver.try_borrow_mut() else { return false };
    let free = || FRAMES.lock().counts().free;
    let before = free();
    let deadline = pvops::time::now() + OOM_PATIENCE;
    // Pages go back one request at a time: the one before may still be on its way.
    while driver.actual() > 0 && pvops::time::now() < deadline {
        driver.release_on_oom(&mut Source, OOM_PAGES);
        if free() > before {
            return true;
        }
        pvops::smp::relax();
    }
    false
}
