//! Device registers in memory, for the transports.

use core::ptr::NonNull;
use frontends::transport::Registers;
use volatile::VolatilePtr;
use zerocopy::FromBytes;

/// A mapped window of device registers.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    address: usize,
    len: usize,
}

impl Window {
    /// Maps a window; `None` when the range is invalid.
    pub fn map(physical: u64, len: u64) -> Option<Self> {
        Some(Self { address: crate::mm::paging::map_device(physical, len)?, len: usize::try_from(len).ok()? })
    }

    /// The same for registers of up to 32 bits: `None` also when it does not begin at a multiple of 4.
    pub fn map_words(physical: u64, len: u64) -> Option<Self> {
        physical.is_multiple_of(4).then(|| Self::map(physical, len)).flatten()
    }

    /// A part of the window; `None` when it is not inside.
    pub fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        (offset.checked_add(len)? <= self.len).then_some(Self { address: self.address + offset, len })
    }

    /// Where it is mapped.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Registers at an offset, as one value or as a block of fields.
    ///
    /// # Panics
    /// When they are not inside of the window, or not aligned.
    #[inline]
    pub(crate) fn at<T: FromBytes>(&self, offset: usize) -> VolatilePtr<'static, T> {
        let is_inside = self.len.checked_sub(size_of::<T>()).is_some_and(|last| offset <= last);
        let address = (self.address + offset) as *mut T;
        assert!(is_inside && address.is_aligned(), "register outside its window");
        // SAFETY: inside of the window, which stays mapped, not at 0, and is no memory that Rust knows of; any bits are a `T`.
        unsafe { VolatilePtr::new(NonNull::new_unchecked(address)) }
    }
}

macro_rules! access {
    ($($read:ident $write:ident $ty:ty;)*) => {
        $(
            fn $read(&self, offset: usize) -> $ty {
                self.at(offset).read()
            }

            fn $write(&self, offset: usize, value: $ty) {
                self.at(offset).write(value);
            }
        )*
    };
}

impl Registers for Window {
    fn len(&self) -> usize {
        self.len
    }

    access! {
        read8 write8 u8;
        read16 write16 u16;
        read32 write32 u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn an_access_reaches_its_bytes_and_nothing_outside_of_the_window() {
        let memory = Box::leak(Box::new([0x1111_1111_u32, 0x2222_2222, 0x3333_3333]));
        let window = Window { address: memory.as_mut_ptr().addr(), len: 8 };
        window.write16(6, 0xabcd);
        assert_eq!([window.read32(4), window.read8(7).into()], [0xabcd_2222, 0xab]);
        for offset in [2, 6, 8, usize::MAX - 3] {
            assert!(catch_unwind(|| window.read32(offset)).is_err(), "4 bytes at {offset}");
        }
        assert!(catch_unwind(|| window.at::<[u32; 3]>(0).read()).is_err(), "longer than the window");
    }

    #[test]
    fn registers_of_32_bits_begin_at_a_multiple_of_4() {
        assert_eq!([0x1000, 0x1001, 0x1002].map(|at| Window::map_words(at, 512).is_some()), [true, false, false]);
    }
}
