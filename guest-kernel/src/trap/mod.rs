//! Traps: the descriptor tables, the entry stubs, and where each vector goes.

mod entry;
pub mod expected;
mod interrupts;
pub mod irq;
pub mod level;
pub mod segments;

pub use entry::TrapFrame;
pub use interrupts::{Interrupts, Taken};

use core::mem::size_of;
use pvops::cpu::TablePointer;
use segments::{BOOT_GDT, CODE_SELECTOR, TSS_SELECTOR};
use spin::Once;

/// Bytes of the stack for faults that may come from a broken stack.
const FAULT_STACK_SIZE: usize = 16 * 1024;
/// Vectors that use it (IST 1): NMI, double fault, machine check.
const ON_FAULT_STACK: [usize; 3] = [2, 8, 18];

/// A 64-bit gate descriptor (Intel SDM volume 3, "64-Bit Mode IDT").
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

/// A 64-bit task state segment (Intel SDM volume 3, "Task Management in 64-bit Mode").
#[repr(C, packed(4))]
struct Tss {
    reserved: u32,
    stacks: [u64; 3],
    reserved1: u64,
    interrupt_stacks: [u64; 7],
    reserved2: [u32; 2],
    reserved3: u16,
    io_map: u16,
}

impl Tss {
    const EMPTY: Self = Self {
        reserved: 0,
        stacks: [0; 3],
        reserved1: 0,
        interrupt_stacks: [0; 7],
        reserved2: [0; 2],
        reserved3: 0,
        io_map: size_of::<Self>() as u16,
    };
}

type Gdt = [u64; 5];
type FaultStack = [u128; FAULT_STACK_SIZE / 16];

static mut IDT: [Gate; 256] = [Gate { low: 0, high: 0 }; 256];
static mut TSS: Tss = Tss::EMPTY;
static mut FAULT_STACK: FaultStack = [0; FAULT_STACK_SIZE / 16];

/// Serves an exception that nobody expects.
pub type OnException = fn(vector: u8, frame: &mut TrapFrame);

static ON_EXCEPTION: Once<OnException> = Once::new();

/// Loads the IDT and the task register: from now on an exception is `on_exception`'s.
pub fn init(on_exception: OnException) {
    ON_EXCEPTION.call_once(|| on_exception);
    let idt = &raw mut IDT;
    for vector in 0..256 {
        let handler = entry::stub(vector) as u64;
        let ist = u64::from(ON_FAULT_STACK.contains(&vector));
        // Present, DPL 0, interrupt gate.
        let low =
            handler & 0xffff | u64::from(CODE_SELECTOR) << 16 | ist << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        // SAFETY: boot CPU, interrupts off, the table is not loaded yet.
        unsafe { (*idt)[vector] = Gate { low, high: handler >> 32 } };
    }
    // SAFETY: as above; all tables are static. The boot code loaded the GDT by its physical address, which the final tables
    // do not map.
    unsafe { load(&raw mut BOOT_GDT, &raw mut TSS, &raw const FAULT_STACK) };
}

/// The tables of a CPU other than the first.
pub struct Tables {
    gdt: Gdt,
    tss: Tss,
    fault_stack: FaultStack,
}

impl Tables {
    /// Not loaded yet.
    ///
    /// # Safety
    /// Made behind [`init`], which nobody may run at the same time.
    pub unsafe fn new() -> Self {
        // SAFETY: written only by `init`.
        let gdt = unsafe { (&raw const BOOT_GDT).read() };
        Self { gdt, tss: Tss::EMPTY, fault_stack: [0; FAULT_STACK_SIZE / 16] }
    }

    /// Loads them on this CPU, and the IDT that all CPUs share.
    pub fn load(&'static mut self) {
        // SAFETY: they live for ever and are this CPU's alone.
        unsafe { load(&raw mut self.gdt, &raw mut self.tss, &raw const self.fault_stack) };
    }
}

/// # Safety
/// The tables live for ever and are this CPU's own.
unsafe fn load(gdt: *mut Gdt, tss: *mut Tss, fault_stack: *const FaultStack) {
    // SAFETY: per the contract.
    unsafe {
        (*tss).interrupt_stacks[0] = fault_stack.addr() as u64 + FAULT_STACK_SIZE as u64;
        let (base, limit) = (tss.addr() as u64, size_of::<Tss>() as u64 - 1);
        // Present, available 64-bit TSS.
        (*gdt)[usize::from(TSS_SELECTOR) / 8] =
            limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        (*gdt)[usize::from(TSS_SELECTOR) / 8 + 1] = base >> 32;
        pvops::cpu::load_gdt(&TablePointer { limit: size_of::<Gdt>() as u16 - 1, base: gdt.addr() as u64 });
        pvops::cpu::load_tr(TSS_SELECTOR);
        let idt = (&raw const IDT).addr() as u64;
        pvops::cpu::load_idt(&TablePointer { limit: size_of::<[Gate; 256]>() as u16 - 1, base: idt });
    }
}

/// Where the stubs go.
extern "sysv64" fn dispatch(frame: &mut TrapFrame) {
    match frame.vector as u8 {
        exception @ 0..32 => {
            if !expected::fault(exception, frame)
                && let Some(on_exception) = ON_EXCEPTION.get()
            {
                on_exception(exception, frame);
            }
        }
        vector => {
            go_on_behind_halt(frame);
            irq::dispatch(vector);
        }
    }
}

/// An interrupt between `sti` and `hlt` must not be followed by the `hlt`.
fn go_on_behind_halt(frame: &mut TrapFrame) {
    const RING: u64 = 3;
    if frame.cs & RING == 0
        // SAFETY: ring 0 is where `halt` is `sti; hlt`, and all that runs there is the kernel.
        && let Some(rip) = unsafe { pvops::irq::behind_unprotected_halt(frame.rip as usize) }
    {
        frame.rip = rip as u64;
        irq::count_unprotected_halt();
    }
}
