//! KVM's paravirtual interface: CPUID leaves, MSRs and the clock page.
//!
//! Source: Linux `Documentation/virt/kvm/x86/cpuid.rst`, `msr.rst` and `arch/x86/include/asm/pvclock-abi.h`.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// CPUID leaf 1, ECX: some hypervisor is there and the leaves from [`CPUID_FIRST`] on mean something.
pub const CPUID_1_ECX_HYPERVISOR: u32 = 1 << 31;
/// First hypervisor leaf. Hypervisors that offer several interfaces repeat at steps of [`CPUID_STEP`].
pub const CPUID_FIRST: u32 = 0x4000_0000;
/// Distance between two interfaces.
pub const CPUID_STEP: u32 = 0x100;
/// EBX, ECX, EDX of KVM's base leaf.
pub const CPUID_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
/// EBX, ECX, EDX of the base leaf under QEMU's software CPU.
pub const CPUID_SIGNATURE_TCG: [u8; 12] = *b"TCGTCGTCGTCG";
/// Offset from the base leaf: EAX holds [`Features`].
pub const CPUID_FEATURES: u32 = 1;
/// Offset from the base leaf: EAX = TSC frequency, EBX = local APIC timer frequency, both in kHz, 0 if not known.
pub const CPUID_TIMING: u32 = 0x10;

bitflags::bitflags! {
    /// EAX of the feature leaf.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// The old clock MSRs.
        const CLOCKSOURCE = 1 << 0;
        /// [`MSR_WALL_CLOCK`] and [`MSR_SYSTEM_TIME`].
        const CLOCKSOURCE2 = 1 << 3;
        /// Asynchronous page faults.
        const ASYNC_PF = 1 << 4;
        /// Steal time.
        const STEAL_TIME = 1 << 5;
        /// Paravirtual end of interrupt.
        const PV_EOI = 1 << 6;
        /// Hypercall that kicks a halted vCPU.
        const PV_UNHALT = 1 << 7;
        /// Deferred remote TLB flush.
        const PV_TLB_FLUSH = 1 << 9;
        /// Hypercall that sends IPIs.
        const PV_SEND_IPI = 1 << 11;
        /// Hypercall that yields to another vCPU.
        const PV_SCHED_YIELD = 1 << 13;
        /// The clock is stable: [`CLOCK_TSC_STABLE`] means something.
        const CLOCKSOURCE_STABLE = 1 << 24;
    }
}

/// `MSR_KVM_WALL_CLOCK_NEW`: guest physical address of a [`WallClock`].
pub const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// `MSR_KVM_SYSTEM_TIME_NEW`: guest physical address of a [`ClockPage`], bit 0 enables.
pub const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// `MSR_KVM_WALL_CLOCK`, with [`Features::CLOCKSOURCE`]: as [`MSR_WALL_CLOCK`].
pub const MSR_WALL_CLOCK_OLD: u32 = 0x11;
/// `MSR_KVM_SYSTEM_TIME`, with [`Features::CLOCKSOURCE`]: as [`MSR_SYSTEM_TIME`].
pub const MSR_SYSTEM_TIME_OLD: u32 = 0x12;
/// `MSR_KVM_STEAL_TIME`: guest physical address of a [`StealTime`], a multiple of 64, bit 0 enables.
pub const MSR_STEAL_TIME: u32 = 0x4b56_4d03;
/// Bit 0 of [`MSR_STEAL_TIME`].
pub const STEAL_TIME_ENABLE: u64 = 1;
/// `MSR_KVM_PV_EOI_EN`: guest physical address of a word of 4 bytes, a multiple of 4, bit 0 enables. The host sets bit 0 of
/// the word when it injects an interrupt that the guest may end by clearing that bit instead of writing the EOI register.
pub const MSR_PV_EOI: u32 = 0x4b56_4d04;
/// Bit 0 of [`MSR_PV_EOI`].
pub const PV_EOI_ENABLE: u64 = 1;
/// Bit 0 of [`MSR_SYSTEM_TIME`].
pub const SYSTEM_TIME_ENABLE: u64 = 1;

/// Flag in [`ClockPage::flags`]: readings are monotonic across vCPUs.
pub const CLOCK_TSC_STABLE: u8 = 1;
/// Flag in [`ClockPage::flags`]: the host stopped the VM for a while. The guest clears it.
pub const CLOCK_GUEST_STOPPED: u8 = 2;

/// `pvclock_vcpu_time_info`. The host alone writes it: `version` is odd while it does, so a reader takes version,
/// fields, version (acquire on both) and starts over when they differ or are odd. Xen's `vcpu_info.time` is the same.
///
/// nanoseconds = system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClockPage {
    /// Odd while the host writes.
    pub version: u32,
    /// Zero.
    pub pad0: u32,
    /// TSC at `system_time`.
    pub tsc_timestamp: u64,
    /// Nanoseconds since the VM started.
    pub system_time: u64,
    /// Multiplier with 32 fractional bits.
    pub tsc_to_system_mul: u32,
    /// Shift applied before the multiplication; negative shifts right.
    pub tsc_shift: i8,
    /// [`CLOCK_TSC_STABLE`], [`CLOCK_GUEST_STOPPED`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}
impl ClockPage {
    /// What no host has written to.
    pub const EMPTY: Self = Self {
        version: 0,
        pad0: 0,
        tsc_timestamp: 0,
        system_time: 0,
        tsc_to_system_mul: 0,
        tsc_shift: 0,
        flags: 0,
        pad: [0; 2],
    };
}
assert_layout!(ClockPage, size 32, tsc_timestamp at 8, system_time at 16, tsc_to_system_mul at 24, tsc_shift at 28, flags at 29);

/// `pvclock_wall_clock`: the time of day at which `system_time` was zero.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WallClock {
    /// Odd while the host writes.
    pub version: u32,
    /// Seconds since 1970.
    pub sec: u32,
    /// Nanoseconds.
    pub nsec: u32,
}
assert_layout!(WallClock, size 12, sec at 4, nsec at 8);

/// `kvm_steal_time`: how long this vCPU was ready while the host ran something else. The host alone writes it; a reader
/// takes version, fields, version as with [`ClockPage`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StealTime {
    /// Nanoseconds.
    pub steal: u64,
    /// Odd while the host writes.
    pub version: u32,
    /// Zero.
    pub flags: u32,
    /// Not 0 while the vCPU does not run.
    pub preempted: u8,
    /// Unused.
    pub pad: [u8; 47],
}
assert_layout!(StealTime, size 64, version at 8, flags at 12, preempted at 16);
