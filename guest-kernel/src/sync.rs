//! A lock for data that interrupt handlers use too: interrupts stay off while it is held.

use core::ops::{Deref, DerefMut};

/// A spin lock that masks events.
pub struct Lock<T> {
    inner: spin::mutex::SpinMutex<T>,
}

impl<T> Lock<T> {
    /// Unlocked.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::mutex::SpinMutex::new(value) }
    }

    /// Locks.
    // Not inlined, like the release: each copy would bring call sites, which are all patched at boot.
    #[inline(never)]
    pub fn lock(&self) -> Guard<'_, T> {
        let flags = pvops::irq::save();
        Guard { value: core::mem::ManuallyDrop::new(self.inner.lock()), flags }
    }

    /// Locks, unless it is locked: for panics, which may happen inside.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let flags = pvops::irq::save();
        match self.inner.try_lock() {
            Some(value) => Some(Guard { value: core::mem::ManuallyDrop::new(value), flags }),
            None => {
                // SAFETY: these are the flags of a moment ago.
                unsafe { pvops::irq::restore(flags) };
                None
            }
        }
    }
}

/// The lock is held as long as this lives.
pub struct Guard<'a, T> {
    value: core::mem::ManuallyDrop<spin::mutex::SpinMutexGuard<'a, T>>,
    flags: pvops::types::Flags,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: dropped once, here; the flags are those from before it was locked.
        unsafe {
            core::mem::ManuallyDrop::drop(&mut self.value);
            pvops::irq::restore(self.flags);
        }
    }
}
