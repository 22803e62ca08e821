//! Detects what the kernel runs on, once, at boot. The result chooses the backend and is printed; nothing else uses it.

use core::arch::x86_64::__cpuid;
use shared_abi::{board, kvm};

use crate::table::Backend;

/// A world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Ring 0, nothing paravirtual.
    Native,
    /// Ring 0 under KVM, or under a hypervisor with KVM's interface.
    #[cfg(feature = "kvm")]
    Kvm,
    /// Ring 3 under Xen's paravirtual interface.
    #[cfg(feature = "xen")]
    Xen,
}

impl World {
    /// That of a machine with KVM's interface.
    #[cfg(feature = "kvm")]
    const KVM: Self = Self::Kvm;
    #[cfg(not(feature = "kvm"))]
    const KVM: Self = Self::Native;

    /// Its backend.
    pub fn backend(self) -> &'static Backend {
        match self {
            Self::Native => &crate::worlds::native::BACKEND,
            #[cfg(feature = "kvm")]
            Self::Kvm => &crate::worlds::kvm::BACKEND,
            #[cfg(feature = "xen")]
            Self::Xen => &crate::worlds::xen::BACKEND,
        }
    }
}

/// The console for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// The first serial port.
    Serial,
    /// The hypervisor's.
    Hypervisor {
        /// The line of its input.
        line: u32,
    },
}

/// What was detected.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Surroundings {
    /// The world.
    pub world: World,
    /// Signature of the first hypervisor leaf; zeroes without a hypervisor.
    pub signature: [u8; 12],
    /// KVM's features; empty elsewhere.
    pub kvm: kvm::Features,
    /// TSC frequency in kHz if the hypervisor reports it.
    pub tsc_khz: Option<u32>,
    /// Local APIC timer frequency in kHz if the hypervisor reports it.
    pub apic_khz: Option<u32>,
    /// Number of virtio-mmio slots, on our own board.
    pub board_slots: Option<u32>,
    /// The console.
    pub console: Console,
    /// The machine has a PC's legacy chips, and they are the kernel's.
    pub has_legacy_chips: bool,
    /// A PC's BIOS left its tables below 1 MiB, and no loader says where.
    pub has_bios: bool,
}

impl Surroundings {
    /// The signature as text.
    pub fn hypervisor(&self) -> &str {
        let end = self.signature.iter().position(|&byte| byte == 0).unwrap_or(self.signature.len());
        match core::str::from_utf8(&self.signature[..end]) {
            Ok("") | Err(_) => "none",
            Ok(name) => name,
        }
    }
}

/// What a kernel knows that Xen entered: CPUID describes the hardware to a paravirtual guest.
#[cfg(feature = "xen")]
pub fn on_xen() -> Surroundings {
    Surroundings {
        world: World::Xen,
        signature: *b"XenVMMXenVMM",
        kvm: kvm::Features::empty(),
        tsc_khz: None,
        apic_khz: None,
        board_slots: None,
        console: Console::Hypervisor { line: crate::worlds::xen::event::CONSOLE_LINE },
        has_legacy_chips: false,
        has_bios: true,
    }
}

/// Detects, by CPUID.
pub fn detect() -> Surroundings {
    let mut found = Surroundings {
        world: World::Native,
        signature: [0; 12],
        kvm: kvm::Features::empty(),
        tsc_khz: None,
        apic_khz: None,
        board_slots: None,
        console: Console::Serial,
        has_legacy_chips: true,
        has_bios: false,
    };
    if __cpuid(1).ecx & kvm::CPUID_1_ECX_HYPERVISOR == 0 {
        return found;
    }
    for interface in 0..4 {
        let base = kvm::CPUID_FIRST + interface * kvm::CPUID_STEP;
        let (max, signature) = leaf(base);
        if interface == 0 {
            found.signature = signature;
        }
        match signature {
            // An old KVM says 0 for the highest leaf and means the feature leaf.
            kvm::CPUID_SIGNATURE if max == 0 || max > base => {
                found.kvm = kvm::Features::from_bits_truncate(__cpuid(base + kvm::CPUID_FEATURES).eax);
                if found.kvm.contains(kvm::Features::CLOCKSOURCE2) {
                    found.world = World::KVM;
                }
                if max >= base + kvm::CPUID_TIMING && max - base < kvm::CPUID_STEP {
                    let timing = __cpuid(base + kvm::CPUID_TIMING);
                    found.tsc_khz = Some(timing.eax).filter(|&khz| khz > 0);
                    found.apic_khz = Some(timing.ebx).filter(|&khz| khz > 0);
                }
            }
            board::CPUID_SIGNATURE if max > base => {
                let slots = __cpuid(base + board::CPUID_BOARD).ebx;
                found.board_slots = Some(slots.min(board::VIRTIO_MMIO_SLOTS));
                found.has_legacy_chips = false;
            }
            _ => {}
        }
    }
    found
}

/// Highest leaf and signature of an interface.
fn leaf(base: u32) -> (u32, [u8; 12]) {
    let answer = __cpuid(base);
    let mut signature = [0; 12];
    for (chunk, word) in signature.chunks_exact_mut(4).zip([answer.ebx, answer.ecx, answer.edx]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    (answer.eax, signature)
}
