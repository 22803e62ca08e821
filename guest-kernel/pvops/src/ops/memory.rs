//! Memory that the hypervisor takes and gives (ballooning), and memory that devices reach.

use crate::site::calling;

/// Makes a block of `2^order` frames contiguous for devices, and returns the address that they use; `None` if that cannot
/// be done. What is in the frames may be lost.
///
/// # Safety
/// The frames are free.
pub unsafe fn machine_block(pfn: u64, order: u32) -> Option<u64> {
    let address: u64;
    // SAFETY: per the contract.
    unsafe { calling!(memory.machine_block, "rdi" = pfn, "esi" = order => address) };
    (address != 0).then_some(address)
}

/// Pages that the hypervisor counts as this machine's; `None` where it does not take and give them itself.
pub fn reservation() -> Option<u64> {
    let pages: u64;
    // SAFETY: a question.
    unsafe { calling!(memory.reservation => pages) };
    (pages != 0).then_some(pages)
}

/// Gives frames back to the hypervisor; returns how many of them, from the first on, it took.
///
/// # Safety
/// The frames are unused and mapped nowhere.
pub unsafe fn give_back(pfns: &[u64]) -> usize {
    let taken: usize;
    // SAFETY: per the contract.
    unsafe { calling!(memory.give_back, "rdi" = pfns.as_ptr(), "rsi" = pfns.len() => taken) };
    taken
}

/// Backs frames that [`give_back`] took with memory again; returns how many of them, from the first on.
///
/// # Safety
/// The frames were given back.
pub unsafe fn populate(pfns: &[u64]) -> usize {
    let filled: usize;
    // SAFETY: per the contract.
    unsafe { calling!(memory.populate, "rdi" = pfns.as_ptr(), "rsi" = pfns.len() => filled) };
    filled
}
