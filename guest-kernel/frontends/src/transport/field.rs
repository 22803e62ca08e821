//! Fields of a register block, with the width that the block's layout gives them.
//!
//! Local APIC registers are fields of the crate `volatile`, in a struct over the device's memory. That does not serve here:
//! a model of a device has no such memory, for it answers each access (a selected queue, a status that a read
//! acknowledges). So the layout gives offset and width, and [`Registers`] makes the access.

use super::Registers;
use core::marker::PhantomData;

/// A field of a block.
#[derive(Clone, Copy)]
pub(super) struct Field<V> {
    offset: usize,
    value: PhantomData<V>,
}

impl<V> Field<V> {
    /// A field at an offset; the function that reads it from a block gives its width, and is not called.
    pub(super) const fn new<B>(offset: usize, _: fn(&B) -> V) -> Self {
        Self { offset, value: PhantomData }
    }

    pub(super) const fn offset(self) -> usize {
        self.offset
    }
}

/// A value that fits registers.
pub(super) trait Value: Sized {
    fn write<R: Registers>(self, registers: &R, offset: usize);
}

/// A value that is read in one access.
pub(super) trait Readable: Value {
    fn read<R: Registers>(registers: &R, offset: usize) -> Self;
}

macro_rules! values {
    ($($value:ty, $read:ident, $write:ident;)*) => {$(
        impl Value for $value {
            fn write<R: Registers>(self, registers: &R, offset: usize) {
                registers.$write(offset, self);
            }
        }

        impl Readable for $value {
            fn read<R: Registers>(registers: &R, offset: usize) -> Self {
                registers.$read(offset)
            }
        }
    )*};
}

values! {
    u8, read8, write8;
    u16, read16, write16;
    u32, read32, write32;
}

/// Eight bytes are written as two halves, the lower one first (section 4.1.3.1).
impl Value for u64 {
    fn write<R: Registers>(self, registers: &R, offset: usize) {
        registers.write32(offset, self as u32);
        registers.write32(offset + 4, (self >> 32) as u32);
    }
}

/// A window that holds a block.
pub(super) trait Block: Registers + Sized {
    fn read<V: Readable>(&self, field: Field<V>) -> V {
        V::read(self, field.offset)
    }

    fn write<V: Value>(&self, field: Field<V>, value: V) {
        value.write(self, field.offset);
    }
}

impl<R: Registers> Block for R {}
