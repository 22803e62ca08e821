//! A second CPU: started, interrupted, and of one time with the first.

use super::{Check, row};

const STARTUP: &str = "Intel SDM volume 3, MP Initialization Protocol Algorithm for MP Systems";
const IPI: &str = "Intel SDM volume 3, Issuing Interprocessor Interrupts";
const TSC: &str = "Intel SDM volume 3, Invariant TSC";
const CLOCK: &str = "Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW";

/// Group `smp`.
pub const CHECKS: &[Check] = &[
    row(
        "smp/second-cpu-starts",
        "INIT and a startup command start a CPU in real mode at the command's page",
        STARTUP,
        "Start the CPUs that ACPI or CPUID tells of; each goes on to 64-bit mode and reports",
        "One at least, within 2 s each",
    ),
    row(
        "smp/numbers-are-the-cpus-own",
        "Each CPU has a local APIC id of its own",
        "Intel SDM volume 3, Local APIC ID",
        "Ask on both CPUs",
        "On the second the id by which it was started, on the first another",
    ),
    row(
        "smp/registers-are-the-cpus-own",
        "Each CPU has its own MSRs",
        STARTUP,
        "Both write KERNEL_GS_BASE, the second behind the first; both read",
        "Each its own",
    ),
    row(
        "smp/locked-additions-add-up",
        "Locked instructions are atomic across CPUs",
        "Intel SDM volume 3, Locked Atomic Operations",
        "Both CPUs add 1 to one word 20000 times each",
        "40000",
    ),
    row(
        "smp/ipi-arrives",
        "A fixed interrupt command interrupts the CPU that it names",
        IPI,
        "1000 commands to the second CPU, one at a time, with interrupts off on the first",
        "An interrupt for each within 1 s",
    ),
    row(
        "smp/ipi-comes-back",
        "The second CPU can interrupt the first",
        IPI,
        "1000 commands by the second CPU, one at a time",
        "An interrupt for each within 1 s",
    ),
    row(
        "smp/ipi-ends-halt",
        "An interrupt command ends hlt",
        IPI,
        "50 times: let the second CPU halt for 1 ms, then wake it",
        "It is awake within 1 s",
    ),
    row(
        "smp/tsc-never-goes-back-across-cpus",
        "Where CPUID tells of an invariant TSC, the TSCs of all CPUs tell one time",
        TSC,
        "The CPUs pass a word to and fro; who has it reads its TSC behind a fence: for 2 s, 20000 times at most",
        "Each reading is at least the other CPU's before",
    ),
    row(
        "smp/clock-never-goes-back-across-cpus",
        "The kernel's clock tells all CPUs one time",
        CLOCK,
        "The same with the clock",
        "Each reading is at least the other CPU's before",
    ),
    row(
        "smp/kvm-clocks-of-both-cpus-agree",
        "Where bit 0 of flags is set, readings of the clock pages are monotonic across CPUs",
        CLOCK,
        "The same, each CPU by a page of its own",
        "Each reading is at least the other CPU's before",
    ),
];
