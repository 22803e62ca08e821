//! The Ringside guest kernel. `kernel_main` is its table of contents.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod checks;
mod cmdline;
mod console;
mod mm;
mod platform;
mod sync;
mod task;
mod time;
mod trap;

use cmdline::Cmdline;
use pvops::detect::{self, World};
use pvops::patch::{self, Summary, Text};
use pvops::site::SITE_LEN;
use spin::Once;

static WORLD: Once<World> = Once::new();
static PATCHES: Once<Summary> = Once::new();

/// The world, for people and for checks.
pub fn world() -> World {
    WORLD.get().copied().unwrap_or(World::Native)
}

/// From the boot code: 64-bit mode, boot tables, boot stack, interrupts off.
extern "sysv64" fn kernel_main(start_info: u64) -> ! {
    console::init();
    // SAFETY: the boot code passes what the loader passed, once.
    let info = unsafe { boot::info::read(start_info) };
    let cmdline = Cmdline::new(info.image_cmdline, info.vmm_cmdline);
    let found = detect::detect();
    WORLD.call_once(|| found.world);
    // SAFETY: the world is the one that was found, and there is one CPU.
    unsafe { pvops::table::install(found.world.backend()) };
    println!(
        "ringside guest kernel {}: world {}, hypervisor {}",
        env!("CARGO_PKG_VERSION"),
        found.world.backend().name,
        found.hypervisor()
    );

    // SAFETY: the loader's map says what is RAM; the boot tables map its first 4 GiB.
    unsafe { mm::frames::FRAMES.lock().init(&info.ram, &info.reserved, 4 << 30) };
    trap::init(info.symbols);
    // SAFETY: first and only call, on the boot tables.
    unsafe {
        mm::paging::init(&info.ram);
        mm::frames::FRAMES.lock().add_above(&info.ram, &info.reserved, 4 << 30);
    }
    let patched = cmdline.value("pvops") != Some("unpatched");
    patch_kernel(patched);
    mm::paging::protect_image();
    platform::power::init(found.board_slots.is_some(), info.rsdp);
    let failed = checks::run(PATCHES.get().unwrap(), patched);
    println!("failed {failed}");
    platform::power::end(platform::power::Ending::Off)
}

/// Rewrites the call sites for the world that was found.
fn patch_kernel(patched: bool) {
    let mut text = DirectMapText;
    let text: Option<&mut dyn Text> = if patched { Some(&mut text) } else { None };
    // SAFETY: the sites are the kernel's own, the world was detected, and there is one CPU.
    let summary = unsafe { patch::apply_all(pvops::site::all(), world().backend(), text) };
    match summary {
        Ok(summary) => {
            PATCHES.call_once(|| summary);
        }
        Err(error) => panic!("cannot patch the kernel: {error}"),
    }
}

/// Writes to the kernel's text through the direct map, where it is data.
struct DirectMapText;

impl Text for DirectMapText {
    unsafe fn write(&mut self, address: usize, bytes: &[u8; SITE_LEN]) {
        let alias = mm::direct(mm::image::physical(address));
        // SAFETY: the direct map has the text writable until `protect_image`; per the contract nobody executes the site.
        unsafe { (alias as *mut [u8; SITE_LEN]).write_volatile(*bytes) };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    pvops::irq::disable();
    console::emergency(format_args!("\nkernel {info}\n"));
    let frame_pointer: usize;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    trap::backtrace(frame_pointer, 0);
    platform::power::end(platform::power::Ending::Panic)
}
