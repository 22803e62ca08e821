//! Memory that both the driver and its device reach.
//!
//! The kernel implements [`DmaPages`] once; drivers and their callers hold [`DmaBuffer`]s. A buffer has one owner at a
//! time: a caller that hands it to a driver gets it back with the completion. A correct device no longer writes to it
//! then, but a driver cannot rely on that: no reference is ever made to this memory, and its content is copied out.
//!
//! Where devices reach all memory, [`DmaPages`] is all. Where they do not (bounce buffers, a virtual IOMMU, encrypted
//! guests), the kernel also implements [`DmaMapper`]:
//!
//! | memory | from | the device reaches it |
//! |---|---|---|
//! | rings, request headers, the buffers that the drivers copy frames and console output to | [`DmaPages::allocate`] | from its allocation until it is freed |
//! | buffers of callers, for disk requests | [`DmaMapper::allocate_data`] | from `map` until `unmap`: while a request has them |
//!
//! ```text
//! submit      map, sync_for_device (if the device reads)
//! restart     sync_for_device again: the device may have overwritten its copy
//! completion  sync_for_driver (if the device wrote), unmap
//! ```

mod allocator;
mod buffer;
#[cfg(feature = "virtio-drivers")]
mod hal;
mod loan;
mod map;
mod pages;

pub use allocator::DmaPages;
pub use buffer::DmaBuffer;
#[cfg(feature = "virtio-drivers")]
pub use hal::HalPages;
pub use map::{Direction, DmaMapper, Mapping};
pub use pages::{PAGE_SIZE, RawPages};

pub(crate) use loan::Loan;
