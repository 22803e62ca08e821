//! The table: one field per operation, grouped as in the field. Call sites call through it until they are patched.
//!
//! An operation's number is its place in the table, so records and table cannot drift apart. A world that lacks an
//! operation leaves the field `None`: the patcher refuses such a site, and an unpatched call of it traps.

use crate::template::Template;
use crate::types::{Chips, Flags, MapRegisters, Start};
use core::mem::{offset_of, size_of};
use x86_64::structures::DescriptorTablePointer;

macro_rules! groups {
    ($($(#[$gdoc:meta])* $group:ident: $Group:ident {
        $($(#[$doc:meta])* $op:ident: fn($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*
    })*) => {
        $(
            $(#[$gdoc])*
            #[derive(Clone, Copy)]
            #[repr(C)]
            pub struct $Group {
                $($(#[$doc])* pub $op: Option<unsafe extern "sysv64" fn($($arg: $ty),*) $(-> $ret)?>,)*
            }
        )*

        /// The table of one world.
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub struct Ops { $($(#[$gdoc])* pub $group: $Group),* }

        /// Names of all operations, in table order.
        const NAMES: &[&str] = &[$($(concat!(stringify!($group), ".", stringify!($op))),*),*];
        const _: () = assert!(NAMES.len() == Op::COUNT);

        /// One constant per operation.
        pub mod op {
            use super::{Op, Ops};
            $(
                $(#[$gdoc])*
                pub mod $group {
                    use super::{Op, Ops};
                    $(
                        $(#[$doc])*
                        #[expect(non_upper_case_globals, reason = "spelled as the field of the table")]
                        pub const $op: Op = Op::at(core::mem::offset_of!(Ops, $group.$op));
                    )*
                }
            )*
        }
    };
}

groups! {
    /// The interrupt flag of this CPU.
    irq: IrqOps {
        /// Returns whether interrupts are on, and turns them off.
        save: fn() -> Flags;
        /// Puts back what `save` returned.
        restore: fn(flags: Flags);
        /// Turns interrupts off.
        disable: fn();
        /// Turns interrupts on.
        enable: fn();
        /// Turns interrupts on and waits for one, without a gap between the two.
        halt: fn();
    }
    /// Registers and descriptor tables of this CPU.
    cpu: CpuOps {
        /// CR0.
        read_cr0: fn() -> u64;
        /// CR0.
        write_cr0: fn(value: u64);
        /// CR2: the address of the last page fault.
        read_cr2: fn() -> u64;
        /// CR4.
        read_cr4: fn() -> u64;
        /// CR4.
        write_cr4: fn(value: u64);
        /// Reads a model-specific register.
        read_msr: fn(msr: u32) -> u64;
        /// Writes a model-specific register.
        write_msr: fn(msr: u32, value: u64);
        /// Loads the GDT.
        load_gdt: fn(descriptor: *const DescriptorTablePointer);
        /// Loads the IDT.
        load_idt: fn(descriptor: *const DescriptorTablePointer);
        /// Loads the task register.
        load_tr: fn(selector: u16);
        /// Sets a segment base: 0 FS, 1 user GS, 2 kernel GS.
        set_segment_base: fn(which: u32, base: u64);
        /// Returns to what the exception frame below the return address says.
        iret: fn();
        /// Turns on the protections that this CPU offers; returns their bits of CR4.
        protect: fn() -> u64;
    }
    /// Page tables.
    mmu: MmuOps {
        /// Writes one page-table entry; may be deferred inside a batch.
        set_pte: fn(entry: *mut u64, value: u64);
        /// Starts a batch of `set_pte`.
        lazy_begin: fn();
        /// Ends the batch: everything is written when it returns.
        lazy_end: fn();
        /// Physical address of the live top-level table.
        read_cr3: fn() -> u64;
        /// Makes a top-level table live by its physical address, and flushes.
        write_cr3: fn(address: u64);
        /// Flushes the whole TLB of this CPU, global entries included.
        flush_all: fn();
        /// Flushes one page from the TLB of this CPU.
        flush_one: fn(address: usize);
        /// Turns an entry with a guest frame number into one with the world's.
        encode: fn(entry: u64) -> u64;
        /// The inverse of `encode`.
        decode: fn(entry: u64) -> u64;
        /// A frame becomes a page table of a level (1 to 4).
        adopt_table: fn(pfn: u64, level: u32);
        /// A frame is no page table any more.
        release_table: fn(pfn: u64, level: u32);
        /// 1 where entries of level 2 may map large pages.
        large_pages: fn() -> u64;
    }
    /// Memory that the hypervisor takes and gives, and memory that devices reach.
    memory: MemoryOps {
        /// Makes a block of `2^order` free frames one that devices see as contiguous; returns the address that they use, 0
        /// if that cannot be done.
        machine_block: fn(pfn: u64, order: u32) -> u64;
        /// Pages that the hypervisor counts as this machine's; 0 where it does not take and give them itself.
        reservation: fn() -> u64;
        /// Gives unmapped frames back to the hypervisor; returns how many it took.
        give_back: fn(pfns: *const u64, count: usize) -> usize;
        /// Backs frames that were given back with memory; returns how many.
        populate: fn(pfns: *const u64, count: usize) -> usize;
    }
    /// Interrupt lines.
    event: EventOps {
        /// Takes the interrupt controllers over, with all lines masked; 0 when that worked.
        start: fn(map: MapRegisters, chips: *const Chips<'static>) -> u64;
        /// Connects a line to a vector, signalling by a [`Trigger`](crate::types::Trigger). Leaves it masked. 1 when that
        /// worked.
        bind: fn(line: u32, vector: u32, trigger: u32) -> u64;
        /// Connects an entry of a PCI function's MSI-X table to a vector. Returns what is to be written there: address
        /// times 2^32 plus data; 0 if the world has done so, all ones if it cannot.
        bind_message: fn(device: u32, entry: u32, vector: u32, table: u64) -> u64;
        /// Keeps a line from interrupting.
        mask: fn(line: u32);
        /// Lets a line interrupt.
        unmask: fn(line: u32);
        /// Ends the interrupt in service.
        end: fn();
    }
    /// Clock and timer.
    time: TimeOps {
        /// Nanoseconds since an arbitrary start; never goes back.
        now: fn() -> u64;
        /// Asks for one timer interrupt at that time of `now`; u64::MAX for none.
        set_timer: fn(deadline: u64);
    }
    /// Processors.
    smp: SmpOps {
        /// Number of this CPU.
        cpu: fn() -> u32;
        /// Gives this CPU its block, its clock and its interrupts, by its slot.
        enter: fn(slot: u64);
        /// Hints to the CPU that this is a spin loop.
        relax: fn();
        /// Starts another CPU at a `Start`; returns 0 when that was asked for, whatever comes of it.
        start_cpu: fn(cpu: u32, start: *const Start) -> u64;
        /// Raises a vector on another CPU.
        send_ipi: fn(cpu: u32, vector: u32);
    }
    /// Services of a hypervisor.
    vmm: VmmOps {
        /// Reports that the kernel has crashed; returns where no hypervisor takes the report.
        crash: fn();
        /// Ends the machine; returns where no hypervisor takes the request. `sleep` is what ACPI has for the PM1a control port, all
        /// ones if that is not known.
        power_off: fn(sleep: u32);
        /// Writes to the hypervisor's console; returns how much was taken.
        write: fn(bytes: *const u8, len: usize) -> usize;
        /// Reads from it.
        read: fn(bytes: *mut u8, len: usize) -> usize;
    }
}

/// The number of an operation: its index in [`Ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Op(u16);

impl Op {
    /// How many there are.
    pub const COUNT: usize = size_of::<Ops>() / size_of::<usize>();

    pub(crate) const fn at(offset: usize) -> Self {
        assert!(offset.is_multiple_of(size_of::<usize>()) && offset < size_of::<Ops>());
        Self((offset / size_of::<usize>()) as u16)
    }

    /// The operation with that number, if there is one.
    pub const fn from_number(number: u16) -> Option<Self> {
        if (number as usize) < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// Index in the table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// `group.name`.
    pub fn name(self) -> &'static str {
        NAMES[self.index()]
    }

    /// All of them, in table order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u16).map(Self)
    }
}

/// What a world brings: a table, and the inline code for those operations that fit into a site.
pub struct Backend {
    /// Name of the world.
    pub name: &'static str,
    /// Its table.
    pub ops: Ops,
    /// Inline code; an operation that is not listed becomes a direct call.
    pub templates: &'static [(Op, Template)],
}

impl Backend {
    /// Address of the function that implements an operation; `None` when this world lacks it.
    pub fn target(&self, op: Op) -> Option<usize> {
        // SAFETY: Ops is repr(C) and holds nothing but Option<fn>, each pointer sized with None as zero, so every index
        // below COUNT is an initialized usize.
        let word = unsafe { (&raw const self.ops).cast::<usize>().add(op.index()).read() };
        (word != 0).then_some(word)
    }

    /// Inline code of an operation.
    pub fn template(&self, op: Op) -> Option<&Template> {
        self.templates.iter().find(|(with, _)| *with == op).map(|(_, template)| template)
    }
}

const _: () = assert!(offset_of!(Ops, irq) == 0);
