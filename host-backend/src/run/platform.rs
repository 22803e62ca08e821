//! What of a machine belongs to one VM of KVM: it is made anew when the guest resets its machine, which is the one sure way
//! to have all of KVM's state as it was at first. Memory, devices and what they are connected to stay.

use super::Error;
use crate::vmm::kvm::{self, IrqLine};
use crate::vmm::{GuestRam, cpuid, vcpu};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use shared_abi::board;
use std::sync::Arc;

/// A VM, and what it takes to make another one.
pub(super) struct Platform {
    kvm: Kvm,
    /// The VM; none in between two.
    vm: Option<Arc<VmFd>>,
    /// vCPUs that do not run yet.
    pub(super) vcpus: Vec<VcpuFd>,
    /// Interrupt lines of all that can interrupt, on whichever VM there is.
    pub(super) lines: Vec<Arc<IrqLine>>,
    /// Kept while vCPUs use it.
    pub(super) memory: GuestRam,
    cpus: u32,
    slots: u32,
}

impl Platform {
    /// A VM with so many vCPUs and slots with devices. The kernel is in memory already.
    pub(super) fn new(kvm: Kvm, memory: GuestRam, cpus: u32, slots: u32, entry: u32) -> Result<Self, Error> {
        let gsis = (0..slots).map(|slot| board::VIRTIO_MMIO_GSI + slot).chain([board::COM1_GSI]);
        let lines = gsis.map(|gsi| IrqLine::new(gsi).map(Arc::new)).collect::<Result<_, _>>()?;
        let mut platform = Self { kvm, vm: None, vcpus: Vec::new(), lines, memory, cpus, slots };
        platform.make(entry)?;
        Ok(platform)
    }

    /// The VM.
    pub(super) fn vm(&self) -> Option<&Arc<VmFd>> {
        self.vm.as_ref()
    }

    /// Lets go of the VM. Its vCPUs must have ended.
    pub(super) fn drop_vm(&mut self) {
        self.vcpus.clear();
        self.vm = None;
    }

    /// Makes a VM.
    pub(super) fn make(&mut self, entry: u32) -> Result<(), Error> {
        let vm = kvm::create_vm(&self.kvm, &self.memory)?;
        self.lines.iter().try_for_each(|line| line.connect(&vm))?;
        self.vcpus = create_vcpus(&self.kvm, &vm, self.cpus, self.slots, entry)?;
        self.vm = Some(Arc::new(vm));
        Ok(())
    }
}

fn create_vcpus(
    kvm: &kvm_ioctls::Kvm,
    vm: &VmFd,
    cpus: u32,
    slots: u32,
    entry: u32,
) -> Result<Vec<VcpuFd>, kvm::Error> {
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm::Error::call("KVM_GET_SUPPORTED_CPUID"))?;
    let mut vcpus = Vec::new();
    for index in 0..cpus {
        let vcpu = vm.create_vcpu(index.into()).map_err(kvm::Error::call("KVM_CREATE_VCPU"))?;
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        let board = cpuid::Board { tsc_khz, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer), slots, cpus };
        let leaves = cpuid::leaves(&supported, board, index).map_err(|_| kvm::Error::TooManyLeaves)?;
        vcpu.set_cpuid2(&leaves).map_err(kvm::Error::call("KVM_SET_CPUID2"))?;
        // The others wait for INIT and SIPI, as KVM leaves them.
        if index == 0 {
            vcpu::set_pvh_state(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
