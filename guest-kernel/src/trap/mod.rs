//! Traps: the descriptor tables, the entry stubs, and where each vector goes.

mod entry;
pub mod expected;
mod interrupts;
pub mod irq;
pub mod level;
pub mod segments;

pub use entry::TrapFrame;
pub use interrupts::{Interrupts, Taken};

use pvops::cpu;
use segments::Gdt;
use spin::Once;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, SegmentSelector};
use x86_64::structures::idt::{Entry, ExceptionVector, HandlerFunc, InterruptDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

/// Bytes of the stack for faults that may come from a broken stack.
const FAULT_STACK_SIZE: usize = 16 * 1024;
/// Its place in the interrupt stack table.
const FAULT_STACK_INDEX: u16 = 0;
/// Exceptions that use it.
const ON_FAULT_STACK: [u8; 3] =
    [ExceptionVector::NonMaskableInterrupt as u8, ExceptionVector::Double as u8, ExceptionVector::MachineCheck as u8];

type FaultStack = [u128; FAULT_STACK_SIZE / 16];

static mut IDT: InterruptDescriptorTable = InterruptDescriptorTable::new();
static mut GDT: Gdt = segments::flat();
static mut TSS: TaskStateSegment = TaskStateSegment::new();
static mut FAULT_STACK: FaultStack = [0; FAULT_STACK_SIZE / 16];

/// Serves an unexpected exception.
pub type OnException = fn(vector: u8, frame: &mut TrapFrame);

static ON_EXCEPTION: Once<OnException> = Once::new();

/// Loads the IDT and the task register: from now on an exception is `on_exception`'s.
pub fn init(on_exception: OnException) {
    ON_EXCEPTION.call_once(|| on_exception);
    // By pointer and not by field: the fields are typed for handlers of the ABI `x86-interrupt`, which stable Rust lacks, and
    // those of reserved vectors are private. Our stubs are alike for all vectors, and so are the entries in memory.
    let entries = (&raw mut IDT).cast::<Entry<HandlerFunc>>();
    for vector in 0..=u8::MAX {
        // SAFETY: boot CPU, interrupts off, the table is not loaded yet and has 256 entries. The stub is that of the vector;
        // the exceptions on the fault stack end the machine.
        unsafe {
            let options = (*entries.add(vector.into())).set_handler_addr(entry::stub(vector));
            if ON_FAULT_STACK.contains(&vector) {
                options.set_stack_index(FAULT_STACK_INDEX);
            }
        }
    }
    // SAFETY: as above; all tables are static. The boot code loaded its GDT by the physical address, which the final tables
    // do not map.
    unsafe { load(&raw mut GDT, &raw mut TSS, &raw const FAULT_STACK) };
}
const _: () = assert!(size_of::<InterruptDescriptorTable>() == 256 * size_of::<Entry<HandlerFunc>>());

/// The tables of a CPU other than the first.
pub struct Tables {
    gdt: Gdt,
    tss: TaskStateSegment,
    fault_stack: FaultStack,
}

impl Tables {
    /// Not loaded yet.
    pub(crate) fn new() -> Self {
        Self { gdt: segments::flat(), tss: TaskStateSegment::new(), fault_stack: [0; FAULT_STACK_SIZE / 16] }
    }

    /// Loads them on this CPU, and the IDT that all CPUs share; after [`init`].
    pub fn load(&'static mut self) {
        // SAFETY: they are never freed and are this CPU's alone.
        unsafe { load(&raw mut self.gdt, &raw mut self.tss, &raw const self.fault_stack) };
    }
}

/// # Safety
/// The tables are never freed, are this CPU's own, and were not loaded before.
unsafe fn load(gdt: *mut Gdt, tss: *mut TaskStateSegment, fault_stack: *const FaultStack) {
    let top = VirtAddr::from_ptr(fault_stack.wrapping_add(1));
    // SAFETY: per the contract.
    unsafe {
        (*tss).interrupt_stack_table[usize::from(FAULT_STACK_INDEX)] = top;
        let gdt = &mut *gdt;
        let task = gdt.append(Descriptor::tss_segment_unchecked(tss));
        let base = VirtAddr::from_ptr(gdt.entries().as_ptr());
        cpu::load_gdt(&DescriptorTablePointer { limit: gdt.limit(), base });
        cpu::load_tr(task);
        let limit = size_of::<InterruptDescriptorTable>() as u16 - 1;
        cpu::load_idt(&DescriptorTablePointer { limit, base: VirtAddr::from_ptr(&raw const IDT) });
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
            go_on_after_halt(frame);
            irq::dispatch(vector);
        }
    }
}

/// An interrupt between `sti` and `hlt` must not be followed by the `hlt`.
fn go_on_after_halt(frame: &mut TrapFrame) {
    if SegmentSelector(frame.cs as u16).rpl() == PrivilegeLevel::Ring0
        // SAFETY: ring 0 is where `halt` is `sti; hlt`, and all that runs there is the kernel.
        && let Some(rip) = unsafe { pvops::irq::after_unprotected_halt(frame.rip as usize) }
    {
        frame.rip = rip as u64;
        irq::count_unprotected_halt();
    }
}
