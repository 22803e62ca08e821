//! The clock of the world `native`: the TSC, by a frequency that the kernel found out.

use crate::scale::Scale;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

static TSC_MUL: AtomicU32 = AtomicU32::new(0);
static TSC_SHIFT: AtomicU8 = AtomicU8::new(0);
static TSC_BASE: AtomicU64 = AtomicU64::new(0);
static TIME_BASE: AtomicU64 = AtomicU64::new(0);

/// Sets the scale from TSC ticks to nanoseconds. The clock goes on from where it was.
pub fn set_scale(scale: Scale) {
    // SAFETY: reads the TSC and statics.
    let (tsc, time) = unsafe { (core::arch::x86_64::_rdtsc(), now()) };
    TSC_BASE.store(tsc, Relaxed);
    TIME_BASE.store(time, Relaxed);
    TSC_MUL.store(scale.mul, Relaxed);
    TSC_SHIFT.store(scale.shift as u8, Relaxed);
}

/// The scale in force; `mul` 0 before it is known.
pub fn scale() -> Scale {
    Scale { mul: TSC_MUL.load(Relaxed), shift: TSC_SHIFT.load(Relaxed) as i8 }
}

pub(crate) unsafe extern "sysv64" fn now() -> u64 {
    // SAFETY: ring 0.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    TIME_BASE.load(Relaxed) + scale().apply(tsc.saturating_sub(TSC_BASE.load(Relaxed)))
}
