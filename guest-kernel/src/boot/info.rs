//! What the loader left for us: memory map, command line, initrd, bundle. Copied or checked once; later code never trusts
//! the loader's memory again.

use super::memory::{Map, PIECES_MAX};
use super::trampoline;
use crate::mm::{DIRECT_MAP, Range};
use crate::symbols::Symbols;
use core::str;
use shared_abi::bundle::{self, Header, Part, Slot, Symbol};
use shared_abi::pvh::{MemmapEntry, MemmapKind, ModlistEntry, StartInfo};
use zerocopy::FromBytes;

/// Longest command line that is read, including the terminating NUL.
pub const CMDLINE_MAX: usize = 2048;
const RESERVED_MAX: usize = 6;

/// The slot that mkimage fills in.
#[unsafe(link_section = ".ringside.bundle")]
#[used]
static SLOT: Slot = Slot::EMPTY;

/// All that the loader said.
pub struct BootInfo {
    /// Usable memory: whole pages, sorted, apart from each other.
    pub ram: heapless::Vec<Range, PIECES_MAX>,
    /// Bytes of memory that are in too many small pieces to be used.
    pub lost: u64,
    /// What must not be handed out: kernel, bundle, initrd, trampoline, and what the boot code keeps.
    pub reserved: heapless::Vec<Range, RESERVED_MAX>,
    /// Tables of the boot code: free once the final ones are live.
    pub boot_tables: heapless::Vec<Range, 2>,
    /// The page where other CPUs start, if there is RAM for it.
    pub trampoline: Option<u64>,
    /// Command line of the image.
    pub image_cmdline: &'static str,
    /// Command line of the VMM.
    pub vmm_cmdline: &'static str,
    /// There is one, and it is too long or no UTF-8: it counts as empty.
    pub vmm_cmdline_is_odd: bool,
    /// The ACPI root pointer, or 0.
    pub rsdp: u64,
    /// The initrd: the VMM's, else the image's.
    pub initrd: &'static [u8],
    /// Symbols of the image.
    pub symbols: Symbols,
}

/// Bytes at a physical address, as the boot tables map it: below 4 GiB.
///
/// # Safety
/// The range is RAM and nothing writes it as long as the slice lives.
unsafe fn physical(address: u64, len: u64) -> Option<&'static [u8]> {
    let end = address.checked_add(len)?;
    if address == 0 || end > 1 << 32 {
        return None;
    }
    // SAFETY: mapped by the boot tables; the caller vouches for the contents.
    Some(unsafe { core::slice::from_raw_parts((DIRECT_MAP + address as usize) as *const u8, len as usize) })
}

/// Reads the start info.
///
/// # Safety
/// `start_info` is what the PVH loader passed, and the boot tables are live. Called once.
pub unsafe fn read(start_info: u64) -> BootInfo {
    let mut info = BootInfo::new();
    // SAFETY: per the contract; the loader's data is not written before it is read here for the last time.
    unsafe {
        if let Some(start) =
            physical(start_info, size_of::<StartInfo>() as u64).and_then(|bytes| StartInfo::read_from_bytes(bytes).ok())
        {
            info.rsdp = start.rsdp_paddr;
            if start.cmdline_paddr != 0 {
                let bytes = physical(start.cmdline_paddr, CMDLINE_MAX as u64);
                info.take_cmdline(bytes.unwrap_or(&[]));
            }
            if start.version >= 1 {
                memory(&mut info, start.memmap_paddr, start.memmap_entries);
            }
            if start.nr_modules > 0 {
                initrd(&mut info, start.modlist_paddr);
            }
        }
        bundle(&mut info);
    }
    info.trampoline = trampoline::place(&info.ram, &info.reserved);
    if let Some(start) = info.trampoline {
        let _ = info.reserved.push(Range { start, end: start + trampoline::SIZE });
    }
    info
}

impl BootInfo {
    /// Nothing but the kernel.
    fn new() -> Self {
        let mut info = Self {
            ram: heapless::Vec::new(),
            lost: 0,
            reserved: heapless::Vec::new(),
            boot_tables: heapless::Vec::new(),
            trampoline: None,
            image_cmdline: "",
            vmm_cmdline: "",
            vmm_cmdline_is_odd: false,
            rsdp: 0,
            initrd: &[],
            symbols: Symbols::default(),
        };
        let kernel = Range { start: crate::mm::image::TEXT, end: crate::mm::image::end() };
        let _ = info.reserved.push(kernel);
        info
    }

    /// Takes the VMM's command line, which ends with a NUL.
    fn take_cmdline(&mut self, bytes: &[u8]) {
        match terminated(bytes) {
            Some(text) => self.vmm_cmdline = keep(text),
            None => self.vmm_cmdline_is_odd = true,
        }
    }
}

/// The text before the first NUL; `None` without one, or if it is no UTF-8.
fn terminated(bytes: &[u8]) -> Option<&str> {
    let len = bytes.iter().position(|&byte| byte == 0)?;
    str::from_utf8(&bytes[..len]).ok()
}

/// The same for a kernel that Xen started.
///
/// # Safety
/// As [`read`], after `pvops::worlds::xen::enter`, which returned `boot`; `cmdline` is that of the start info.
pub unsafe fn from_xen(boot: &pvops::worlds::xen::Boot, cmdline: &[u8]) -> BootInfo {
    let mut info = BootInfo::new();
    let range = |(start, end)| Range { start, end };
    let _ = info.ram.push(range((0, boot.memory)));
    let _ = info.reserved.push(range(boot.xen_data));
    let _ = info.reserved.push(range(boot.tables));
    let _ = info.boot_tables.push(range(boot.free_tables));
    info.take_cmdline(cmdline);
    let (start, len) = boot.initrd;
    // SAFETY: per the contract; the ranges are reserved and so stay as they are.
    unsafe {
        if len > 0
            && let Some(initrd) = physical(start, len)
        {
            info.initrd = initrd;
            let _ = info.reserved.push(Range { start, end: start + len });
        }
        bundle(&mut info);
    }
    info
}

/// # Safety
/// As [`read`].
unsafe fn memory(info: &mut BootInfo, address: u64, entries: u32) {
    let size = size_of::<MemmapEntry>() as u64;
    // SAFETY: per the contract.
    let entry = |index: u64| unsafe { physical(address.checked_add(index * size)?, size) };
    let all = || (0..u64::from(entries)).map_while(|index| MemmapEntry::read_from_bytes(entry(index)?).ok());
    let mut map = Map::default();
    all().filter(|entry| entry.kind == MemmapKind::RAM).for_each(|entry| map.add(entry.addr, entry.size));
    all().filter(|entry| entry.kind != MemmapKind::RAM).for_each(|entry| map.remove(entry.addr, entry.size));
    info.lost = map.lost();
    info.ram = map.finish();
}

/// The loader's memory is handed out later, so its strings are kept in ours.
fn keep(text: &str) -> &'static str {
    static mut KEPT: [u8; CMDLINE_MAX] = [0; CMDLINE_MAX];
    // SAFETY: called once, by the boot CPU, for the VMM's command line, which is shorter than the buffer.
    unsafe {
        let kept = (&raw mut KEPT).cast::<u8>();
        kept.copy_from_nonoverlapping(text.as_ptr(), text.len());
        str::from_utf8_unchecked(core::slice::from_raw_parts(kept, text.len()))
    }
}

/// # Safety
/// As [`read`].
unsafe fn initrd(info: &mut BootInfo, modlist: u64) {
    // SAFETY: per the contract; the range is reserved below and so stays as it is.
    unsafe {
        let Some(bytes) = physical(modlist, size_of::<ModlistEntry>() as u64) else { return };
        let Ok(module) = ModlistEntry::read_from_bytes(bytes) else { return };
        if let Some(initrd) = physical(module.paddr, module.size) {
            info.initrd = initrd;
            let _ = info.reserved.push(Range { start: module.paddr, end: module.paddr + module.size });
        }
    }
}

/// # Safety
/// As [`read`].
unsafe fn bundle(info: &mut BootInfo) {
    // SAFETY: mkimage may have changed the slot after the compiler has seen it.
    let slot = unsafe { (&raw const SLOT).read_volatile() };
    // SAFETY: per the contract; the range is reserved below and so stays as it is.
    let Some(bytes) = (unsafe { physical(slot.paddr, slot.len) }) else { return };
    let Ok((header, _)) = Header::read_from_prefix(bytes) else { return };
    if header.magic != bundle::SLOT_MAGIC {
        return;
    }
    let _ = info.reserved.push(Range { start: slot.paddr, end: slot.paddr + slot.len });
    let part = |part: Part| {
        let start = usize::try_from(part.offset).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(part.len).ok()?)?)
    };
    info.image_cmdline = part(header.cmdline).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or("");
    if info.initrd.is_empty() {
        info.initrd = part(header.initrd).unwrap_or(&[]);
    }
    if let Some((table, names)) = part(header.symbols)
        .and_then(|bytes| <[Symbol]>::ref_from_prefix_with_elems(bytes, header.symbol_count as usize).ok())
    {
        info.symbols = Symbols::new(table, names);
    }
}

#[cfg(test)]
mod tests {
    use super::terminated;

    #[test]
    fn a_text_ends_with_its_nul_or_is_none() {
        assert_eq!(terminated(b"tour\0rest"), Some("tour"));
        assert_eq!(terminated(b"\0"), Some(""));
        assert_eq!(terminated(b"tour"), None, "it is longer than what was looked at");
        assert_eq!(terminated(b"\xff\0"), None);
    }
}
