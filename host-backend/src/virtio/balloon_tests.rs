//! Tests of the balloon: what is given back, what is counted, and what a lying guest can do (nothing).

use super::*;
use crate::virtio::harness::{DATA, MEMORY, READ, Rig, WRITE, used};
use proptest::prelude::*;
use shared_abi::virtio::mmio::{CONFIG, InterruptStatus, Register};
use shared_abi::virtio::ring::ENTRIES_OFFSET;
use vm_memory::Bytes;

const INFLATE: u32 = QUEUES.inflate as u32;
const DEFLATE: u32 = QUEUES.deflate as u32;
const STATS: u32 = 2;
const REPORTING: u32 = 3;
/// A page that the tests put into the balloon, and what follows it.
const PFN: u32 = 0x200;

fn rig() -> (Rig, BalloonHandle) {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    let balloon = Balloon::new(&memory).unwrap();
    let handle = balloon.handle();
    let rig = Rig::with_memory(balloon, memory);
    rig.start(!(1 << 29));
    (rig, handle)
}

fn send(rig: &Rig, queue: u32, pfns: &[u32]) {
    rig.put(DATA, pfns.as_bytes());
    rig.request(queue, &[(DATA, size_of_val(pfns) as u32, READ)]).unwrap();
}

#[test]
fn inflated_pages_go_back_to_the_system_and_count_once() {
    let (rig, handle) = rig();
    let page = u64::from(PFN) * PAGE;
    rig.put(page, &[0x55; 4096 * 3]);
    send(&rig, INFLATE, &[PFN + 1, PFN, PFN, PFN + 1]);
    assert_eq!(rig.get(page, 4096 * 3), [vec![0; 4096 * 2], vec![0x55; 4096]].concat());
    let numbers = handle.numbers();
    assert_eq!((numbers.returned_pages, numbers.returned_total_pages), (2, 2));
    send(&rig, INFLATE, &[PFN]);
    assert_eq!(handle.numbers().returned_pages, 2);
}

#[test]
fn deflated_pages_leave_the_balloon_once() {
    let (rig, handle) = rig();
    send(&rig, INFLATE, &[PFN, PFN + 5]);
    send(&rig, DEFLATE, &[PFN, PFN, PFN + 1]);
    let numbers = handle.numbers();
    assert_eq!((numbers.returned_pages, numbers.returned_total_pages), (1, 2));
}

#[test]
fn pages_that_do_not_exist_are_ignored_and_counted_as_errors() {
    let (rig, handle) = rig();
    send(&rig, INFLATE, &[u32::MAX, (MEMORY / PAGE) as u32, PFN, 0xc_0000]);
    assert_eq!(handle.numbers().returned_pages, 1);
    assert_eq!(rig.transport.counters().errors.get(), 3);
    assert!(!rig.needs_reset());
}

/// Puts a chain of so many MiB of page numbers, which are all 0, into the inflate queue.
fn inflate_mib(rig: &Rig, mib: u16) {
    rig.put(DATA, &[0; 4096]);
    let table = DATA + (2 << 20);
    for i in 0..mib {
        let flags = if i < mib - 1 { super::super::harness::NEXT } else { READ };
        rig.put_descriptor(table, i, (DATA, 1 << 20), flags, i + 1);
    }
    rig.request(INFLATE, &[(table, u32::from(mib) * 16, super::super::harness::INDIRECT)]).unwrap();
}

#[test]
fn a_chain_with_more_pages_than_the_guest_has_is_cut_off() {
    let (rig, handle) = rig();
    // 16 Mi pages named, in a guest of 1024.
    inflate_mib(&rig, 64);
    assert!(handle.numbers().returned_pages <= MEMORY / PAGE);
    let counters = rig.transport.counters();
    assert_eq!(counters.oversized.get(), 1);
    assert!(counters.errors.get() > 0 && counters.bytes_from_guest.get() <= 4 * MEMORY / PAGE);
}

#[test]
fn a_request_of_too_many_pages_is_cut_off_in_a_large_guest_too() {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 2 << 30)]).unwrap();
    let rig = Rig::with_memory(Balloon::new(&memory).unwrap(), memory);
    rig.start(!(1 << 29));
    let counters = rig.transport.counters();
    inflate_mib(&rig, 1);
    assert_eq!((counters.oversized.get(), counters.bytes_from_guest.get()), (0, 4 * PAGES_MAX));
    inflate_mib(&rig, 2);
    assert_eq!((counters.oversized.get(), counters.bytes_from_guest.get()), (1, 8 * PAGES_MAX));
}

#[test]
fn reported_ranges_give_back_their_whole_pages() {
    let (rig, handle) = rig();
    let page = u64::from(PFN) * PAGE;
    rig.put(page, &[0x55; 4096 * 4]);
    rig.request(REPORTING, &[(page + 1, 4096 * 3, WRITE)]).unwrap();
    assert_eq!(rig.get(page, 4096), [0x55; 4096]);
    assert_eq!(rig.get(page + 4096, 4096 * 2), [0; 4096 * 2]);
    assert_eq!(rig.get(page + 4096 * 3, 4096), [0x55; 4096]);
    assert_eq!(handle.numbers().reported_total_pages, 2);
}

#[test]
fn a_new_target_changes_the_configuration_and_interrupts() {
    let (rig, handle) = rig();
    assert!(handle.set_target(77));
    rig.transport.process_event(EventSet::IN);
    assert_eq!(rig.read(Register::InterruptStatus), InterruptStatus::CONFIG_CHANGE.bits());
    let mut num_pages = [0; 4];
    rig.config(0, &mut num_pages);
    assert_eq!(u32::from_le_bytes(num_pages), 77);
    rig.transport.write(CONFIG + 4, &70u32.to_le_bytes());
    let numbers = handle.numbers();
    assert_eq!((numbers.target_pages, numbers.actual_pages), (77, 70));
}

#[test]
fn a_live_driver_sees_a_new_target_together_with_its_generation() {
    let (rig, handle) = rig();
    let seen = || {
        let mut num_pages = [0; 4];
        rig.config(0, &mut num_pages);
        (u32::from_le_bytes(num_pages), rig.read(Register::ConfigGeneration))
    };
    let (before, generation) = seen();
    assert!(handle.set_target(before + 77));
    assert_eq!(seen(), (before, generation), "not before the device has signalled it");
    rig.transport.process_event(EventSet::IN);
    let (target, changed) = seen();
    assert_eq!(target, before + 77);
    assert_ne!(changed, generation);
}

#[test]
fn a_target_beyond_the_guests_memory_is_refused() {
    let (_rig, handle) = rig();
    assert_eq!(u64::from(handle.pages()), MEMORY / PAGE);
    assert!(!handle.set_target(handle.pages() + 1));
    assert_eq!(handle.numbers().target_pages, 0);
}

#[test]
fn statistics_are_kept_and_their_buffer_comes_back_on_request() {
    let (rig, handle) = rig();
    let stats = [
        Stat { tag: stat_tag::FREE_MEMORY, value: 123 },
        Stat { tag: 999, value: 1 },
        Stat { tag: stat_tag::TOTAL_MEMORY, value: MEMORY },
    ];
    rig.put(DATA, stats.as_bytes());
    assert!(rig.request(STATS, &[(DATA, 30, READ)]).is_none(), "the device keeps the buffer");
    let guest = handle.numbers().guest;
    assert_eq!(guest, BTreeMap::from([("free_memory", 123), ("total_memory", MEMORY)]));
    handle.fresh_numbers(Duration::ZERO);
    rig.transport.process_event(EventSet::IN);
    assert_eq!(rig.used_index(STATS), 1);
}

#[test]
fn a_second_statistics_buffer_sends_the_first_one_back() {
    let (rig, _handle) = rig();
    for head in [0, 1, 2] {
        rig.chain(STATS, head, &[(DATA, 30, READ)]);
        rig.offer(STATS, head);
    }
    rig.kick(STATS);
    assert_eq!(rig.used_index(STATS), 2);
    let mut id = [0; 4];
    rig.memory.read_slice(&mut id, GuestAddress(used(STATS) + ENTRIES_OFFSET as u64)).unwrap();
    assert_eq!(id, [0; 4]);
}

#[test]
fn a_reset_empties_the_balloon() {
    let (rig, handle) = rig();
    send(&rig, INFLATE, &[PFN]);
    rig.write(Register::Status, 0);
    assert_eq!(handle.numbers().returned_pages, 0);
}

proptest! {
    /// The count is the size of the set that any sequence of inflations and deflations leaves.
    #[test]
    fn the_count_is_that_of_a_set(steps in prop::collection::vec((any::<bool>(), 0x200u32..0x210), 1..60)) {
        let (rig, handle) = rig();
        let mut set = std::collections::BTreeSet::new();
        for (inflate, pfn) in steps {
            send(&rig, if inflate { INFLATE } else { DEFLATE }, &[pfn]);
            if inflate { set.insert(pfn) } else { set.remove(&pfn) };
        }
        prop_assert_eq!(handle.numbers().returned_pages, set.len() as u64);
    }

    /// Runs cover exactly the pages they are made of.
    #[test]
    fn runs_cover_each_page_once(mut pfns in prop::collection::vec(0u32..200, 1..100)) {
        pfns.sort_unstable();
        let covered: Vec<u64> = runs(&pfns).flat_map(|(start, len)| start / PAGE..(start + len) / PAGE).collect();
        pfns.dedup();
        prop_assert_eq!(covered, pfns.iter().map(|pfn| u64::from(*pfn)).collect::<Vec<_>>());
    }
}

#[test]
fn a_queue_that_was_taken_back_gets_nothing_of_what_it_held() {
    for (register, value) in [(Register::QueueReady, 0), (Register::QueueReset, 1)] {
        let (rig, handle) = rig();
        rig.chain(STATS, 0, &[(DATA, 10, READ)]);
        rig.offer(STATS, 0);
        rig.kick(STATS);
        // The device has not processed it yet.
        handle.fresh_numbers(Duration::ZERO);
        rig.write(Register::QueueSel, STATS);
        rig.write(register, value);
        rig.put(crate::virtio::harness::available(STATS), &[0; 64]);
        rig.queue(STATS);
        while rig.transport.process_event(EventSet::IN) == Progress::More {}
        assert_eq!((rig.used_index(STATS), rig.needs_reset()), (0, false), "{register:?}");
    }
}

#[test]
fn a_new_target_is_no_request_for_statistics() {
    let (rig, handle) = rig();
    rig.chain(STATS, 0, &[(DATA, 10, READ)]);
    rig.offer(STATS, 0);
    rig.kick(STATS);
    handle.set_target(1);
    while rig.transport.process_event(EventSet::IN) == Progress::More {}
    assert_eq!(rig.used_index(STATS), 0);
    handle.fresh_numbers(Duration::ZERO);
    while rig.transport.process_event(EventSet::IN) == Progress::More {}
    assert_eq!(rig.used_index(STATS), 1);
}
