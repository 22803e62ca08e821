use super::*;
use crate::fake::{DeviceQueue, FakeTransport, Memory};
use crate::transport::{QueueLayout, Transport};
use proptest::prelude::*;
use virtio_abi::{DeviceType, ring};

const EVENT_IDX: u64 = CommonFeatures::EVENT_IDX.bits();
const INDIRECT: u64 = CommonFeatures::INDIRECT_DESC.bits();

fn pair(size: u16, chain: u16, features: u64) -> (&'static Memory, Ring, DeviceQueue) {
    let memory = Memory::leaked(64);
    let ring = Ring::new(0, size, chain, features, memory).unwrap();
    let mut transport = FakeTransport::new(DeviceType::BLOCK, features, 1, &[]);
    transport.set_driver_features(features);
    transport.set_queue(0, ring.layout()).unwrap();
    let device = transport.queue(memory, 0);
    (memory, ring, device)
}

fn segments(count: u32) -> Vec<Segment> {
    (0..count).map(|i| Segment::writable(0x7_4000_0000 + u64::from(i) * 512, 512)).collect()
}

#[test]
fn chains_arrive_as_pushed_and_come_back_in_any_order() {
    for features in [0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT] {
        let (_, mut ring, mut device) = pair(8, 3, features);
        for round in 0..70_000_u32 {
            let first =
                ring.push(&[Segment::readable(0x7_4000_0000, 16), Segment::writable(0x7_4000_1000, 1)]).unwrap();
            let second = ring.push(&[Segment::writable(0x7_4000_2000, round % 9 + 1)]).unwrap();
            let a = device.next_chain().unwrap();
            let b = device.next_chain().unwrap();
            assert_eq!((a.head, a.segments.len(), a.indirect), (first, 2, features & INDIRECT != 0));
            assert_eq!((b.head, b.segments.len(), b.writable()), (second, 1, round % 9 + 1));
            device.complete(&b, 1);
            device.complete(&a, 0);
            assert_eq!(ring.pop(), Ok(Some(Used { head: second, len: 1 })));
            assert_eq!(ring.pop(), Ok(Some(Used { head: first, len: 0 })));
            assert_eq!(ring.pop(), Ok(None));
            assert_eq!(ring.in_flight(), 0);
        }
    }
}

#[test]
fn a_full_ring_takes_nothing_more_until_a_chain_returns() {
    let (_, mut ring, mut device) = pair(4, 4, 0);
    assert!(ring.push(&segments(3)).is_some());
    assert!(ring.push(&segments(2)).is_none());
    assert!(ring.push(&segments(1)).is_some());
    assert!(!ring.has_room(1));
    let chain = device.next_chain().unwrap();
    device.complete(&chain, 0);
    ring.pop().unwrap().unwrap();
    assert!(ring.has_room(3) && !ring.has_room(4));
}

#[test]
fn chains_longer_than_the_ring_or_a_table_are_refused() {
    let (_, mut ring, _) = pair(4, 100, INDIRECT);
    assert_eq!(ring.chain(), 4);
    assert!(ring.push(&segments(5)).is_none());
    assert!(ring.push(&[]).is_none());
    assert!(Ring::new(0, 3, 1, 0, Memory::leaked(4)).is_err());
}

#[test]
fn ring_memory_that_cannot_be_had_is_an_error_and_leaks_nothing() {
    let memory = Memory::leaked(3);
    let error = Ring::new(0, 128, 32, INDIRECT, memory).err();
    assert_eq!(error, Some(InitError::NoMemory { what: "a ring" }));
    assert_eq!(memory.allocated_pages(), 0);
}

#[test]
fn notification_is_needed_exactly_when_the_event_is_passed_even_across_the_wrap() {
    let needs = |event, old, new| needs_notification(Wrapping(event), Wrapping(old), Wrapping(new));
    assert!(needs(5, 5, 6));
    assert!(!needs(6, 5, 6));
    assert!(!needs(4, 5, 6));
    assert!(needs(7, 5, 10));
    assert!(needs(0xffff, 0xffff, 0));
    assert!(needs(0, 0xfffe, 3));
    assert!(needs(0xfffe, 0xfffe, 3));
    assert!(!needs(3, 0xfffe, 3));
    assert!(!needs(0xfffd, 0xfffe, 3));
    assert!(!needs(9, 9, 9));
}

proptest! {
    #[test]
    fn notification_decision_equals_counting_the_steps(event: u16, old: u16, steps in 0_u16..40_000) {
        let passed = (0..steps).any(|step| old.wrapping_add(step) == event);
        let new = old.wrapping_add(steps);
        prop_assert_eq!(needs_notification(Wrapping(event), Wrapping(old), Wrapping(new)), passed);
    }
}

#[test]
fn a_batch_across_the_wrap_notifies_once() {
    let (_, mut ring, mut device) = pair(16, 1, EVENT_IDX);
    let mut notifications = 0;
    let batches = 65536 / 8 + 4;
    for _ in 0..batches {
        device.ask_for_notification();
        for _ in 0..8 {
            ring.push(&segments(1)).unwrap();
        }
        notifications += u32::from(ring.publish());
        assert!(!ring.publish());
        while let Some(chain) = device.next_chain() {
            device.complete(&chain, 0);
        }
        while ring.pop().unwrap().is_some() {}
    }
    assert_eq!(notifications, batches);
}

#[test]
fn a_device_that_polls_is_not_notified() {
    let (_, mut ring, mut device) = pair(16, 1, 0);
    device.set_no_notify(USED_NO_NOTIFY);
    ring.push(&segments(1)).unwrap();
    assert!(!ring.publish());
    device.set_no_notify(0);
    ring.push(&segments(1)).unwrap();
    assert!(ring.publish());
    assert!(!ring.publish());
}

#[test]
fn each_part_of_a_ring_is_aligned_and_apart() {
    for exponent in 0..=10 {
        let memory = Memory::leaked(16);
        let QueueLayout { size, descriptors, available, used } =
            Ring::new(0, 1 << exponent, 1, 0, memory).unwrap().layout();
        let parts = [
            (descriptors, ring::descriptor_table_len(size), 16),
            (available, ring::available_len(size), 2),
            (used, ring::used_len(size), 4),
        ];
        for (address, _, align) in parts {
            assert!(address.is_multiple_of(align), "{size} entries: {address:#x} is no multiple of {align}");
        }
        for pair in parts.windows(2) {
            assert!(pair[0].0 + pair[0].1 as u64 <= pair[1].0, "{size} entries: {pair:x?} overlap");
        }
    }
}

#[test]
fn with_event_idx_flags_stay_0_and_those_of_the_device_are_ignored() {
    let (memory, mut ring, mut device) = pair(8, 1, EVENT_IDX);
    let flags = |part: u64| memory.read16(part + ring::FLAGS_OFFSET as u64);
    let QueueLayout { available, used, .. } = ring.layout();
    assert_eq!((flags(available), flags(used)), (0, 0), "a new ring");
    device.set_no_notify(USED_NO_NOTIFY);
    device.ask_for_notification();
    ring.disable_interrupts();
    assert_eq!(flags(available), 0);
    ring.push(&segments(1)).unwrap();
    assert!(ring.publish(), "the event was passed, whatever the flag says");
    ring.enable_interrupts();
    assert_eq!(flags(available), 0);
}

#[test]
fn interrupts_come_when_enabled_and_enabling_tells_what_was_missed() {
    for features in [0, EVENT_IDX] {
        let (_, mut ring, mut device) = pair(8, 1, features);
        for _ in 0..5 {
            ring.push(&segments(1)).unwrap();
        }
        let mut complete = || {
            let chain = device.next_chain().unwrap();
            device.complete(&chain, 0);
            device.interrupt_wanted()
        };
        assert!(complete(), "a new ring has interrupts enabled");
        ring.disable_interrupts();
        assert!(!complete());
        assert!(ring.enable_interrupts(), "two chains wait");
        while ring.pop().unwrap().is_some() {}
        ring.disable_interrupts();
        assert!(!complete());
        ring.pop().unwrap().unwrap();
        assert!(!ring.enable_interrupts());
        assert!(complete());
    }
}

#[test]
fn a_used_id_out_of_range_is_reported() {
    for id in [8, 9, 0xffff, 0x1_0000, u32::MAX] {
        let (_, mut ring, mut device) = pair(8, 1, 0);
        ring.push(&segments(1)).unwrap();
        device.write_used(0, id, 0);
        device.set_used_index(1);
        assert_eq!(ring.pop(), Err(Violation::UsedIdOutOfRange { queue: 0, id, size: 8 }));
    }
}

#[test]
fn a_used_id_used_twice_is_reported() {
    let (_, mut ring, mut device) = pair(8, 1, 0);
    ring.push(&segments(1)).unwrap();
    ring.push(&segments(1)).unwrap();
    let chain = device.next_chain().unwrap();
    device.complete(&chain, 0);
    device.complete(&chain, 0);
    assert!(ring.pop().unwrap().is_some());
    assert_eq!(ring.pop(), Err(Violation::UsedIdNotInFlight { queue: 0, id: chain.head.into() }));
}

#[test]
fn a_used_id_inside_a_chain_is_reported() {
    let (_, mut ring, mut device) = pair(8, 3, 0);
    let head = ring.push(&segments(3)).unwrap();
    device.write_used(0, u32::from(head) + 1, 0);
    device.set_used_index(1);
    assert_eq!(ring.pop(), Err(Violation::UsedIdNotInFlight { queue: 0, id: u32::from(head) + 1 }));
}

#[test]
fn an_over_long_length_is_reported() {
    let chains = [
        (vec![Segment::writable(0x7_4000_0000, 512)], 513, 512),
        (vec![Segment::readable(0x7_4000_0000, 600), Segment::writable(0x7_4000_0000, 512)], 1113, 512),
        (vec![Segment::readable(0x7_4000_0000, 600)], 601, 0),
        (vec![Segment::writable(0x7_4000_0000, u32::MAX - 1)], u32::MAX, u32::MAX - 1),
    ];
    for (chain, len, writable) in chains {
        let (_, mut ring, mut device) = pair(8, 2, INDIRECT);
        ring.push(&chain).unwrap();
        let chain = device.next_chain().unwrap();
        device.complete(&chain, len);
        let id = chain.head.into();
        assert_eq!(ring.pop(), Err(Violation::UsedLengthTooLong { queue: 0, id, len, writable }));
    }
}

#[test]
fn a_length_that_counts_what_was_read_is_cut() {
    let (_, mut ring, mut device) = pair(8, 2, INDIRECT);
    for len in [513, 1112] {
        ring.push(&[Segment::readable(0x7_4000_0000, 600), Segment::writable(0x7_4000_0000, 512)]).unwrap();
        let chain = device.next_chain().unwrap();
        device.complete(&chain, len);
        assert_eq!(ring.pop(), Ok(Some(Used { head: chain.head, len: 512 })));
    }
    ring.push(&[Segment::readable(0x7_4000_0000, 600)]).unwrap();
    let chain = device.next_chain().unwrap();
    device.complete(&chain, 600);
    assert_eq!(ring.pop(), Ok(Some(Used { head: chain.head, len: 0 })));
    assert_eq!(ring.miscounted(), 3);
}

#[test]
fn a_used_index_that_jumps_forward_or_back_is_reported() {
    for (index, advance) in [(3, 3), (0xffff, 0xffff), (0x8000, 0x8000)] {
        let (_, mut ring, mut device) = pair(8, 1, 0);
        ring.push(&segments(1)).unwrap();
        ring.push(&segments(1)).unwrap();
        device.set_used_index(index);
        assert_eq!(ring.pop(), Err(Violation::UsedIndexJump { queue: 0, advance, in_flight: 2 }));
    }
}

proptest! {
    /// Whatever the device writes, each chain is returned at most once and the free list never grows beyond the ring.
    #[test]
    fn random_used_rings_never_break_the_accounting(
        features in prop::sample::select(vec![0, EVENT_IDX, INDIRECT]),
        writes in prop::collection::vec((0_u32..10, 0_u32..1600, 0_u16..6), 1..60),
    ) {
        let (_, mut ring, mut device) = pair(8, 3, features);
        let mut live = std::collections::BTreeSet::new();
        'device: for (id, len, step) in writes {
            for count in 1..=3 {
                if let Some(head) = ring.push(&segments(count)) {
                    prop_assert!(live.insert(head), "a live head was given out again");
                }
            }
            ring.publish();
            device.write_used(device.used_index, id, len);
            device.set_used_index(device.used_index.wrapping_add(step));
            loop {
                match ring.pop() {
                    Ok(Some(used)) => prop_assert!(live.remove(&used.head) && used.len <= 1536),
                    Ok(None) => break,
                    Err(_) => break 'device,
                }
            }
            prop_assert_eq!(usize::from(ring.in_flight()), live.len());
        }
    }
}
