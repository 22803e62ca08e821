//! What each CPU has of its own in the native worlds; its GS base points there.

use crate::cpu::{self, Segment};

/// CPUs with a block.
pub const CPUS: usize = 8;

/// A CPU's block. The entry code of the world `kvm` reaches it by GS.
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    /// Bit 0: the host lets the interrupt in service end by clearing it. Host and guest write it, never at the same time.
    pub(crate) eoi: u32,
    /// Interrupts that ended so.
    pub(crate) ends_saved: u64,
}

static mut BLOCKS: [PerCpu; CPUS] = [const { PerCpu { eoi: 0, ends_saved: 0 } }; CPUS];

/// Gives this CPU its block.
///
/// # Panics
/// With a number that has none.
pub(crate) fn enter(slot: usize) {
    assert!(slot < CPUS, "there are {CPUS} per-CPU blocks");
    // SAFETY: inside of the array.
    let block = unsafe { (&raw mut BLOCKS).cast::<PerCpu>().add(slot) };
    // SAFETY: nothing else uses the GS base.
    unsafe { cpu::set_segment_base(Segment::KernelGs, block.addr() as u64) };
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
