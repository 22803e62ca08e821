//! The local APIC and the I/O APIC of the native worlds (Intel SDM volume 3, chapter "APIC"; 82093AA data sheet).

use crate::event::{Chips, MapRegisters, Trigger};
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
/// I/O APICs that are used at most.
pub const IO_APICS_MAX: usize = 8;
static IO: [Io; IO_APICS_MAX] = [const { Io::none() }; IO_APICS_MAX];
static TIMER_MUL: AtomicU32 = AtomicU32::new(0);
static TIMER_SHIFT: AtomicU8 = AtomicU8::new(0);
/// The deadline in force, so that "none" is not programmed over and over.
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);

/// An I/O APIC: an index register at 0 and a window at 0x10.
struct Io {
    base: AtomicUsize,
    first_line: AtomicU32,
    /// 0 when it is not there.
    pins: AtomicU32,
}

/// `IA32_APIC_BASE` and its bits: the local APIC is on, and in x2APIC mode.
const APIC_BASE: u32 = 0x1b;
const ENABLED: u64 = 1 << 11;
const X2: u64 = 1 << 10;

/// Takes the interrupt chips over: all lines masked, the local APIC on. The timer works after
/// [`set_timer_hz`]. Returns 0, or 1 plus what stood in the version register of a local APIC that does not answer.
pub(crate) unsafe extern "sysv64" fn start(map: MapRegisters, chips: *const Chips<'static>) -> u64 {
    const BLOCK: usize = 4096;
    // SAFETY: per `event::start`'s contract.
    let chips = unsafe { &*chips };
    leave_x2apic();
    let local = map(chips.local, BLOCK);
    if local == 0 {
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
    for (io, chip) in IO.iter().zip(chips.io) {
        let base = map(chip.address, BLOCK);
        if base == 0 {
            continue;
        }
        io.base.store(base, Relaxed);
        let version = io.read(1);
        if version == u32::MAX {
            continue;
        }
        io.first_line.store(chip.first_line, Relaxed);
        io.pins.store((version >> 16 & 0xff) + 1, Relaxed);
        for pin in 0..io.pins.load(Relaxed) {
            io.write(REDIRECTION + 2 * pin, MASKED);
        }
    }
    0
}

/// Firmware may leave this CPU in x2APIC mode, where the registers are not in memory: with so many CPUs that eight bits do not
/// number them. Ours have eight bits. The way back leads through "off" (Intel SDM volume 3, "x2APIC State Transitions").
fn leave_x2apic() {
    // SAFETY: every CPU with a local APIC has the register; interrupts are off, and no mode was chosen yet.
    unsafe {
        let base = crate::cpu::read_msr(APIC_BASE);
        if base & X2 != 0 {
            crate::cpu::write_msr(APIC_BASE, base & !(X2 | ENABLED));
        }
        if base & (X2 | ENABLED) != ENABLED {
            crate::cpu::write_msr(APIC_BASE, base & !X2 | ENABLED);
        }
    }
}

/// Lets the local APIC of this CPU deliver interrupts; its timer stays off. Does nothing in a world without one. The first
/// CPU has slot 0, each other a slot of its own below [`CPUS`](crate::percpu::CPUS).
pub fn open_this_cpu(slot: usize) {
    if LOCAL.load(Relaxed) == 0 {
        return;
    }
    crate::percpu::enter(slot);
    if slot > 0 {
        leave_x2apic();
    }
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

pub(crate) unsafe extern "sysv64" fn bind(line: u32, vector: u32, trigger: u32) -> u64 {
    let Some((io, pin)) = input(line) else { return 0 };
    let mode = [(Trigger::Level, LEVEL | ACTIVE_LOW), (Trigger::LevelHigh, LEVEL), (Trigger::EdgeLow, ACTIVE_LOW)]
        .into_iter()
        .find(|(named, _)| *named as u32 == trigger)
        .map_or(0, |(_, mode)| mode);
    io.write(REDIRECTION + 2 * pin, MASKED | vector | mode);
    io.write(REDIRECTION + 2 * pin + 1, id() << 24);
    1
}

pub(crate) unsafe extern "sysv64" fn mask(line: u32) {
    if let Some((io, pin)) = input(line) {
        io.write(REDIRECTION + 2 * pin, io.read(REDIRECTION + 2 * pin) | MASKED);
    }
}

pub(crate) unsafe extern "sysv64" fn unmask(line: u32) {
    if let Some((io, pin)) = input(line) {
        let low = io.read(REDIRECTION + 2 * pin);
        // An unbound entry has vector 0: it stays masked.
        if low & 0xff != 0 {
            io.write(REDIRECTION + 2 * pin, low & !MASKED);
        }
    }
}

/// The I/O APIC that has a line, and the pin there.
fn input(line: u32) -> Option<(&'static Io, u32)> {
    IO.iter().find_map(|io| {
        let pin = line.checked_sub(io.first_line.load(Relaxed))?;
        (pin < io.pins.load(Relaxed)).then_some((io, pin))
    })
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

impl Io {
    const fn none() -> Self {
        Self { base: AtomicUsize::new(0), first_line: AtomicU32::new(0), pins: AtomicU32::new(0) }
    }

    fn select(&self, register: u32) -> *mut u32 {
        let base = self.base.load(Relaxed);
        // SAFETY: as in `read_local`; only an I/O APIC with a base is accessed.
        unsafe { (base as *mut u32).write_volatile(register) };
        (base + 0x10) as *mut u32
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: as in `select`.
        unsafe { self.select(register).read_volatile() }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as in `select`.
        unsafe { self.select(register).write_volatile(value) };
    }
}
