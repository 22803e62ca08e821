//! The Ringside guest kernel. `kernel_main` is its table of contents.
#![no_std]
#![no_main]
#![allow(unreachable_pub, reason = "a program: its modules are its rooms, and `pub` marks their doors")]

extern crate alloc;

mod balloon;
mod bench;
mod boot;
mod checks;
mod cmdline;
mod conform;
mod console;
mod cpus;
mod devices;
mod disk;
mod fat;
mod files;
mod fs;
mod gpt;
mod initrd;
mod mm;
mod net;
mod platform;
mod reference;
mod rng;
mod shell;
mod sync;
mod task;
mod time;
mod tour;
mod trap;
mod vconsole;

use alloc::rc::Rc;
use alloc::vec::Vec;
use boot::info::{BootInfo, Range};
use cmdline::Cmdline;
use devices::Devices;
use initrd::Archive;
use platform::interrupts::Routing;
use platform::pci::config::Ways;
use pvops::detect::{Console, Surroundings, World};
use pvops::event::Trigger;
use pvops::patch::{self, Summary, Text};
use shared_abi::board;
use shared_abi::kvm::Features;
use shared_abi::report::{Kind, Outcome};
use spin::Once;
use task::Executor;

static WORLD: Once<World> = Once::new();
static PATCHES: Once<Summary> = Once::new();

/// The world, for people and for checks.
pub fn world() -> World {
    WORLD.get().copied().unwrap_or(World::Native)
}

/// What became of the call sites.
pub fn patches() -> &'static Summary {
    PATCHES.get().unwrap_or(&Summary::EMPTY)
}

/// What tasks know about the machine.
pub struct System {
    /// What CPUID told.
    pub found: Surroundings,
    /// Memory as the loader described it.
    pub ram: Vec<Range>,
    /// The initrd, or why it cannot be read.
    pub initrd: Result<Archive<'static>, initrd::Error>,
    /// What came up.
    pub devices: Devices,
    /// The network.
    pub net: net::Status,
    /// Time of boot.
    pub started: u64,
}

/// From the boot code: 64-bit mode, the kernel's stack, all memory below 4 GiB in the direct map, interrupts off.
fn kernel_main(info: BootInfo, found: Surroundings) -> ! {
    console::init(found.console);
    let cmdline = Cmdline::new(info.image_cmdline, info.vmm_cmdline);
    enter_world(&found);
    trap::init(info.symbols);
    init_memory(&info);
    patch_kernel(cmdline);
    mm::paging::protect_image();
    let rsdp = if found.has_bios { platform::acpi::search_bios() } else { info.rsdp };
    platform::acpi::init(rsdp);
    platform::power::init(found.board_slots.is_some(), found.has_legacy_chips);
    init_interrupts(&found, cmdline);
    cpus::init(info.trampoline);
    let clock = time::init(&found);
    println!("time: {clock}");
    init_pci(&found, cmdline, &info.ram);
    bench::run(cmdline);
    if let Some(order) = conform::hostile::Order::from_cmdline(cmdline) {
        conform::hostile::start(found, cmdline, order);
    }
    if let Some(filter) = conform::Filter::from_cmdline(cmdline) {
        conform::start(found, cmdline, filter);
    }
    let mut devices = Devices::find(&found, cmdline);
    let seed = devices.rng.as_mut().and_then(rng::Rng::next).unwrap_or_else(pvops::time::tsc);
    let system = Rc::new(System {
        found,
        ram: info.ram.iter().copied().collect(),
        initrd: open_initrd(info.initrd),
        devices,
        net: net::Status::default(),
        started: pvops::time::now(),
    });
    let mut executor = Executor::new();
    spawn(&mut executor, &system, cmdline, seed);
    report_ready();
    // SAFETY: all handlers are set up, and no lock is held.
    unsafe { pvops::irq::enable() };
    executor.run()
}

/// Makes the table of the world that was found the live one.
fn enter_world(found: &Surroundings) {
    let backend = found.world.backend();
    WORLD.call_once(|| found.world);
    // SAFETY: the world is the one that was found, and there is one CPU.
    unsafe { pvops::install(backend) };
    println!("ringside {}: world {}, hypervisor {}", env!("CARGO_PKG_VERSION"), backend.name, found.hypervisor());
}

/// Frames, then page tables, then the frames that only the new tables reach.
fn init_memory(info: &BootInfo) {
    const BOOT_MAPPED: u64 = 4 << 30;
    assert!(!info.ram.is_empty(), "the loader's memory map has no memory");
    if info.lost > 0 {
        log::warn!("memory: {} KiB are in too many pieces to be used", info.lost >> 10);
    }
    // SAFETY: the loader's map says what is RAM; the boot tables map its first 4 GiB, the final ones all of it.
    unsafe {
        mm::frames::FRAMES.lock().init(&info.ram, &info.reserved, BOOT_MAPPED);
        mm::paging::init(&info.ram);
        mm::frames::FRAMES.lock().add_above(&info.ram, &info.reserved, BOOT_MAPPED);
        info.boot_tables.iter().for_each(|&range| mm::paging::reclaim_tables(range));
    }
}

/// The interrupt controllers, and the console's line.
fn init_interrupts(found: &Surroundings, cmdline: Cmdline) {
    extern "sysv64" fn map(physical: u64, len: usize) -> usize {
        mm::paging::map_device(physical, len as u64).unwrap_or(0)
    }
    if found.has_legacy_chips {
        platform::mask_pic();
    }
    if cmdline.has("x2apic") {
        if cpus::offers_x2apic() {
            // SAFETY: interrupts are off, and the local APIC is not in use yet.
            unsafe { pvops::worlds::native::apic::local::switch_to_x2apic() };
        } else {
            log::warn!("x2apic: this CPU has no such mode");
        }
    }
    let routing = platform::acpi::routing().unwrap_or_else(Routing::usual);
    // SAFETY: the handlers are set up, and nothing else uses the controllers, which are where every PC or the MADT has them.
    if let Err(error) = unsafe { pvops::event::start(map, &routing.chips()) } {
        panic!("no local APIC: its version register reads {:#x}", error.version);
    }
    println!("cpu: {}", cpus::Modes { protections: pvops::cpu::protect() });
    if found.kvm.contains(Features::PV_EOI) {
        // SAFETY: the feature is there, and pvops is part of the image.
        unsafe { pvops::worlds::kvm::start_eoi(mm::image::physical) };
    }
    let (name, (line, trigger)) = match found.console {
        Console::Serial => ("serial", routing.isa(board::COM1_GSI as u8)),
        Console::Hypervisor { line } => ("console", (line, Trigger::Edge)),
    };
    match trap::irq::bind_line(name, line, trigger) {
        Ok(event) => console::enable_input(event),
        Err(error) => log::warn!("{name}: no input: {error}"),
    }
}

/// The ways to PCI's configuration space. Our board has none. Xen keeps its first domain from writing to the memory that it
/// is, so there it is ports.
fn init_pci(found: &Surroundings, cmdline: Cmdline, ram: &[Range]) {
    if found.board_slots.is_some() {
        return;
    }
    let ways = if found.world == World::Xen { Ways::Ports } else { Ways::from_cmdline(cmdline) };
    let entries = if ways == Ways::Ports { Vec::new() } else { platform::acpi::ecam() };
    platform::pci::config::init(ways, &entries, ram);
}

/// The initrd. Nothing at boot needs it, so one that cannot be read is told and not more.
fn open_initrd(bytes: &'static [u8]) -> Result<Archive<'static>, initrd::Error> {
    let opened = Archive::open(bytes);
    match &opened {
        Ok(_) if bytes.is_empty() => {}
        Ok(archive) => println!("initrd: {} bytes, {} files", bytes.len(), archive.count()),
        Err(error) => log::error!("initrd: {error}"),
    }
    opened
}

/// The tasks: clock, network, balloon, and the tour or the shells.
fn spawn(executor: &mut Executor, system: &Rc<System>, cmdline: Cmdline, seed: u64) {
    executor.spawn(time::refine());
    if let Some(card) = &system.devices.card {
        executor.spawn(net::run(system.clone(), card.clone(), net::Static::from_cmdline(cmdline), seed));
    }
    if let Some(balloon) = &system.devices.balloon {
        executor.spawn(balloon.clone().run());
    }
    if let Some(console) = &system.devices.console {
        executor.spawn(shell::on_virtio(system.clone(), console.clone()));
    }
    if cmdline.has("tour") {
        executor.spawn(tour::run(system.clone()));
    } else {
        executor.spawn(shell::on_serial(system.clone()));
    }
}

/// The line that boot benchmarks read. Where the TSC counts instructions (QEMU's `-icount shift=0`), so do the ticks.
fn report_ready() {
    // SAFETY: written once, by the boot code.
    let entry = unsafe { (&raw const boot::ENTRY_TSC).read() };
    let ticks = pvops::time::tsc() - entry - task::idle_time().ticks;
    let sites = patches().sites();
    let mut calls = alloc::string::String::new();
    for (_, name, count) in pvops::worlds::xen::hypercall::named_counts() {
        let _ = core::fmt::Write::write_fmt(&mut calls, format_args!(" {name} {count}"));
    }
    if !calls.is_empty() {
        println!("hypercalls:{calls}");
    }
    if let Some(counts) = platform::pci::config::counts() {
        println!("pci: {counts}");
    }
    console::report(Kind::Boot, "ready", Outcome::Success, |line| line.field("ticks", ticks)?.field("sites", sites));
}

/// Rewrites the call sites for the world that was found, unless the command line says `pvops=unpatched`.
fn patch_kernel(cmdline: Cmdline) {
    let patched = match cmdline.value("pvops") {
        Some("unpatched") => false,
        None | Some("patched") => true,
        Some(other) => {
            log::warn!("pvops={other}: not patched or unpatched; patching");
            true
        }
    };
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
    unsafe fn write(&mut self, address: usize, bytes: &[u8]) {
        let alias = mm::direct(mm::image::physical(address));
        // SAFETY: the direct map has the text writable until `protect_image`; per the contract nobody executes the site.
        unsafe { (alias as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn synchronize(&mut self) {
        pvops::cpu::serialize();
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
