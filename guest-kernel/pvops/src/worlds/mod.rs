//! The worlds: each fills the [table](crate::table) with its own functions, and brings the inline code for its call sites. What
//! a world needs from the kernel before it works (frequencies, where its pages are) is a function of that world.

#[cfg(feature = "kvm")]
pub mod kvm;
pub mod native;
#[cfg(any(feature = "kvm", feature = "xen"))]
pub mod pvclock;
#[cfg(feature = "xen")]
pub mod xen;

#[cfg(feature = "xen")]
pub(crate) use xen::hypercall::named_counts as hypercalls;

/// There is no world with hypercalls.
#[cfg(not(feature = "xen"))]
pub(crate) fn hypercalls() -> impl Iterator<Item = (u32, &'static str, u64)> {
    core::iter::empty()
}
