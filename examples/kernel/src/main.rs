//! A kernel in one file: finds out what it runs on, patches its call sites, and reads random bytes from a virtio device.
//!
//! It uses `pvops` and one driver of `frontends`, and nothing else of Ringside.
#![no_std]
#![no_main]

mod boot;

use buddy_system_allocator::LockedHeap;
use core::ffi::CStr;
use core::fmt::{self, Write};
use core::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicUsize, Ordering};
use frontends::memory::{DmaPages, PAGE_SIZE, RawPages};
use frontends::transport::{MmioTransport, Registers, Transport};
use frontends::{Entropy, Violation};
use pvops::patch::{self, Text};
use pvops::shared_abi::board;
use pvops::shared_abi::pvh::StartInfo;
use pvops::shared_abi::virtio::DeviceType;
use pvops::x86_64::registers::control::Cr0Flags;
use pvops::{cpu, detect, port, site, smp};

/// The first serial port.
struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the port is the UART's, and only this function uses it.
        text.bytes().for_each(|byte| unsafe { port::write_u8(board::COM1_PORT, byte) });
        Ok(())
    }
}

/// Memory for `alloc`, which the drivers use.
#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// Pages for the rings, given out once. Physical addresses are virtual ones here.
struct Pages {
    next: AtomicUsize,
}

#[repr(C, align(4096))]
struct Memory<const N: usize>([u8; N]);
static mut FOR_HEAP: Memory<0x10000> = Memory([0; 0x10000]);
static mut FOR_RINGS: Memory<0x10000> = Memory([0; 0x10000]);
static PAGES: Pages = Pages { next: AtomicUsize::new(0) };

// SAFETY: each page of the array is given out once.
unsafe impl DmaPages for Pages {
    fn allocate(&self, count: usize) -> Option<RawPages> {
        let first = self.next.fetch_add(count * PAGE_SIZE, Ordering::Relaxed);
        let fits = first + count * PAGE_SIZE <= size_of::<Memory<0x10000>>();
        let address = NonNull::new((&raw mut FOR_RINGS).cast::<u8>().wrapping_add(first))?;
        fits.then_some(RawPages { address, device_address: address.addr().get() as u64, count })
    }

    unsafe fn free(&self, _: RawPages) {}
}

/// Registers of a device, where they are in memory.
struct Window(usize);

impl Registers for Window {
    fn len(&self) -> usize {
        0x200
    }
    fn read8(&self, offset: usize) -> u8 {
        // SAFETY: here and below: the caller keeps within the window, which is mapped and a device's.
        unsafe { with_exposed_provenance::<u8>(self.0 + offset).read_volatile() }
    }
    fn read16(&self, offset: usize) -> u16 {
        // SAFETY: as above.
        unsafe { with_exposed_provenance::<u16>(self.0 + offset).read_volatile() }
    }
    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: as above.
        unsafe { with_exposed_provenance::<u32>(self.0 + offset).read_volatile() }
    }
    fn write8(&self, offset: usize, value: u8) {
        // SAFETY: as above.
        unsafe { with_exposed_provenance_mut::<u8>(self.0 + offset).write_volatile(value) }
    }
    fn write16(&self, offset: usize, value: u16) {
        // SAFETY: as above.
        unsafe { with_exposed_provenance_mut::<u16>(self.0 + offset).write_volatile(value) }
    }
    fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { with_exposed_provenance_mut::<u32>(self.0 + offset).write_volatile(value) }
    }
}

/// Writes to text while CR0.WP is off.
struct Unprotected;

impl Text for Unprotected {
    unsafe fn write(&mut self, address: usize, bytes: &[u8]) {
        // SAFETY: per the contract a call site, which nothing executes now.
        unsafe { with_exposed_provenance_mut::<u8>(address).copy_from(bytes.as_ptr(), bytes.len()) };
    }
    fn synchronize(&mut self) {
        cpu::serialize();
    }
}

/// Addresses of virtio-mmio devices: the board's slots, and those of `virtio_mmio.device=SIZE@ADDRESS:LINE`.
fn devices(found: &detect::Surroundings, words: &'static str) -> impl Iterator<Item = usize> {
    let slots = found.board_slots.unwrap_or(0);
    let slots = (0..slots).map(|slot| (board::VIRTIO_MMIO_BASE + u64::from(slot) * board::VIRTIO_MMIO_STRIDE) as usize);
    let named = words.split(' ').filter_map(|word| {
        let (_, place) = word.strip_prefix("virtio_mmio.device=")?.split_once("@0x")?;
        usize::from_str_radix(place.split(':').next()?, 16).ok()
    });
    slots.chain(named)
}

#[unsafe(no_mangle)]
extern "sysv64" fn main(info: &StartInfo) -> ! {
    // SAFETY: the memory is the heap's alone, from here on.
    unsafe { HEAP.lock().init((&raw mut FOR_HEAP).addr(), size_of::<Memory<0x10000>>()) };
    let found = detect::detect();
    let world = found.world.backend();
    // SAFETY: the CPU is in this world, no other runs, and the sites are this program's.
    let patched = unsafe {
        pvops::install(world);
        patch::apply_all(site::all(), world, Some(&mut Unprotected))
    };
    // SAFETY: nothing writes to text any more.
    unsafe { cpu::write_cr0(cpu::read_cr0() | Cr0Flags::WRITE_PROTECT) };
    let summary = patched.expect("every site can be patched");
    let _ = writeln!(Serial, "example: world {}, hypervisor {}", world.name, found.hypervisor());
    for (op, sites) in summary.ops() {
        let how = sites.kind.map_or("not patched", patch::Kind::name);
        let _ = writeln!(Serial, "{:22}{:4}  {how}", op.name(), sites.sites);
    }

    // SAFETY: the loader's command line, which stays where it is.
    let words = unsafe { CStr::from_ptr(with_exposed_provenance(info.cmdline_paddr as usize)) };
    let windows = devices(&found, words.to_str().unwrap_or("")).map(Window);
    let source =
        windows.filter_map(|window| MmioTransport::new(window).ok()).find(|d| d.device_type() == DeviceType::RNG);
    let mut bytes = [0; 16];
    let filled = source.map(|transport| {
        let mut driver = Entropy::new(transport, &PAGES).expect("the device starts");
        let mut patience = 1_000_000_000_u64;
        driver.fill(&mut bytes, Violation::Timeout { milliseconds: 0 }, || {
            smp::relax();
            patience -= 1;
            patience > 0
        })
    });
    let _ = match filled {
        Some(Ok(())) => writeln!(Serial, "random bytes: {bytes:02x?}"),
        Some(Err(why)) => writeln!(Serial, "no random bytes: {why}"),
        None => writeln!(Serial, "no random bytes: there is no entropy device"),
    };
    end(found.board_slots.is_some())
}

/// Ends the machine: by the board's exit port, elsewhere by a reset.
fn end(is_our_board: bool) -> ! {
    if is_our_board {
        // SAFETY: the port ends the machine.
        unsafe { port::write_u32(board::EXIT_PORT, board::EXIT_OK) };
    }
    cpu::triple_fault()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "{info}");
    end(false)
}
