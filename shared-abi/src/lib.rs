//! What the guest and the host agree on: numbers, layouts and report lines, each stated once.
//!
//! No logic lives here beyond parsing and printing [`report`] lines. Every layout is `repr(C)` with its size and
//! offsets asserted at compile time.
#![no_std]
#![forbid(unsafe_code)]

pub mod bench;
pub mod board;
pub mod bundle;
pub mod bzimage;
pub mod disk;
pub mod kvm;
pub mod pvh;
pub mod report;
pub mod tour;
pub mod virtio;
pub mod xen;

/// Asserts at compile time that a layout has the size and the field offsets that its specification gives.
#[macro_export]
macro_rules! assert_layout {
    ($ty:ty, size $size:expr $(, $field:ident at $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)*
        };
    };
}
