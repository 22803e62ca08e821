//! From the boot code to a machine that a program can run on. [`start`] is the kernel's table of contents.

use crate::boot::info::BootInfo;
use crate::cmdline::Cmdline;
use crate::devices::Devices;
use crate::devices::rng::Rng;
use crate::fs::initrd::{self, Archive};
use crate::mm::Range;
use crate::patching::{enter_world, patch_kernel, patches};
use crate::platform::interrupts::Routing;
use crate::platform::pci::config::AccessMechanism;
use crate::system::System;
use crate::task::Executor;
use crate::{boot, console, crash, mm, net, platform, println, shell, smp, status, task, time, trap};
use alloc::rc::Rc;
use alloc::vec::Vec;
use pvops::detect::{Console, Surroundings, World};
use pvops::event::Trigger;
use shared_abi::board;
use shared_abi::kvm::Features;
use shared_abi::report::{Kind, Outcome};

/// A machine whose CPU, memory, interrupts and time are set up. No device is driven yet, and interrupts are off.
pub struct Machine {
    /// What CPUID reports.
    pub found: Surroundings,
    /// The command line.
    pub cmdline: Cmdline,
    /// Memory as the loader described it.
    pub ram: Vec<Range>,
    initrd: &'static [u8],
}

/// Sets the machine up. From the boot code: 64-bit mode, the kernel's stack, all memory below 4 GiB in the direct map,
/// interrupts off.
pub fn start(info: BootInfo, found: Surroundings) -> Machine {
    console::init(found.console);
    let cmdline = Cmdline::new(info.image_cmdline, info.vmm_cmdline);
    enter_world(&found);
    crash::set_symbols(info.symbols);
    trap::init(crash::exception);
    init_memory(&info);
    patch_kernel(cmdline);
    mm::paging::protect_image();
    let rsdp = if found.has_bios { platform::acpi::search_bios() } else { info.rsdp };
    platform::acpi::init(rsdp);
    platform::power::init(found.board_slots.is_some(), found.has_legacy_chips);
    init_interrupts(&found, cmdline);
    smp::init(info.trampoline);
    let clock = time::init(&found);
    println!("time: {clock}");
    init_pci(&found, cmdline, &info.ram);
    Machine { found, cmdline, ram: info.ram.iter().copied().collect(), initrd: info.initrd }
}

impl Machine {
    /// Brings the devices up, and the tasks that serve them.
    pub fn bring_up(self) -> Kernel {
        let mut devices = Devices::find(&self.found, self.cmdline);
        let seed = devices.rng.as_mut().and_then(Rng::number).unwrap_or_else(pvops::time::tsc);
        let system = Rc::new(System {
            found: self.found,
            ram: self.ram,
            initrd: open_initrd(self.initrd),
            devices,
            net: Rc::default(),
            started: pvops::time::now(),
        });
        let mut kernel = Kernel { system, executor: Executor::new() };
        kernel.spawn_services(self.cmdline, seed);
        kernel
    }

    /// Runs one task that has the machine to itself: no device is driven but by it.
    pub fn run_alone(self, task: impl Future<Output = ()> + 'static) -> ! {
        let mut executor = Executor::new();
        executor.spawn(task);
        run(executor)
    }
}

/// A machine whose devices are driven. Its tasks run from [`run`](Self::run) on.
pub struct Kernel {
    /// What tasks know about the machine.
    pub system: Rc<System>,
    executor: Executor,
}

impl Kernel {
    /// The tasks that every program has: clock, network, balloon, and the shell on a virtio console.
    fn spawn_services(&mut self, cmdline: Cmdline, seed: u64) {
        self.spawn(time::refine());
        let system = self.system.clone();
        if let Some(card) = &system.devices.card {
            let (page_of, status) = (system.clone(), system.net.clone());
            let page: net::Page = Rc::new(move || status::render(&page_of));
            self.spawn(net::run(card.clone(), status, net::Static::from_cmdline(cmdline), seed, page));
        }
        if let Some(balloon) = &system.devices.balloon {
            self.spawn(balloon.clone().run());
        }
        if let Some(console) = &system.devices.console {
            self.spawn(shell::on_virtio(system.clone(), console.clone()));
        }
    }

    /// Adds a task.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task);
    }

    /// Reports that the kernel is ready, and runs the tasks; never returns.
    pub fn run(self) -> ! {
        report_ready();
        run(self.executor)
    }
}

fn run(mut executor: Executor) -> ! {
    // SAFETY: all handlers are set up, and no lock is held.
    unsafe { pvops::irq::enable() };
    executor.run()
}

/// Frames, then page tables, then the frames that only the new tables reach.
fn init_memory(info: &BootInfo) {
    const BOOT_MAPPED: u64 = 4 << 30;
    assert!(!info.ram.is_empty(), "the loader's memory map has no memory");
    if info.lost > 0 {
        log::warn!("memory: {} KiB are in too many pieces to be used", info.lost >> 10);
    }
    if info.vmm_cmdline_is_odd {
        log::error!("command line: ignored, it has {} bytes or more, or is no UTF-8", boot::info::CMDLINE_MAX);
    }
    // SAFETY: the loader's map says what is RAM; the boot tables map its first 4 GiB, the final ones all of it.
    unsafe {
        mm::frames::FRAMES.lock().init(&info.ram, &info.reserved, BOOT_MAPPED);
        mm::paging::init(&info.ram, boot::stack_guard());
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
        if smp::offers_x2apic() {
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
    println!("cpu: {}", smp::Modes { protections: pvops::cpu::protect() });
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

/// Access to PCI configuration space. Our board has none. Xen does not let its first domain write to the memory window, so
/// ports are used there.
fn init_pci(found: &Surroundings, cmdline: Cmdline, ram: &[Range]) {
    if found.board_slots.is_some() {
        return;
    }
    let allowed =
        if found.world == World::Xen { AccessMechanism::Ports } else { AccessMechanism::from_cmdline(cmdline) };
    let entries = if allowed == AccessMechanism::Ports { Vec::new() } else { platform::acpi::ecam() };
    platform::pci::config::init(allowed, &entries, ram);
}

/// The initrd. Nothing at boot needs it, so one that cannot be read is only reported.
fn open_initrd(bytes: &'static [u8]) -> Result<Archive<'static>, initrd::Error> {
    let opened = Archive::open(bytes);
    match &opened {
        Ok(_) if bytes.is_empty() => {}
        Ok(archive) => println!("initrd: {} bytes, {} files", bytes.len(), archive.count()),
        Err(error) => log::error!("initrd: {error}"),
    }
    opened
}

/// The line that boot benchmarks read. Where the TSC counts instructions (QEMU's `-icount shift=0`), so do the ticks.
fn report_ready() {
    // SAFETY: written once, by the boot code.
    let entry = unsafe { (&raw const boot::ENTRY_TSC).read() };
    let ticks = pvops::time::tsc() - entry - task::idle_time().ticks;
    let sites = patches().sites();
    let mut calls = alloc::string::String::new();
    for (_, name, count) in pvops::hypercalls() {
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
