//! The network card. What is received is a DHCP server's answer, which user networking has, or the echo
//! of the question where an echo peer is the other end.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::echo,
    crate::support::card::{ATTEMPTS, BUFFER, Card, FILL, HEADER, PATIENCE},
    crate::support::raw::{Buf, Dir, link, wait_until},
    crate::support::{Context, End, Verdict, equal, holds, skip},
    alloc::vec,
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::net::{ETHERNET_HEADER, FRAME_MAX, Features, GSO_NONE, STATUS_LINK_UP},
};

const LAYOUT: &str = "5.1.4 Device configuration layout";
const TRANSMIT: &str = "5.1.9.2 Packet Transmission";
const RECEIVE: &str = "5.1.9.4 Processing of Incoming Packets";
const COUNTED: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets; 5.1.9.3.2 Device Requirements: Setting Up Receive Buffers";
const RECEIVE_DEVICE: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "net/mac-is-unicast",
        rule: "mac is the card's address",
        clause: LAYOUT,
        method: "Read it, where offered",
        expectation: "Not 0, no group address",
        run: |cx| {
            let mac = Card::start(cx, Features::MAC)?.mac();
            holds(mac != [0; 6] && mac[0] & 1 == 0, "mac", "a unicast address", format_args!("{mac:02x?}"))
        },
    },
    Check {
        name: "net/link-is-up",
        rule: "status shows the link",
        clause: LAYOUT,
        method: "Read it, where offered",
        expectation: "Bit 0 set",
        level: Should,
        run: |cx| {
            let card = Card::start(cx, Features::STATUS)?;
            let status = card.dev.regs().config_read(6, 2) as u16;
            holds(status & STATUS_LINK_UP != 0, "status", "bit 0", status)
        },
    },
    Check {
        name: "net/mtu-is-valid",
        rule: "mtu is at least 68",
        clause: "5.1.4.1 Device Requirements: Device configuration layout",
        method: "Read it, where offered",
        expectation: "68 or more",
        run: |cx| {
            let card = Card::start(cx, Features::MTU)?;
            let mtu = card.dev.regs().config_read(10, 2);
            holds(mtu >= 68, "mtu", "68 or more", mtu)
        },
    },
    Check {
        name: "net/short-frame-is-taken",
        rule: "A frame may be as short as Ethernet's",
        clause: TRANSMIT,
        method: "Send 60 bytes",
        expectation: "Used, with length 0",
        run: |cx| taken(cx, 60),
    },
    Check {
        name: "net/full-frame-is-taken",
        rule: "A frame may be as long as the MTU says",
        clause: TRANSMIT,
        method: "Send 1514 bytes",
        expectation: "Used, with length 0",
        run: |cx| taken(cx, FRAME_MAX),
    },
    Check {
        name: "net/header-apart-is-taken",
        rule: "A device makes no assumptions about how a message is divided",
        clause: "2.7.4.1 Device Requirements: Message Framing",
        method: "Send 60 bytes with the header in a descriptor of its own",
        expectation: "Used",
        run: |cx| {
            let mut card = Card::start(cx, Features::MAC)?;
            let frame = card.frame(60)?;
            let parts = [link(&frame.part(0, HEADER), Dir::Out), link(&frame.part(HEADER, 60), Dir::Out)];
            let head = card.transmit.chain(0, &parts);
            card.transmit.send(&card.dev, head);
            card.transmit.wait()?;
            card.dev.healthy()
        },
    },
    Check {
        name: "net/batch-is-taken",
        rule: "Frames in flight are all sent",
        clause: TRANSMIT,
        method: "Send 16 frames with one notification",
        expectation: "All used, each id once",
        run: batch,
    },
    Check {
        name: "net/answer-arrives",
        rule: "A frame for the card is received",
        clause: RECEIVE,
        method: "Send a DHCP request, wait for the answer",
        expectation: "A reply with the same transaction id",
        run: |cx| answer(cx).map(drop),
    },
    Check {
        name: "net/received-header-is-plain",
        rule: "Without offloads the header says nothing special",
        clause: COUNTED,
        method: "The same, without features",
        expectation: "flags 0, gso_type 0, num_buffers 1",
        run: |cx| {
            let (buf, _) = answer(cx)?;
            equal("flags", 0, buf.read8(0))?;
            equal("gso_type", GSO_NONE, buf.read8(1))?;
            equal("num_buffers", 1, buf.read16(10))
        },
    },
    Check {
        name: "net/received-frame-has-its-length",
        rule: "The used length is that of header and frame",
        clause: RECEIVE_DEVICE,
        method: "Compare it with the length in the IP header",
        expectation: "At least header, Ethernet header and IP packet",
        run: |cx| {
            let (buf, len) = answer(cx)?;
            let packet = usize::from(u16::from_be(buf.read16(HEADER + ETHERNET_HEADER + 2)));
            let least = HEADER + ETHERNET_HEADER + packet;
            holds(len >= least, "used length", format_args!("{least} or more"), len)
        },
    },
    Check {
        name: "net/nothing-behind-the-used-length",
        rule: "Bytes after the used length are left as they were, although a device may write more than it says",
        clause: "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        method: "Fill the buffer with 0xa5 before",
        expectation: "0xa5 after the used length",
        level: Should,
        run: |cx| {
            let (buf, len) = answer(cx)?;
            equal("first byte changed after the used length", None, buf.part(len, BUFFER - len).first_not(FILL))
        },
    },
    Check {
        name: "net/receive-exhaustion-recovers",
        rule: "A card without buffers loses frames, not itself",
        clause: RECEIVE,
        method: "Three requests without receive buffers, then one with",
        expectation: "The answer arrives",
        run: exhaustion,
    },
    Check {
        name: "net/mergeable-buffers-are-counted",
        rule: "num_buffers is the number of buffers that a frame spans",
        clause: COUNTED,
        method: "Receive buffers of 128 bytes, with MRG_RXBUF",
        expectation: "As many used elements as num_buffers, all but the last full",
        run: mergeable,
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const TRANSACTION: u32 = 0x5249_4e47;

    impl Card<'_> {
        /// A frame of a protocol for experiments, after its header, to no address: an echo would be in the way of later checks.
        pub fn frame(&self, len: usize) -> Result<Buf, End> {
            let buf = self.dev.buffer(HEADER + len)?;
            buf.part(HEADER, 6).put(&[2, 0, 0, 0, 0, 0xfe]);
            buf.part(HEADER + 6, 6).put(&self.mac());
            buf.part(HEADER + 12, 2).put(&echo::PROTOCOL);
            Ok(buf)
        }

        pub fn discover(&mut self) -> Verdict {
            let frame = discover(self.mac());
            let buf = self.dev.buffer(HEADER + frame.len())?;
            buf.part(HEADER, frame.len()).put(&frame);
            self.send(&buf)
        }

        /// Asks until the answer is there, taking other frames on the way; the buffer and its used length.
        pub fn answer(&mut self) -> Result<(Buf, usize), End> {
            for _ in 0..ATTEMPTS {
                let buf = self.offer(BUFFER, 4)?;
                self.discover()?;
                while wait_until(PATIENCE, || self.receive.used_index() != self.receive.seen()) {
                    let used = self.receive.wait()?;
                    let len = used.len as usize;
                    holds(used.id < 4, "id of a used element", "below 4", used.id)?;
                    holds((HEADER..=BUFFER).contains(&len), "used length", "of a frame", len)?;
                    let part = buf.part(used.id as usize * BUFFER, BUFFER);
                    if is_reply(&part) {
                        return Ok((part, len));
                    }
                }
            }
            Err(skip("there is no answer to DHCP"))
        }
    }

    pub fn taken(cx: &Context, len: usize) -> Verdict {
        let mut card = Card::start(cx, Features::MAC)?;
        let frame = card.frame(len)?;
        card.send(&frame)
    }

    pub fn batch(cx: &Context) -> Verdict {
        let mut card = Card::start(cx, Features::MAC)?;
        let frame = card.frame(60)?;
        let count = card.transmit.size.min(16);
        for n in 0..count {
            let head = card.transmit.chain(n, &[link(&frame, Dir::Out)]);
            card.transmit.offer(head);
        }
        card.transmit.publish();
        card.transmit.notify(&card.dev);
        card.transmit.wait_each_once(count, 16)
    }

    pub fn answer(cx: &Context) -> Result<(Buf, usize), End> {
        Card::start(cx, Features::MAC)?.answer()
    }

    pub fn exhaustion(cx: &Context) -> Verdict {
        let mut card = Card::start(cx, Features::MAC)?;
        (0..3).try_for_each(|_| card.discover())?;
        wait_until(20_000_000, || false);
        equal("used index of the receive queue", 0, card.receive.used_index())?;
        card.answer()?;
        card.dev.healthy()
    }

    pub fn mergeable(cx: &Context) -> Verdict {
        const SMALL: usize = 128;
        let mut card = Card::start(cx, Features::MRG_RXBUF)?;
        let size = card.receive.size;
        let buf = card.offer(SMALL, size)?;
        card.discover()?;
        if !wait_until(PATIENCE, || card.receive.used_index() != 0) {
            return Err(skip("there is no answer to DHCP"));
        }
        let first = card.receive.wait()?;
        holds(first.id < size.into(), "id of a used element", "one that is in flight", first.id)?;
        let count = buf.read16(first.id as usize * SMALL + 10);
        holds((1..=size).contains(&count), "num_buffers", format_args!("1 to {size}"), count)?;
        let mut len = first.len;
        for n in 1..count {
            equal("used length of a buffer before the last", SMALL as u32, len)?;
            len = card.receive.wait()?.len;
            holds(n + 1 == count || len > 0, "used length", "1 or more", len)?;
        }
        holds(len as usize <= SMALL, "used length of the last buffer", "up to 128", len)
    }

    /// A DHCPDISCOVER (RFC 2131), broadcast.
    pub fn discover(mac: [u8; 6]) -> Vec<u8> {
        const BOOTP: usize = 300;
        let mut frame = vec![0; ETHERNET_HEADER + 28 + BOOTP];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let (ip, rest) = frame[ETHERNET_HEADER..].split_at_mut(20);
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(28 + BOOTP as u16).to_be_bytes());
        ip[8..10].copy_from_slice(&[64, 17]);
        ip[16..20].fill(0xff);
        let sum: u32 = ip.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        rest[..6].copy_from_slice(&[0, 68, 0, 67, ((8 + BOOTP) >> 8) as u8, (8 + BOOTP) as u8]);
        let bootp = &mut rest[8..];
        bootp[..3].copy_from_slice(&[1, 1, 6]);
        bootp[4..8].copy_from_slice(&TRANSACTION.to_be_bytes());
        bootp[10] = 0x80;
        bootp[28..34].copy_from_slice(&mac);
        bootp[236..244].copy_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
        frame
    }

    /// An answer of a server, or our own request from an echo peer that echoes.
    pub fn is_reply(buf: &Buf) -> bool {
        const UDP: usize = HEADER + ETHERNET_HEADER + 20;
        let bootp = buf.part(UDP + 8, 8).bytes();
        let ports = buf.part(UDP, 4).bytes();
        let answer = ports == [0, 67, 0, 68] && bootp[0] == 2;
        let echo = ports == [0, 68, 0, 67] && buf.part(HEADER + 6, 6).bytes() == echo::MAC;
        (answer || echo) && bootp[4..8] == TRANSACTION.to_be_bytes()
    }
}
