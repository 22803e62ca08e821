//! CPUID as the guest sees it: what KVM supports, with the leaves of the hypervisor rewritten.
//!
//! Of KVM's paravirtual features only those are offered that need no hypercall: on a nested KVM without hardware
//! support `vmcall` from ring 0 never returns.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use shared_abi::{board, kvm};

/// What the guest may use of what KVM offers.
const SAFE: kvm::Features = kvm::Features::CLOCKSOURCE
    .union(kvm::Features::CLOCKSOURCE2)
    .union(kvm::Features::CLOCKSOURCE_STABLE)
    .union(kvm::Features::STEAL_TIME)
    .union(kvm::Features::PV_EOI);

/// CPUID leaf 1, ECX.
const TSC_DEADLINE: u32 = 1 << 24;

/// CPUID leaf 1, EDX: the count of logical processors in EBX means something.
const MULTITHREADING: u32 = 1 << 28;
/// Leaves about threads, cores and packages.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];

/// Rate of the local APIC's timer in KVM.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// What CPUID says beyond the processor's own features.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// Frequency of the TSC, 0 if KVM does not report it.
    pub tsc_khz: u32,
    /// Whether the local APIC's timer has the TSC deadline mode. KVM reports that apart from the leaves.
    pub tsc_deadline: bool,
    /// virtio-mmio slots in use.
    pub slots: u32,
    /// vCPUs.
    pub cpus: u32,
}

/// The leaves for the vCPU with local APIC id `apic_id`, from those that KVM supports.
pub fn leaves(supported: &CpuId, board: Board, apic_id: u32) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let offered = supported.as_slice().iter().find(|entry| entry.function == kvm::CPUID_FIRST + kvm::CPUID_FEATURES);
    let features = kvm::Features::from_bits_retain(offered.map_or(0, |entry| entry.eax)) & SAFE;
    let is_hypervisor = |entry: &&kvm_cpuid_entry2| entry.function & 0xf000_0000 == kvm::CPUID_FIRST;
    let is_topology = |entry: &&kvm_cpuid_entry2| TOPOLOGY.contains(&entry.function);
    let kept = supported.as_slice().iter().filter(|entry| !is_hypervisor(entry) && !is_topology(entry));
    let mut entries: Vec<_> = kept.copied().collect();
    // KVM reports at most the first level of each, so they are built here.
    for function in TOPOLOGY.into_iter().filter(|&function| supported.as_slice().iter().any(|e| e.function == function))
    {
        entries.extend((0..3).map(|index| topology(function, index, board.cpus, apic_id)));
    }
    for entry in &mut entries {
        if entry.function == 1 {
            entry.ecx |= kvm::CPUID_1_ECX_HYPERVISOR;
            if board.tsc_deadline {
                entry.ecx |= TSC_DEADLINE;
            }
            if board.cpus > 1 {
                entry.edx |= MULTITHREADING;
            }
            entry.ebx = entry.ebx & 0x0000_ffff | board.cpus.min(255) << 16 | apic_id << 24;
        }
    }
    entries.push(signature(kvm::CPUID_FIRST, kvm::CPUID_FIRST + kvm::CPUID_TIMING, kvm::CPUID_SIGNATURE));
    entries.push(leaf(kvm::CPUID_FIRST + kvm::CPUID_FEATURES, [features.bits(), 0, 0, 0]));
    entries.push(leaf(kvm::CPUID_FIRST + kvm::CPUID_TIMING, [board.tsc_khz, APIC_BUS_KHZ, 0, 0]));
    entries.push(signature(board::CPUID_BASE, board::CPUID_BASE + board::CPUID_BOARD, board::CPUID_SIGNATURE));
    entries.push(leaf(board::CPUID_BASE + board::CPUID_BOARD, [board::REVISION, board.slots, 0, 0]));
    CpuId::from_entries(&entries)
}

/// A level of leaf 0xb or 0x1f: one thread per core, all cores in one package, nothing above.
fn topology(function: u32, index: u32, cpus: u32, apic_id: u32) -> kvm_cpuid_entry2 {
    const THREAD: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let id_bits = cpus.next_power_of_two().trailing_zeros();
    let (eax, ebx, ecx) = match index {
        0 => (0, 1, THREAD),
        1 => (id_bits, cpus, CORE | 1),
        index => (0, 0, index),
    };
    kvm_cpuid_entry2 { index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..leaf(function, [eax, ebx, ecx, apic_id]) }
}

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

fn signature(function: u32, highest: u32, text: [u8; 12]) -> kvm_cpuid_entry2 {
    let word = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
    leaf(function, [highest, word(0), word(4), word(8)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(cpuid: &CpuId, function: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|entry| entry.function == function).unwrap()
    }

    fn made(apic_id: u32) -> CpuId {
        let supported = [
            leaf(0, [0x1f, 0, 0, 0]),
            leaf(1, [0, 0x0042_0800, 0, 0]),
            leaf(0xb, [0; 4]),
            leaf(0x4000_0000, [0x4000_0001, 1, 2, 3]),
            leaf(0x4000_0001, [u32::MAX, 0, 0, 0]),
        ];
        let supported = CpuId::from_entries(&supported).unwrap();
        leaves(&supported, Board { tsc_khz: 2_000_000, tsc_deadline: true, slots: 3, cpus: 4 }, apic_id).unwrap()
    }

    #[test]
    fn the_board_is_recognizable() {
        let cpuid = made(0);
        assert_eq!(find(&cpuid, 1).ecx, 1 << 31 | TSC_DEADLINE);
        let base = find(&cpuid, board::CPUID_BASE);
        assert_eq!([base.ebx, base.ecx, base.edx].map(u32::to_le_bytes).concat(), b"RingsideHost");
        let info = find(&cpuid, base.eax);
        assert_eq!((info.eax, info.ebx), (board::REVISION, 3));
        assert_eq!(find(&cpuid, 0x4000_0010).eax, 2_000_000);
        assert_eq!(cpuid.as_slice().iter().filter(|entry| entry.function == 0x4000_0000).count(), 1);
    }

    #[test]
    fn no_feature_needs_a_hypercall() {
        let features = kvm::Features::from_bits_retain(find(&made(0), 0x4000_0001).eax);
        assert_eq!(features, SAFE);
        assert!(!features.intersects(kvm::Features::PV_SEND_IPI | kvm::Features::PV_UNHALT));
    }

    #[test]
    fn every_cpu_has_its_own_apic_id() {
        let cpuid = made(3);
        assert_eq!(find(&cpuid, 1).ebx, 3 << 24 | 4 << 16 | 0x0800);
        assert_ne!(find(&cpuid, 1).edx & MULTITHREADING, 0);
        let levels: Vec<_> = cpuid.as_slice().iter().filter(|entry| entry.function == 0xb).collect();
        assert_eq!(levels.len(), 3);
        assert!(levels.iter().all(|level| level.edx == 3 && level.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0));
        assert_eq!((levels[1].eax, levels[1].ebx, levels[2].ecx), (2, 4, 2));
        assert!(cpuid.as_slice().iter().all(|entry| entry.function != 0x1f), "KVM does not have it");
    }
}
