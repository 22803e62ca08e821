//! What each CPU has of its own in the native worlds.
//!
//! **The GS base of every CPU is this crate's** in the worlds `native` and `kvm`, from
//! [`event::open_this_cpu`](crate::event::open_this_cpu) on (which [`event::start`](crate::event::start) calls for the first
//! CPU): it points to the CPU's block, and [`smp::cpu`](crate::smp::cpu) and the end of interrupts read it there. A kernel that
//! uses `pvops` must not load another base while it runs in ring 0. The world `xen` leaves GS alone.

use crate::cpu::{self, Segment};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// CPUs with a block.
pub const CPUS: usize = 8;

/// A CPU's block.
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    /// Bit 0: the host lets the interrupt in service end by clearing it. Host and guest write it, never at the same time.
    pub(crate) eoi: u32,
    /// Local APIC id.
    id: u32,
    /// Interrupts that ended by `eoi`.
    pub(crate) ends_saved: u64,
    slot: u64,
}

static mut BLOCKS: [PerCpu; CPUS] = [const { PerCpu { eoi: 0, id: 0, ends_saved: 0, slot: 0 } }; CPUS];
/// GS points to a block, on the first CPU at least: each other has its own before it runs anything of the kernel's.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Gives this CPU its block.
///
/// # Panics
/// With a number that has none.
pub(crate) fn enter(slot: usize, id: u32) {
    assert!(slot < CPUS, "there are {CPUS} per-CPU blocks");
    // SAFETY: inside of the array; the block is this CPU's, and nothing reads it before GS points there.
    let block = unsafe {
        let block = (&raw mut BLOCKS).cast::<PerCpu>().add(slot);
        (&raw mut (*block).id).write(id);
        (&raw mut (*block).slot).write(slot as u64);
        block
    };
    // SAFETY: the GS base is ours, as this module's documentation says.
    unsafe { cpu::set_segment_base(Segment::KernelGs, block.addr() as u64) };
    ENTERED.store(true, Relaxed);
}

/// Local APIC id of this CPU, without asking the hardware; 0 before [`enter`].
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn id() -> u32 {
    naked_asm!(
        "xor eax, eax",
        "cmp byte ptr [rip + {entered}], 0",
        "je 2f",
        "mov eax, gs:[{id}]",
        "2: ret",
        entered = sym ENTERED,
        id = const offset_of!(PerCpu, id),
    )
}

/// Slot of this CPU; 0 before [`enter`], and in a world that does without blocks.
pub(crate) fn slot() -> usize {
    if !ENTERED.load(Relaxed) {
        return 0;
    }
    let slot: usize;
    // SAFETY: GS points to this CPU's block.
    unsafe {
        core::arch::asm!("mov {}, gs:[{field}]", out(reg) slot, field = const offset_of!(PerCpu, slot),
            options(nostack, readonly, preserves_flags));
    }
    slot
}

/// The first CPU's word.
pub(crate) fn eoi_word() -> *const u32 {
    (&raw const BLOCKS).cast::<PerCpu>().cast()
}

/// The first CPU's count.
pub(crate) fn ends_saved() -> u64 {
    // SAFETY: interrupt handlers of the same CPU write it with one instruction, hence volatile.
    unsafe { (&raw const (*(&raw const BLOCKS).cast::<PerCpu>()).ends_saved).read_volatile() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_cpu_comes_from_its_block_and_not_from_the_hardware() {
        const ARCH_SET_GS: i32 = 0x1001;
        // A thread of its own: GS is the thread's. Linux leaves it to programs, and this one does not use it.
        std::thread::spawn(|| {
            // SAFETY: no block is entered yet, so nothing is read by GS.
            assert_eq!((unsafe { id() }, slot()), (0, 0));
            let block = PerCpu { eoi: 0, id: 0x12345, ends_saved: 0, slot: 7 };
            // SAFETY: sets the base of an unused segment register.
            assert_eq!(unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, &raw const block) }, 0);
            ENTERED.store(true, Relaxed);
            // SAFETY: GS points to the block.
            let found = (unsafe { id() }, slot());
            ENTERED.store(false, Relaxed);
            assert_eq!(found, (0x12345, 7), "more than eight bits");
        })
        .join()
        .unwrap();
    }
}
