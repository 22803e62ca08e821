//! The entropy device, read at boot, when nothing else runs: our driver, or the reference driver, which waits without a limit.

use crate::devices::place::{AnyTransport, Place};
use crate::devices::reference;
use crate::mm::dma::ReferenceHal;
use alloc::string::{String, ToString};
use frontends::{Entropy, Violation};
use virtio_drivers::device::rng::VirtIORng;

/// How long a request may take, in milliseconds. Without entropy the kernel does as well, so the boot does not wait long.
const PATIENCE: u64 = 100;

/// A source of random bytes.
pub enum Rng {
    /// With our driver.
    Own(Entropy<AnyTransport>),
    /// With the reference driver.
    Reference(VirtIORng<ReferenceHal, reference::ReferenceTransport>),
}

impl Rng {
    /// With the reference driver.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reference(place: &Place) -> Result<Self, String> {
        VirtIORng::new(reference::transport(place)?).map(Self::Reference).map_err(|error| error.to_string())
    }

    /// Eight random bytes; `None`, logged, if the device does not give them in time.
    pub fn number(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        match self {
            Self::Own(entropy) => {
                let deadline = pvops::time::now().saturating_add(PATIENCE * 1_000_000);
                let go_on = || {
                    pvops::smp::relax();
                    pvops::time::now() < deadline
                };
                // The driver logs why.
                entropy.fill(&mut bytes, Violation::Timeout { milliseconds: PATIENCE }, go_on).ok()?;
            }
            Self::Reference(entropy) => {
                let got = entropy.request_entropy(&mut bytes);
                got.ok().filter(|&count| count == bytes.len())?;
            }
        }
        Some(u64::from_le_bytes(bytes))
    }
}
