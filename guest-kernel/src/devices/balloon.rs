//! The balloon in this kernel: its task, its share of the frame allocator, and its part in running out of memory.

use crate::devices::place::AnyTransport;
use crate::mm::frames::{FRAMES, Frames, MAX_ORDER};
use crate::mm::heap;
use crate::mm::reserve::Reserve;
use crate::task::{self, Event};
use crate::trap::Interrupts;
use alloc::boxed::Box;
use alloc::rc::Rc;
use balloon::{Balloon, Counters, FreeBlock, Next, PageSource, Pfn, Report, Reservation, Settings, State, Statistics};
use core::cell::{Cell, RefCell};
use frontends::Driver;

/// Blocks of this order and larger are reported as free: 2 MiB.
const REPORT_ORDER: usize = 9;
/// How long a request may take before the device is restarted, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;
/// Pages taken back at once when the kernel runs out.
const OOM_PAGES: u32 = 256;
/// How long the kernel waits for the host then, in nanoseconds.
const OOM_PATIENCE: u64 = 100_000_000;

/// The balloon.
pub struct KernelBalloon {
    driver: RefCell<Kind>,
    /// Raised by a new target of our own.
    wanted: Event,
}

/// The device or hypervisor that takes the pages.
enum Kind {
    /// A virtio device, which has the target, too.
    Device(Box<Balloon<AnyTransport>>, Interrupts),
    /// The hypervisor itself; the target is the kernel's.
    Reservation(Reservation),
}

/// The same call of either kind.
macro_rules! either {
    ($self:ident.$method:ident()) => {
        match &*$self.driver.borrow() {
            Kind::Device(balloon, _) => balloon.$method(),
            Kind::Reservation(balloon) => balloon.$method(),
        }
    };
}

/// The frame allocator, seen by the balloon.
pub struct Source;

impl Source {
    fn reserve() -> u64 {
        balloon::reserve(FRAMES.lock().counts().total)
    }
}

impl PageSource for Source {
    fn take_page(&mut self) -> Option<Pfn> {
        let reserve = Self::reserve();
        let is_short = |frames: &Frames| frames.counts().unused() <= reserve || frames.counts().free == 0;
        if is_short(&FRAMES.lock()) {
            // What the heap once was is not lost to the host.
            heap::give_back();
        }
        let mut frames = FRAMES.lock();
        if is_short(&frames) {
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
        let unused = FRAMES.lock().counts().unused();
        u32::try_from(unused.saturating_sub(Self::reserve())).unwrap_or(u32::MAX)
    }

    fn statistics(&self) -> Statistics {
        let counts = FRAMES.lock().counts();
        Statistics {
            total: Some(counts.total * 4096),
            free: Some(counts.unused() * 4096),
            available: Some(counts.unused().saturating_sub(Self::reserve()) * 4096),
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
        FRAMES.lock().take_back(first, order, outcome == Report::Reported);
    }
}

impl KernelBalloon {
    /// The driver's settings.
    pub fn settings() -> Settings {
        Settings { patience: PATIENCE, ..Settings::default() }
    }

    /// Takes a driver that is up.
    pub fn new(driver: Balloon<AnyTransport>, interrupts: Interrupts) -> Self {
        Self { driver: RefCell::new(Kind::Device(Box::new(driver), interrupts)), wanted: Event::new() }
    }

    /// The balloon of the hypervisor, where it has one.
    pub fn of_hypervisor() -> Option<Self> {
        let kind = Kind::Reservation(Reservation::new());
        pvops::memory::reservation().map(|_| Self { driver: RefCell::new(kind), wanted: Event::new() })
    }

    /// Sets how many pages the balloon is to have; false where that is for the host to say.
    pub fn set_target(&self, pages: u32) -> bool {
        let Kind::Reservation(balloon) = &mut *self.driver.borrow_mut() else { return false };
        balloon.set_target(pages);
        self.wanted.raise();
        true
    }

    /// Pages that the host wants.
    pub fn target(&self) -> u32 {
        either!(self.target())
    }

    /// Pages that the balloon has.
    pub fn actual(&self) -> u32 {
        either!(self.actual())
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        either!(self.state())
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        either!(self.counters())
    }

    /// Serves the host until the device has stopped and all pages are back.
    pub async fn run(self: Rc<Self>) {
        RELIEF.0.set(Some(Rc::as_ptr(&self)));
        heap::set_relief(relieve);
        loop {
            self.poll();
            let retry = pvops::time::now() + balloon::RETRY;
            let interrupts = match &*self.driver.borrow() {
                Kind::Device(_, interrupts) => Some(*interrupts),
                Kind::Reservation(_) => None,
            };
            let next = either!(self.next());
            match (next, interrupts) {
                (Next::Again, _) => task::yield_now().await,
                (Next::Wait, Some(interrupts)) => {
                    interrupts.until_deadline(retry, || self.interrupted().then_some(())).await.unwrap_or(())
                }
                (Next::Wait, None) => self.wanted.wait_until(retry).await,
                (Next::End, _) => break,
            }
        }
        RELIEF.0.set(None);
        log::error!("balloon: stopped; all of its pages that can be used are back");
    }

    /// Takes what the device has to say; whether there is something to do.
    fn interrupted(&self) -> bool {
        let Kind::Device(driver, interrupts) = &mut *self.driver.borrow_mut() else { return false };
        let any = interrupts.handle(|source| driver.interrupt(source));
        driver.enable_interrupts() || any
    }

    fn poll(&self) -> State {
        let before = self.state();
        let state = match &mut *self.driver.borrow_mut() {
            Kind::Device(balloon, _) => {
                let state = balloon.poll(&mut Source);
                balloon.check_time(pvops::time::now());
                state
            }
            Kind::Reservation(balloon) => balloon.poll(&mut Source, &mut Reserve),
        };
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

/// Called by the heap, which is not locked, when the frame allocator has nothing left. True if pages came back: from a report
/// to the host, or from the balloon.
fn relieve() -> bool {
    let Some(balloon) = RELIEF.0.get() else { return false };
    // SAFETY: set by `run`, which keeps the balloon alive and takes this back when it ends.
    let balloon = unsafe { &*balloon };
    // The balloon itself may be allocating.
    let Ok(mut driver) = balloon.driver.try_borrow_mut() else { return false };
    let free = || FRAMES.lock().counts().free;
    let before = free();
    let deadline = pvops::time::now() + OOM_PATIENCE;
    // Pages go back one request at a time: the one before may still be on its way.
    while pvops::time::now() < deadline {
        let left = match &mut *driver {
            Kind::Device(balloon, _) => {
                balloon.take_back_reported(&mut Source);
                if free() == before {
                    balloon.release_on_oom(&mut Source, OOM_PAGES);
                }
                balloon.actual() + FRAMES.lock().counts().lent as u32
            }
            Kind::Reservation(balloon) => {
                balloon.release_on_oom(&mut Source, &mut Reserve, OOM_PAGES);
                balloon.actual()
            }
        };
        if free() > before {
            return true;
        }
        if left == 0 {
            break;
        }
        pvops::smp::relax();
    }
    false
}
