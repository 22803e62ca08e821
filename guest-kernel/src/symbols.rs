//! The image's symbols: which function an address belongs to.

use core::str;
use shared_abi::bundle::{self, Symbol};

/// The symbols in the bundle.
#[derive(Clone, Copy, Default)]
pub struct Symbols {
    table: &'static [Symbol],
    names: &'static [u8],
}

impl Symbols {
    /// `table` is sorted by address and names places in `names`.
    pub const fn new(table: &'static [Symbol], names: &'static [u8]) -> Self {
        Self { table, names }
    }

    /// The function around an address, and the distance from its start.
    pub fn find(&self, address: usize) -> Option<(&'static str, usize)> {
        let offset = u32::try_from((address as u64).checked_sub(bundle::KERNEL_VIRTUAL_BASE)?).ok()?;
        let index = self.table.partition_point(|symbol| symbol.address <= offset).checked_sub(1)?;
        let symbol = self.table[index];
        let name = self.names.get(symbol.name as usize..)?;
        let name = &name[..name.iter().position(|&byte| byte == 0)?];
        Some((str::from_utf8(name).ok()?, (offset - symbol.address) as usize))
    }
}
