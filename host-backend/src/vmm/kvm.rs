//! Opening KVM and making a VM, in the order that starts fastest.
//!
//! The memory slots come first: adding one after an in-kernel interrupt chip waits 4-10 ms for readers of KVM's bus to
//! drain. There is no PIT. The interrupt chip is KVM's whole one: with the I/O APIC here instead (split), the first byte
//! came no earlier (1.8 ms either way), and the 12 ms that a split chip saves when the VM closes are spent anyway once
//! there is one ioeventfd. bench/bare.c measures both.

use super::memory::GuestRam;
use crate::devices::InterruptLine;
use crate::event::{EventFd, event};
use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno;

/// Three pages between the local APICs and the top of the first 4 GiB, for KVM alone.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Why there is no VM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such device.
    #[error("no KVM at {}: the device does not exist; load the kvm module or run on a machine with virtualization", .0.display())]
    Missing(PathBuf),
    /// The device is not for this user.
    #[error("no KVM at {}: permission denied; join the group that owns it", .0.display())]
    Denied(PathBuf),
    /// The device cannot be opened or is not KVM.
    #[error("no KVM at {}: {why}", path.display())]
    Unusable {
        /// The device.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// KVM supports more CPUID leaves than it takes.
    #[error("set up the VM: too many CPUID leaves")]
    TooManyLeaves,
    /// A device is to interrupt on a GSI that has no line.
    #[error("set up the VM: there is no interrupt line {0}")]
    NoLine(u32),
    /// A call that makes the VM failed.
    #[error("set up the VM: {call}: {source}")]
    Call {
        /// Which call.
        call: &'static str,
        /// What KVM said.
        source: errno::Error,
    },
}

impl Error {
    /// Names the call in an error of KVM.
    pub fn call(call: &'static str) -> impl FnOnce(errno::Error) -> Self {
        move |source| Self::Call { call, source }
    }

    /// Whether there is no usable KVM at all.
    pub fn is_absence(&self) -> bool {
        !matches!(self, Self::Call { .. } | Self::TooManyLeaves | Self::NoLine(_))
    }
}

/// Opens KVM at `path`, usually `/dev/kvm`.
///
/// # Errors
/// [`Error::Missing`], [`Error::Denied`], [`Error::Unusable`].
pub fn open(path: &Path) -> Result<Kvm, Error> {
    let unusable = |why: String| Error::Unusable { path: path.into(), why };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| unusable("the name has a NUL in it".into()))?;
    let kvm = Kvm::new_with_path(&name).map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::Missing(path.into()),
        libc::EACCES | libc::EPERM => Error::Denied(path.into()),
        _ => unusable(error.to_string()),
    })?;
    match kvm.get_api_version() {
        version if version == KVM_API_VERSION as i32 => Ok(kvm),
        ..0 => Err(unusable("it is not a KVM device".into())),
        version => Err(unusable(format!("its interface has version {version}, not {KVM_API_VERSION}"))),
    }
}

/// Makes a VM with its memory and its interrupt chip.
///
/// # Errors
/// [`Error::Call`].
pub fn create_vm(kvm: &Kvm, memory: &GuestRam) -> Result<VmFd, Error> {
    let vm = kvm.create_vm().map_err(Error::call("KVM_CREATE_VM"))?;
    for (slot, region) in memory.iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is a live mapping of this size; the caller keeps `memory` as long as the VM runs.
        unsafe { vm.set_user_memory_region(slot) }.map_err(Error::call("KVM_SET_USER_MEMORY_REGION"))?;
    }
    // Processors that cannot run unpaged code in a guest need three pages for it; others ignore this.
    vm.set_tss_address(TSS_ADDRESS).map_err(Error::call("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(Error::call("KVM_CREATE_IRQCHIP"))?;
    Ok(vm)
}

/// An interrupt line that KVM raises when its event is written, without a call into the VM.
#[derive(Debug)]
pub struct IrqLine {
    event: EventFd,
    gsi: u32,
}

impl IrqLine {
    /// A line on a GSI, of no VM yet.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn new(gsi: u32) -> Result<Self, Error> {
        let event = event().map_err(|error| Error::Call { call: "eventfd", source: error.into() })?;
        Ok(Self { event, gsi })
    }

    /// Its GSI.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// From now on it is a line of this VM. An earlier one must be gone.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn connect(&self, vm: &VmFd) -> Result<(), Error> {
        // What was raised while there was no VM is not for this one.
        let _ = self.event.read();
        vm.register_irqfd(&self.event, self.gsi).map_err(Error::call("KVM_IRQFD"))
    }
}

impl InterruptLine for IrqLine {
    fn raise(&self) {
        // KVM drains the counter; it cannot fill up.
        let _ = self.event.write(1);
    }
}

/// Lets a 32-bit write of `value` at `address` signal `event` instead of ending KVM_RUN.
///
/// # Errors
/// [`Error::Call`].
pub fn signal_on_write(vm: &VmFd, event: &EventFd, address: u64, value: u32) -> Result<(), Error> {
    vm.register_ioevent(event, &IoEventAddress::Mmio(address), value).map_err(Error::call("KVM_IOEVENTFD"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_and_a_wrong_one_are_distinguished() {
        assert!(matches!(open(Path::new("/nonexistent/kvm")), Err(Error::Missing(_))));
        let error = open(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, Error::Unusable { .. }) && error.is_absence(), "{error}");
    }
}
