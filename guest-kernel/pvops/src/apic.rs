//! The local APIC and the I/O APIC of the native worlds (Intel SDM volume 3, chapter "APIC"; 82093AA data sheet).

use crate::event::MapRegisters;
use crate::native::Scale;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use shared_abi::board;

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x20;
/// Vector of interrupts that went away; they are not to be ended.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Registers of the local APIC.
mod lapic {
    pub(super) const ID: usize = 0x20;
    pub(super) const VERSION: usize = 0x30;
    pub(super) const TASK_PRIORITY: usize = 0x80;
    pub(super) const END: usize = 0xb0;
    pub(super) const SPURIOUS: usize = 0xf0;
    pub(super) const COMMAND: usize = 0x300;
    pub(super) const COMMAND_TARGET: usize = 0x310;
    pub(super) const TIMER: usize = 0x320;
    pub(super) const LINT0: usize = 0x350;
    pub(super) const INITIAL_COUNT: usize = 0x380;
    pub(super) const CURRENT_COUNT: usize = 0x390;
    pub(super) const DIVIDE: usize = 0x3e0;
}

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
/// Interrupt command: it is on its way.
const PENDING: u32 = 1 << 12;
/// Turns until a command counts as sent, whatever the register says.
const COMMAND_PATIENCE: u32 = 100_000;
const DIVIDE_BY_1: u32 = 0b1011;
/// Redirection entry: level triggered, active low.
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
const REDIRECTION: u32 = 0x10;

static LOCAL: AtomicUsize = AtomicUsize::new(0);
static IO: AtomicUsize = AtomicUsize::new(0);
static IO_PINS: AtomicU32 = AtomicU32::new(0);
static TIMER_MUL: AtomicU32 = AtomicU32::new(0);
static TIMER_SHIFT: AtomicU8 = AtomicU8::new(0);
/// The deadline in force, so that "none" is not programmed over and over.
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Takes the interrupt chips over, where PCs have them: all lines masked, the local APIC on. The timer works after
/// [`set_timer_hz`]. Returns 0, or 1 plus what stood in the version register of a local APIC that does not answer.
pub(crate) unsafe extern "sysv64" fn start(map: MapRegisters) -> u64 {
    const BLOCK: usize = 4096;
    let (local, io) = (map(board::LOCAL_APIC_BASE, BLOCK), map(board::IO_APIC_BASE, BLOCK));
    if local == 0 || io == 0 {
        return 1;
    }
    LOCAL.store(local, Relaxed);
    let version = read_local(lapic::VERSION);
    if version == u32::MAX || version & 0xff < 0x10 {
        LOCAL.store(0, Relaxed);
        return u64::from(version) + 1;
    }
    open_this_cpu(0);
    write_local(lapic::DIVIDE, DIVIDE_BY_1);
    write_local(lapic::TIMER, u32::from(TIMER_VECTOR));
    IO.store(io, Relaxed);
    let pins = (read_io(1) >> 16 & 0xff) + 1;
    IO_PINS.store(pins, Relaxed);
    for pin in 0..pins {
        write_io(REDIRECTION + 2 * pin, MASKED);
    }
    0
}

/// Lets the local APIC of this CPU deliver interrupts; its timer stays off. Does nothing in a world without one. The first
/// CPU has slot 0, each other a slot of its own below [`CPUS`](crate::percpu::CPUS).
pub fn open_this_cpu(slot: usize) {
    if LOCAL.load(Relaxed) == 0 {
        return;
    }
    crate::percpu::enter(slot);
    write_local(lapic::TASK_PRIORITY, 0);
    write_local(lapic::SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    // The 8259 interrupts through this pin, where there is one; KVM opens the pin at reset.
    write_local(lapic::LINT0, MASKED);
}

/// Sets the frequency of the local APIC's timer.
pub fn set_timer_hz(hz: u64) {
    let scale = Scale::new(1_000_000_000, hz.max(1));
    TIMER_MUL.store(scale.mul, Relaxed);
    TIMER_SHIFT.store(scale.shift as u8, Relaxed);
}

/// Lets the timer count without interrupting, to measure its frequency against a known clock.
pub fn start_counting() {
    if !is_there() {
        return;
    }
    write_local(lapic::TIMER, MASKED | u32::from(TIMER_VECTOR));
    write_local(lapic::INITIAL_COUNT, u32::MAX);
}

/// Ticks since [`start_counting`]; 0 in a world without this timer.
pub fn timer_ticks() -> u32 {
    if is_there() { u32::MAX - read_local(lapic::CURRENT_COUNT) } else { 0 }
}

/// Ends [`start_counting`].
pub fn stop_counting() {
    if !is_there() {
        return;
    }
    write_local(lapic::INITIAL_COUNT, 0);
    write_local(lapic::TIMER, u32::from(TIMER_VECTOR));
}

/// The message that raises a vector on this CPU, as an edge, packed.
pub(crate) unsafe extern "sysv64" fn bind_message(_device: u32, _entry: u32, vector: u32, _table: u64) -> u64 {
    (board::LOCAL_APIC_BASE | u64::from(id()) << 12) << 32 | u64::from(vector)
}

fn id() -> u32 {
    read_local(lapic::ID) >> 24
}

pub(crate) unsafe extern "sysv64" fn cpu() -> u32 {
    if LOCAL.load(Relaxed) == 0 { 0 } else { id() }
}

pub(crate) unsafe extern "sysv64" fn bind(line: u32, vector: u32, level: u32) -> u64 {
    let exists = line < IO_PINS.load(Relaxed);
    if exists {
        let mode = match level {
            0 => 0,
            1 => LEVEL | ACTIVE_LOW,
            _ => LEVEL,
        };
        write_io(REDIRECTION + 2 * line, MASKED | vector | mode);
        write_io(REDIRECTION + 2 * line + 1, id() << 24);
    }
    exists.into()
}

pub(crate) unsafe extern "sysv64" fn mask(line: u32) {
    if line < IO_PINS.load(Relaxed) {
        let low = read_io(REDIRECTION + 2 * line);
        write_io(REDIRECTION + 2 * line, low | MASKED);
    }
}

pub(crate) unsafe extern "sysv64" fn unmask(line: u32) {
    if line < IO_PINS.load(Relaxed) {
        let low = read_io(REDIRECTION + 2 * line);
        // An unbound entry has vector 0: it stays masked.
        if low & 0xff != 0 {
            write_io(REDIRECTION + 2 * line, low & !MASKED);
        }
    }
}

/// The target of a hot site: changes RAX only.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn end() {
    naked_asm!(
        "mov rax, [rip + {local}]",
        "mov dword ptr [rax + {end}], 0",
        "ret",
        local = sym LOCAL,
        end = const lapic::END,
    )
}

pub(crate) unsafe extern "sysv64" fn set_timer(deadline: u64) {
    if DEADLINE.swap(deadline, Relaxed) == deadline && deadline == u64::MAX {
        return;
    }
    let count = if deadline == u64::MAX {
        0
    } else {
        let scale = Scale { mul: TIMER_MUL.load(Relaxed), shift: TIMER_SHIFT.load(Relaxed) as i8 };
        // Half a range at most: the kernel asks again when that ends too early.
        let wait = deadline.saturating_sub(crate::time::now()).min(1 << 31);
        scale.apply(wait).clamp(1, u32::MAX.into()) as u32
    };
    write_local(lapic::INITIAL_COUNT, count);
}

/// Sends an interrupt command to a CPU. Handlers on this CPU may send too, so it is done with interrupts off.
pub(crate) fn command(cpu: u32, command: u32) {
    let flags = crate::irq::save();
    write_local(lapic::COMMAND_TARGET, cpu << 24);
    write_local(lapic::COMMAND, command);
    for _ in 0..COMMAND_PATIENCE {
        if read_local(lapic::COMMAND) & PENDING == 0 {
            break;
        }
        crate::smp::relax();
    }
    // SAFETY: the flags of a moment ago.
    unsafe { crate::irq::restore(flags) };
}

pub(crate) fn is_there() -> bool {
    LOCAL.load(Relaxed) != 0
}

fn read_local(register: usize) -> u32 {
    // SAFETY: `start` mapped a register block of 4 KiB.
    unsafe { ((LOCAL.load(Relaxed) + register) as *const u32).read_volatile() }
}

fn write_local(register: usize, value: u32) {
    // SAFETY: as in `read_local`.
    unsafe { ((LOCAL.load(Relaxed) + register) as *mut u32).write_volatile(value) };
}

/// The I/O APIC has an index register at 0 and a window at 0x10.
fn select_io(register: u32) -> usize {
    let base = IO.load(Relaxed);
    // SAFETY: as in `read_local`.
    unsafe { (base as *mut u32).write_volatile(register) };
    base + 0x10
}

fn read_io(register: u32) -> u32 {
    // SAFETY: as in `select_io`.
    unsafe { (select_io(register) as *const u32).read_volatile() }
}

fn write_io(register: u32, value: u32) {
    // SAFETY: as in `select_io`.
    unsafe { (select_io(register) as *mut u32).write_volatile(value) };
}
