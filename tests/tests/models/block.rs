//! Disks: our driver, and the reference driver, against the host's block device over a file.

use crate::bridge::{Rig, dma};
use crate::reference::{Hal, ReferenceTransport};
use frontends::block::{Completion, Output, Rejection, Request, Settings, Unmap};
use frontends::{Block, DmaBuffer, Driver, InterruptSource};
use host_backend::config::{Disk, DiskAccess};
use host_backend::virtio::block::{Block as Model, RawFile};
use std::fs;
use std::path::Path;
use tempfile::NamedTempFile;
use virtio_drivers::device::blk::VirtIOBlk;

const SECTORS: usize = 4096;

/// A disk whose sector n starts with n.
fn image() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let mut bytes = vec![0; SECTORS * 512];
    for (number, sector) in bytes.chunks_mut(512).enumerate() {
        sector[..8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    fs::write(file.path(), bytes).unwrap();
    file
}

fn rig(path: &Path, access: DiskAccess) -> Rig {
    let engine = RawFile::open(&Disk::at(path, access)).unwrap();
    Rig::new(dma(), Box::new(Model::new(Box::new(engine), access, "serial-1")))
}

type OurBlock = Block<frontends::transport::MmioTransport<crate::bridge::Slot>>;

fn ours(rig: &Rig) -> OurBlock {
    Block::new(rig.transport(), rig.dma, Settings::default()).expect("the driver comes up")
}

fn run(block: &mut OurBlock, request: Request) -> Completion {
    block.submit(request).expect("the request is taken");
    block.kick();
    block.poll().expect("the device has answered")
}

fn buffer(rig: &Rig, len: usize, fill: u8) -> DmaBuffer {
    let mut buffer = DmaBuffer::allocate(rig.dma, len).unwrap();
    buffer.fill(fill);
    buffer
}

#[test]
fn our_driver_writes_flushes_and_reads_back_and_the_file_has_it() {
    let image = image();
    let rig = rig(image.path(), DiskAccess::ReadWrite);
    let mut block = ours(&rig);
    assert_eq!((block.capacity(), block.read_only(), block.block_size()), (SECTORS as u64, false, 512));
    let len = 512 * 1024;
    let written = run(&mut block, Request::Write { sector: 100, buffer: buffer(&rig, len, 0x5a) });
    assert_eq!(written.result, Ok(Output::Done));
    assert_eq!(run(&mut block, Request::Flush).result, Ok(Output::Done));
    assert_eq!(fs::read(image.path()).unwrap()[100 * 512..][..len], vec![0x5a; len]);
    let done = run(&mut block, Request::Read { sector: 99, buffer: buffer(&rig, 1024, 0) });
    let bytes = done.buffer.unwrap();
    assert_eq!((bytes.to_vec()[0], &bytes.to_vec()[512..]), (99, &[0x5a; 512][..]));
    let mut id = [0; 20];
    id[..8].copy_from_slice(b"serial-1");
    assert_eq!(run(&mut block, Request::Id).result, Ok(Output::Id(id)));
    drop((block, written, bytes));
    rig.assert_content();
    assert_eq!(rig.dma.allocated(), 0);
}

#[test]
fn our_driver_discards_and_zeroes_beyond_the_devices_limits() {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(512 * 200_000).unwrap();
    let rig = rig(image.path(), DiskAccess::ReadWrite);
    let mut block = ours(&rig);
    let write = Request::Write { sector: 131_000, buffer: buffer(&rig, 4096, 0xee) };
    assert!(run(&mut block, write).result.is_ok());
    let zeroes = Request::WriteZeroes { sector: 3, sectors: 131_000, unmap: Unmap::Allow };
    assert_eq!(run(&mut block, zeroes).result, Ok(Output::Done));
    let read = Request::Read { sector: 131_000, buffer: buffer(&rig, 4096, 1) };
    let bytes = run(&mut block, read).buffer.unwrap();
    assert_eq!((&bytes.to_vec()[..3 * 512], bytes.to_vec()[3 * 512]), (&[0; 3 * 512][..], 0xee));
    let discard = Request::Discard { sector: 0, sectors: 200_000 };
    assert_eq!(run(&mut block, discard).result, Ok(Output::Done));
    // 65536 sectors a request: write, 2 zeroes, read, discard.
    assert_eq!(rig.model.counters().requests.get(), 5);
    rig.assert_content();
}

#[test]
fn a_read_only_disk_is_one_to_our_driver() {
    let image = image();
    let rig = rig(image.path(), DiskAccess::ReadOnly);
    let mut block = ours(&rig);
    assert!(block.read_only() && !block.has_discard());
    let rejected = block.submit(Request::Write { sector: 0, buffer: buffer(&rig, 512, 1) }).unwrap_err();
    assert_eq!(rejected.reason, Rejection::ReadOnly);
    let done = run(&mut block, Request::Read { sector: 7, buffer: buffer(&rig, 512, 0) });
    assert_eq!(done.buffer.unwrap().to_vec()[0], 7);
    rig.assert_content();
}

#[test]
fn a_batch_costs_one_notification_and_no_interrupt_while_they_are_off() {
    let image = image();
    let rig = rig(image.path(), DiskAccess::ReadWrite);
    let mut block = ours(&rig);
    for round in 1..=100 {
        block.disable_interrupts();
        let interrupts = rig.line.raised();
        for sector in 0..32 {
            block.submit(Request::Read { sector, buffer: buffer(&rig, 512, 0) }).unwrap();
        }
        block.kick();
        assert_eq!((block.notifications(), rig.line.raised()), (2 * round - 1, interrupts));
        for sector in 0..32 {
            let done = block.poll().expect("the device has answered");
            assert_eq!((done.result, done.buffer.unwrap().to_vec()[0]), (Ok(Output::Done), sector));
        }
        assert!(!block.enable_interrupts());
        run(&mut block, Request::Flush);
        assert_eq!((block.notifications(), rig.line.raised()), (2 * round, interrupts + 1));
        assert!(!block.interrupt(InterruptSource::Shared).is_empty());
    }
    rig.assert_content();
}

#[test]
fn a_hundred_thousand_requests_wrap_the_indices_and_lose_nothing() {
    let image = image();
    let rig = rig(image.path(), DiskAccess::ReadWrite);
    let mut block = ours(&rig);
    let mut data = buffer(&rig, 512, 0);
    for round in 0..100_000_u64 {
        let sector = round % SECTORS as u64;
        let done = run(&mut block, Request::Read { sector, buffer: data });
        data = done.buffer.unwrap();
        assert_eq!((done.result, &data.to_vec()[..8]), (Ok(Output::Done), &sector.to_le_bytes()[..]));
    }
    assert_eq!(rig.model.counters().requests.get(), 100_000);
    rig.assert_content();
}

#[test]
fn the_reference_driver_reads_and_writes_the_same_disk() {
    let image = image();
    let rig = rig(image.path(), DiskAccess::ReadWrite);
    let mut block = VirtIOBlk::<Hal, _>::new(ReferenceTransport::new(&rig)).unwrap();
    assert_eq!((block.capacity(), block.readonly()), (SECTORS as u64, false));
    let mut bytes = vec![0; 8192];
    block.read_blocks(77, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[512]), (77, 78));
    block.write_blocks(200, &[0xa7; 4096]).unwrap();
    block.flush().unwrap();
    let mut id = [0; 20];
    assert_eq!(block.device_id(&mut id).unwrap(), 8);
    assert_eq!(&id[..8], b"serial-1");
    assert_eq!(fs::read(image.path()).unwrap()[200 * 512..][..4096], [0xa7; 4096]);
    drop(block);
    rig.assert_content();

    let mut block = ours(&rig);
    let done = run(&mut block, Request::Read { sector: 200, buffer: buffer(&rig, 4096, 0) });
    assert_eq!(done.buffer.unwrap().to_vec(), [0xa7; 4096]);
}
