//! Tests of the network card over a stream link, with a peer that may be anybody.

use super::stream::StreamLink;
use super::*;
use crate::virtio::harness::{DATA, READ, Rig, WRITE};
use proptest::prelude::*;
use shared_abi::virtio::mmio::{InterruptStatus, Register};
use shared_abi::virtio::net::{Config, GSO_UDP_L4, HDR_NEEDS_CSUM, STATUS_LINK_UP};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

const RXQ: u32 = RX as u32;
const TXQ: u32 = TX as u32;
const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn rig_with(mask: u64) -> (Rig, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let rig = Rig::new(Net::new(Box::new(StreamLink::new(ours).unwrap()), Some(MAC)));
    rig.start(mask & !CommonFeatures::EVENT_IDX.bits());
    (rig, peer)
}

fn rig() -> (Rig, UnixStream) {
    rig_with(u64::MAX)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn poll(rig: &Rig) {
    while rig.transport.process_event(EventSet::IN | EventSet::OUT) == Progress::More {}
}

/// Makes `count` receive buffers of `len` bytes available, at DATA and every 4096 bytes on.
fn offer_buffers(rig: &Rig, count: u16, len: u32) {
    for head in 0..count {
        rig.chain(RXQ, head, &[(DATA + 4096 * u64::from(head), len, WRITE)]);
        rig.offer(RXQ, head);
    }
    rig.kick(RXQ);
}

fn send(rig: &Rig, header: Header, frame: &[u8]) {
    rig.put(DATA, header.as_bytes());
    rig.put(DATA + HEADER_LEN as u64, frame);
    rig.request(TXQ, &[(DATA, HEADER_LEN as u32, READ), (DATA + HEADER_LEN as u64, frame.len() as u32, READ)]);
}

#[test]
fn the_configuration_has_mac_link_and_mtu() {
    let (rig, _peer) = rig();
    let mut bytes = [0; size_of::<Config>()];
    rig.config(0, &mut bytes);
    let config = Config::read_from_bytes(&bytes).unwrap();
    assert_eq!((config.mac, config.status, config.mtu), (MAC.0, STATUS_LINK_UP, 1500));
    let made_up = Net::new(Box::new(StreamLink::new(UnixStream::pair().unwrap().0).unwrap()), None).mac.0;
    assert_eq!(made_up[0] & 3, 2, "local and unicast");
}

#[test]
fn a_frame_goes_out_after_its_length() {
    let (rig, mut peer) = rig();
    let frame: Vec<u8> = (0..60).collect();
    send(&rig, Header::default(), &frame);
    let mut got = [0; 64];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, framed(&frame)[..]);
    assert_eq!(rig.used_index(TXQ), 1);
}

#[test]
fn a_frame_comes_in_after_a_header() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, 2, 2048);
    peer.write_all(&[framed(&[0xab; 100]), framed(&[0xcd; 50])].concat()).unwrap();
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 2);
    assert_eq!((rig.used(RXQ, 0).len, rig.used(RXQ, 1).len), (112, 62));
    let header = Header { num_buffers: 1, ..Header::default() };
    assert_eq!(rig.get(DATA, 112), [header.as_bytes(), &[0xab; 100]].concat());
    assert!(rig.edges.take() > 0);
}

#[test]
fn a_frame_in_pieces_is_put_together() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, 1, 2048);
    for byte in framed(&[0xab; 30]) {
        assert_eq!(rig.used_index(RXQ), 0);
        peer.write_all(&[byte]).unwrap();
        poll(&rig);
    }
    assert_eq!(rig.used_index(RXQ), 1);
}

#[test]
fn a_large_frame_spans_mergeable_buffers() {
    let (rig, mut peer) = rig();
    let frame: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
    offer_buffers(&rig, 3, 400);
    peer.write_all(&framed(&frame)).unwrap();
    poll(&rig);
    assert_eq!((0..3).map(|i| rig.used(RXQ, i).len).collect::<Vec<_>>(), [400, 400, 212]);
    let got = [rig.get(DATA, 400), rig.get(DATA + 4096, 400), rig.get(DATA + 8192, 212)].concat();
    assert_eq!(got[..HEADER_LEN], *Header { num_buffers: 3, ..Header::default() }.as_bytes());
    assert_eq!(got[HEADER_LEN..], frame);
}

#[test]
fn a_frame_waits_for_enough_buffers() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, 2, 400);
    peer.write_all(&framed(&[1; 1000])).unwrap();
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 0);
    assert!(rig.transport.awaited().source.is_none(), "nothing to wait for but the guest");
    rig.chain(RXQ, 5, &[(DATA + 0x8000, 400, WRITE)]);
    rig.offer(RXQ, 5);
    rig.kick(RXQ);
    assert_eq!(rig.used_index(RXQ), 3);
    assert!(rig.transport.awaited().source.is_some());
}

#[test]
fn a_frame_larger_than_the_buffer_is_dropped_without_mergeable_buffers() {
    let (rig, mut peer) = rig_with(!Features::MRG_RXBUF.bits());
    offer_buffers(&rig, 2, 400);
    peer.write_all(&[framed(&[1; 1000]), framed(&[2; 100])].concat()).unwrap();
    poll(&rig);
    assert_eq!((rig.used_index(RXQ), rig.used(RXQ, 0).len), (1, 112));
    assert_eq!(rig.transport.counters().errors.get(), 1);
}

#[test]
fn a_frame_that_no_full_ring_can_take_is_dropped() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, crate::virtio::harness::SIZE, 20);
    peer.write_all(&[framed(&[1; 1000]), framed(&[2; 20])].concat()).unwrap();
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 2);
    assert_eq!(rig.transport.counters().errors.get(), 1);
}

#[test]
fn a_frame_past_the_mtu_is_dropped_and_counted() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, 2, 4096);
    let past = ETHERNET_HEADER + usize::from(MTU) + 1;
    peer.write_all(&[framed(&vec![1; past]), framed(&vec![2; past - 1])].concat()).unwrap();
    poll(&rig);
    assert_eq!((rig.used_index(RXQ), rig.used(RXQ, 0).len as usize), (1, HEADER_LEN + past - 1));
    assert_eq!(rig.transport.counters().errors.get(), 1);
}

#[test]
fn malformed_packets_of_the_guest_are_dropped() {
    let (rig, mut peer) = rig();
    let good = [3; 20];
    send(&rig, Header { flags: HDR_NEEDS_CSUM, csum_offset: 19, ..Header::default() }, &good);
    send(&rig, Header { gso_type: 1, ..Header::default() }, &good);
    send(&rig, Header::default(), &good[..5]);
    rig.request(TXQ, &[(DATA, 3, READ)]);
    rig.request(TXQ, &[(DATA, 1 << 17, READ)]);
    assert_eq!((rig.used_index(TXQ), rig.transport.counters().errors.get()), (5, 5));
    send(&rig, Header::default(), &good);
    let mut got = [0; 24];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, framed(&good)[..]);
}

#[test]
fn a_checksum_that_the_guest_left_open_is_complete_on_the_wire() {
    let (rig, mut peer) = rig();
    let mut frame: Vec<u8> = (0..60).collect();
    send(&rig, Header { flags: HDR_NEEDS_CSUM, csum_start: 50, csum_offset: 8, ..Header::default() }, &frame);
    let sum: u32 = frame[50..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[58..].copy_from_slice(&sum.to_be_bytes());
    let mut got = [0; 64];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, framed(&frame)[..]);
}

/// A UDP packet over IPv4 to be cut into datagrams of 1000 bytes.
fn to_be_cut(payload: &[u8]) -> (Header, Vec<u8>) {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0, 9, 0, 0, 0, 0]);
    frame.extend(payload);
    let header = Header {
        flags: HDR_NEEDS_CSUM,
        gso_type: GSO_UDP_L4,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 6,
        ..Header::default()
    };
    (header, frame)
}

#[test]
fn a_packet_in_segments_goes_on_where_the_peer_stopped_reading() {
    let (rig, mut peer) = rig();
    let payload: Vec<u8> = (0..60_000u32).map(|i| (i / 7) as u8).collect();
    let (header, frame) = to_be_cut(&payload);
    let mut sent = 0;
    while rig.used_index(TXQ) == sent {
        send(&rig, header, &frame);
        sent += 1;
        assert!(sent < 1000);
    }
    let mut got = Vec::new();
    while got.len() < usize::from(sent) * 60 * (4 + 42 + 1000) {
        let mut part = [0; 1 << 16];
        let n = peer.read(&mut part).unwrap();
        got.extend_from_slice(&part[..n]);
        poll(&rig);
    }
    assert_eq!(rig.used_index(TXQ), sent);
    for (n, datagram) in got.chunks(4 + 42 + 1000).enumerate() {
        assert_eq!(datagram[46..], payload[n % 60 * 1000..][..1000], "datagram {n}");
    }
}

#[test]
fn a_reset_of_the_transmit_queue_forgets_the_packet_on_its_way() {
    let (rig, _peer) = rig();
    let (header, frame) = to_be_cut(&[1; 60_000]);
    let mut sent = 0;
    while rig.used_index(TXQ) == sent {
        send(&rig, header, &frame);
        sent += 1;
    }
    rig.write(Register::QueueSel, TXQ);
    rig.write(Register::QueueReset, 1);
    assert_eq!((rig.read(Register::QueueReset), rig.read(Register::QueueReady)), (0, 0));
    poll(&rig);
    assert_eq!(rig.used_index(TXQ), sent - 1, "the old ring is left alone");
    assert!(!rig.needs_reset());
    assert!(!rig.transport.awaited().source.unwrap().1.contains(EventSet::OUT));
}

#[test]
fn what_the_control_queue_filters_does_not_reach_the_guest() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, 4, 400);
    let answer = |command: &[u8]| {
        rig.put(DATA + 0x8000, command);
        let chain = [(DATA + 0x8000, command.len() as u32, READ), (DATA + 0x9000, 1, WRITE)];
        let used = rig.request(CONTROL as u32, &chain).unwrap();
        assert_eq!(used.len, 1);
        rig.get(DATA + 0x9000, 1)[0]
    };
    assert_eq!((answer(&[0, 0, 0]), answer(&[0, 0]), answer(&[9, 9, 9])), (0, 1, 1));
    for to in [[2, 0, 0, 0, 0, 8], MAC.0] {
        peer.write_all(&framed(&[&to[..], &[7; 50]].concat())).unwrap();
    }
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 1);
    assert_eq!(rig.get(DATA + HEADER_LEN as u64, 6), MAC.0);
}

#[test]
fn a_receive_buffer_in_the_wrong_direction_needs_a_reset() {
    let (rig, mut peer) = rig();
    rig.chain(RXQ, 0, &[(DATA, 2048, READ)]);
    rig.offer(RXQ, 0);
    peer.write_all(&framed(&[1; 100])).unwrap();
    poll(&rig);
    assert!(rig.needs_reset());
}

#[test]
fn a_peer_that_does_not_read_makes_the_guest_wait_and_loses_nothing() {
    let (rig, mut peer) = rig();
    let frame = [0x77; 1514];
    let mut sent = 0;
    while rig.used_index(TXQ) == sent {
        send(&rig, Header::default(), &frame);
        sent += 1;
        assert!(sent < 10_000);
    }
    let (_, set) = rig.transport.awaited().source.unwrap();
    assert!(set.contains(EventSet::OUT));
    let mut got = Vec::new();
    while got.len() < usize::from(sent) * (4 + frame.len()) {
        let mut part = [0; 1 << 16];
        let n = peer.read(&mut part).unwrap();
        got.extend_from_slice(&part[..n]);
        poll(&rig);
    }
    assert_eq!(rig.used_index(TXQ), sent);
    assert!(got.chunks(4 + frame.len()).all(|chunk| chunk == framed(&frame)));
}

#[test]
fn a_peer_that_goes_away_takes_the_link_down() {
    let (rig, peer) = rig();
    drop(peer);
    poll(&rig);
    assert_eq!(rig.read(Register::InterruptStatus), InterruptStatus::CONFIG_CHANGE.bits());
    let mut status = [0; 2];
    rig.config(6, &mut status);
    assert_eq!(status, [0, 0]);
    assert!(rig.transport.awaited().source.is_none());
    send(&rig, Header::default(), &[1; 20]);
    assert_eq!(rig.used_index(TXQ), 1);
}

#[test]
fn a_peer_that_announces_an_impossible_frame_takes_the_link_down() {
    for length in [0, 13, PACKET_MAX as u32, u32::MAX] {
        let (rig, mut peer) = rig();
        offer_buffers(&rig, 1, 2048);
        peer.write_all(&length.to_be_bytes()).unwrap();
        poll(&rig);
        assert!(rig.transport.awaited().source.is_none(), "{length}");
    }
}

#[test]
fn after_a_reset_the_card_works_again() {
    let (rig, mut peer) = rig();
    offer_buffers(&rig, 1, 2048);
    rig.write(Register::Status, 0);
    rig.put(crate::virtio::harness::available(RXQ), &[0; 4]);
    rig.put(crate::virtio::harness::used(RXQ), &[0; 4]);
    rig.start(!CommonFeatures::EVENT_IDX.bits());
    offer_buffers(&rig, 1, 2048);
    peer.write_all(&framed(&[1; 100])).unwrap();
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 1);
}

proptest! {
    /// A peer may send any bytes: they are frames or the end of the link.
    #[test]
    fn random_streams_never_hurt_the_host(bytes in prop::collection::vec(any::<u8>(), 0..400), small: bool) {
        let (rig, mut peer) = rig();
        let bytes = if small { [vec![0, 0, 0], bytes].concat() } else { bytes };
        offer_buffers(&rig, 8, 100);
        peer.write_all(&bytes).unwrap();
        poll(&rig);
        prop_assert!(!rig.needs_reset());
    }
}

#[test]
fn a_pulled_cable_is_reported_and_loses_the_frames_of_both_directions() {
    let (rig, mut peer) = rig();
    let status = || {
        let mut bytes = [0; 2];
        rig.config(offset_of!(Config, status) as u64, &mut bytes);
        u16::from_le_bytes(bytes)
    };
    let pull = |cable| rig.transport.change(Change::Cable(cable), Duration::ZERO);
    pull(Cable::Down).unwrap();
    assert_eq!((status(), rig.read(Register::InterruptStatus)), (0, InterruptStatus::CONFIG_CHANGE.bits()));
    assert_eq!(rig.read(Register::ConfigGeneration), 1);
    offer_buffers(&rig, 2, 2048);
    peer.write_all(&framed(&[1; 60])).unwrap();
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 0);
    send(&rig, Header::default(), &[2; 60]);
    assert_eq!(rig.used_index(TXQ), 1, "the guest gets its buffer back");
    pull(Cable::Up).unwrap();
    assert_eq!((status(), rig.read(Register::ConfigGeneration)), (STATUS_LINK_UP, 2));
    send(&rig, Header::default(), &[3; 60]);
    let mut got = [0; 64];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got[4..], [3; 60]);
    peer.write_all(&framed(&[4; 60])).unwrap();
    poll(&rig);
    assert_eq!(rig.used_index(RXQ), 1);
}

#[test]
fn a_queue_that_was_taken_back_gets_nothing_of_what_it_held() {
    for (register, value) in [(Register::QueueReady, 0), (Register::QueueReset, 1)] {
        let (rig, mut peer) = rig();
        let mut sent = 0;
        // Until the socket is full and a frame waits in the card.
        while rig.used_index(TXQ) == sent {
            send(&rig, Header::default(), &[7; 1500]);
            sent = sent.wrapping_add(1);
        }
        rig.write(Register::QueueSel, TXQ);
        rig.write(register, value);
        rig.put(crate::virtio::harness::available(TXQ), &[0; 64]);
        rig.put(crate::virtio::harness::used(TXQ), &[0; 160]);
        rig.queue(TXQ);
        let mut drained = vec![0; 1 << 20];
        while peer.set_nonblocking(true).is_ok() && peer.read(&mut drained).is_ok() {
            poll(&rig);
        }
        assert_eq!((rig.used_index(TXQ), rig.needs_reset()), (0, false), "{register:?}");
    }
}
