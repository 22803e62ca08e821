//! Device registers in memory, for the transports.

use frontends::transport::Registers;

/// A mapped window of device registers.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    address: usize,
    len: usize,
}

impl Window {
    /// Maps a window; `None` when the range is none.
    pub fn map(physical: u64, len: u64) -> Option<Self> {
        Some(Self { address: crate::mm::paging::map_device(physical, len)?, len: usize::try_from(len).ok()? })
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

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= self.len,
            "register outside its window"
        );
        (self.address + offset) as *mut T
    }
}

macro_rules! access {
    ($($read:ident $write:ident $ty:ty;)*) => {
        $(
            fn $read(&self, offset: usize) -> $ty {
                // SAFETY: `at` keeps the access inside the window, which stays mapped and is no memory that Rust knows of.
                unsafe { self.at::<$ty>(offset).read_volatile() }
            }

            fn $write(&self, offset: usize, value: $ty) {
                // SAFETY: as for reading.
                unsafe { self.at::<$ty>(offset).write_volatile(value) };
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
