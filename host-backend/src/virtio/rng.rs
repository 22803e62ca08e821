//! The entropy device (section 5.4 "Entropy Device"): fills the driver's buffers from the system's generator.

use super::queue::{Chain, Slice};
use super::{ConfigSpace, Device, Fault, Io, NoConfig, Progress};
use crate::vmm::GuestRam;
use shared_abi::virtio::DeviceType;
use std::sync::Arc;

/// Most bytes given per buffer: the driver asks again if it wants more.
const BYTES_MAX: u64 = 4096;

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng(());

impl Rng {
    /// A new one.
    pub fn new() -> Self {
        Self(())
    }
}

fn fill(memory: &GuestRam, chain: &Chain) -> u32 {
    let mut done = 0;
    for slice in chain.writable(memory, 0, BYTES_MAX) {
        let got = random(&slice);
        done += got as u32;
        if got < slice.len() {
            break;
        }
    }
    done
}

fn random(slice: &Slice<'_>) -> usize {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the guard keeps the slice of guest memory mapped; the kernel writes at most its length.
    let got = unsafe { libc::getrandom(guard.as_ptr().cast(), guard.len(), 0) };
    usize::try_from(got).unwrap_or(0)
}

impl Device for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_count(&self) -> usize {
        1
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(NoConfig)
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        io.drain(index, |memory, chain, signal| {
            let written = fill(memory, chain);
            signal.counters.oversized.add((chain.writable_len() > BYTES_MAX).into());
            signal.counters.bytes_to_guest.add(written.into());
            if written == 0 {
                signal.counters.errors.add(1);
            }
            Ok(written)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::harness::{DATA, Rig, WRITE};

    #[test]
    fn a_buffer_larger_than_any_gets_a_part_and_is_counted() {
        let rig = Rig::running(Rng::new());
        let counters = rig.transport.counters();
        for (len, given, oversized) in [(4096, 4096, 0), (4097, 4096, 1), (1 << 20, 4096, 2)] {
            assert_eq!(rig.request(0, &[(DATA, len, WRITE)]).unwrap().len, given);
            assert_eq!(counters.oversized.get(), oversized);
        }
    }
}
