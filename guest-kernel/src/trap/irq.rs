//! Interrupts: each vector has an event that it raises, and a count. Handlers do nothing else, checks
//! aside: the work is done by the tasks that wait for the event. A line that signals by a level is masked until the task
//! that serves it says that the device has let go of it.

use super::level::{Level, Masked};
use crate::task::Event;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};
use heapless::Vec;
use pvops::event::{self, MessageEntry, MsiMessage, NoRoute, SPURIOUS_VECTOR, TIMER_VECTOR, Trigger};

use crate::sync::Lock;

const FIRST_VECTOR: u8 = 0x30;
const VECTORS: usize = 32;

/// A vector's state.
struct Vector {
    event: Event,
    count: AtomicU64,
    /// A `fn()` that runs before the interrupt ends, or null. Checks set it.
    handler: AtomicPtr<()>,
    level: Level,
}

static TIMER: Vector = Vector::new();
static TABLE: [Vector; VECTORS] = [const { Vector::new() }; VECTORS];
static OWNERS: Lock<Vec<Owner, VECTORS>> = Lock::new(Vec::new());
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);
/// Interrupts between `sti` and `hlt`.
static UNPROTECTED_HALTS: AtomicU64 = AtomicU64::new(0);

/// The owner of a vector.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Name of the device or driver.
    pub name: &'static str,
    /// The line; `None` for a message.
    pub line: Option<u32>,
}

impl Vector {
    const fn new() -> Self {
        Self {
            event: Event::new(),
            count: AtomicU64::new(0),
            handler: AtomicPtr::new(core::ptr::null_mut()),
            level: Level::new(),
        }
    }

    fn raise(&self) {
        self.count.fetch_add(1, Relaxed);
        self.level.interrupt(event::mask);
        self.event.raise();
        let handler = self.handler.load(Relaxed);
        if !handler.is_null() {
            // SAFETY: only `set_handler` stores here, and only a `fn()`.
            unsafe { core::mem::transmute::<*mut (), fn()>(handler)() };
        }
    }
}

pub(super) fn dispatch(vector: u8) {
    match vector {
        TIMER_VECTOR => TIMER.raise(),
        SPURIOUS_VECTOR => {
            UNEXPECTED.fetch_add(1, Relaxed);
            return;
        }
        vector => match TABLE.get(usize::from(vector.wrapping_sub(FIRST_VECTOR))) {
            Some(entry) => entry.raise(),
            None => {
                UNEXPECTED.fetch_add(1, Relaxed);
            }
        },
    }
    event::end();
}

/// Why an interrupt cannot be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// There is no vector left.
    NoVector,
    /// The world cannot bring it here.
    NoRoute,
}

impl core::fmt::Display for BindError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoVector => "no interrupt vector left",
            Self::NoRoute => "its interrupt cannot be routed",
        })
    }
}

impl From<NoRoute> for BindError {
    fn from(_: NoRoute) -> Self {
        Self::NoRoute
    }
}

fn allocate(owner: Owner) -> Result<u8, BindError> {
    let mut owners = OWNERS.lock();
    owners.push(owner).map_err(|_| BindError::NoVector)?;
    Ok(FIRST_VECTOR + owners.len() as u8 - 1)
}

fn event_of(vector: u8) -> &'static Event {
    &TABLE[usize::from(vector - FIRST_VECTOR)].event
}

fn vector_of(event: &'static Event) -> Option<&'static Vector> {
    // Asked at every interrupt: no search.
    let offset = core::ptr::from_ref(event).addr().checked_sub(TABLE.as_ptr().addr())?;
    TABLE.get(offset / size_of::<Vector>()).filter(|entry| core::ptr::eq(&raw const entry.event, event))
}

/// Takes what an event was raised for, and the line that is masked for that: see [`Level::take`].
pub fn take(event: &'static Event) -> (bool, Option<Masked>) {
    vector_of(event).map_or_else(|| (event.take(), None), |entry| entry.level.take(|| event.take()))
}

/// Takes the line alone: see [`Level::hold`].
pub fn take_line(event: &'static Event) -> Option<Masked> {
    vector_of(event)?.level.hold()
}

/// Whether an event's line stays masked until the event is taken.
pub fn is_masked(event: &'static Event) -> bool {
    vector_of(event).is_some_and(|entry| entry.level.is_masked())
}

/// The device has let go of a line: it may interrupt again.
pub fn release(line: Masked) {
    event::unmask(line.line());
}

/// Binds a line to a new vector and lets it interrupt; one that signals by a level once, until it is taken and [`release`]d.
///
/// # Errors
/// [`BindError`].
pub fn bind_line(name: &'static str, line: u32, trigger: Trigger) -> Result<&'static Event, BindError> {
    let vector = allocate(Owner { name, line: Some(line) })?;
    // SAFETY: the vector's stub dispatches to its event.
    unsafe { event::bind(line, vector, trigger)? };
    if matches!(trigger, Trigger::Level | Trigger::LevelHigh) {
        TABLE[usize::from(vector - FIRST_VECTOR)].level.set(line);
    }
    event::unmask(line);
    Ok(event_of(vector))
}

/// Makes a vector that the kernel raises itself.
///
/// # Errors
/// [`BindError`].
pub fn bind_vector(name: &'static str) -> Result<(&'static Event, u8), BindError> {
    let vector = allocate(Owner { name, line: None })?;
    Ok((event_of(vector), vector))
}

/// Makes a vector that a device raises by message, and returns what is to be written to its table; nothing where the world
/// has written it.
///
/// # Errors
/// [`BindError`].
pub fn bind_message(name: &'static str, at: MessageEntry) -> Result<(&'static Event, Option<MsiMessage>), BindError> {
    let vector = allocate(Owner { name, line: None })?;
    // SAFETY: the vector's stub dispatches to its event; the function is driven by its one driver.
    let message = unsafe { event::bind_message(at, vector)? };
    Ok((event_of(vector), message))
}

/// Has a function run at each interrupt of an event's vector, before the interrupt ends: for checks of when it does.
pub fn set_handler(event: &'static Event, handler: Option<fn()>) {
    if let Some(entry) = vector_of(event) {
        entry.handler.store(handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ()), Relaxed);
    }
}

/// For tests of what a panic needs: holds the lock of the vectors forever.
pub fn hold(what: fn() -> !) -> ! {
    let _owners = OWNERS.lock();
    what()
}

/// Timer interrupts so far.
pub fn timer_count() -> u64 {
    TIMER.count.load(Relaxed)
}

/// Unexpected interrupts.
pub fn unexpected_count() -> u64 {
    UNEXPECTED.load(Relaxed)
}

/// Notes an interrupt that came between `sti` and `hlt`.
pub(super) fn count_unprotected_halt() {
    UNPROTECTED_HALTS.fetch_add(1, Relaxed);
}

/// Interrupts that came between `sti` and `hlt` so far, where none may come.
pub fn unprotected_halts() -> u64 {
    UNPROTECTED_HALTS.load(Relaxed)
}

/// Interrupts of an event's vector so far; 0 for an event that belongs to no vector.
pub fn count_of(event: &'static Event) -> u64 {
    vector_of(event).map_or(0, |entry| entry.count.load(Relaxed))
}

/// All vectors in use: number, owner, count.
pub fn counts() -> impl Iterator<Item = (u8, Owner, u64)> {
    let owners = OWNERS.lock().clone();
    owners
        .into_iter()
        .enumerate()
        .map(|(index, owner)| (FIRST_VECTOR + index as u8, owner, TABLE[index].count.load(Relaxed)))
}
