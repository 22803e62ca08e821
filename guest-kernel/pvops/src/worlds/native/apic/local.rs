//! The local APIC's registers, in memory (xAPIC) or as MSRs (x2APIC): Intel SDM volume 3, chapter "APIC".
//!
//! The mode stays what the firmware left: a CPU whose id needs more than eight bits has no other, and where the way back
//! is locked (`IA32_XAPIC_DISABLE_STATUS`) the attempt faults. All CPUs are brought to the mode of the first.

use crate::ops::cpu::msr;
use crate::worlds::native::{read_msr, write_msr};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use shared_abi::assert_layout;
use volatile::access::{ReadOnly, ReadWrite, Readable, Writable, WriteOnly};
use volatile::{VolatileFieldAccess, VolatilePtr};
use x86_64::registers::model_specific::ApicBaseFlags;

/// A register in memory: 32 bits, at the start of 16 bytes.
#[derive(Clone, Copy, VolatileFieldAccess)]
#[repr(C, align(16))]
pub(crate) struct Word {
    value: u32,
}

/// The registers in memory. As MSR, a register has number 0x800 plus its place here.
#[derive(VolatileFieldAccess)]
#[repr(C)]
pub(crate) struct Block {
    reserved0: [Word; 2],
    #[access(ReadOnly)]
    id: Word,
    #[access(ReadOnly)]
    version: Word,
    reserved1: [Word; 4],
    task_priority: Word,
    reserved2: [Word; 2],
    #[access(WriteOnly)]
    end: Word,
    reserved3: [Word; 3],
    spurious: Word,
    reserved4: [Word; 32],
    command: Word,
    command_target: Word,
    timer: Word,
    reserved5: [Word; 2],
    lint0: Word,
    reserved6: [Word; 2],
    initial_count: Word,
    #[access(ReadOnly)]
    current_count: Word,
    reserved7: [Word; 4],
    divide: Word,
}
assert_layout!(Block, size 0x3f0, id at 0x20, version at 0x30, task_priority at 0x80, end at 0xb0, spurious at 0xf0,
    command at 0x300, command_target at 0x310, timer at 0x320, lint0 at 0x350, initial_count at 0x380,
    current_count at 0x390, divide at 0x3e0);

/// A register in both modes: the number of its MSR, and its field in memory.
#[derive(Clone, Copy)]
pub(crate) struct Register<A> {
    msr: u32,
    field: fn(VolatilePtr<'static, Block>) -> VolatilePtr<'static, u32, A>,
}

macro_rules! registers {
    ($($name:ident: $access:ident = $field:ident;)*) => {
        /// The registers in use.
        pub(crate) mod register {
            use super::*;
            $(pub(crate) const $name: Register<$access> =
                Register { msr: number(offset_of!(Block, $field)), field: |block| block.$field().value() };)*
        }
    };
}

registers! {
    ID: ReadOnly = id;
    VERSION: ReadOnly = version;
    TASK_PRIORITY: ReadWrite = task_priority;
    SPURIOUS: ReadWrite = spurious;
    COMMAND: ReadWrite = command;
    COMMAND_TARGET: ReadWrite = command_target;
    TIMER: ReadWrite = timer;
    LINT0: ReadWrite = lint0;
    INITIAL_COUNT: ReadWrite = initial_count;
    CURRENT_COUNT: ReadOnly = current_count;
    DIVIDE: ReadWrite = divide;
}

const fn number(offset: usize) -> u32 {
    msr::X2APIC_FIRST + (offset / size_of::<Word>()) as u32
}

/// In `IA32_APIC_BASE`: the local APIC is on, and in x2APIC mode.
const ENABLED: u64 = ApicBaseFlags::LAPIC_ENABLE.bits();
const X2: u64 = ApicBaseFlags::X2APIC_ENABLE.bits();
/// Interrupt command in memory: it is on its way. The MSR has no such bit.
const PENDING: u32 = 1 << 12;
/// Turns until a command counts as sent, whatever the register says.
const COMMAND_PATIENCE: u32 = 100_000;

/// Where the registers are mapped; 0 where they are not in memory.
static MEMORY: AtomicUsize = AtomicUsize::new(0);
static IS_X2: AtomicBool = AtomicBool::new(false);

/// Whether there is a local APIC that was taken over.
pub(crate) fn is_there() -> bool {
    IS_X2.load(Relaxed) || MEMORY.load(Relaxed) != 0
}

/// Whether it is in x2APIC mode.
pub fn is_x2apic() -> bool {
    IS_X2.load(Relaxed)
}

/// Turns this CPU's local APIC on, in the mode that it is in; maps the registers if they are in memory. The error is the
/// version register of one that does not answer.
pub(crate) fn take_over(map: impl FnOnce() -> usize) -> Result<(), u32> {
    // SAFETY: every CPU with a local APIC has the register.
    let base = unsafe { read_msr(msr::APIC_BASE) };
    if base & (X2 | ENABLED) == X2 | ENABLED {
        IS_X2.store(true, Relaxed);
        return Ok(());
    }
    if base & ENABLED == 0 {
        // SAFETY: as above; interrupts are off, and no mode was chosen yet.
        unsafe { write_msr(msr::APIC_BASE, base | ENABLED) };
    }
    let memory = map();
    if memory == 0 {
        return Err(0);
    }
    MEMORY.store(memory, Relaxed);
    let version = read(register::VERSION);
    if version == u32::MAX || version & 0xff < 0x10 {
        MEMORY.store(0, Relaxed);
        return Err(version);
    }
    Ok(())
}

/// Switches this CPU to x2APIC mode, as firmware does that has more CPUs than eight bits number. Before
/// [`event::start`](crate::ops::event::start), and only where CPUID offers it (leaf 1, ECX bit 21).
///
/// # Safety
/// Interrupts are off, and nothing uses the registers in memory.
pub unsafe fn switch_to_x2apic() {
    // SAFETY: every CPU with a local APIC has the register; from xAPIC mode the step is allowed.
    unsafe {
        let base = read_msr(msr::APIC_BASE) | ENABLED;
        write_msr(msr::APIC_BASE, base);
        write_msr(msr::APIC_BASE, base | X2);
    }
}

/// Brings a CPU that was just started to the mode of the first one.
pub(crate) fn enter_mode() {
    let wanted = if is_x2apic() { X2 | ENABLED } else { ENABLED };
    // SAFETY: as in `switch_to_x2apic`. The way from x2APIC to xAPIC leads through "off" (Intel SDM volume 3, "x2APIC State
    // Transitions"), the way there through "on".
    unsafe {
        let base = read_msr(msr::APIC_BASE);
        let rest = base & !(X2 | ENABLED);
        match (base & (X2 | ENABLED), wanted) {
            (now, wanted) if now == wanted => return,
            (now, ENABLED) if now & X2 != 0 => write_msr(msr::APIC_BASE, rest),
            (0, _) if wanted & X2 != 0 => write_msr(msr::APIC_BASE, rest | ENABLED),
            _ => {}
        }
        write_msr(msr::APIC_BASE, rest | wanted);
    }
}

/// The id of this CPU, read from the hardware: an exit under many a hypervisor. [`smp::cpu`](crate::ops::smp::cpu) remembers it.
pub(crate) fn read_id() -> u32 {
    let id = read(register::ID);
    if is_x2apic() { id } else { id >> 24 }
}

#[inline]
pub(crate) fn read<A: Readable>(register: Register<A>) -> u32 {
    if is_x2apic() {
        // SAFETY: the mode has these registers, and they are readable.
        return unsafe { read_msr(register.msr) } as u32;
    }
    (register.field)(block()).read()
}

#[inline]
pub(crate) fn write<A: Writable>(register: Register<A>, value: u32) {
    if is_x2apic() {
        // SAFETY: the mode has these registers, and the callers write what they take.
        return unsafe { write_msr(register.msr, value.into()) };
    }
    (register.field)(block()).write(value);
}

/// The registers in memory, where this is their mode.
#[inline]
fn block() -> VolatilePtr<'static, Block> {
    let block = NonNull::new(MEMORY.load(Relaxed) as *mut Block).expect("the local APIC was taken over");
    // SAFETY: `take_over` mapped a register block of 4 KiB, which stays.
    unsafe { VolatilePtr::new(block) }
}

/// Ids that commands can name: in memory eight bits, the last value of which means all CPUs.
pub(crate) fn can_reach(cpu: u32) -> bool {
    cpu < if is_x2apic() { u32::MAX } else { 0xff }
}

/// Sends an interrupt command to a CPU. Handlers on this CPU may send too, so it is done with interrupts off.
pub(crate) fn command(cpu: u32, command: u32) {
    super::without_interrupts(|| {
        if is_x2apic() {
            // What this CPU stored before is to be seen by the one that is interrupted.
            crate::ops::cpu::fence_before_msr();
            // SAFETY: the mode has this register, of 64 bits.
            return unsafe { write_msr(register::COMMAND.msr, u64::from(cpu) << 32 | u64::from(command)) };
        }
        write(register::COMMAND_TARGET, cpu << 24);
        write(register::COMMAND, command);
        for _ in 0..COMMAND_PATIENCE {
            if read(register::COMMAND) & PENDING == 0 {
                break;
            }
            crate::ops::smp::relax();
        }
    });
}

/// The target of a hot site: changes RAX and the flags only.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn end() {
    naked_asm!(
        "mov rax, [rip + {memory}]",
        "test rax, rax",
        "jz 2f",
        "mov dword ptr [rax + {end}], 0",
        "ret",
        "2: push rcx",
        "push rdx",
        "mov ecx, {msr}",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "ret",
        memory = sym MEMORY,
        end = const offset_of!(Block, end),
        msr = const number(offset_of!(Block, end)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_at_its_offset_and_its_msr_a_sixteenth_of_that_after_the_first() {
        const WORDS: usize = size_of::<Block>() / 4;
        #[repr(align(16))]
        struct Memory([u32; WORDS]);
        let mut memory = Memory(core::array::from_fn(|word| word as u32 * 4));
        // SAFETY: the memory lives longer than the pointer is used, and has the block's size and alignment.
        let block = unsafe { VolatilePtr::new(NonNull::from(&mut memory).cast::<Block>()) };
        let found = [
            (register::ID.msr, (register::ID.field)(block).read()),
            (register::CURRENT_COUNT.msr, (register::CURRENT_COUNT.field)(block).read()),
            (register::TIMER.msr, (register::TIMER.field)(block).read()),
        ];
        // Intel SDM volume 3, "Local APIC Register Address Map" and "MSR Access in x2APIC Mode".
        assert_eq!(found, [(0x802, 0x20), (0x839, 0x390), (0x832, 0x320)]);
        (register::SPURIOUS.field)(block).write(7);
        assert_eq!(memory.0[0xf0 / 4], 7);
    }
}
