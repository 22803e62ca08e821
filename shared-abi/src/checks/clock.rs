//! Clocks and interrupts.

use super::{Check, row};

const KVM_CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW";
const WALL_CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_WALL_CLOCK_NEW";
const EOI: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_EOI_EN";
const STEAL: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME";
const CPUID: &str = "Linux Documentation/virt/kvm/x86/cpuid.rst";
const TSC: &str = "Intel SDM volume 3, Time-Stamp Counter";
const TIMER: &str = "Intel SDM volume 3, APIC Timer";
const IO_APIC: &str = "82093AA I/O APIC data sheet, I/O Redirection Table Registers";
const IF: &str = "Intel SDM volume 3, Masking Maskable Hardware Interrupts";
const USED: &str = "2.7.7.2 Device Requirements: Used Buffer Notification Suppression";

/// Group `clock`.
pub const CLOCK: &[Check] = &[
    row(
        "clock/tsc-is-monotonic",
        "The TSC does not go back on a CPU",
        TSC,
        "1000000 readings; fewer on a machine that needs more than 6 s for them, but 10000",
        "Each is at least the one before",
    ),
    row(
        "clock/clock-is-monotonic",
        "The clock does not go back",
        KVM_CLOCK,
        "1000000 readings; fewer on a machine that needs more than 6 s for them, but 10000",
        "Each is at least the one before",
    ),
    row(
        "clock/clock-advances",
        "The clock does not stand still",
        KVM_CLOCK,
        "Read it until it changes, for a million TSC ticks at most",
        "It changes",
    ),
    row(
        "clock/tsc-and-clock-agree",
        "TSC and clock run at the rates that the hypervisor told",
        KVM_CLOCK,
        "Compare both over 100 ms",
        "Within 1 percent",
    ),
    row(
        "clock/rates-are-stable",
        "Rates do not change while nothing else does",
        TSC,
        "Compare ticks per nanosecond over 50 ms, twice",
        "Within 1 percent",
    ),
    row(
        "clock/timer-and-clock-agree",
        "The timer runs at the rate that the hypervisor told",
        TIMER,
        "Count down by the APIC timer over 100 ms of the clock, twice at most",
        "Both halves within 1 percent of the whole",
    ),
    row(
        "clock/timer-does-not-fire-early",
        "A deadline is not before its time",
        TIMER,
        "Deadlines in 1, 5 and 20 ms",
        "Interrupts at these times or later, within 50 us and 1 percent (10 where nobody told the rate)",
    ),
    row(
        "clock/timer-in-the-past-fires-at-once",
        "A deadline that has passed interrupts at once",
        TIMER,
        "A deadline a millisecond ago",
        "An interrupt within 100 ms",
    ),
    row(
        "clock/clock-goes-on-while-halted",
        "The clock counts while the CPU halts",
        KVM_CLOCK,
        "Halt for 50 ms, compare TSC and clock",
        "Within 1 percent of each other",
    ),
];

/// Group `irq`.
pub const IRQ: &[Check] = &[
    row(
        "irq/device-interrupts",
        "A device that used a buffer interrupts",
        USED,
        "One buffer for the entropy device",
        "One interrupt within 1 s",
    ),
    row(
        "irq/none-is-lost",
        "No interrupt is lost",
        USED,
        "100000 buffers, one at a time, each waiting for its interrupt; fewer on a machine that needs more than 15 s, but 500",
        "An interrupt for each",
    ),
    row(
        "irq/none-of-the-cpus-own-is-lost",
        "No interrupt is lost, and none comes twice",
        "Intel SDM volume 3, Issuing Interprocessor Interrupts",
        "100000 commands of the CPU to itself, one at a time; fewer on a machine that needs more than 6 s, but 2000",
        "One interrupt for each",
    ),
    row(
        "irq/not-more-than-used-buffers",
        "There is at most one interrupt for a used buffer",
        USED,
        "100 buffers, one at a time",
        "At most 100 interrupts",
    )
    .should(),
    row(
        "irq/flag-holds-device-interrupts",
        "With IF clear no interrupt is delivered",
        IF,
        "Turn interrupts off, have a buffer used, wait 5 ms",
        "No interrupt is counted",
    ),
    row(
        "irq/flag-delivers-what-waited",
        "An interrupt that waited comes when IF is set",
        IF,
        "The same, then turn interrupts on",
        "One interrupt within 1 s",
    ),
    row(
        "irq/mask-holds",
        "A masked line does not interrupt",
        IO_APIC,
        "Mask the line, have a buffer used, wait 5 ms",
        "No interrupt is counted",
    ),
    row(
        "irq/unmask-delivers-the-next",
        "A line that is unmasked again interrupts",
        IO_APIC,
        "Unmask, acknowledge, have a buffer used",
        "An interrupt within 1 s",
    ),
    row(
        "irq/edge-line-interrupts-once",
        "A line that is edge triggered interrupts when it is raised, and not because it stays so",
        IO_APIC,
        "Where the MADT does not say otherwise, bind the serial port's line by edges; receive a byte by loop-back, leave it unread for 10 ms; three times",
        "One interrupt for each byte",
    ),
    row(
        "irq/level-line-interrupts-until-acknowledged",
        "A line that is level triggered interrupts again after each end of interrupt while it is held",
        IO_APIC,
        "A line that the MADT says to signal by level: the serial port's, with a byte received by loop-back, or the entropy device's pin; let it fall in the handler of the fifth interrupt",
        "Five interrupts or more",
    ),
    row(
        "irq/halt-ends-with-an-interrupt",
        "An interrupt ends hlt",
        "Intel SDM volume 2, HLT",
        "100 times: start a buffer, halt until it was used, with no timer",
        "It ends each time",
    ),
    row(
        "irq/none-between-sti-and-hlt",
        "No interrupt comes between sti and the instruction behind it",
        "Intel SDM volume 2, STI",
        "10000 buffers, halting after sti until each is used; fewer on a machine that needs more than 5 s, but 500",
        "None has come with the hlt still to run, since boot",
    ),
    row(
        "irq/config-vector-stays-quiet",
        "Used buffers interrupt by their own vector",
        "4.1.5.3 Used Buffer Notifications",
        "Ten buffers; count the interrupts of the configuration's vector",
        "None",
    ),
    row(
        "irq/quiet-when-idle",
        "A device without work does not interrupt",
        USED,
        "Wait 20 ms behind an acknowledged interrupt",
        "No interrupt",
    )
    .should(),
    row(
        "irq/none-that-nobody-asked-for",
        "Only vectors that were programmed are raised",
        "Intel SDM volume 3, Spurious Interrupt",
        "Count all others since boot",
        "0",
    ),
];

/// Group `kvm`.
pub const KVM: &[Check] = &[
    row("kvm/hypervisor-bit-is-set", "CPUID says that there is a hypervisor", CPUID, "Bit 31 of ECX of leaf 1", "Set"),
    row(
        "kvm/base-leaf-covers-features",
        "The base leaf names the highest leaf",
        CPUID,
        "EAX of the base leaf",
        "0, or from the feature leaf on",
    ),
    row("kvm/clock-is-offered", "The clock MSRs are announced", CPUID, "Bit 3 of the feature leaf", "Set").should(),
    row(
        "kvm/clock-page-is-written",
        "The page is filled before the write of the MSR returns",
        KVM_CLOCK,
        "Register a page, read it",
        "A multiplier other than 0, an even version other than 0",
    ),
    row(
        "kvm/clock-version-is-even",
        "The version is odd only while the host writes",
        KVM_CLOCK,
        "Read it 2000 times",
        "Even",
    ),
    row(
        "kvm/clock-padding-is-zero",
        "Reserved fields are zero",
        KVM_CLOCK,
        "Register a page full of zeroes, read pad0 and pad",
        "Zero",
    ),
    row(
        "kvm/clock-flags-are-known",
        "Flags are announced by CPUID",
        KVM_CLOCK,
        "Read flags",
        "Bits 0 and 1 only; bit 0 only if CLOCKSOURCE_STABLE is offered",
    ),
    row(
        "kvm/clock-stamp-is-not-ahead",
        "tsc_timestamp is a TSC of the past",
        KVM_CLOCK,
        "Compare it with the TSC",
        "Not later",
    ),
    row(
        "kvm/clock-page-never-goes-back",
        "Time that the page tells does not go back on one vCPU",
        KVM_CLOCK,
        "Register a page of our own, compute the time from it for 300 ms, with the version even and unchanged",
        "No reading more than a microsecond below the one before",
    ),
    row(
        "kvm/clock-stays-in-its-page",
        "The host writes 32 bytes",
        KVM_CLOCK,
        "Surround the structure with 0xa5",
        "The surroundings stay",
    ),
    row(
        "kvm/clock-address-reads-back",
        "The MSR reads as it was written",
        KVM_CLOCK,
        "Write address and enable bit, read",
        "As written",
    ),
    row(
        "kvm/clock-disabled-is-not-written",
        "With bit 0 clear the host writes no more",
        KVM_CLOCK,
        "Disable, clear the page, wait 10 ms",
        "The page stays clear",
    ),
    row(
        "kvm/two-pages-tell-the-same-time",
        "Each registration continues the same clock",
        KVM_CLOCK,
        "Read the time by two pages, one after the other",
        "The second is later, by less than 1 s",
    ),
    row(
        "kvm/tsc-frequency-agrees",
        "Leaf 0x40000010 tells the TSC frequency",
        CPUID,
        "Compare EAX with the scale in the clock page",
        "Within 1 percent",
    ),
    row(
        "kvm/wall-clock-is-written",
        "The wall clock is filled when its MSR is written",
        WALL_CLOCK,
        "Register an address, read",
        "An even version, a time behind 2020, nanoseconds below 10^9",
    ),
    row(
        "kvm/wall-clock-is-stable",
        "The time of boot does not change",
        WALL_CLOCK,
        "Ask twice, 20 ms apart",
        "Within 10 ms of each other",
    ),
    row(
        "kvm/old-clock-tells-the-same-time",
        "The old MSR pair is the same clock",
        "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME",
        "Read the time by MSR 0x4b564d01, then by MSR 0x12",
        "Less than 1 s apart",
    ),
    row(
        "kvm/old-wall-clock-agrees",
        "The old MSR pair is the same clock",
        "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_WALL_CLOCK",
        "Ask by MSR 0x11 and by MSR 0x4b564d00",
        "Within 1 s of each other",
    ),
    row(
        "kvm/eoi-address-reads-back",
        "The MSR reads as it was written",
        EOI,
        "Write address and enable bit, read",
        "As written",
    ),
    row(
        "kvm/eoi-word-is-clear-between-interrupts",
        "The host sets the bit only for an interrupt in service",
        EOI,
        "200 interrupts, then look at the word 1000 times in a task",
        "Bit 0 clear",
    ),
    row(
        "kvm/eoi-by-the-word-ends-interrupts",
        "Clearing the bit ends the interrupt",
        EOI,
        "200 interrupts of one vector, one at a time; each is ended by the word where the host set the bit",
        "Each comes; skipped where none was ended by the word",
    ),
    row(
        "kvm/eoi-disabled-is-not-written",
        "A word that is registered no more is not written",
        EOI,
        "Register a word, register another, take 200 interrupts",
        "The first stays clear",
    ),
    row(
        "kvm/steal-time-address-reads-back",
        "The MSR reads as it was written",
        STEAL,
        "Write address and enable bit, read",
        "As written",
    ),
    row(
        "kvm/steal-time-version-is-even",
        "The version is odd only while the host writes",
        STEAL,
        "Read it 20 times between halts",
        "Even",
    ),
    row(
        "kvm/steal-time-does-not-go-back",
        "The count does not decrease",
        STEAL,
        "100 readings between halts",
        "Each is at least the one before",
    ),
    row(
        "kvm/steal-time-is-no-more-than-time",
        "Only time that has passed was stolen",
        STEAL,
        "Spin for 50 ms of the clock",
        "No more than these and 10 ms",
    ),
    row(
        "kvm/steal-time-stays-in-its-structure",
        "The host writes 64 bytes, flags zero",
        STEAL,
        "Surround the structure with 0xa5",
        "The surroundings stay; flags 0",
    ),
];
