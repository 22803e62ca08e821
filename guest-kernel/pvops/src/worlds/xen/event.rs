//! Event channels (`event_channel.h`): the 2-level interface, on CPU 0.
//!
//! A channel has the vector that `bind` gave it. Lines are inputs of the I/O APICs, which the initial domain may use, or
//! with [`VIRTUAL`] interrupts that only Xen has.

use super::handlers::HANDLERS;
use super::hypercall::{self, Refused};
use super::shared_info;
use crate::percpu;
pub use crate::types::VIRTUAL;
use crate::types::{Chips, MapRegisters, TIMER_VECTOR, Trigger};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use shared_abi::xen::{
    AddDevice, BindIpi, BindPirq, BindVirq, DOMID_SELF, IrqStatus, MapPirq, SetupGsi, event, hypercall as number,
    physdev, vcpu,
};
/// The line of input on the console.
pub const CONSOLE_LINE: u32 = VIRTUAL | event::VIRQ_CONSOLE;

/// Lines that can be bound.
const LINES_MAX: usize = 32;
const UNUSED: u32 = u32::MAX;

/// What a channel leads to.
struct Channel {
    /// 0 for none.
    vector: AtomicU8,
    /// Interrupt of a real device that has to be ended, plus 1.
    end: AtomicU32,
}

static CHANNELS: [Channel; event::CHANNELS] =
    [const { Channel { vector: AtomicU8::new(0), end: AtomicU32::new(0) } }; event::CHANNELS];
/// Line and channel.
static LINES: [(AtomicU32, AtomicU32); LINES_MAX] =
    [const { (AtomicU32::new(UNUSED), AtomicU32::new(UNUSED)) }; LINES_MAX];
/// Interrupt in service that has to be ended, plus 1.
pub(super) static END_NEEDED: AtomicU32 = AtomicU32::new(0);
static UNBOUND: AtomicU64 = AtomicU64::new(0);

/// Events on channels without a handler.
pub fn unbound_events() -> u64 {
    UNBOUND.load(Ordering::Relaxed)
}

/// A word of the shared page that both sides change.
fn word(of: impl FnOnce(*mut shared_abi::xen::SharedInfo) -> *mut u64) -> &'static AtomicU64 {
    // SAFETY: the shared page is never unmapped and its words are aligned; both sides access them atomically.
    unsafe { AtomicU64::from_ptr(of(shared_info())) }
}

fn pending(index: usize) -> &'static AtomicU64 {
    // SAFETY: a place inside the shared page; `word` makes the access.
    word(|info| unsafe { (&raw mut (*info).pending[index & 63]).cast() })
}

fn masked(index: usize) -> &'static AtomicU64 {
    // SAFETY: as in `pending`.
    word(|info| unsafe { (&raw mut (*info).mask[index & 63]).cast() })
}

fn selector() -> &'static AtomicU64 {
    // SAFETY: as in `pending`.
    word(|info| unsafe { (&raw mut (*info).vcpus[0].pending_sel).cast() })
}

/// Whether some channel is pending.
pub fn upcall_pending() -> &'static AtomicU8 {
    // SAFETY: as in `word`.
    unsafe { AtomicU8::from_ptr(&raw mut (*shared_info()).vcpus[0].upcall_pending) }
}

/// Masks all channels: what is bound is unmasked one by one.
pub(super) fn mask_all() {
    (0..64).for_each(|index| masked(index).store(u64::MAX, Ordering::SeqCst));
}

/// Takes one pending event; returns the address of its vector's handler, or 0 if none is pending. Leaves the upcall
/// pending if there are more.
pub(super) unsafe extern "sysv64" fn take_handler() -> usize {
    upcall_pending().store(0, Ordering::SeqCst);
    let mut words = selector().swap(0, Ordering::SeqCst);
    while words != 0 {
        let index = words.trailing_zeros() as usize;
        let ready = pending(index).load(Ordering::SeqCst) & !masked(index).load(Ordering::SeqCst);
        if ready == 0 {
            words &= words - 1;
            continue;
        }
        let bit = ready.trailing_zeros() as usize;
        pending(index).fetch_and(!(1 << bit), Ordering::SeqCst);
        if ready & (ready - 1) == 0 {
            words &= words - 1;
        }
        if words != 0 {
            selector().fetch_or(words, Ordering::SeqCst);
            upcall_pending().store(1, Ordering::SeqCst);
        }
        let channel = &CHANNELS[index * 64 + bit];
        let handler = match channel.vector.load(Ordering::Relaxed) {
            0 => 0,
            vector => HANDLERS.get(vector),
        };
        if handler == 0 {
            UNBOUND.fetch_add(1, Ordering::Relaxed);
            words = selector().swap(0, Ordering::SeqCst);
            continue;
        }
        END_NEEDED.store(channel.end.load(Ordering::Relaxed), Ordering::Relaxed);
        return handler;
    }
    0
}

/// Tells Xen that the interrupt in service has been served.
pub(super) unsafe extern "sysv64" fn end_in_service() {
    let Some(mut interrupt) = END_NEEDED.swap(0, Ordering::Relaxed).checked_sub(1) else { return };
    // SAFETY: the argument is a `physdev_eoi`.
    let ended = unsafe { hypercall::command(number::PHYSDEV_OP, physdev::EOI, "physdev_op eoi", &mut interrupt) };
    ended.map(drop).unwrap_or_else(|refused| refused.end());
}

/// Takes the timer over. There are no chips to set up.
pub(super) unsafe extern "sysv64" fn start(_map: MapRegisters, _chips: *const Chips<'static>) -> u64 {
    percpu::enter(0, 0);
    // SAFETY: the command takes no argument.
    let stopped = unsafe { hypercall::call3(number::VCPU_OP, vcpu::STOP_PERIODIC_TIMER.into(), 0, 0) };
    Refused::check("stop_periodic_timer", stopped).unwrap_or_else(|refused| refused.end());
    match connect(VIRTUAL | event::VIRQ_TIMER, TIMER_VECTOR.into(), Trigger::Edge as u32) {
        // SAFETY: the line was bound.
        Ok(()) => unsafe { unmask(VIRTUAL | event::VIRQ_TIMER) },
        Err(refused) => refused.end(),
    }
    0
}

pub(super) unsafe extern "sysv64" fn bind(line: u32, vector: u32, trigger: u32) -> u64 {
    connect(line, vector, trigger).is_ok().into()
}

fn connect(line: u32, vector: u32, trigger: u32) -> Result<(), Refused> {
    let full = Refused { what: "bind: no line left", error: -28, done: 0 };
    let slot = LINES.iter().find(|(used, _)| used.load(Ordering::Relaxed) == UNUSED).ok_or(full)?;
    let (channel, end) = if line & VIRTUAL != 0 {
        let mut bind = BindVirq { virq: line & !VIRTUAL, cpu: 0, channel: 0 };
        // SAFETY: the structure of that command.
        unsafe { hypercall::command(number::EVENT_CHANNEL_OP, event::BIND_VIRQ, "bind_virq", &mut bind)? };
        (bind.channel, 0)
    } else {
        let is = |one: Trigger, other: Trigger| u8::from(trigger == one as u32 || trigger == other as u32);
        let (level, low) = (is(Trigger::Level, Trigger::LevelHigh), is(Trigger::Level, Trigger::EdgeLow));
        let mut setup = SetupGsi { gsi: line as i32, triggering: level, polarity: low, pad: 0 };
        // SAFETY: the structure of that command.
        unsafe { hypercall::command(number::PHYSDEV_OP, physdev::SETUP_GSI, "setup_gsi", &mut setup) }.ok();
        let map = MapPirq { kind: physdev::MAP_GSI, index: line as i32, pirq: line as i32, ..MapPirq::default() };
        bind_interrupt(map)?
    };
    settle(channel, vector, end);
    slot.1.store(channel, Ordering::Relaxed);
    slot.0.store(line, Ordering::Relaxed);
    Ok(())
}

/// Gives an interrupt of a real device a channel. Returns it, and the interrupt plus 1 if it has to be ended.
fn bind_interrupt(mut map: MapPirq) -> Result<(u32, u32), Refused> {
    map.domain = DOMID_SELF;
    // SAFETY: the structures of those commands.
    unsafe {
        hypercall::command(number::PHYSDEV_OP, physdev::MAP_PIRQ, "map_pirq", &mut map)?;
        let mut bind = BindPirq { pirq: map.pirq as u32, flags: 0, channel: 0 };
        hypercall::command(number::EVENT_CHANNEL_OP, event::BIND_PIRQ, "bind_pirq", &mut bind)?;
        let mut status = IrqStatus { irq: map.pirq as u32, flags: 0 };
        hypercall::command(number::PHYSDEV_OP, physdev::IRQ_STATUS_QUERY, "irq_status_query", &mut status)?;
        let end = if status.flags & physdev::NEEDS_EOI != 0 { map.pirq as u32 + 1 } else { 0 };
        Ok((bind.channel, end))
    }
}

fn settle(channel: u32, vector: u32, end: u32) {
    let place = &CHANNELS[channel as usize % event::CHANNELS];
    place.end.store(end, Ordering::Relaxed);
    place.vector.store(vector as u8, Ordering::Release);
}

/// Xen programs the device's table itself: 0 when it did.
pub(super) unsafe extern "sysv64" fn bind_message(device: u32, entry: u32, vector: u32, table: u64) -> u64 {
    let map = MapPirq {
        kind: physdev::MAP_MSI,
        index: -1,
        pirq: -1,
        bus: (device >> 8 & 0xff) as i32,
        devfn: (device & 0xff) as i32,
        entry: entry as i32,
        table,
        ..MapPirq::default()
    };
    // Without an IOMMU Xen does not look for functions itself.
    let mut add = AddDevice { bus: (device >> 8) as u8, devfn: device as u8, ..AddDevice::default() };
    // SAFETY: the structure of that command. If the function is not there, mapping its interrupt says so.
    unsafe { hypercall::command(number::PHYSDEV_OP, physdev::PCI_DEVICE_ADD, "pci_device_add", &mut add) }.ok();
    match bind_interrupt(map) {
        Ok((channel, end)) => {
            settle(channel, vector, end);
            unmask_channel(channel);
            0
        }
        Err(_) => u64::MAX,
    }
}

fn channel_of(line: u32) -> Option<u32> {
    let (_, channel) = LINES.iter().find(|(used, _)| used.load(Ordering::Relaxed) == line)?;
    Some(channel.load(Ordering::Relaxed))
}

pub(super) unsafe extern "sysv64" fn mask(line: u32) {
    if let Some(channel) = channel_of(line) {
        mask_channel(channel);
    }
}

pub(super) unsafe extern "sysv64" fn unmask(line: u32) {
    if let Some(channel) = channel_of(line) {
        unmask_channel(channel);
    }
}

/// Keeps a channel from being delivered; its events stay pending.
pub fn mask_channel(channel: u32) {
    masked(channel as usize / 64).fetch_or(1 << (channel % 64), Ordering::SeqCst);
}

/// Lets a channel be delivered. An event that came while it was masked is not lost: Xen does not look at it again, so it
/// is selected here.
pub fn unmask_channel(channel: u32) {
    let (index, bit) = (channel as usize / 64, 1 << (channel % 64));
    let flags = crate::ops::irq::save();
    masked(index).fetch_and(!bit, Ordering::SeqCst);
    if pending(index).load(Ordering::SeqCst) & bit != 0 {
        selector().fetch_or(1 << index, Ordering::SeqCst);
        upcall_pending().store(1, Ordering::SeqCst);
    }
    // SAFETY: the flags of a moment ago; it enters Xen if something is pending.
    unsafe { crate::ops::irq::restore(flags) };
}

/// Makes a channel from this CPU to itself that raises a vector, unmasked.
///
/// # Errors
/// [`Refused`].
///
/// # Safety
/// The vector has a handler.
pub unsafe fn bind_ipi(vector: u8) -> Result<u32, Refused> {
    let mut bind = BindIpi { cpu: 0, channel: 0 };
    // SAFETY: the structure of that command.
    unsafe { hypercall::command(number::EVENT_CHANNEL_OP, event::BIND_IPI, "bind_ipi", &mut bind)? };
    settle(bind.channel, vector.into(), 0);
    unmask_channel(bind.channel);
    Ok(bind.channel)
}

/// Sends an event.
///
/// # Errors
/// [`Refused`], when there is no such channel.
pub fn send(mut channel: u32) -> Result<(), Refused> {
    // SAFETY: an event on a channel without handler is counted and forgotten.
    unsafe { hypercall::command(number::EVENT_CHANNEL_OP, event::SEND, "evtchn send", &mut channel) }.map(drop)
}

/// Closes a channel, masked and without handler.
///
/// # Errors
/// [`Refused`].
pub fn close(mut channel: u32) -> Result<(), Refused> {
    mask_channel(channel);
    settle(channel, 0, 0);
    // SAFETY: the structure of that command.
    unsafe { hypercall::command(number::EVENT_CHANNEL_OP, event::CLOSE, "evtchn close", &mut channel) }.map(drop)
}

/// Unmasks a channel by Xen's own command.
///
/// # Errors
/// [`Refused`].
pub fn unmask_by_xen(mut channel: u32) -> Result<(), Refused> {
    // SAFETY: the structure of that command.
    unsafe { hypercall::command(number::EVENT_CHANNEL_OP, event::UNMASK, "evtchn unmask", &mut channel) }.map(drop)
}

/// Whether a channel is pending.
pub fn is_pending(channel: u32) -> bool {
    pending(channel as usize / 64).load(Ordering::SeqCst) & 1 << (channel % 64) != 0
}
