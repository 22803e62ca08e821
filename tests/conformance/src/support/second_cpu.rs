//! An interrupt vector for what one CPU sends to another.

use super::{End, error};
use guest_kernel::task::Event;
use guest_kernel::trap::irq;
use spin::Once;

/// A vector of the checks' own.
pub fn vector() -> Result<(&'static Event, u8), End> {
    static VECTOR: Once<Option<(&'static Event, u8)>> = Once::new();
    let made = VECTOR.call_once(|| irq::bind_vector("conform").ok());
    made.ok_or_else(|| error("no vector is left"))
}
