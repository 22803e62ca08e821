//! The worlds: each fills the [table](crate::table) with its own functions, and brings the inline code for its call sites. What
//! a kernel has to tell a world before it works (frequencies, where its pages are) is a function of that world.

pub mod kvm;
pub mod native;
pub mod pvclock;
pub mod xen;
