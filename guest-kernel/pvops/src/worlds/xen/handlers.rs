//! The kernel's handlers by vector, as its IDT has them: entries jump through this table, and events find theirs in it.

use core::cell::UnsafeCell;

/// Addresses; 0 for none.
#[repr(transparent)]
pub(super) struct Handlers(UnsafeCell<[usize; 256]>);

// SAFETY: written once, before events and exceptions arrive.
unsafe impl Sync for Handlers {}

pub(super) static HANDLERS: Handlers = Handlers(UnsafeCell::new([0; 256]));

impl Handlers {
    /// The handler of a vector; 0 for none.
    pub(super) fn get(&self, vector: u8) -> usize {
        // SAFETY: written before events arrive.
        unsafe { (*self.0.get())[usize::from(vector)] }
    }

    /// Sets it; before events and exceptions arrive.
    pub(super) fn set(&self, vector: usize, address: usize) {
        // SAFETY: one CPU runs, and there is no reader yet.
        unsafe { (*self.0.get())[vector] = address };
    }
}
