//! The entropy device, driven by `virtio-drivers`: not this project's subject.

use crate::devices::Place;
use crate::mm::dma::ReferenceHal;
use crate::reference;
use alloc::string::{String, ToString};
use virtio_drivers::device::rng::VirtIORng;

/// A source of random bytes.
pub struct Rng(VirtIORng<ReferenceHal, reference::ReferenceTransport>);

impl Rng {
    /// Brings it up.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(place: &Place) -> Result<Self, String> {
        VirtIORng::new(reference::transport(place)?).map(Self).map_err(|error| error.to_string())
    }

    /// Eight random bytes.
    pub fn next(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.0.request_entropy(&mut bytes).ok()? == bytes.len()).then(|| u64::from_le_bytes(bytes))
    }
}
