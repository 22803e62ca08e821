//! Changes of a device by a client against its driver: who reads a field in two halves under one generation has read one
//! value, and the driver learns of the last one.

use super::transport::{Bench, FLAGS, memory};
use super::{finds, holds};
use crate::config::{Disk, DiskAccess};
use crate::mistake::Mistake;
use crate::sync::thread;
use crate::virtio::block::{Block, RawFile};
use crate::virtio::net::Net;
use crate::virtio::net::stream::StreamLink;
use crate::virtio::{Cable, Change};
use shared_abi::virtio::mmio::Register;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const SECTOR: u64 = 512;
/// Sectors of the disk, one after the other: the halves of any two differ.
const SIZES: [u64; 3] = [1, 1 << 32, 3 << 32 | 2];
/// Where the status of the link is in a network card's configuration space.
const LINK_STATUS: u64 = 6;

fn half(bench: &Bench, offset: u64) -> u64 {
    let mut bytes = [0; 4];
    bench.rig.config(offset, &mut bytes);
    u32::from_le_bytes(bytes).into()
}

/// The capacity, as a driver reads it.
fn capacity(bench: &Bench) -> u64 {
    loop {
        let before = bench.rig.read(Register::ConfigGeneration);
        let capacity = half(bench, 0) | half(bench, 4) << 32;
        if bench.rig.read(Register::ConfigGeneration) == before {
            assert!(SIZES.contains(&capacity), "a capacity that never was: {capacity:#x}");
            return capacity;
        }
    }
}

fn disk_is_resized() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZES[0] * SECTOR).unwrap();
    let disk = Disk::at(file.path(), DiskAccess::ReadWrite);
    let block = Block::new(Box::new(RawFile::open(&disk).unwrap()), DiskAccess::ReadWrite, "x");
    let bench = Bench::new(memory(), block);
    let handler = bench.handler();
    bench.rig.start(FLAGS);
    let client = {
        let bench = bench.clone();
        thread::spawn(move || {
            for sectors in &SIZES[1..] {
                bench.rig.transport.change(Change::Size(sectors * SECTOR), PATIENCE).unwrap();
            }
        })
    };
    // Without the second interrupt, the driver would wait here forever.
    bench.until(|| capacity(&bench) == SIZES[2]);
    client.join().unwrap();
    bench.end(handler);
}

fn cable_is_pulled() {
    let (ours, _peer) = UnixStream::pair().unwrap();
    let bench = Bench::new(memory(), Net::new(Box::new(StreamLink::new(ours).unwrap()), None));
    let handler = bench.handler();
    bench.rig.start(FLAGS);
    let client = {
        let bench = bench.clone();
        thread::spawn(move || {
            for cable in [Cable::Down, Cable::Up, Cable::Down] {
                bench.rig.transport.change(Change::Cable(cable), PATIENCE).unwrap();
            }
        })
    };
    let is_up = || {
        let mut status = [0; 2];
        bench.rig.config(LINK_STATUS, &mut status);
        status[0] & 1 == 1
    };
    bench.until(|| bench.rig.read(Register::ConfigGeneration) == 3 && !is_up());
    client.join().unwrap();
    bench.end(handler);
}

#[test]
fn capacity_is_read_whole_and_the_last_one_is_announced() {
    holds(disk_is_resized);
}

#[test]
fn last_state_of_the_cable_is_announced() {
    holds(cable_is_pulled);
}

#[test]
fn interrupt_before_the_change_is_found() {
    finds(Mistake::InterruptBeforeChange, cable_is_pulled);
}

#[test]
fn configuration_that_changes_without_its_lock_is_found() {
    finds(Mistake::ConfigUnlocked, disk_is_resized);
}
