//! The network card. What is received is a DHCP server's answer, which user networking has, or the echo
//! of the question where an echo peer is the other end.

use super::card::{ATTEMPTS, BUFFER, Card, FILL, HEADER, PATIENCE};
use super::raw::{Buf, Dir, link, wait_until};
use super::{Context, End, Row, Verdict, equal, holds, skip};
use alloc::vec;
use alloc::vec::Vec;
use shared_abi::echo;
use shared_abi::virtio::net::{ETHERNET_HEADER, FRAME_MAX, Features, GSO_NONE, HDR_DATA_VALID, STATUS_LINK_UP};

pub const NET: &[Row] = &[
    ("net/mac-is-unicast", |cx| {
        let mac = Card::start(cx, Features::MAC)?.mac();
        holds(mac != [0; 6] && mac[0] & 1 == 0, "mac", "a unicast address", format_args!("{mac:02x?}"))
    }),
    ("net/link-is-up", |cx| {
        let card = Card::start(cx, Features::STATUS)?;
        let status = card.dev.regs().config_read(6, 2) as u16;
        holds(status & STATUS_LINK_UP != 0, "status", "bit 0", status)
    }),
    ("net/mtu-is-valid", |cx| {
        let card = Card::start(cx, Features::MTU)?;
        let mtu = card.dev.regs().config_read(10, 2);
        holds(mtu >= 68, "mtu", "68 or more", mtu)
    }),
    ("net/short-frame-is-taken", |cx| taken(cx, 60)),
    ("net/full-frame-is-taken", |cx| taken(cx, FRAME_MAX)),
    ("net/header-apart-is-taken", header_apart),
    ("net/batch-is-taken", batch),
    ("net/answer-arrives", |cx| answer(cx).map(drop)),
    ("net/received-header-is-plain", |cx| {
        let (buf, _) = answer(cx)?;
        holds(buf.read8(0) & !HDR_DATA_VALID == 0, "flags", "0 or DATA_VALID", buf.read8(0))?;
        equal("gso_type", GSO_NONE, buf.read8(1))?;
        equal("num_buffers", 1, buf.read16(10))
    }),
    ("net/received-frame-has-its-length", |cx| {
        let (buf, len) = answer(cx)?;
        let packet = usize::from(u16::from_be(buf.read16(HEADER + ETHERNET_HEADER + 2)));
        let least = HEADER + ETHERNET_HEADER + packet;
        holds(len >= least, "used length", format_args!("{least} or more"), len)
    }),
    ("net/nothing-behind-the-used-length", |cx| {
        let (buf, len) = answer(cx)?;
        equal("first byte changed behind the used length", None, buf.part(len, BUFFER - len).first_not(FILL))
    }),
    ("net/receive-exhaustion-recovers", exhaustion),
    ("net/mergeable-buffers-are-counted", mergeable),
];

const TRANSACTION: u32 = 0x5249_4e47;

impl Card<'_> {
    /// A frame of a protocol for experiments, behind its header, for nobody: an echo would be in the way of later checks.
    fn frame(&self, len: usize) -> Result<Buf, End> {
        let buf = self.dev.buffer(HEADER + len)?;
        buf.part(HEADER, 6).put(&[2, 0, 0, 0, 0, 0xfe]);
        buf.part(HEADER + 6, 6).put(&self.mac());
        buf.part(HEADER + 12, 2).put(&echo::PROTOCOL);
        Ok(buf)
    }

    fn discover(&mut self) -> Verdict {
        let frame = discover(self.mac());
        let buf = self.dev.buffer(HEADER + frame.len())?;
        buf.part(HEADER, frame.len()).put(&frame);
        self.send(&buf)
    }

    /// Asks until the answer is there, taking other frames on the way; the buffer and its used length.
    fn answer(&mut self) -> Result<(Buf, usize), End> {
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
        Err(skip("nobody answers DHCP"))
    }
}

fn taken(cx: &Context, len: usize) -> Verdict {
    let mut card = Card::start(cx, Features::MAC)?;
    let frame = card.frame(len)?;
    card.send(&frame)
}

fn header_apart(cx: &Context) -> Verdict {
    let mut card = Card::start(cx, Features::MAC)?;
    let frame = card.frame(60)?;
    let parts = [link(&frame.part(0, HEADER), Dir::Out), link(&frame.part(HEADER, 60), Dir::Out)];
    let head = card.transmit.chain(0, &parts);
    card.transmit.send(&card.dev, head);
    card.transmit.wait()?;
    card.dev.healthy()
}

fn batch(cx: &Context) -> Verdict {
    let mut card = Card::start(cx, Features::MAC)?;
    let frame = card.frame(60)?;
    let count = card.transmit.size.min(16);
    for n in 0..count {
        let head = card.transmit.chain(n, &[link(&frame, Dir::Out)]);
        card.transmit.offer(head);
    }
    card.transmit.publish();
    card.transmit.notify(&card.dev);
    let mut seen = 0u32;
    for _ in 0..count {
        let used = card.transmit.wait()?;
        holds(used.id < 16 && seen & 1 << used.id == 0, "id of a used element", "each once", used.id)?;
        seen |= 1 << used.id;
    }
    Ok(())
}

fn answer(cx: &Context) -> Result<(Buf, usize), End> {
    Card::start(cx, Features::MAC)?.answer()
}

fn exhaustion(cx: &Context) -> Verdict {
    let mut card = Card::start(cx, Features::MAC)?;
    (0..3).try_for_each(|_| card.discover())?;
    wait_until(20_000_000, || false);
    equal("used index of the receive queue", 0, card.receive.used_index())?;
    card.answer()?;
    card.dev.healthy()
}

fn mergeable(cx: &Context) -> Verdict {
    const SMALL: usize = 128;
    let mut card = Card::start(cx, Features::MRG_RXBUF)?;
    let size = card.receive.size;
    let buf = card.offer(SMALL, size)?;
    card.discover()?;
    if !wait_until(PATIENCE, || card.receive.used_index() != 0) {
        return Err(skip("nobody answers DHCP"));
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
fn discover(mac: [u8; 6]) -> Vec<u8> {
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
fn is_reply(buf: &Buf) -> bool {
    const UDP: usize = HEADER + ETHERNET_HEADER + 20;
    let bootp = buf.part(UDP + 8, 8).bytes();
    let ports = buf.part(UDP, 4).bytes();
    let answer = ports == [0, 67, 0, 68] && bootp[0] == 2;
    let echo = ports == [0, 68, 0, 67] && buf.part(HEADER + 6, 6).bytes() == echo::MAC;
    (answer || echo) && bootp[4..8] == TRANSACTION.to_be_bytes()
}
