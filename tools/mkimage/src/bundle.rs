//! The bundle: what an image carries in addition to the kernel. Layout and meaning are defined in [`shared_abi::bundle`].

use crate::{Error, Result};
use shared_abi::board::CMDLINE_MAX;
use shared_abi::bundle::{Header, Part, SLOT_MAGIC, Symbol};
use zerocopy::{FromBytes, IntoBytes};

const PAGE: usize = 4096;
/// Bytes of all names of symbols together, at most: several symbols may name one place.
pub(crate) const NAMES_MAX: usize = 64 << 20;

/// A function of the kernel and its offset from the kernel's virtual base.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Virtual address minus [`shared_abi::bundle::KERNEL_VIRTUAL_BASE`].
    pub address: u32,
    /// Demangled, without hash.
    pub name: String,
}

/// The parts of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Default command line; may be empty.
    pub cmdline: String,
    /// Initrd; may be empty.
    pub initrd: Vec<u8>,
    /// Functions of the kernel, ascending.
    pub functions: Vec<Function>,
}

impl Bundle {
    /// The bytes of the segment.
    ///
    /// # Errors
    /// A command line that no guest could take, or more names than offsets can count.
    pub fn compose(&self) -> Result<Vec<u8>> {
        check_cmdline(&self.cmdline)?;
        let mut symbols = Vec::new();
        let mut names = Vec::new();
        for function in &self.functions {
            let name =
                u32::try_from(names.len()).map_err(|_| Error::BadBundle { what: "more than 4 GiB of symbol names" })?;
            symbols.extend_from_slice(Symbol { address: function.address, name }.as_bytes());
            names.extend_from_slice(function.name.as_bytes());
            names.push(0);
        }
        symbols.extend_from_slice(&names);

        let mut bytes = vec![0; size_of::<Header>()];
        let cmdline = append(&mut bytes, self.cmdline.as_bytes(), 1);
        let symbols = append(&mut bytes, &symbols, align_of::<Symbol>());
        let initrd = append(&mut bytes, &self.initrd, PAGE);
        let symbol_count =
            u32::try_from(self.functions.len()).map_err(|_| Error::BadBundle { what: "too many symbols" })?;
        let header = Header { magic: SLOT_MAGIC, cmdline, initrd, symbols, symbol_count, reserved: 0 };
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        Ok(bytes)
    }

    /// The inverse of [`compose`](Self::compose), for files from anywhere.
    ///
    /// # Errors
    /// [`Error::BadBundle`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |what| Error::BadBundle { what };
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| bad("shorter than its header"))?;
        if header.magic != SLOT_MAGIC {
            return Err(bad("no magic"));
        }
        let cmdline = part(bytes, header.cmdline).ok_or(bad("the command line lies outside"))?;
        let cmdline = str::from_utf8(cmdline).map_err(|_| bad("the command line is not UTF-8"))?;
        let initrd = part(bytes, header.initrd).ok_or(bad("the initrd lies outside"))?;
        let symbols = part(bytes, header.symbols).ok_or(bad("the symbols lie outside"))?;
        let array = (header.symbol_count as usize)
            .checked_mul(size_of::<Symbol>())
            .filter(|len| *len <= symbols.len())
            .ok_or(bad("more symbols than bytes"))?;
        let (array, names) = symbols.split_at(array);
        let (mut functions, mut total) = (Vec::new(), 0);
        for symbol in array.chunks_exact(size_of::<Symbol>()) {
            let symbol = Symbol::read_from_bytes(symbol).map_err(|_| bad("a symbol is cut off"))?;
            let name = names.get(symbol.name as usize..).ok_or(bad("a symbol's name lies outside"))?;
            let end = name.iter().position(|byte| *byte == 0).ok_or(bad("a symbol's name does not end"))?;
            // Many may name one place.
            total += end;
            if total > NAMES_MAX {
                return Err(bad("the symbols' names are longer than 64 MiB together"));
            }
            let name = String::from_utf8_lossy(&name[..end]).into_owned();
            functions.push(Function { address: symbol.address, name });
        }
        Ok(Self { cmdline: cmdline.into(), initrd: initrd.into(), functions })
    }
}

pub(crate) fn check_cmdline(cmdline: &str) -> Result<()> {
    let bad = |what: String| Err(Error::BadCommandLine { what });
    if let Some(at) = cmdline.bytes().position(|byte| byte.is_ascii_control()) {
        return bad(format!("has the control character {:#04x} at byte {at}", cmdline.as_bytes()[at]));
    }
    if cmdline.len() >= CMDLINE_MAX {
        return bad(format!("has {} bytes; at most {} fit", cmdline.len(), CMDLINE_MAX - 1));
    }
    Ok(())
}

fn append(bytes: &mut Vec<u8>, part: &[u8], align: usize) -> Part {
    if part.is_empty() {
        return Part::default();
    }
    bytes.resize(bytes.len().next_multiple_of(align), 0);
    let offset = bytes.len() as u64;
    bytes.extend_from_slice(part);
    Part { offset, len: part.len() as u64 }
}

fn part(bytes: &[u8], part: Part) -> Option<&[u8]> {
    if part.len == 0 {
        return Some(&[]);
    }
    let start = usize::try_from(part.offset).ok()?;
    let end = start.checked_add(usize::try_from(part.len).ok()?)?;
    bytes.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Bundle {
        Bundle {
            cmdline: "tour pvops=unpatched".into(),
            initrd: vec![7; 5000],
            functions: vec![
                Function { address: 0x10_0000, name: "guest_kernel::main".into() },
                Function { address: 0x10_0040, name: "<a as b>::c".into() },
            ],
        }
    }

    #[test]
    fn what_was_composed_parses_back_and_the_initrd_is_page_aligned() {
        for bundle in [sample(), Bundle::default(), Bundle { initrd: vec![], ..sample() }] {
            let bytes = bundle.compose().unwrap();
            assert_eq!(Bundle::parse(&bytes).unwrap(), bundle);
        }
        let (header, _) = Header::read_from_prefix(&sample().compose().unwrap()).unwrap();
        assert_eq!(header.initrd.offset % 4096, 0);
    }

    #[test]
    fn a_bundle_cut_at_any_byte_is_an_error_never_a_panic() {
        let bytes = sample().compose().unwrap();
        for len in 0..bytes.len() {
            assert!(Bundle::parse(&bytes[..len]).is_err(), "{len} of {} bytes parsed", bytes.len());
        }
    }

    #[test]
    fn many_symbols_with_one_long_name_take_no_more_memory_than_there_are_bytes() {
        let function = |address| Function { address, name: "x".repeat(1 << 20) };
        let bundle = Bundle { functions: vec![function(1)], ..Bundle::default() };
        let mut bytes = bundle.compose().unwrap();
        let (mut header, _) = Header::read_from_prefix(&bytes).unwrap();
        let at = header.symbols.offset as usize;
        let one = bytes[at..at + size_of::<Symbol>()].to_vec();
        let name = Symbol::read_from_bytes(&one).unwrap();
        let names = bytes[at + size_of::<Symbol>()..].to_vec();
        bytes.truncate(at);
        const COUNT: u32 = 100_000;
        (0..COUNT).for_each(|_| bytes.extend(name.as_bytes()));
        bytes.extend(names);
        header.symbol_count = COUNT;
        header.symbols.len = (bytes.len() - at) as u64;
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        let error = Bundle::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("longer than 64 MiB"), "{error}");
    }

    #[test]
    fn offsets_that_overflow_are_refused() {
        let mut bytes = sample().compose().unwrap();
        let (mut header, _) = Header::read_from_prefix(&bytes).unwrap();
        header.initrd = Part { offset: u64::MAX - 1, len: 8 };
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        assert!(Bundle::parse(&bytes).is_err());
    }

    #[test]
    fn a_command_line_with_control_characters_or_too_long_is_refused() {
        for cmdline in ["a\0b".to_owned(), "a\nb".to_owned(), "x".repeat(CMDLINE_MAX)] {
            assert!(matches!(Bundle { cmdline, ..sample() }.compose(), Err(Error::BadCommandLine { .. })));
        }
    }
}
