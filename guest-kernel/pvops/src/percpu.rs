//! What each CPU has of its own, in every world.
//!
//! **The GS base of every CPU is this crate's**, from [`smp::enter`](crate::ops::smp::enter) on (which
//! [`event::start`](crate::ops::event::start) calls for the first CPU): it points to the CPU's block, and
//! [`smp::cpu`](crate::ops::smp::cpu), the end of interrupts and [`PerCpu`] read it there. A kernel that uses `pvops` must not
//! load another base while it runs its own code. Before that, code runs on the first CPU.
//!
//! A kernel puts its own state that each CPU needs into a [`PerCpu`]:
//!
//! ```
//! use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use pvops::{per_cpu, percpu::PerCpu};
//!
//! static INTERRUPTS: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(0));
//!
//! INTERRUPTS.get().fetch_add(1, Relaxed);
//! let total: u64 = INTERRUPTS.all().map(|count| count.load(Relaxed)).sum();
//! assert_eq!(total, 1);
//! ```

use crate::ops::cpu::{self, Segment};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use volatile::access::ReadOnly;
use volatile::{VolatilePtr, map_field};
use x86_64::VirtAddr;

/// CPUs with a block.
pub const CPUS: usize = 8;

/// A value for each CPU, each in cache lines of its own. Made by [`per_cpu!`](crate::per_cpu).
#[derive(Debug)]
pub struct PerCpu<T>([Aligned<T>; CPUS]);

/// A value in cache lines of its own.
#[derive(Debug)]
#[repr(align(64))]
pub struct Aligned<T>(pub T);

/// A [`PerCpu`](crate::percpu::PerCpu) whose values are all the same constant expression at first.
#[macro_export]
macro_rules! per_cpu {
    ($value:expr) => {
        $crate::percpu::PerCpu::new([const { $crate::percpu::Aligned($value) }; $crate::percpu::CPUS])
    };
}

impl<T> PerCpu<T> {
    /// A value for each slot.
    pub const fn new(values: [Aligned<T>; CPUS]) -> Self {
        Self(values)
    }

    /// This CPU's. Code that may go on on another CPU must not keep it.
    pub fn get(&self) -> &T {
        &self.0[slot()].0
    }

    /// The value of the CPU with a slot, if there can be one.
    pub fn of(&self, slot: usize) -> Option<&T> {
        self.0.get(slot).map(|Aligned(value)| value)
    }

    /// All values, by slot.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Aligned(value)| value)
    }
}

/// A CPU's block.
#[repr(C, align(64))]
pub(crate) struct Block {
    /// Bit 0: the host lets the interrupt in service end by clearing it. Host and guest write it, never at the same time.
    pub(crate) eoi: u32,
    /// Number of the CPU: its local APIC id in the native worlds.
    id: u32,
    /// Interrupts that ended by `eoi`.
    pub(crate) ends_saved: u64,
    slot: u64,
}

static mut BLOCKS: [Block; CPUS] = [const { Block { eoi: 0, id: 0, ends_saved: 0, slot: 0 } }; CPUS];
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
        let block = (&raw mut BLOCKS).cast::<Block>().add(slot);
        (&raw mut (*block).id).write(id);
        (&raw mut (*block).slot).write(slot as u64);
        block
    };
    // SAFETY: the GS base is ours, as this module's documentation says.
    unsafe { cpu::set_segment_base(Segment::KernelGs, VirtAddr::from_ptr(block)) };
    ENTERED.store(true, Relaxed);
}

/// Number of this CPU, without asking the hardware; 0 before [`enter`].
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn id() -> u32 {
    naked_asm!(
        "xor eax, eax",
        "cmp byte ptr [rip + {entered}], 0",
        "je 2f",
        "mov eax, gs:[{id}]",
        "2: ret",
        entered = sym ENTERED,
        id = const offset_of!(Block, id),
    )
}

/// Slot of this CPU, below [`CPUS`]; 0 before it has entered.
#[inline]
pub fn slot() -> usize {
    if !ENTERED.load(Relaxed) {
        return 0;
    }
    let slot: usize;
    // SAFETY: GS points to this CPU's block.
    unsafe {
        core::arch::asm!("mov {}, gs:[{field}]", out(reg) slot, field = const offset_of!(Block, slot),
            options(nostack, readonly, preserves_flags));
    }
    slot
}

/// The first CPU's block. Its host and its interrupt handlers write it.
fn first() -> VolatilePtr<'static, Block, ReadOnly> {
    // SAFETY: a static, to which there are no references.
    unsafe { VolatilePtr::new_read_only(NonNull::new_unchecked((&raw mut BLOCKS).cast::<Block>())) }
}

/// The first CPU's word.
#[cfg_attr(not(feature = "kvm"), expect(dead_code, reason = "of the world kvm"))]
pub(crate) fn eoi_word() -> VolatilePtr<'static, u32, ReadOnly> {
    let block = first();
    map_field!(block.eoi)
}

/// The first CPU's count. Interrupt handlers of the same CPU write it with one instruction.
#[cfg_attr(not(feature = "kvm"), expect(dead_code, reason = "of the world kvm"))]
pub(crate) fn ends_saved() -> u64 {
    let block = first();
    map_field!(block.ends_saved).read()
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
            let block = Block { eoi: 0, id: 0x12345, ends_saved: 0, slot: 7 };
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
