//! Tests of a card's rate limits, by counts: a guest and a peer that always have a packet for each other, and a clock that
//! goes from one wake-up of the card to the next.

use super::stream::StreamLink;
use super::*;
use crate::rate::fake::FakeClock;
use crate::virtio::harness::{DATA, READ, Rig, SIZE, WRITE, available, used};
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::net::{GSO_UDP_L4, HDR_NEEDS_CSUM, Header};
use shared_abi::virtio::{Status, ring};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zerocopy::IntoBytes;

const RXQ: u32 = RX as u32;
const TXQ: u32 = TX as u32;
/// Where packets of the guest are; buffers for the others start at `DATA`.
const SENT_AT: u64 = DATA + 0x10_0000;

/// More frames than any limit here gives.
const ENDLESS: u64 = 1_000_000;

struct Limited {
    rig: Rig,
    peer: UnixStream,
    clock: Arc<FakeClock>,
}

fn limit(bytes: Option<u64>, operations: Option<u64>, burst_ms: u64) -> RateLimit {
    RateLimit { bytes, operations, burst: Duration::from_millis(burst_ms) }
}

impl Limited {
    fn new(limit: &RateLimit) -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let clock = FakeClock::shared();
        let shared: Arc<dyn Clock> = clock.clone();
        let net = Net::new(Box::new(StreamLink::new(ours).unwrap()), Some(Mac([2, 0, 0, 0, 0, 9])));
        let rig = Rig::new(net.with_limit(limit, &shared));
        rig.start(!CommonFeatures::EVENT_IDX.bits());
        Self { rig, peer, clock }
    }

    /// Frames that the guest still has in its queue.
    fn unsent(&self) -> u16 {
        self.rig.available_index(TXQ).wrapping_sub(self.rig.used_index(TXQ))
    }

    /// Offers so many frames of `len` bytes to the card, in the places of those that are sent.
    fn send(&self, count: u16, len: u32) {
        self.rig.put(SENT_AT, Header::default().as_bytes());
        for _ in 0..count {
            let at = self.rig.available_index(TXQ) % SIZE;
            self.rig.chain(TXQ, at, &[(SENT_AT, HEADER_LEN as u32 + len, READ)]);
            self.rig.offer(TXQ, at);
        }
        self.rig.kick(TXQ);
    }

    /// Offers buffers, so that all places are taken.
    fn offer_buffers(&self) {
        let free = SIZE - self.rig.available_index(RXQ).wrapping_sub(self.rig.used_index(RXQ));
        for _ in 0..free {
            let at = self.rig.available_index(RXQ) % SIZE;
            self.rig.chain(RXQ, at, &[(DATA + 4096 * u64::from(at), 4096, WRITE)]);
            self.rig.offer(RXQ, at);
        }
        if free > 0 {
            self.rig.kick(RXQ);
        }
    }

    /// The card looks at its link, as far as it waits for that.
    fn look(&self) {
        while let Some((_, set)) = self.rig.transport.awaited().source
            && self.rig.transport.process_event(set) == Progress::More
        {}
    }

    /// Bytes that the peer gets.
    fn drain(&mut self) -> usize {
        let mut buffer = [0; 65536];
        let mut all = 0;
        while let Ok(len @ 1..) = self.peer.read(&mut buffer) {
            all += len;
        }
        all
    }
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.resize(len, 0x5a);
    [&(len as u32).to_be_bytes(), &frame[..]].concat()
}

fn within_5_percent(done: u64, given: u64) -> bool {
    (given * 95..=given * 105).contains(&(done * 100))
}

/// Limit, length of a frame, and how many of them ten seconds give.
fn cases() -> [(RateLimit, usize, u64); 4] {
    [
        (limit(Some(100_000), None, 1000), 1000, 1100),
        (limit(None, Some(200), 500), 100, 2100),
        (limit(Some(100_000), Some(50), 1000), 1000, 550),
        (limit(Some(100_000), Some(5000), 1000), 1000, 1100),
    ]
}

#[test]
fn ten_seconds_of_sending_give_the_burst_and_ten_seconds_of_the_rate() {
    for (limit, len, frames) in cases() {
        let mut card = Limited::new(&limit);
        let mut bytes = 0;
        loop {
            assert!(card.rig.transport.counters().requests.get() < ENDLESS, "there is no limit");
            card.send(SIZE - card.unsent(), len as u32);
            bytes += card.drain();
            if card.unsent() == SIZE && !card.rig.wake(&card.clock, Duration::from_secs(10)) {
                break;
            }
        }
        bytes += card.drain();
        let counters = card.rig.transport.counters();
        assert!(within_5_percent(counters.requests.get(), frames), "{limit:?}: {}", counters.requests.get());
        assert_eq!((bytes / (len + 4)) as u64, counters.requests.get(), "what is counted has arrived");
        assert_eq!(counters.errors.get(), 0);
        assert!(counters.throttled.get() > 0 && counters.throttled_ms.get() > 9000);
    }
}

#[test]
fn ten_seconds_of_receiving_give_the_burst_and_ten_seconds_of_the_rate_and_nothing_is_dropped() {
    for (limit, len, frames) in cases() {
        let mut card = Limited::new(&limit);
        let (sent, mut written) = (frame(len), 0u64);
        loop {
            assert!(card.rig.transport.counters().requests.get() < ENDLESS, "there is no limit");
            card.offer_buffers();
            // The peer sends as long as there is room; a frame of which a part fits is sent to its end later.
            loop {
                let at = (written % sent.len() as u64) as usize;
                match card.peer.write(&sent[at..]) {
                    Ok(n) => written += n as u64,
                    Err(_) => break,
                }
            }
            card.look();
            let waits = card.rig.transport.awaited().until.is_some();
            if waits && !card.rig.wake(&card.clock, Duration::from_secs(10)) {
                break;
            }
        }
        let counters = card.rig.transport.counters();
        assert!(within_5_percent(counters.requests.get(), frames), "{limit:?}: {}", counters.requests.get());
        assert_eq!(counters.errors.get(), 0);
        // What is left waits in the link: the peer cannot write more.
        assert!(written / sent.len() as u64 > counters.requests.get());
        assert!(counters.throttled.get() > 0 && counters.throttled_ms.get() > 9000);
    }
}

#[test]
fn a_card_at_its_limit_does_not_look_at_its_link() {
    let mut card = Limited::new(&limit(None, Some(1), 1000));
    card.offer_buffers();
    card.peer.write_all(&[frame(60), frame(60), frame(60)].concat()).unwrap();
    card.look();
    assert_eq!(card.rig.used_index(RXQ), 1);
    assert!(card.rig.transport.awaited().source.is_none(), "it would be woken up again and again");
    assert!(card.rig.wake(&card.clock, Duration::from_secs(1)));
    assert_eq!(card.rig.used_index(RXQ), 2);
}

#[test]
fn the_directions_have_limits_of_their_own() {
    let mut card = Limited::new(&limit(None, Some(3), 1000));
    card.send(5, 60);
    assert_eq!(card.unsent(), 2);
    card.offer_buffers();
    card.peer.write_all(&[frame(60), frame(60)].concat()).unwrap();
    card.look();
    assert_eq!((card.rig.used_index(RXQ), card.unsent()), (2, 2));
}

#[test]
fn a_packet_to_be_cut_counts_as_its_segments() {
    let card = Limited::new(&limit(None, Some(10), 1000));
    let mut packet = vec![0xff; 12];
    // A UDP datagram of 10 segments with 100 bytes each.
    packet.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0, 1, 0, 2, 0, 0, 0, 0]);
    packet.resize(packet.len() + 1000, 0x5a);
    let header = Header {
        flags: HDR_NEEDS_CSUM,
        gso_type: GSO_UDP_L4,
        gso_size: 100,
        csum_start: 34,
        csum_offset: 6,
        ..Header::default()
    };
    card.rig.put(SENT_AT, &[header.as_bytes(), &packet].concat());
    for at in 0..2 {
        card.rig.chain(TXQ, at, &[(SENT_AT, (HEADER_LEN + packet.len()) as u32, READ)]);
        card.rig.offer(TXQ, at);
    }
    card.rig.kick(TXQ);
    assert_eq!((card.unsent(), card.rig.wait(&card.clock)), (1, Some(Duration::from_secs(1))));
    assert_eq!(card.rig.transport.counters().errors.get(), 0);
}

#[test]
fn a_reset_waits_for_no_tokens() {
    let mut card = Limited::new(&limit(None, Some(1), 1000));
    card.send(2, 60);
    card.offer_buffers();
    card.peer.write_all(&[frame(60), frame(60)].concat()).unwrap();
    card.look();
    assert_eq!(card.rig.wait(&card.clock), Some(Duration::from_secs(1)));
    card.rig.write(Register::Status, 0);
    assert_eq!((card.rig.status(), card.rig.wait(&card.clock)), (Status::empty(), None));
}

#[test]
fn a_queue_that_is_taken_back_waits_for_no_tokens() {
    for queue in [TXQ, RXQ] {
        let mut card = Limited::new(&limit(None, Some(1), 1000));
        if queue == TXQ {
            card.send(2, 60);
        } else {
            card.offer_buffers();
            card.peer.write_all(&[frame(60), frame(60)].concat()).unwrap();
            card.look();
        }
        assert_eq!(card.rig.wait(&card.clock), Some(Duration::from_secs(1)));
        card.rig.write(Register::QueueSel, queue);
        card.rig.write(Register::QueueReset, 1);
        assert!(card.rig.wake(&card.clock, Duration::from_secs(1)));
        // It would be woken up again and again.
        assert_eq!(card.rig.wait(&card.clock), None);
        card.rig.put(available(queue), &vec![0; ring::available_len(SIZE)]);
        card.rig.put(used(queue), &vec![0; ring::used_len(SIZE)]);
        card.rig.queue(queue);
        if queue == TXQ {
            card.send(1, 60)
        } else {
            card.offer_buffers()
        }
        assert_eq!(card.rig.used_index(queue), 1, "the frame that waited in the link, or a new one");
    }
}

#[test]
fn a_pulled_cable_frees_a_card_that_waits() {
    let mut card = Limited::new(&limit(None, Some(1), 1000));
    card.offer_buffers();
    card.peer.write_all(&[frame(60), frame(60)].concat()).unwrap();
    card.look();
    card.rig.transport.change(Change::Cable(Cable::Down), Duration::ZERO).unwrap();
    assert!(card.rig.wake(&card.clock, Duration::from_secs(1)));
    assert_eq!((card.rig.used_index(RXQ), card.rig.wait(&card.clock)), (1, None));
    assert_eq!(card.rig.transport.counters().errors.get(), 1);
}

#[test]
fn packets_larger_than_any_are_counted() {
    let card = Limited::new(&RateLimit::default());
    card.send(1, (1 << 16) + ETHERNET_HEADER as u32);
    card.send(1, (1 << 16) + ETHERNET_HEADER as u32 + 1);
    let counters = card.rig.transport.counters();
    assert_eq!((counters.oversized.get(), counters.errors.get(), card.unsent()), (1, 1, 0));
}
