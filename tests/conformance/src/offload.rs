//! Checksums and cuts that are left to the device, judged by what the echo peer saw on the wire.

use super::card::{Card, PATIENCE, same, tag};
use super::packet::{
    ACK, FIN, IDENTIFICATION, Ip, KINDS, Kind, PSH, SEQUENCE, Transport, checksum, double, payload, same_headers, word,
};
use super::{Context, End, Row, Verdict, equal, fail, holds};
use alloc::format;
use alloc::vec::Vec;
use shared_abi::virtio::net::{
    ETHERNET_HEADER, Features, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_DATA_VALID, HDR_NEEDS_CSUM, Header,
};

pub const ROWS: &[Row] = &[
    ("net-offload/checksums-are-completed", |cx| {
        KINDS
            .into_iter()
            .try_for_each(|kind| [1, 2, 100, 777, 1400].into_iter().try_for_each(|len| completed(cx, kind, len)))
    }),
    ("net-offload/checksum-anywhere-is-completed", checksum_anywhere),
    ("net-offload/checksum-of-a-largest-frame-is-completed", |cx| {
        KINDS.into_iter().try_for_each(|kind| completed(cx, kind, 1514 - kind.headers()))
    }),
    ("net-offload/bytes-stay-without-needs-csum", bytes_stay),
    ("net-offload/checksum-outside-of-the-frame-is-survived", outside_is_survived),
    ("net-offload/tcp4-is-cut", |cx| cut(cx, TCP4, &[1, 2, 3, 10], 1000)),
    ("net-offload/tcp6-is-cut", |cx| cut(cx, TCP6, &[1, 2, 3, 10], 1000)),
    ("net-offload/udp-is-cut", |cx| {
        cut(cx, UDP4, &[1, 2, 10], 1000)?;
        cut(cx, UDP6, &[1, 2, 10], 1000)
    }),
    ("net-offload/odd-segments-are-cut", |cx| cut(cx, TCP4, &[3], 333)),
    ("net-offload/largest-tcp4-is-cut", |cx| whole_cut(cx, TCP4, 65_535 - 20 - 32, 1448)),
    ("net-offload/header-length-is-only-a-hint", header_length_is_a_hint),
    ("net-offload/cut-without-needs-csum-is-survived", |cx| nonsense(cx, Header { flags: 0, ..header(TCP4, 1000) })),
    ("net-offload/cut-into-nothing-is-survived", |cx| nonsense(cx, Header { gso_size: 0, ..header(TCP4, 1000) })),
    ("net-offload/received-checksum-flags-are-true", received_flags),
];

const TCP4: Kind = Kind { ip: Ip::V4, transport: Transport::Tcp };
const TCP6: Kind = Kind { ip: Ip::V6, transport: Transport::Tcp };
const UDP4: Kind = Kind { ip: Ip::V4, transport: Transport::Udp };
const UDP6: Kind = Kind { ip: Ip::V6, transport: Transport::Udp };

/// The header that asks for a checksum, and for segments of `size` unless that is 0.
fn header(kind: Kind, size: u16) -> Header {
    Header {
        flags: HDR_NEEDS_CSUM,
        gso_type: match (size, kind.transport, kind.ip) {
            (0, ..) => GSO_NONE,
            (_, Transport::Udp, _) => GSO_UDP_L4,
            (_, Transport::Tcp, Ip::V4) => GSO_TCPV4,
            (_, Transport::Tcp, Ip::V6) => GSO_TCPV6,
        },
        hdr_len: kind.headers() as u16,
        gso_size: size,
        csum_start: kind.start() as u16,
        csum_offset: kind.checksum_at() as u16,
        num_buffers: 0,
    }
}

/// What the device has to offer for it.
fn feature(kind: Kind) -> Features {
    let cut = match (kind.transport, kind.ip) {
        (Transport::Udp, _) => Features::HOST_USO,
        (Transport::Tcp, Ip::V4) => Features::HOST_TSO4,
        (Transport::Tcp, Ip::V6) => Features::HOST_TSO6,
    };
    cut | Features::CSUM
}

/// A port that tells a packet from those before.
fn port() -> u16 {
    0x8000 | tag() as u16
}

/// The next echo of a packet from a port.
fn echo_from(card: &mut Card<'_>, kind: Kind, port: u16, what: &str) -> Result<Vec<u8>, End> {
    let found = card.receive_where(5 * PATIENCE, |frame| word(frame, kind.start()) == Some(port.into()))?;
    let Some(received) = found else { return Err(fail(what, "its echo within 5 s", "none")) };
    equal(&format!("{what}: gso_type of the echo"), GSO_NONE, received.header.gso_type)?;
    equal(&format!("{what}: NEEDS_CSUM of the echo"), 0, received.header.flags & HDR_NEEDS_CSUM)?;
    Ok(received.frame)
}

fn completed(cx: &Context, kind: Kind, len: usize) -> Verdict {
    let mut card = Card::with_echo_peer(cx, Features::CSUM)?;
    card.stock(2048, 16)?;
    let what = format!("{:?} over {:?} with {len} bytes", kind.transport, kind.ip);
    let port = port();
    let mut packet = kind.packet(card.mac(), port, &payload(len));
    kind.put_pseudo(&mut packet);
    card.send_frame(header(kind, 0), &packet)?;
    let echo = echo_from(&mut card, kind, port, &what)?;
    let judged = kind.judge(&echo, &what)?;
    kind.put_checksum(&mut packet);
    equal(&format!("{what}: length"), packet.len(), judged.len())?;
    same(&packet, &echo)
}

/// Not only TCP and UDP: the device needs no protocol for it.
fn checksum_anywhere(cx: &Context) -> Verdict {
    let mut card = Card::with_echo_peer(cx, Features::CSUM)?;
    card.stock(2048, 16)?;
    for (start, offset, len) in [(18, 0, 60), (20, 30, 61), (33, 4, 200), (40, 2, 999), (60, 38, 100)] {
        let mut frame = card.to_echo_peer(len);
        let header =
            Header { flags: HDR_NEEDS_CSUM, csum_start: start as u16, csum_offset: offset as u16, ..Header::default() };
        card.send_frame(header, &frame)?;
        let tag = frame[12..22].to_vec();
        // The sum itself may lie on the tag's end: only what is before counts.
        let same_tag = |echo: &[u8]| echo.get(12..18) == Some(&tag[..6]);
        let what = format!("a checksum from {start} on at {offset} in {len} bytes");
        let Some(received) = card.receive_where(5 * PATIENCE, same_tag)? else {
            return Err(fail(&what, "its echo within 5 s", "none"));
        };
        let sum = checksum(&frame[start..], 0);
        frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        same(&frame, &received.frame)?;
    }
    Ok(())
}

fn bytes_stay(cx: &Context) -> Verdict {
    let mut card = Card::with_echo_peer(cx, Features::CSUM)?;
    card.stock(2048, 16)?;
    let port = port();
    let mut packet = TCP4.packet(card.mac(), port, &payload(100));
    let at = TCP4.start() + TCP4.checksum_at();
    packet[at..at + 2].copy_from_slice(&[0xba, 0xad]);
    // The places say something; without the flag they mean nothing.
    card.send_frame(Header { flags: 0, ..header(TCP4, 0) }, &packet)?;
    let echo = echo_from(&mut card, TCP4, port, "a packet with a wrong checksum")?;
    same(&packet, &echo)
}

/// The device may lose such a frame, or send it as it is.
fn outside_is_survived(cx: &Context) -> Verdict {
    let mut card = Card::with_echo_peer(cx, Features::CSUM)?;
    for (start, offset) in [(60, 0), (59, 0), (0xffff, 0xffff), (14, 0xffff), (50, 9)] {
        let frame = card.to_echo_peer(60);
        let header = Header { flags: HDR_NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Header::default() };
        card.send_frame(header, &frame)?;
    }
    let frame = card.to_echo_peer(60);
    card.echo(&frame).map(drop)
}

fn cut(cx: &Context, kind: Kind, counts: &[usize], size: usize) -> Verdict {
    for &count in counts {
        // The last segment is full, one byte short, one byte long.
        for len in [count * size, count * size - 1, count * size + 1] {
            whole_cut(cx, kind, len, size)?;
        }
    }
    Ok(())
}

fn whole_cut(cx: &Context, kind: Kind, len: usize, size: usize) -> Verdict {
    let mut card = Card::with_echo_peer(cx, feature(kind))?;
    card.stock(2048, 16)?;
    cut_and_judge(&mut card, kind, len, header(kind, size as u16))?;
    card.dev.healthy()
}

/// Sends `len` bytes of payload, and judges each segment of it.
fn cut_and_judge(card: &mut Card<'_>, kind: Kind, len: usize, header: Header) -> Verdict {
    let size = usize::from(header.gso_size);
    let (port, payload) = (port(), payload(len));
    let mut packet = kind.packet(card.mac(), port, &payload);
    kind.put_pseudo(&mut packet);
    card.send_frame(header, &packet)?;
    let count = len.div_ceil(size);
    for n in 0..count {
        let what = format!("segment {n} of {count}, {len} bytes by {size}");
        let echo = echo_from(card, kind, port, &what)?;
        let segment = kind.judge(&echo, &what)?;
        let expected = &payload[n * size..len.min((n + 1) * size)];
        let content = &segment[kind.headers()..];
        equal(&format!("{what}: length of the payload"), expected.len(), content.len())?;
        let differs = expected.iter().zip(content).position(|(a, b)| a != b);
        equal(&format!("{what}: first byte of the payload that changed"), None, differs)?;
        same_headers(kind, &packet, segment, &what)?;
        if kind.transport == Transport::Tcp {
            let sequence = SEQUENCE.wrapping_add((n * size) as u32);
            equal(&format!("{what}: sequence number"), Some(sequence), double(segment, kind.start() + 4))?;
            let flags = if n + 1 == count { FIN | PSH | ACK } else { ACK };
            equal(&format!("{what}: flags"), flags, segment[kind.start() + 13])?;
        }
        if kind.ip == Ip::V4 {
            let id = IDENTIFICATION.wrapping_add(n as u16);
            equal(&format!("{what}: identification"), Some(id.into()), word(segment, ETHERNET_HEADER + 4))?;
        }
    }
    Ok(())
}

fn header_length_is_a_hint(cx: &Context) -> Verdict {
    let mut card = Card::with_echo_peer(cx, feature(TCP4))?;
    card.stock(2048, 16)?;
    [0, 14, 20, 0xffff]
        .into_iter()
        .try_for_each(|hdr_len| cut_and_judge(&mut card, TCP4, 2500, Header { hdr_len, ..header(TCP4, 1000) }))
}

/// A packet to cut whose header makes no sense: whatever becomes of it, the next one is cut.
fn nonsense(cx: &Context, nonsense: Header) -> Verdict {
    let mut card = Card::with_echo_peer(cx, feature(TCP4))?;
    card.stock(2048, 16)?;
    let mut packet = TCP4.packet(card.mac(), port(), &payload(2500));
    TCP4.put_pseudo(&mut packet);
    card.send_frame(nonsense, &packet)?;
    cut_and_judge(&mut card, TCP4, 2500, header(TCP4, 1000))
}

/// With GUEST_CSUM the device may say that a checksum was verified, or leave it open; both must be true.
fn received_flags(cx: &Context) -> Verdict {
    let mut card = Card::with_echo_peer(cx, Features::GUEST_CSUM)?;
    card.stock(2048, 16)?;
    for wrong in [0, 0x5555] {
        let port = port();
        let mut packet = UDP4.packet(card.mac(), port, &payload(200));
        UDP4.put_checksum(&mut packet);
        let at = UDP4.start() + UDP4.checksum_at();
        packet[at] ^= wrong as u8;
        card.send_frame(Header::default(), &packet)?;
        let found = card.receive_where(5 * PATIENCE, |frame| word(frame, UDP4.start()) == Some(port.into()))?;
        let Some(received) = found else {
            return Err(fail("a packet to the echo peer", "its echo within 5 s", "none"));
        };
        let flags = received.header.flags;
        if wrong != 0 {
            equal("DATA_VALID of a packet with a wrong checksum", 0, flags & HDR_DATA_VALID)?;
        }
        if flags & HDR_NEEDS_CSUM == 0 {
            same(&packet, &received.frame)?;
        } else {
            let (start, offset) = (received.header.csum_start.into(), received.header.csum_offset.into());
            equal("csum_start and csum_offset", (UDP4.start(), UDP4.checksum_at()), (start, offset))?;
            holds(wrong == 0, "NEEDS_CSUM of a packet with a wrong checksum", "not set", "set")?;
        }
    }
    Ok(())
}
