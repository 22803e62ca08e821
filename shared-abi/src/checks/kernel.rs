//! What the kernel checks of itself: call sites, operations, page tables, time. On a hypervisor these fail when an instruction,
//! a register or a page table does not do what the manuals say.

use super::{Check, row};

const PATCHING: &str = "Ringside docs/patching.md, The patcher";
const NEVER_BOTH: &str = "Ringside docs/patching.md, Never writable and executable";
const SDM_IF: &str = "Intel SDM volume 3, Masking Maskable Hardware Interrupts";
const SDM_CR: &str = "Intel SDM volume 3, Control Registers";
const SDM_MSR: &str = "Intel SDM volume 3, Model-Specific Registers; volume 4, Architectural MSRs";
const SDM_PAGING: &str = "Intel SDM volume 3, Caching Translation Information";
const SDM_TIMER: &str = "Intel SDM volume 3, APIC Timer";

/// Group `pvops`: each operation does what the native instruction does, whatever stands at its sites.
pub const PVOPS: &[Check] = &[
    row(
        "pvops/no-indirect-site-is-left",
        "After patching no site calls through the table",
        PATCHING,
        "Look at the bytes of every site",
        "None is the indirect call",
    ),
    row(
        "pvops/irq-disable-is-inline",
        "A template is inlined",
        PATCHING,
        "Look at the sites of irq.disable",
        "The world's own instructions, and nops",
    ),
    row(
        "pvops/every-site-is-as-planned",
        "Each site has what the world's plan says",
        PATCHING,
        "Plan every site again and compare",
        "The same bytes",
    ),
    row(
        "pvops/irq-flag-follows",
        "save and restore nest",
        SDM_IF,
        "Save twice, restore twice, save between",
        "The flags of each level",
    ),
    row(
        "pvops/irq-save-tells-the-flag",
        "save returns the flags with interrupts on or off and turns them off",
        SDM_IF,
        "Save with interrupts on, save again",
        "Bit 9 set, then clear; on Xen two that differ",
    ),
    row(
        "pvops/irq-disable-holds-interrupts",
        "With IF clear no interrupt is delivered",
        SDM_IF,
        "Turn interrupts off, let the timer run out, wait 2 ms",
        "No timer interrupt is counted",
    ),
    row(
        "pvops/irq-enable-lets-interrupts-in",
        "An interrupt that waited comes when IF is set",
        SDM_IF,
        "The same, then turn interrupts on",
        "One timer interrupt within 1 s",
    ),
    row(
        "pvops/irq-halt-wakes-up",
        "sti; hlt leaves no gap in which an interrupt is missed",
        "Intel SDM volume 2, STI and HLT",
        "With interrupts off, set the timer to a time that has passed; halt",
        "It wakes up, and the interrupt was counted",
    ),
    row("pvops/cr0-says-protected-and-paging", "CR0 tells the mode", SDM_CR, "Read it", "PE, WP and PG set"),
    row("pvops/cr0-write-reads-back", "CR0 keeps what is written", SDM_CR, "Flip TS, read, flip it back", "As written"),
    row("pvops/cr4-says-pae", "CR4 tells the mode", SDM_CR, "Read it", "PAE set"),
    row("pvops/cr4-write-reads-back", "CR4 keeps what is written", SDM_CR, "Flip DE, read, flip it back", "As written"),
    row(
        "pvops/cr2-tells-the-fault",
        "CR2 holds the address of the last page fault",
        "Intel SDM volume 3, Interrupt 14, Page-Fault Exception",
        "Write to the read-only table, expect the fault, read CR2",
        "The address",
    ),
    row("pvops/efer-says-long-mode", "EFER tells the mode", SDM_MSR, "Read it", "LME, LMA and NXE set"),
    row(
        "pvops/msr-write-reads-back",
        "An MSR keeps what is written",
        SDM_MSR,
        "Write KERNEL_GS_BASE, read, put it back",
        "As written",
    ),
    row(
        "pvops/segment-bases-reach-their-msrs",
        "Segment bases are MSRs",
        SDM_MSR,
        "Set the FS base, read MSR 0xc0000100, put it back",
        "As set",
    ),
    row(
        "pvops/cr3-names-the-live-table",
        "CR3 holds the address of the top-level table",
        SDM_CR,
        "Walk from there to the stack",
        "The walk ends at the frame that the kernel knows",
    ),
    row(
        "pvops/cr3-write-keeps-the-world",
        "Writing CR3 flushes and changes nothing else",
        SDM_PAGING,
        "Write what was read; read memory before and behind",
        "The same",
    ),
    row(
        "pvops/flushes-change-nothing",
        "A flush changes no memory",
        SDM_PAGING,
        "flush_one and flush_all between reads of a page",
        "The same",
    ),
    row(
        "pvops/set-pte-writes-the-entry",
        "set_pte is visible at the latest behind a batch",
        "Ringside docs/patching.md, The source",
        "Write entries of an unused frame, alone and in a batch",
        "decode(entry) is what was encoded",
    ),
    row(
        "pvops/encode-and-decode-are-inverse",
        "decode undoes encode",
        "Ringside docs/patching.md, The source",
        "Entries of several frames with several flags",
        "As before",
    ),
    row(
        "pvops/cpu-number-is-stable",
        "The number of a CPU does not change",
        "Intel SDM volume 3, Local APIC ID",
        "Ask a hundred times",
        "The same; below 4096",
    ),
    row(
        "pvops/timer-fires-once",
        "A deadline gives one interrupt",
        SDM_TIMER,
        "Deadline in 1 ms; wait 20 ms",
        "One timer interrupt",
    ),
    row(
        "pvops/timer-never-does-not-fire",
        "No deadline gives none",
        SDM_TIMER,
        "Set a deadline in 50 ms, then none; wait 100 ms",
        "No timer interrupt",
    ),
    row(
        "pvops/timer-replaces-its-deadline",
        "A new deadline replaces the old one",
        SDM_TIMER,
        "Deadline in 50 ms, then one in 300 ms; wait 100 ms, then 400 ms",
        "None, then one",
    ),
];

/// Group `mm`: the kernel's page tables protect it.
pub const MM: &[Check] = &[
    row(
        "mm/nothing-is-writable-and-executable",
        "No page of the image is both",
        NEVER_BOTH,
        "Walk all of them in both mappings",
        "None is",
    ),
    row(
        "mm/text-refuses-writes",
        "Text cannot be written",
        NEVER_BOTH,
        "Write to it through both mappings",
        "Two page faults",
    ),
    row(
        "mm/patched-table-refuses-writes",
        "The table cannot be written after patching",
        NEVER_BOTH,
        "Write to it",
        "A page fault",
    ),
    row(
        "mm/stack-guard-is-not-mapped",
        "A stack that overflows faults",
        "Ringside guest-kernel/src/boot",
        "Look its guard page up",
        "Not mapped",
    ),
];

/// Group `time`: the kernel's clock.
pub const TIME: &[Check] = &[row(
    "time/never-goes-back",
    "The kernel's clock never goes back",
    "Ringside guest-kernel/pvops/src/time.rs",
    "Read it 200 times",
    "Each reading is at least the one before",
)];
