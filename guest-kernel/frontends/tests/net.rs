//! The network driver against a card that plays by the rules.

mod card;

use card::{MAC, config, udp_frame};
use frontends::device::{Driver, InterruptSource};
use frontends::fake::{FakeTransport, Memory};
use frontends::net::{Net, Settings, TransmitChecksum};
use frontends::{InitError, Violation};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use virtio_abi::net::{Features, HDR_DATA_VALID, HDR_NEEDS_CSUM, Header};
use virtio_abi::{CommonFeatures, DeviceType};
use zerocopy::IntoBytes;

const EVENT_IDX: u64 = CommonFeatures::EVENT_IDX.bits();
const BASIC: Features = Features::MAC.union(Features::STATUS);

#[test]
fn the_configuration_is_taken_over() {
    let features = (BASIC | Features::MTU).bits();
    let (net, _) = card::pair(features, config(), Settings::default());
    assert_eq!((net.mac(), net.mtu(), net.link_up(), net.has_checksum_offload()), (MAC, 1400, true, false));
}

#[test]
fn what_the_device_does_not_tell_has_a_fallback() {
    let settings = Settings { fallback_mac: [2, 9, 9, 9, 9, 9], ..Settings::default() };
    let (net, _) = card::pair(0, config(), settings);
    assert_eq!((net.mac(), net.mtu(), net.link_up()), ([2, 9, 9, 9, 9, 9], 1500, true));
}

#[test]
fn an_address_that_no_card_has_is_replaced() {
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut config = config();
        config.mac = mac;
        let (net, _) = card::pair(BASIC.bits(), config, Settings::default());
        assert_eq!(net.mac(), Settings::default().fallback_mac);
    }
}

#[test]
fn an_mtu_below_the_least_is_an_error_and_one_above_the_limit_is_not_agreed_to() {
    let mut bad = config();
    bad.mtu = 67;
    let transport = card::transport(Features::MTU.bits(), bad);
    let error = Net::new(transport, Memory::leaked(200), Settings::default()).err();
    assert_eq!(error, Some(InitError::BadConfig { field: "mtu", value: 67 }));
    bad.mtu = 9000;
    let (net, card) = card::pair(Features::MTU.bits(), bad, Settings::default());
    assert_eq!(net.mtu(), 1500);
    assert_eq!(card.transport.model().accepted & Features::MTU.bits(), 0);
    let (net, _) = card::pair(Features::MTU.bits(), bad, Settings { mtu_limit: 9000, ..Settings::default() });
    assert_eq!(net.mtu(), 9000);
}

#[test]
fn the_link_follows_the_device() {
    let (mut net, card) = card::pair(BASIC.bits(), config(), Settings::default());
    card.transport.change_config(6, &0_u16.to_le_bytes());
    net.interrupt(InterruptSource::Config);
    assert!(!net.link_up());
    card.transport.change_config(6, &1_u16.to_le_bytes());
    net.interrupt(InterruptSource::Config);
    assert!(net.link_up());
}

#[test]
fn all_receive_buffers_are_posted_with_one_notification() {
    let (net, mut card) = card::pair(BASIC.bits(), config(), Settings { receive_buffers: 16, ..Settings::default() });
    assert_eq!(std::iter::from_fn(|| card.receive.next_chain()).count(), 16);
    assert_eq!(net.notifications(), 1);
}

#[test]
fn frames_arrive_in_order_and_their_buffers_go_round() {
    let (mut net, mut card) =
        card::pair(BASIC.bits() | EVENT_IDX, config(), Settings { receive_buffers: 4, ..Settings::default() });
    for round in 0..100_u8 {
        for index in 0..3 {
            card.deliver(Header::default(), &[round + index; 60]);
        }
        for index in 0..3 {
            let frame = net.receive().unwrap();
            assert_eq!(frame.bytes(), [round + index; 60]);
            net.recycle(frame);
        }
        assert!(net.receive().is_none());
        net.kick();
    }
    assert_eq!((net.counters().received, net.counters().received_bytes, net.counters().dropped), (300, 18_000, 0));
}

#[test]
fn device_that_writes_on_changes_no_frame_that_was_received() {
    let (mut net, mut card) =
        card::pair(BASIC.bits(), config(), Settings { receive_buffers: 4, ..Settings::default() });
    let chain = card.receive.next_chain().unwrap();
    let bytes = [Header::default().as_bytes(), &[1; 60]].concat();
    let len = chain.write(card.memory, &bytes);
    card.receive.complete(&chain, len);
    let frame = net.receive().unwrap();
    chain.write(card.memory, &[0xee; 72]);
    assert_eq!(frame.bytes(), [1; 60]);
}

#[test]
fn buffers_are_posted_again_while_their_frames_are_kept() {
    let (mut net, mut card) =
        card::pair(BASIC.bits(), config(), Settings { receive_buffers: 4, ..Settings::default() });
    let kept: Vec<_> = (0..20_u8)
        .map(|fill| {
            card.deliver(Header::default(), &[fill; 60]);
            net.receive().unwrap()
        })
        .collect();
    assert!((0..20).zip(&kept).all(|(fill, frame)| frame.bytes() == [fill; 60]));
}

#[test]
fn usual_buffers_hold_the_largest_packet_with_its_header() {
    let (_net, mut card) = card::pair(BASIC.bits(), config(), Settings::default());
    let posted: u32 = std::iter::from_fn(|| card.receive.next_chain()).map(|chain| chain.writable()).sum();
    assert!(posted >= 65_562, "{posted} bytes are posted");
}

#[test]
fn a_frame_that_spans_buffers_is_joined() {
    let features = (BASIC | Features::MRG_RXBUF).bits();
    let (mut net, mut card) = card::pair(features, config(), Settings { receive_buffers: 8, ..Settings::default() });
    let frame: Vec<u8> = (0..1200_u16).map(|i| i as u8).collect();
    for _ in 0..10 {
        card.deliver_spanning(&frame, 500);
        assert_eq!(net.receive_with(|bytes| bytes.to_vec()), Some(frame.clone()));
        card.deliver_spanning(&frame[..100], 500);
        assert_eq!(net.receive_with(|bytes| bytes.to_vec()).as_deref(), Some(&frame[..100]));
    }
    assert_eq!((net.counters().reassembled, net.counters().received), (10, 20));
}

#[test]
fn a_spanning_frame_may_arrive_buffer_by_buffer() {
    let features = (BASIC | Features::MRG_RXBUF).bits();
    let (mut net, mut card) = card::pair(features, config(), Settings { receive_buffers: 4, ..Settings::default() });
    card.deliver(Header { num_buffers: 2, ..Header::default() }, &[1; 40]);
    assert!(net.receive().is_none());
    card.deliver_raw(&[2; 40]);
    let mut expected = [1; 80];
    expected[40..].fill(2);
    assert_eq!(net.receive().unwrap().bytes(), expected);
}

#[test]
fn a_spanning_frame_beyond_the_mtu_is_dropped_and_the_next_one_arrives() {
    let features = (BASIC | Features::MRG_RXBUF).bits();
    let (mut net, mut card) = card::pair(features, config(), Settings { receive_buffers: 8, ..Settings::default() });
    // Header, VLAN tag and MTU.
    let largest = 14 + 4 + 1500;
    for (len, dropped) in [(4000, 1), (largest + 1, 2), (largest, 2)] {
        card.deliver_spanning(&vec![1; len], 1000);
        let received = net.receive_with(|bytes| bytes.len());
        assert_eq!((received, net.counters().dropped), ((len == largest).then_some(len), dropped));
    }
    card.deliver_spanning(&[2; 100], 1000);
    assert_eq!(net.receive().unwrap().bytes(), [2; 100]);
}

#[test]
fn an_incomplete_checksum_is_completed() {
    let features = (BASIC | Features::GUEST_CSUM).bits();
    let (mut net, mut card) = card::pair(features, config(), Settings::default());
    let (partial, complete) = udp_frame(b"hello");
    let header = Header { flags: HDR_NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Header::default() };
    card.deliver(header, &partial);
    assert_eq!(net.receive().unwrap().bytes(), complete);
    card.deliver(Header { flags: HDR_DATA_VALID, ..Header::default() }, &complete);
    assert_eq!(net.receive().unwrap().bytes(), complete);
}

#[test]
fn headers_that_make_no_sense_cost_their_frame_only() {
    let features = (BASIC | Features::GUEST_CSUM).bits();
    let (mut net, mut card) = card::pair(features, config(), Settings { receive_buffers: 4, ..Settings::default() });
    let (frame, _) = udp_frame(b"hello");
    let bad = [
        Header { gso_type: 1, ..Header::default() },
        Header { flags: HDR_NEEDS_CSUM, csum_start: 40, csum_offset: 6, ..Header::default() },
        Header { flags: HDR_NEEDS_CSUM, csum_start: 0xffff, csum_offset: 0xffff, ..Header::default() },
    ];
    for (index, header) in (1..).zip(bad) {
        card.deliver(header, &frame);
        assert!(net.receive().is_none());
        assert_eq!(net.counters().dropped, index);
    }
    card.deliver(Header::default(), &[0; 13]);
    card.deliver_raw(&[0; 11]);
    card.deliver_raw(&[]);
    card.deliver(Header::default(), &frame);
    assert_eq!(net.receive().unwrap().bytes(), frame);
    assert_eq!(net.counters().dropped, 6);
    assert_eq!(net.broken(), None);
}

#[test]
fn a_checksum_flag_that_was_not_agreed_on_drops_the_frame() {
    let (mut net, mut card) = card::pair(BASIC.bits(), config(), Settings::default());
    let (frame, _) = udp_frame(b"hello");
    card.deliver(Header { flags: HDR_NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Header::default() }, &frame);
    assert!(net.receive().is_none());
    assert_eq!(net.counters().dropped, 1);
}

#[test]
fn frames_are_sent_with_an_empty_header() {
    let (mut net, mut card) = card::pair(BASIC.bits(), config(), Settings::default());
    assert_eq!(net.transmit(60, TransmitChecksum::Complete, |frame| frame.fill(7)), Some(()));
    net.kick();
    let sent = card.take_sent();
    assert_eq!(sent, [(Header::default(), vec![7; 60])]);
}

#[test]
fn checksums_are_left_to_the_device_that_offers_it_and_computed_otherwise() {
    let (partial, complete) = udp_frame(b"hello, checksum");
    for (features, flags, frame) in [(BASIC | Features::CSUM, HDR_NEEDS_CSUM, &partial), (BASIC, 0, &complete)] {
        let (mut net, mut card) = card::pair(features.bits(), config(), Settings::default());
        let mut dirty = complete.clone();
        dirty[40..42].fill(0xab);
        net.transmit(dirty.len(), TransmitChecksum::Offload, |bytes| bytes.copy_from_slice(&dirty)).unwrap();
        let (header, sent) = card.take_sent().remove(0);
        assert_eq!((header.flags, &sent), (flags, frame));
        if flags != 0 {
            assert_eq!((header.csum_start, header.csum_offset), (34, 6));
        }
    }
}

#[test]
fn a_padded_frame_is_not_left_to_a_device_that_would_sum_its_padding() {
    let (_, complete) = udp_frame(b"hello");
    let (mut net, mut card) = card::pair((BASIC | Features::CSUM).bits(), config(), Settings::default());
    net.transmit(60, TransmitChecksum::Offload, |bytes| {
        bytes.fill(0xaa);
        bytes[..complete.len()].copy_from_slice(&complete);
        bytes[40..42].fill(0);
    });
    let (header, sent) = card.take_sent().remove(0);
    assert_eq!((header.flags, &sent[..complete.len()]), (0, &complete[..]));
}

#[test]
fn frames_too_short_or_too_long_are_not_sent() {
    let (mut net, mut card) = card::pair(BASIC.bits(), config(), Settings::default());
    for len in [0, 13, 1519, 65536] {
        assert_eq!(net.transmit(len, TransmitChecksum::Complete, |_| ()), None);
    }
    assert!(net.transmit(1518, TransmitChecksum::Complete, |_| ()).is_some());
    assert_eq!(card.take_sent().len(), 1);
}

#[test]
fn a_full_transmit_ring_refuses_until_the_device_is_done_and_interrupts_for_it() {
    let (mut net, mut card) =
        card::pair(BASIC.bits() | EVENT_IDX, config(), Settings { transmit_buffers: 4, ..Settings::default() });
    for _ in 0..4 {
        net.transmit(60, TransmitChecksum::Complete, |_| ()).unwrap();
    }
    net.kick();
    assert!(!net.can_transmit());
    assert!(!net.enable_interrupts());
    assert_eq!(card.take_sent().len(), 4);
    assert!(card.transmit.interrupt_wanted());
    assert!(net.can_transmit());
    net.disable_interrupts();
    net.enable_interrupts();
    net.transmit(60, TransmitChecksum::Complete, |_| ()).unwrap();
    card.take_sent();
    assert!(!card.transmit.interrupt_wanted(), "no caller waits for a buffer");
}

#[test]
fn a_batch_of_frames_is_notified_once() {
    let (mut net, mut card) = card::pair(BASIC.bits() | EVENT_IDX, config(), Settings::default());
    card.transmit.ask_for_notification();
    let before = net.notifications();
    for _ in 0..32 {
        net.transmit(60, TransmitChecksum::Complete, |_| ()).unwrap();
    }
    net.kick();
    assert_eq!(net.notifications(), before + 1);
}

#[test]
fn no_frame_allocates_once_the_pool_is_filled() {
    let settings = Settings { transmit_buffers: 8, receive_buffers: 8, ..Settings::default() };
    let (mut net, mut card) = card::pair(BASIC.bits(), config(), settings);
    let mut driver_allocations = 0;
    for round in 0..200 {
        (0..8).for_each(|_| card.deliver(Header::default(), &[0; 60]));
        let before = allocations(card.memory);
        for _ in 0..8 {
            net.receive_with(|_| ()).unwrap();
            net.transmit(60, TransmitChecksum::Complete, |_| ()).unwrap();
        }
        net.kick();
        if round > 0 {
            driver_allocations += allocations(card.memory) - before;
        }
        card.take_sent();
    }
    assert_eq!(driver_allocations, 0);
}

/// Heap allocations of this thread, and allocations of DMA memory.
fn allocations(memory: &Memory) -> usize {
    HEAP.with(Cell::get) + memory.allocations()
}

thread_local! {
    static HEAP: Cell<usize> = const { Cell::new(0) };
}

struct CountingHeap;

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.with(|count| count.set(count.get() + 1));
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingHeap = CountingHeap;

#[test]
fn dropped_frames_are_replaced_when_no_buffer_is_left() {
    let (mut net, mut card) =
        card::pair(BASIC.bits(), config(), Settings { receive_buffers: 2, ..Settings::default() });
    for round in 0..10 {
        card.deliver(Header::default(), &[round; 60]);
        card.deliver(Header::default(), &[round; 60]);
        drop(net.receive().unwrap());
        drop(net.receive().unwrap());
        assert!(net.receive().is_none());
    }
}

#[test]
fn too_little_memory_for_receive_buffers_is_less_buffers_and_for_none_is_an_error() {
    let transport = card::transport(BASIC.bits(), config());
    let net = Net::new(transport.clone(), Memory::leaked(8), Settings::default());
    assert!(net.is_ok());
    drop(net);
    let memory = Memory::leaked(2);
    let error =
        Net::new(transport, memory, Settings { receive_buffers: 4, transmit_buffers: 4, ..Settings::default() });
    assert_eq!(error.err(), Some(InitError::NoMemory { what: "receive buffers" }));
    assert_eq!(memory.allocated_pages(), 0);
}

#[test]
fn a_buffer_count_that_cannot_be_stops_the_driver() {
    let features = (BASIC | Features::MRG_RXBUF).bits();
    for count in [0, 9, 0xffff] {
        let (mut net, mut card) =
            card::pair(features, config(), Settings { receive_buffers: 8, ..Settings::default() });
        net.set_restart_limit(0);
        card.deliver(Header { num_buffers: count, ..Header::default() }, &[0; 60]);
        assert!(net.receive().is_none());
        assert_eq!(net.broken(), Some(Violation::BadBufferCount { count, limit: 8 }));
        assert!(!net.link_up() && !net.can_transmit());
    }
}

#[test]
fn the_wrong_device_is_refused() {
    let transport = FakeTransport::new(DeviceType::BLOCK, 0, 2, config().as_bytes());
    let error = Net::new(transport, Memory::leaked(8), Settings::default()).err();
    assert_eq!(error, Some(InitError::WrongDevice { wanted: DeviceType::NET, found: DeviceType::BLOCK }));
}
