//! The other CPUs: found, started on first use, and parked. There is no scheduler: a CPU halts until it is
//! given a function, runs it, and halts again. Everything else in the kernel belongs to the first CPU.

use crate::boot::trampoline;
use crate::mm::frames::FRAMES;
use crate::mm::{PAGE_SIZE, direct};
use crate::platform::acpi;
use crate::println;
use crate::trap::{self, Tables};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid_count;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use pvops::smp::{self, Start};
use pvops::{irq, mmu, time};
use spin::Once;
use x86_64::registers::control::Cr4Flags;

/// Most CPUs that are started in addition to the first.
const OTHERS_MAX: usize = pvops::percpu::CPUS - 1;
/// Frames of a CPU's stack: 2^3, 32 KiB.
const STACK_ORDER: usize = 3;
/// Nanoseconds that a CPU may take to start.
const PATIENCE: u64 = 2_000_000_000;

static OTHERS: Once<Others> = Once::new();

/// The additional CPUs that have started, and why there are not more.
pub struct Others {
    /// They halt, waiting for work.
    pub started: Vec<&'static Cpu>,
    /// Why none or not all of them started.
    pub missing: Option<String>,
    /// The vector that ends a CPU's wait; none without CPUs.
    wake: Option<u8>,
}

/// An additional CPU.
pub struct Cpu {
    /// Its number: the local APIC id.
    pub id: u32,
    slot: usize,
    online: AtomicBool,
    job: AtomicPtr<()>,
    done: AtomicU64,
    tables: AtomicPtr<Tables>,
}

/// What a CPU is given to do. It must come to an end, and leave the executor, the timer and the console alone.
pub type Job = fn();

/// Remembers where CPUs begin. None is started yet.
pub fn init(page: Option<u64>) {
    if let Some(page) = page {
        // SAFETY: the page was reserved when the frames were handed out, and is RAM.
        unsafe { trampoline::install(page) };
    }
}

/// The others; the first call starts them and says on the console what came of it.
pub fn others() -> &'static Others {
    OTHERS.call_once(|| {
        let others = start_all();
        match &others.missing {
            None => println!("cpus: {} started next to this one", others.started.len()),
            Some(why) => println!("cpus: {} started next to this one; {why}", others.started.len()),
        }
        others
    })
}

/// The vector by which the others are woken.
pub fn wake_vector() -> Option<u8> {
    others().wake
}

fn start_all() -> Others {
    let mut others = Others { started: Vec::new(), missing: None, wake: None };
    let ids = ids();
    if ids.is_empty() {
        others.missing = Some("the machine has no other".into());
        return others;
    }
    let Ok((_, wake)) = trap::irq::bind_vector("cpus") else {
        others.missing = Some("no vector is left for them".into());
        return others;
    };
    others.wake = Some(wake);
    for &id in ids.iter().take(OTHERS_MAX) {
        match start(id, others.started.len() + 1) {
            Ok(cpu) => others.started.push(cpu),
            // It may still come: the next one would find its orders in the mailbox.
            Err(why) => {
                others.missing = Some(why);
                break;
            }
        }
    }
    others
}

/// Whether CPUID offers the x2APIC mode (Intel SDM volume 2, leaf 1, ECX).
pub fn offers_x2apic() -> bool {
    const X2APIC: u32 = 1 << 21;
    __cpuid_count(1, 0).ecx & X2APIC != 0
}

/// What was turned on or found on, for the boot log.
pub struct Modes {
    /// In CR4.
    pub protections: Cr4Flags,
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Cr4Flags, &str); 5] = [
            (Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, "SMEP"),
            (Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, "SMAP"),
            (Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, "UMIP"),
            (Cr4Flags::MACHINE_CHECK_EXCEPTION, "machine checks"),
            (Cr4Flags::PCID, "PCID"),
        ];
        let on = |(protection, _): &(Cr4Flags, _)| self.protections.contains(*protection);
        for (index, (_, name)) in NAMES.iter().filter(|name| on(name)).enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        if self.protections.is_empty() {
            f.write_str("no protections")?;
        }
        if pvops::worlds::native::apic::local::is_x2apic() { f.write_str("; x2APIC") } else { Ok(()) }
    }
}

/// Local APIC ids of the other CPUs: those that ACPI lists, else as many as CPUID counts, numbered from 0.
fn ids() -> Vec<u32> {
    let here = smp::cpu();
    let listed = acpi::cpus().unwrap_or_else(|| (0..counted()).collect());
    listed.into_iter().filter(|&id| id != here).collect()
}

/// Logical processors of this package (Intel SDM volume 2, CPUID leaves 0xb and 1).
fn counted() -> u32 {
    const TOPOLOGY: u32 = 0xb;
    const MULTITHREADING: u32 = 1 << 28;
    if __cpuid_count(0, 0).eax >= TOPOLOGY {
        let levels = (0..4).map(|level| __cpuid_count(TOPOLOGY, level)).take_while(|leaf| leaf.ecx >> 8 & 0xff != 0);
        let count = levels.map(|leaf| leaf.ebx & 0xffff).max().unwrap_or(0);
        if count > 0 {
            return count;
        }
    }
    let leaf = __cpuid_count(1, 0);
    if leaf.edx & MULTITHREADING == 0 { 1 } else { leaf.ebx >> 16 & 0xff }
}

fn start(id: u32, slot: usize) -> Result<&'static Cpu, String> {
    let Some(stack) = FRAMES.lock().allocate(STACK_ORDER) else { return Err("there is no memory for a stack".into()) };
    let tables = Box::leak(Box::new(Tables::new()));
    let cpu: &'static Cpu = Box::leak(Box::new(Cpu {
        id,
        slot,
        online: AtomicBool::new(false),
        job: AtomicPtr::new(core::ptr::null_mut()),
        done: AtomicU64::new(0),
        tables: AtomicPtr::new(tables),
    }));
    let stack = direct(stack * PAGE_SIZE as u64) + (PAGE_SIZE << STACK_ORDER);
    let start = Start { entry: enter, argument: (&raw const *cpu).addr(), stack, tables: mmu::read_cr3() };
    // SAFETY: it has not been started; stack and tables are never unmapped; `start_all` goes on only when it has begun.
    if let Err(refused) = unsafe { smp::start_cpu(id, &start) } {
        return Err(format!("the world refuses to start cpu {id} (code {})", refused.code));
    }
    let end = time::now() + PATIENCE;
    while !cpu.online.load(Ordering::Acquire) {
        if time::now() > end {
            return Err(format!("cpu {id} did not start within {} s", PATIENCE / 1_000_000_000));
        }
        smp::relax();
    }
    Ok(cpu)
}

/// Another CPU's first Rust, and its last: it never returns.
extern "sysv64" fn enter(cpu: usize) -> ! {
    // SAFETY: `start` passes the address of a `Cpu` that is never freed.
    let cpu = unsafe { &*(cpu as *const Cpu) };
    // SAFETY: taken once, by the CPU that they are for; from `Box::leak`.
    unsafe { (*cpu.tables.swap(core::ptr::null_mut(), Ordering::AcqRel)).load() };
    // SAFETY: each CPU has a slot of its own, and its handlers were just loaded.
    unsafe { smp::enter(cpu.slot) };
    pvops::cpu::protect();
    cpu.online.store(true, Ordering::Release);
    loop {
        irq::disable();
        let job = cpu.job.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if job.is_null() {
            // SAFETY: the handlers are set up, and no lock is held.
            unsafe { irq::halt() };
            continue;
        }
        // SAFETY: as above.
        unsafe { irq::enable() };
        // SAFETY: only `give` stores here, and only a `Job`.
        let job = unsafe { core::mem::transmute::<*mut (), Job>(job) };
        job();
        cpu.done.fetch_add(1, Ordering::Release);
    }
}

impl Cpu {
    /// Gives it something to do and returns at once; returns what [`wait`](Self::wait) is to wait for.
    pub fn give(&self, job: Job) -> u64 {
        let ticket = self.done.load(Ordering::Acquire) + 1;
        self.job.store(job as *mut (), Ordering::Release);
        if let Some(vector) = wake_vector() {
            // SAFETY: the vector has an event, and the CPU was started.
            unsafe { smp::send_ipi(self.id, vector) };
        }
        ticket
    }

    /// Waits until a job is done; whether it was within some nanoseconds.
    pub fn wait(&self, ticket: u64, patience: u64) -> bool {
        let end = time::now() + patience;
        while self.done.load(Ordering::Acquire) < ticket {
            if time::now() > end {
                return false;
            }
            smp::relax();
        }
        true
    }
}
