//! Whether the hypervisor is KVM, what it offers, and pages for it.

use super::raw::Buf;
use super::{Context, End, Verdict, error, skip};
use shared_abi::kvm::{CPUID_SIGNATURE, Features};

pub fn here(cx: &Context) -> Verdict {
    if cx.found.signature == CPUID_SIGNATURE { Ok(()) } else { Err(skip("the hypervisor is not KVM")) }
}

pub fn buffer() -> Result<Buf, End> {
    Buf::allocate(4096).map(|(buf, _)| buf).ok_or_else(|| error("no memory for a page"))
}

/// Fails unless the hypervisor is KVM and offers a feature.
pub fn offered(cx: &Context, feature: Features) -> Verdict {
    here(cx)?;
    if cx.found.kvm.contains(feature) { Ok(()) } else { Err(skip(format_args!("KVM does not offer {feature:?}"))) }
}
