//! Whether the hypervisor is KVM, what it offers, and pages for it.

use super::raw::Buf;
use super::{End, Lab, Verdict, error, skip};
use shared_abi::kvm::{CPUID_SIGNATURE, Features};

pub fn here(lab: &Lab) -> Verdict {
    if lab.found.signature == CPUID_SIGNATURE { Ok(()) } else { Err(skip("the hypervisor is not KVM")) }
}

pub fn buffer() -> Result<Buf, End> {
    Buf::allocate(4096).map(|(buf, _)| buf).ok_or_else(|| error("no memory for a page"))
}

/// Fails unless the hypervisor is KVM and offers a feature.
pub fn offered(lab: &Lab, feature: Features) -> Verdict {
    here(lab)?;
    if lab.found.kvm.contains(feature) { Ok(()) } else { Err(skip(format_args!("KVM does not offer {feature:?}"))) }
}
