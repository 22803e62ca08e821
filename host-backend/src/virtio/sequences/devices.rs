//! The devices that the sequences drive, each with a request that it answers.

use super::operations::{HIGH, HIGH_END, LOW_END};
use super::{Files, Subject};
use crate::config::{Disk, DiskAccess};
use crate::devices::output::Output;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, RawFile};
use crate::virtio::console::Console;
use crate::virtio::harness::{DATA, READ, WRITE};
use crate::virtio::net::Net;
use crate::virtio::net::stream::StreamLink;
use crate::virtio::rng::Rng;
use crate::virtio::{ConfigSpace, Device, Fault, Io, NoConfig, Progress};
use crate::vmm::GuestRam;
use shared_abi::virtio::DeviceType;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vm_memory::GuestAddress;

/// A device whose requests touch no memory, so that all that changes is its rings.
struct Sink;

impl Device for Sink {
    fn device_type(&self) -> DeviceType {
        DeviceType(99)
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_count(&self) -> usize {
        3
    }
    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(NoConfig)
    }
    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        io.drain(index, |_, _, _| Ok(7))
    }
}

impl Subject {
    pub(super) fn rng() -> Self {
        Self::new(Rng::new(), memory(), (0, vec![(DATA, 8, WRITE)]), Files::None)
    }

    pub(super) fn sink() -> Self {
        let mut subject = Self::new(Sink, memory(), (2, vec![(DATA, 8, WRITE)]), Files::None);
        subject.shadow = Some(subject.bytes());
        subject
    }

    pub(super) fn console() -> Self {
        let console = Console::new(Arc::new(Output::kept())).unwrap();
        Self::new(console, memory(), (1, vec![(DATA, 8, READ)]), Files::None)
    }

    pub(super) fn balloon() -> Self {
        let memory = memory();
        Self::new(Balloon::new(&memory).unwrap(), memory, (0, vec![(DATA, 0, READ)]), Files::None)
    }

    pub(super) fn net() -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        let net = Net::new(Box::new(StreamLink::new(ours).unwrap()), None);
        Self::new(net, memory(), (1, vec![(DATA, 80, READ)]), Files::Peer { _socket: peer })
    }

    pub(super) fn block() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * 512).unwrap();
        let access = DiskAccess::ReadWrite;
        let engine = RawFile::open(&Disk::at(file.path(), access)).unwrap();
        let block = Block::new(Box::new(engine), access, "x").with_queues(2);
        // Sixteen zeroes ask for the first sector.
        let request = (1, vec![(DATA, 16, READ), (DATA + 512, 512, WRITE), (DATA + 2048, 1, WRITE)]);
        Self::new(block, memory(), request, Files::Disk { _file: file })
    }
}

fn memory() -> GuestRam {
    let high = (HIGH_END - HIGH) as usize;
    GuestRam::from_ranges(&[(GuestAddress(0), LOW_END as usize), (GuestAddress(HIGH), high)]).unwrap()
}
