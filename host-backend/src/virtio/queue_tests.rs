//! Tests of the rings: each way in which a chain or an index can be wrong, and anything at all by random bytes.

use super::*;
use crate::virtio::harness::{DATA, INDIRECT, MEMORY, NEXT, READ, Rig, SIZE, WRITE, descriptors};
use crate::virtio::{ConfigSpace, Device, Io, NoConfig, Progress};
use proptest::prelude::*;
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::{CommonFeatures, DeviceType, Status};
use std::sync::Arc;

/// Returns every chain with its writable length, having filled it with sevens.
struct Echo;

impl Device for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType(99)
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
        io.drain(index, |memory, chain, _| {
            let room = chain.writable_len().min(4096) as usize;
            Ok(chain.write(memory, 0, &vec![7; room]) as u32)
        })
    }
}

fn fault(rig: &Rig) -> &str {
    assert!(rig.needs_reset());
    rig.transport.fault().unwrap()
}

#[test]
fn a_good_chain_comes_back_with_its_length() {
    let rig = Rig::running(Echo);
    let used = rig.request(0, &[(DATA, 8, READ), (DATA + 16, 3, WRITE), (DATA + 32, 5, WRITE)]).unwrap();
    assert_eq!((used.id, used.len), (0, 8));
    assert_eq!((rig.get(DATA + 16, 4), rig.get(DATA + 32, 6)), (vec![7, 7, 7, 0], vec![7, 7, 7, 7, 7, 0]));
    assert_eq!(rig.edges.take(), 1);
}

#[test]
fn an_indirect_chain_is_read_from_its_table() {
    let rig = Rig::running(Echo);
    let table = DATA + 0x1000;
    rig.put_descriptor(table, 0, (DATA, 8), NEXT, 2);
    rig.put_descriptor(table, 2, (DATA + 16, 4), WRITE, 0);
    assert_eq!(rig.request(0, &[(table, 48, INDIRECT)]).unwrap().len, 4);
}

/// The available index is where the used ring has its flags: asking for notifications changes it, and back.
#[test]
fn overlapping_rings_end_the_device_and_not_in_a_loop() {
    let rig = Rig::running(Echo);
    rig.write(Register::Status, 0);
    assert!(rig.negotiate(rig.offered() & !CommonFeatures::EVENT_IDX.bits()));
    let available = DATA + 0x1002;
    rig.place(0, SIZE.into(), descriptors(0), available, available + 2);
    rig.set_status(Status::DRIVER_OK);
    rig.kick(0);
    assert!(fault(&rig).contains("went back"), "{}", fault(&rig));
}

#[test]
fn a_chain_that_loops_needs_a_reset() {
    let rig = Rig::running(Echo);
    rig.descriptor(0, 0, (DATA, 8), NEXT, 1);
    rig.descriptor(0, 1, (DATA, 8), NEXT, 0);
    rig.offer(0, 0);
    rig.kick(0);
    assert!(fault(&rig).contains("loops"));
    assert_eq!(rig.used_index(0), 0);
}

#[test]
fn an_indirect_chain_that_loops_needs_a_reset() {
    let rig = Rig::running(Echo);
    let table = DATA + 0x1000;
    rig.put_descriptor(table, 0, (DATA, 8), NEXT, 1);
    rig.put_descriptor(table, 1, (DATA, 8), NEXT, 0);
    rig.request(0, &[(table, 32, INDIRECT)]);
    assert!(fault(&rig).contains("loops"));
}

#[test]
fn an_indirect_table_in_an_indirect_table_needs_a_reset() {
    let rig = Rig::running(Echo);
    let table = DATA + 0x1000;
    rig.put_descriptor(table, 0, (table, 16), INDIRECT, 0);
    rig.request(0, &[(table, 16, INDIRECT)]);
    assert!(fault(&rig).contains("cut off"));
}

#[test]
fn a_chain_outside_memory_needs_a_reset() {
    for (address, len) in
        [(MEMORY - 4, 8), (MEMORY, 1), (u64::MAX, 0), (u64::MAX - 3, 8), (1 << 63, 1), (DATA, u32::MAX)]
    {
        let rig = Rig::running(Echo);
        rig.request(0, &[(address, len, WRITE)]);
        assert!(fault(&rig).contains("outside memory"), "{address:#x}+{len:#x}");
    }
}

#[test]
fn a_chain_that_is_too_long_needs_a_reset() {
    let rig = Rig::running(Echo);
    let table = DATA + 0x1000;
    let count = CHAIN_MAX as u16 + 1;
    for i in 0..count {
        rig.put_descriptor(table, i, (DATA, 1), if i + 1 < count { NEXT } else { READ }, i + 1);
    }
    rig.request(0, &[(table, 16 * u32::from(count), INDIRECT)]);
    assert!(fault(&rig).contains("more than 256"));
}

#[test]
fn a_chain_of_more_than_4_gib_needs_a_reset() {
    let rig = Rig::running(Echo);
    let table = DATA + 0x10_0000;
    // 200 times the same 3 MiB would be fine; 2000 descriptors of it are too long in bytes or in number.
    for i in 0..2000 {
        rig.put_descriptor(table, i, (DATA, 3 << 20), if i < 1999 { NEXT } else { READ }, i + 1);
    }
    rig.request(0, &[(table, 16 * 2000, INDIRECT)]);
    fault(&rig);
}

#[test]
fn a_chain_in_the_wrong_direction_needs_a_reset() {
    let rig = Rig::running(Echo);
    rig.request(0, &[(DATA, 8, WRITE), (DATA, 8, READ)]);
    assert!(fault(&rig).contains("after a writable"));
}

#[test]
fn a_head_that_the_queue_does_not_have_needs_a_reset() {
    let rig = Rig::running(Echo);
    rig.offer(0, SIZE);
    rig.kick(0);
    assert!(fault(&rig).contains("does not have"));
}

#[test]
fn an_available_index_that_jumps_needs_a_reset() {
    let rig = Rig::running(Echo);
    rig.set_available_index(0, SIZE + 1);
    rig.kick(0);
    assert!(fault(&rig).contains("jumped"));
}

#[test]
fn a_faulty_device_stays_silent_until_reset_and_works_after_it() {
    let rig = Rig::running(Echo);
    rig.set_available_index(0, 1000);
    rig.kick(0);
    assert!(rig.needs_reset());
    assert_eq!(rig.edges.take(), 1);
    rig.kick(0);
    assert_eq!((rig.edges.take(), rig.used_index(0)), (0, 0));
    rig.write(shared_abi::virtio::mmio::Register::Status, 0);
    rig.set_available_index(0, 0);
    rig.start(u64::MAX);
    assert_eq!(rig.request(0, &[(DATA, 8, WRITE)]).unwrap().len, 8);
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let rig = Rig::running(Echo);
    rig.set_available_flags(0, ring::AVAIL_NO_INTERRUPT);
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    assert_eq!(rig.edges.take(), 0);
}

#[test]
fn the_event_index_decides_about_interrupts_across_the_wrap() {
    let rig = Rig::new(Echo);
    rig.start(u64::MAX);
    for round in 0..=u16::MAX {
        // Every third chain the driver asks for an interrupt.
        if round % 3 == 0 {
            rig.set_used_event(0, round);
        }
        rig.request(0, &[(DATA, 1, WRITE)]).unwrap();
        assert_eq!(rig.edges.take(), usize::from(round % 3 == 0), "round {round}");
    }
}

proptest! {
    /// Whatever is in the table and the ring: no panic, no hang, and not a byte beyond the used ring and the buffers.
    #[test]
    fn random_rings_never_hurt_the_host(
        table in prop::collection::vec((prop_oneof![0..MEMORY * 2, any::<u64>()], any::<u32>(), 0u16..8, 0u16..20), 16),
        heads in prop::collection::vec(0u16..20, 1..20),
    ) {
        let rig = Rig::running(Echo);
        for (i, (address, len, flags, next)) in (0..).zip(&table) {
            let flags = shared_abi::virtio::ring::DescriptorFlags::from_bits_retain(*flags);
            rig.put_descriptor(descriptors(0), i, (*address, *len % 0x2_0000), flags, *next);
        }
        for head in &heads {
            rig.offer(0, *head);
        }
        rig.kick(0);
        let used = rig.used_index(0);
        prop_assert!(usize::from(used) <= heads.len());
        prop_assert!(rig.needs_reset() || usize::from(used) == heads.len());
    }
}
