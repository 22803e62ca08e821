//! Network cards: our driver, and the reference driver, against the host's card with a stream peer, and with a link
//! that leaves checksums to its ends.

use crate::bridge::{Rig, Slot, dma};
use crate::reference::{Hal, ReferenceTransport};
use frontends::net::{Settings, TransmitChecksum};
use frontends::transport::MmioTransport;
use frontends::{Driver, InterruptSource, Net};
use host_backend::config::Mac;
use host_backend::virtio::net::stream::StreamLink;
use host_backend::virtio::net::{Link, Net as Model, Sent};
use shared_abi::virtio::net::{Features, HDR_NEEDS_CSUM, Header};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use virtio_drivers::device::net::VirtIONet;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::FromBytes;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0xab, 0xcd, 0xef];

fn rig(link: impl Link + 'static) -> Rig {
    Rig::new(dma(), Box::new(Model::new(Box::new(link), Some(Mac(MAC)))))
}

fn stream() -> (Rig, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    (rig(StreamLink::new(ours).unwrap()), peer)
}

fn ours(rig: &Rig) -> Net<MmioTransport<Slot>> {
    Net::new(rig.transport(), rig.dma, Settings::default()).expect("the driver comes up")
}

fn put(peer: &mut UnixStream, frame: &[u8]) {
    peer.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
    peer.write_all(frame).unwrap();
}

fn take(peer: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

fn frame(number: u32, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32 * 7 + number) as u8).collect()
}

#[test]
fn our_driver_sends_and_receives_frames_of_all_lengths() {
    let (rig, mut peer) = stream();
    let mut net = ours(&rig);
    assert_eq!((net.mac(), net.mtu(), net.link_up()), (MAC, 1500, true));
    for (number, len) in (14..=1514).step_by(25).enumerate() {
        let sent = frame(number as u32, len);
        net.transmit(len, TransmitChecksum::Complete, |bytes| bytes.copy_from_slice(&sent)).unwrap();
        net.kick();
        assert_eq!(take(&mut peer), sent);
        put(&mut peer, &sent);
        rig.model.process_event(EventSet::IN);
        assert_eq!(net.receive_with(|bytes| bytes.to_vec()), Some(sent));
        net.kick();
    }
    assert_eq!(net.counters().dropped, 0);
    rig.assert_content();
}

#[test]
fn our_driver_keeps_order_through_seventy_thousand_frames_in_batches() {
    let (rig, mut peer) = stream();
    let mut net = ours(&rig);
    let mut number = 0;
    for _ in 0..70_000 / 20 {
        for _ in 0..20 {
            let sent = frame(number, 60);
            net.transmit(60, TransmitChecksum::Complete, |bytes| bytes.copy_from_slice(&sent)).unwrap();
            put(&mut peer, &sent);
            number += 1;
        }
        net.kick();
        rig.model.process_event(EventSet::IN);
        for number in number - 20..number {
            assert_eq!(take(&mut peer), frame(number, 60));
            assert_eq!(net.receive_with(|bytes| bytes.to_vec()), Some(frame(number, 60)));
        }
    }
    assert_eq!((net.counters().received, net.counters().transmitted), (number.into(), number.into()));
    assert!(net.notifications() <= 2 * 70_000 / 20 + 1, "one a batch and direction");
    rig.assert_content();
}

#[test]
fn frames_wait_for_buffers_and_arrive_when_there_are_some() {
    let (rig, mut peer) = stream();
    let settings = Settings { receive_buffers: 4, ..Settings::default() };
    let mut net = Net::new(rig.transport(), rig.dma, settings).unwrap();
    for number in 0..10 {
        put(&mut peer, &frame(number, 100));
    }
    rig.model.process_event(EventSet::IN);
    let mut received = Vec::new();
    for _ in 0..10 {
        while let Some(bytes) = net.receive_with(|bytes| bytes.to_vec()) {
            received.push(bytes);
        }
        net.kick();
        rig.model.process_event(EventSet::IN);
    }
    assert_eq!(received, (0..10).map(|number| frame(number, 100)).collect::<Vec<_>>());
    rig.assert_content();
}

#[test]
fn a_frame_larger_than_the_mtu_is_dropped_by_the_device_and_the_next_arrives() {
    let (rig, mut peer) = stream();
    let mut net = ours(&rig);
    put(&mut peer, &frame(1, 9000));
    put(&mut peer, &frame(2, 100));
    rig.model.process_event(EventSet::IN);
    assert_eq!(net.receive_with(|bytes| bytes.to_vec()), Some(frame(2, 100)));
    assert_eq!((net.counters().dropped, net.broken()), (0, None));
    assert_eq!(rig.model.counters().errors.get(), 1);
}

#[test]
fn a_peer_that_leaves_takes_the_link_down() {
    let (rig, peer) = stream();
    let mut net = ours(&rig);
    drop(peer);
    rig.model.process_event(EventSet::IN | EventSet::HANG_UP);
    net.interrupt(InterruptSource::Shared);
    assert!(!net.link_up());
    assert!(net.transmit(60, TransmitChecksum::Complete, |_| ()).is_some(), "frames go nowhere, as on any wire");
    net.kick();
    rig.assert_content();
}

/// Sends every frame back, its checksum as unfinished as it came.
struct Mirror {
    frames: VecDeque<Vec<u8>>,
    event: EventFd,
}

impl Link for Mirror {
    fn offloads(&self) -> Features {
        Features::CSUM | Features::GUEST_CSUM
    }
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
    fn send(&mut self, packet: &[u8]) -> io::Result<Sent> {
        self.frames.push_back(packet.to_vec());
        Ok(Sent::Yes)
    }
    fn receive(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(frame) = self.frames.pop_front() else { return Ok(None) };
        let (header, _) = Header::read_from_prefix(&frame).unwrap();
        assert_eq!(header.flags, HDR_NEEDS_CSUM, "the driver left the checksum to us");
        packet[..frame.len()].copy_from_slice(&frame);
        Ok(Some(frame.len()))
    }
    fn flush(&mut self) -> bool {
        true
    }
    fn is_up(&self) -> bool {
        true
    }
}

#[test]
fn checksums_are_left_out_on_the_way_and_right_at_the_end() {
    let rig = rig(Mirror { frames: VecDeque::new(), event: EventFd::new(0).unwrap() });
    let mut net = ours(&rig);
    assert!(net.has_checksum_offload());
    let mut udp = vec![0; 34];
    udp[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    udp[16..18].copy_from_slice(&33_u16.to_be_bytes());
    udp[23] = 17;
    udp[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    udp.extend_from_slice(&[0x12, 0x34, 0, 80, 0, 13, 0, 0]);
    udp.extend_from_slice(b"hello");
    net.transmit(udp.len(), TransmitChecksum::Offload, |bytes| bytes.copy_from_slice(&udp)).unwrap();
    net.kick();
    rig.model.process_event(EventSet::IN);
    let received = net.receive_with(|bytes| bytes.to_vec()).unwrap();
    // The definition: pseudo header and segment add up to all ones.
    let words = [&received[26..34], &[0, 17, 0, 13], &received[34..], &[0]].concat();
    let sum = words.chunks(2).fold(0_u32, |sum, pair| sum + (u32::from(pair[0]) << 8 | u32::from(pair[1])));
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    assert_ne!(received[40..42], [0, 0]);
    assert_eq!(received[42..], udp[42..]);
}

#[test]
fn the_reference_driver_sends_and_receives() {
    let (rig, mut peer) = stream();
    let mut net = VirtIONet::<Hal, _, 16>::new(ReferenceTransport::new(&rig), 2048).unwrap();
    assert_eq!(net.mac_address(), MAC);
    for number in 0..100 {
        let sent = frame(number, 60 + number as usize * 14);
        let mut buffer = net.new_tx_buffer(sent.len());
        buffer.packet_mut().copy_from_slice(&sent);
        net.send(buffer).unwrap();
        assert_eq!(take(&mut peer), sent);
        put(&mut peer, &sent);
        rig.model.process_event(EventSet::IN);
        let received = net.receive().unwrap();
        assert_eq!(received.packet(), sent);
        net.recycle_rx_buffer(received).unwrap();
    }
    rig.assert_content();
}
