//! How long a device may use the memory of a ring.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

/// The time for which a device may use the memory that it was shown: until it confirms a reset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loan {
    over: Arc<AtomicBool>,
}

impl Loan {
    /// The device has confirmed its reset.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}
