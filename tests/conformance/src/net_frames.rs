//! Frames of every size to the echo peer and back, and what happens when there is no room for them.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::echo,
    crate::support::card::{ATTEMPTS, BUFFER, Card, HEADER, PATIENCE, same, tagged},
    crate::support::raw::{Dir, Link, link, wait_until},
    crate::support::{Context, End, Verdict, equal, fail, holds},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::net::{Config, ETHERNET_HEADER, FRAME_MAX, Features, Header},
};

const TRANSMIT: &str = "5.1.9.2 Packet Transmission";
const RECEIVE: &str = "5.1.9.4 Processing of Incoming Packets";
const RECEIVE_DEVICE: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets";
const BUFFERS: &str = "5.1.9.3 Setting Up Receive Buffers";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "net-frames/every-size-comes-back",
        rule: "A frame leaves and arrives with all its bytes",
        clause: TRANSMIT,
        method: "Some fifty sizes from 60 to 1514, odd ones and those around powers of 2 among them, one after the \
            other",
        expectation: "Each echo has the same length and bytes",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            for size in sizes() {
                let frame = card.to_echo_peer(size);
                card.echo(&frame)?;
            }
            card.dev.healthy()
        },
    },
    Check {
        name: "net-frames/frame-of-the-mtu-comes-back",
        rule: "A device takes and delivers frames as large as its MTU",
        clause: "5.1.4.1 Device Requirements: Device configuration layout",
        method: "Where MTU is offered: frames of mtu and of mtu - 1 bytes of payload",
        expectation: "Each echo has the same length and bytes",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MTU)?;
            let mtu = card.dev.regs().config_read(offset_of!(Config, mtu), 2) as usize;
            card.stock((HEADER + ETHERNET_HEADER + mtu).next_multiple_of(16), 4)?;
            for len in [mtu - 1, mtu] {
                let frame = card.to_echo_peer(ETHERNET_HEADER + len);
                card.echo(&frame)?;
            }
            Ok(())
        },
    },
    Check {
        name: "net-frames/past-the-mtu-is-not-passed",
        rule: "A device passes no packet that exceeds mtu once MTU is negotiated",
        clause: "5.1.4.1 Device Requirements: Device configuration layout",
        method: "Where MTU is offered: the echo peer sends mtu + 1 and mtu + 500 bytes of payload, then 60 bytes, with buffers \
            of 4096 bytes",
        expectation: "The short one arrives alone",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MTU)?;
            let mtu = card.dev.regs().config_read(offset_of!(Config, mtu), 2) as usize;
            card.stock((HEADER + ETHERNET_HEADER + mtu + 500).next_multiple_of(4096), 4)?;
            for len in [mtu + 1, mtu + 500] {
                let frame = card.to_echo_peer(ETHERNET_HEADER + len);
                let passed = card.try_echo(&frame, PATIENCE / 10)?.is_some();
                holds(!passed, &format!("{len} bytes with an MTU of {mtu}"), "dropped", "passed")?;
            }
            let frame = card.to_echo_peer(60);
            card.echo(&frame).map(drop)
        },
    },
    Check {
        name: "net-frames/past-the-mtu-is-survived",
        rule: "A frame that cannot go is lost, not the card",
        clause: TRANSMIT,
        method: "Frames of 1515, 1518, 2000, 4096, 9014 and 65549 bytes, 2048 bytes of receive buffers each, then \
            one of 60",
        expectation: "Each is used; what comes back is whole; the short one comes back",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            let mut back = Vec::new();
            for size in [1515, 1518, 2000, 4096, 9014, 65_549] {
                let frame = card.to_echo_peer(size);
                if let Some(received) = card.try_echo(&frame, PATIENCE / 10)? {
                    same(&frame, &received.frame)?;
                    back.push(size);
                }
            }
            card.dev.healthy()?;
            cx.did(format_args!("of these sizes, echoed: {back:?}"));
            let frame = card.to_echo_peer(60);
            card.echo(&frame).map(drop)
        },
    },
    Check {
        name: "net-frames/unknown-flags-are-ignored",
        rule: "A device ignores flags of a packet's header that it does not know",
        clause: "5.1.9.2.2 Device Requirements: Packet Transmission",
        method: "Send a frame whose header has the flag 0x80",
        expectation: "It comes back",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            let frame = card.to_echo_peer(100);
            card.echo_after(Header { flags: 0x80, ..Header::default() }, &frame).map(drop)
        },
    },
    Check {
        name: "net-frames/tagged-frames-come-without-a-filter",
        rule: "Without CTRL_VLAN a device passes all tagged packets that are for the card",
        clause: "5.1.9.5.3.1 Device Requirements: VLAN Filtering",
        method: "Without the control queue: the echo peer sends frames of VLAN 1, 5 and 4094",
        expectation: "Each arrives",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            for id in [1, 5, 4094] {
                let frame = tagged(&card.to_echo_peer(100), id);
                card.echo(&frame).map_err(|end| end.of(format!("VLAN {id}")))?;
            }
            Ok(())
        },
    },
    Check {
        name: "net-frames/frame-in-parts-comes-back",
        rule: "A device makes no assumptions about how a message is divided",
        clause: "2.7.4.1 Device Requirements: Message Framing",
        method: "Header and 600 bytes in descriptors of 5, 7, 13, 37, 111 bytes and the rest",
        expectation: "The echo has the same bytes",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            card.stock(BUFFER, 4)?;
            let frame = card.to_echo_peer(600);
            let packet = card.dev.buffer(HEADER + frame.len())?;
            packet.part(HEADER, frame.len()).put(&frame);
            let mut at = 0;
            let links: Vec<Link> = [5, 7, 13, 37, 111, packet.len() - 173]
                .into_iter()
                .map(|len| {
                    at += len;
                    link(&packet.part(at - len, len), Dir::Out)
                })
                .collect();
            let head = card.transmit.chain(0, &links);
            card.transmit.send(&card.dev, head);
            card.transmit.wait()?;
            let tag = &frame[ETHERNET_HEADER..ETHERNET_HEADER + 4];
            let received =
                card.receive_where(5 * PATIENCE, |echo| echo.get(ETHERNET_HEADER..ETHERNET_HEADER + 4) == Some(tag))?;
            match received {
                Some(received) => same(&frame, &received.frame),
                None => Err(fail("the frame in parts", "its echo within 5 s", "none")),
            }
        },
    },
    Check {
        name: "net-frames/burst-comes-back-in-order",
        rule: "Frames in flight are all sent, and stay in order",
        clause: TRANSMIT,
        method: "Twelve frames of different sizes with one notification",
        expectation: "All echoes, in order, with the same bytes",
        run: burst,
    },
    Check {
        name: "net-frames/frame-for-another-address-is-no-broadcast",
        rule: "The destination of a frame is not changed",
        clause: RECEIVE,
        method: "Broadcast a frame; the echo peer answers to the card alone",
        expectation: "The echo's destination is the card's address",
        run: broadcast,
    },
    Check {
        name: "net-frames/exhaustion-loses-whole-frames",
        rule: "A card without buffers loses frames, or keeps them; it does not cut them",
        clause: BUFFERS,
        method: "Four receive buffers, twelve frames, then buffers for all, then one frame more",
        expectation: "What arrives is whole, in order and no more than once; the last frame arrives",
        run: exhaustion,
    },
    Check {
        name: "net-frames/buffer-in-parts-is-filled",
        rule: "A receive buffer may be several descriptors",
        clause: "2.7.4.1 Device Requirements: Message Framing",
        method: "A receive buffer of 12, 14, 50 and 1600 bytes, a frame of 300",
        expectation: "The echo has the same bytes, and the used length is that of header and frame",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, Features::MAC)?;
            let buf = card.dev.buffer(BUFFER)?;
            let mut at = 0;
            let links: Vec<Link> = [12, 14, 50, 1600]
                .into_iter()
                .map(|len| {
                    at += len;
                    link(&buf.part(at - len, len), Dir::In)
                })
                .collect();
            for first in [0, 4, 8] {
                let head = card.receive.chain(first, &links);
                card.receive.offer(head);
            }
            card.receive.publish();
            card.receive.notify(&card.dev);
            let frame = card.to_echo_peer(300);
            let mac = card.mac();
            card.send_frame(Header::default(), &frame)?;
            // Other frames may come first, into the same memory.
            for _ in 0..3 {
                let used = card.receive.wait()?;
                let echo = buf.part(HEADER, 300).bytes();
                if echo[..6] == mac
                    && echo[ETHERNET_HEADER..ETHERNET_HEADER + 4] == frame[ETHERNET_HEADER..ETHERNET_HEADER + 4]
                {
                    equal("used length", HEADER as u32 + 300, used.len)?;
                    return same(&frame, &echo);
                }
            }
            Err(fail("a frame into a buffer of four descriptors", "its echo", "other frames"))
        },
    },
    Check {
        name: "net-frames/mergeable-buffers-hold-every-size",
        rule: "With MRG_RXBUF a frame may span buffers, all full but the last",
        clause: RECEIVE_DEVICE,
        method: "Receive buffers of 256 bytes, frames from 60 to 1514 bytes",
        expectation: "num_buffers as few as can be, used lengths full but for the last, the same bytes",
        run: |cx| merged(cx, &[60, 61, 200, 244, 245, 500, 1000, 1255, 1256, 1257, 1513, 1514]),
    },
    Check {
        name: "net-frames/mergeable-frame-may-fill-its-last-buffer",
        rule: "With MRG_RXBUF the last buffer may be full",
        clause: RECEIVE_DEVICE,
        method: "Receive buffers of 256 bytes, frames that with their header are 512, 513, 767 and 768 bytes",
        expectation: "num_buffers 2, 3, 3 and 3, the same bytes",
        run: |cx| merged(cx, &[500, 501, 755, 756]),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Sizes around powers of 2, the limits, and some in between, odd and even.
    pub fn sizes() -> impl Iterator<Item = usize> {
        let around = [64usize, 128, 256, 512, 1024].into_iter().flat_map(|middle| middle - 2..=middle + 2);
        let between = (77..FRAME_MAX).step_by(121);
        (60..=61).chain(around).chain(between).chain(FRAME_MAX - 4..=FRAME_MAX)
    }

    /// Sends frames with one notification.
    pub fn send_at_once(card: &mut Card<'_>, frames: &[Vec<u8>]) -> Verdict {
        for (n, frame) in frames.iter().enumerate() {
            let packet = card.dev.buffer(HEADER + frame.len())?;
            packet.part(HEADER, frame.len()).put(frame);
            let head = card.transmit.chain(n as u16, &[link(&packet, Dir::Out)]);
            card.transmit.offer(head);
        }
        card.transmit.publish();
        card.transmit.notify(&card.dev);
        card.transmit.skip(frames.len() as u16)
    }

    /// Takes echoes until none comes for some time; the number of the frame that each is the echo of.
    pub fn echoes(card: &mut Card<'_>, frames: &[Vec<u8>], patience: u64) -> Result<Vec<usize>, End> {
        let mut numbers = Vec::new();
        while numbers.len() < frames.len() {
            let Some(received) = card.receive_where(patience, |_| true)? else { break };
            let tag = ETHERNET_HEADER..ETHERNET_HEADER + 4;
            let Some(number) =
                frames.iter().position(|frame| received.frame.get(tag.clone()) == Some(&frame[tag.clone()]))
            else {
                continue;
            };
            same(&frames[number], &received.frame)?;
            numbers.push(number);
        }
        Ok(numbers)
    }

    pub fn burst(cx: &Context) -> Verdict {
        let mut card = Card::with_echo_peer(cx, Features::MAC)?;
        card.stock(BUFFER, 16)?;
        let frames: Vec<_> = (0..12).map(|n| card.to_echo_peer(60 + n * 97)).collect();
        send_at_once(&mut card, &frames)?;
        let numbers = echoes(&mut card, &frames, 5 * PATIENCE)?;
        equal("frames in the order of their echoes", (0..12).collect(), numbers)
    }

    pub fn broadcast(cx: &Context) -> Verdict {
        let mut card = Card::with_echo_peer(cx, Features::MAC)?;
        let mut frame = card.to_echo_peer(100);
        frame[..6].copy_from_slice(&echo::BROADCAST);
        let mac = card.mac();
        let received = card.echo(&frame)?;
        equal("destination of the echo", &mac[..], &received.frame[..6])
    }

    pub fn exhaustion(cx: &Context) -> Verdict {
        let mut card = Card::with_echo_peer(cx, Features::MAC)?;
        let buffers = card.offer(BUFFER, 4)?;
        let frames: Vec<_> = (0..12).map(|_| card.to_echo_peer(300)).collect();
        send_at_once(&mut card, &frames)?;
        let there = wait_until(5 * PATIENCE, || card.receive.used_index() == 4);
        holds(there, "receive buffers used", 4, card.receive.used_index())?;
        // Let the rest arrive while there is no buffer for it.
        wait_until(PATIENCE / 20, || false);
        let mut arrived = Vec::new();
        for _ in 0..4 {
            let used = card.receive.wait()?;
            holds(used.id < 4, "id of a used element", "below 4", used.id)?;
            let bytes =
                buffers.part(used.id as usize * BUFFER, BUFFER).part(0, (used.len as usize).min(BUFFER)).bytes();
            let echo = bytes.get(HEADER..).unwrap_or_default();
            let tag = ETHERNET_HEADER..ETHERNET_HEADER + 4;
            if let Some(number) = frames.iter().position(|frame| echo.get(tag.clone()) == Some(&frame[tag.clone()])) {
                same(&frames[number], echo)?;
                arrived.push(number);
            }
        }
        card.stock(BUFFER, 16)?;
        arrived.extend(echoes(&mut card, &frames, PATIENCE / 5)?);
        let ascending = arrived.windows(2).all(|pair| pair[0] < pair[1]);
        holds(ascending, "frames in the order of their echoes", "ascending", format_args!("{arrived:?}"))?;
        cx.did(format_args!("with four buffers, {} of 12 frames arrived", arrived.len()));
        for attempt in 1..=ATTEMPTS {
            let last = card.to_echo_peer(300);
            match card.try_echo(&last, PATIENCE)? {
                Some(received) => return same(&last, &received.frame),
                None if attempt < ATTEMPTS => {}
                None => break,
            }
        }
        Err(fail("a frame once there are buffers again", "its echo", "none"))
    }

    /// Frames of these sizes into mergeable buffers of 256 bytes.
    pub fn merged(cx: &Context, sizes: &[usize]) -> Verdict {
        const SMALL: usize = 256;
        let mut card = Card::with_echo_peer(cx, Features::MRG_RXBUF)?;
        card.stock(SMALL, 16)?;
        for &size in sizes {
            let frame = card.to_echo_peer(size);
            let received = card.echo(&frame)?;
            let full = (HEADER + size) / SMALL;
            let rest = (HEADER + size) % SMALL;
            let mut expected = Vec::from_iter(core::iter::repeat_n(SMALL, full));
            expected.extend((rest > 0).then_some(rest));
            equal(
                &format!("num_buffers of a frame of {size} bytes"),
                expected.len(),
                received.header.num_buffers.into(),
            )?;
            equal(&format!("used lengths of a frame of {size} bytes"), expected, received.parts)?;
        }
        card.dev.healthy()
    }
}
