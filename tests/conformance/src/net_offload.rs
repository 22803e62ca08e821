//! Checksums and cuts that are left to the device, judged by what the echo peer saw on the wire.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::card::{Card, PATIENCE, same, tag},
    crate::support::packet::{
        ACK, FIN, IDENTIFICATION, Ip, KINDS, Kind, PSH, SEQUENCE, Transport, checksum, double, payload, same_headers,
        word,
    },
    crate::support::{Context, End, Verdict, equal, fail, holds},
    alloc::format,
    alloc::vec::Vec,
    code::*,
    shared_abi::virtio::net::{
        ETHERNET_HEADER, Features, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_DATA_VALID, HDR_NEEDS_CSUM, Header,
    },
};

const TRANSMIT: &str = "5.1.9.2 Packet Transmission";
const DEVICE: &str = "5.1.9.2.2 Device Requirements: Packet Transmission";
const RECEIVE_DEVICE: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "net-offload/checksums-are-completed",
        rule: "The device completes the checksum from csum_start on",
        clause: TRANSMIT,
        method: "TCP and UDP over IPv4 and IPv6, payloads of 1, 2, 100, 777 and 1400 bytes, the pseudo header's sum \
            in the field",
        expectation: "The echo has the right checksum; no other byte changed",
        run: |cx| {
            KINDS
                .into_iter()
                .try_for_each(|kind| [1, 2, 100, 777, 1400].into_iter().try_for_each(|len| completed(cx, kind, len)))
        },
    },
    Check {
        name: "net-offload/checksum-anywhere-is-completed",
        rule: "The device completes the checksum from csum_start on, whatever the protocol",
        clause: TRANSMIT,
        method: "Five frames of a protocol for experiments, checksums at odd places and at the end among them",
        expectation: "The echo has the sum where it belongs; no other byte changed",
        run: |cx| {
            // Not only TCP and UDP: the device needs no protocol for it.
            let mut card = Card::with_echo_peer(cx, Features::CSUM)?;
            card.stock(2048, 16)?;
            for (start, offset, len) in [(18, 0, 60), (20, 30, 61), (33, 4, 200), (40, 2, 999), (60, 38, 100)] {
                let mut frame = card.to_echo_peer(len);
                let header = Header {
                    flags: HDR_NEEDS_CSUM,
                    csum_start: start as u16,
                    csum_offset: offset as u16,
                    ..Header::default()
                };
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
        },
    },
    Check {
        name: "net-offload/checksum-of-a-largest-frame-is-completed",
        rule: "The device completes the checksum from csum_start on",
        clause: TRANSMIT,
        method: "All four kinds in frames of 1514 bytes",
        expectation: "The echo has the right checksum; no other byte changed",
        run: |cx| KINDS.into_iter().try_for_each(|kind| completed(cx, kind, 1514 - kind.headers())),
    },
    Check {
        name: "net-offload/bytes-stay-without-needs-csum",
        rule: "Without NEEDS_CSUM the device does not use csum_start and csum_offset",
        clause: DEVICE,
        method: "A packet with a wrong checksum, places in the header, flags 0",
        expectation: "The echo has the wrong checksum",
        run: |cx| {
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
        },
    },
    Check {
        name: "net-offload/checksum-outside-of-the-frame-is-survived",
        rule: "A frame that makes no sense is lost, not the card",
        clause: DEVICE,
        method: "Five frames whose checksum lies after their end, then a plain one",
        expectation: "Each is used; the last comes back",
        level: Should,
        run: |cx| {
            // The device may lose such a frame, or send it as it is.
            let mut card = Card::with_echo_peer(cx, Features::CSUM)?;
            for (start, offset) in [(60, 0), (59, 0), (0xffff, 0xffff), (14, 0xffff), (50, 9)] {
                let frame = card.to_echo_peer(60);
                let header =
                    Header { flags: HDR_NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Header::default() };
                card.send_frame(header, &frame)?;
            }
            let frame = card.to_echo_peer(60);
            card.echo(&frame).map(drop)
        },
    },
    Check {
        name: "net-offload/tcp4-is-cut",
        rule: "TCP over IPv4 is cut into segments of gso_size",
        clause: TRANSMIT,
        method: "1, 2, 3 and 10 segments of 1000 bytes, one byte less, one more",
        expectation: "Segments in order: lengths, sequence numbers, identifications, checksums and payload right, \
            FIN and PSH in the last only, other header bytes as sent",
        run: |cx| cut(cx, TCP4, &[1, 2, 3, 10], 1000),
    },
    Check {
        name: "net-offload/tcp6-is-cut",
        rule: "TCP over IPv6 is cut into segments of gso_size",
        clause: TRANSMIT,
        method: "The same over IPv6",
        expectation: "The same",
        run: |cx| cut(cx, TCP6, &[1, 2, 3, 10], 1000),
    },
    Check {
        name: "net-offload/udp-is-cut",
        rule: "UDP is cut into datagrams of gso_size",
        clause: TRANSMIT,
        method: "1, 2 and 10 datagrams of 1000 bytes, one byte less, one more, over both IPs",
        expectation: "Datagrams in order: lengths, checksums and payload right, other header bytes as sent",
        run: |cx| {
            cut(cx, UDP4, &[1, 2, 10], 1000)?;
            cut(cx, UDP6, &[1, 2, 10], 1000)
        },
    },
    Check {
        name: "net-offload/odd-segments-are-cut",
        rule: "TCP over IPv4 is cut into segments of gso_size",
        clause: TRANSMIT,
        method: "Three segments of 333 bytes, one byte less, one more",
        expectation: "As for larger ones",
        run: |cx| cut(cx, TCP4, &[3], 333),
    },
    Check {
        name: "net-offload/largest-tcp4-is-cut",
        rule: "A packet to cut may be as large as IP allows",
        clause: TRANSMIT,
        method: "An IP packet of 65535 bytes, segments of 1448",
        expectation: "As for smaller ones",
        run: |cx| whole_cut(cx, TCP4, 65_535 - 20 - 32, 1448),
    },
    Check {
        name: "net-offload/header-length-is-only-a-hint",
        rule: "The device does not rely on hdr_len to be correct",
        clause: DEVICE,
        method: "Three segments with hdr_len 0, 14, 20 and 0xffff",
        expectation: "Cut as with the right one",
        run: |cx| {
            let mut card = Card::with_echo_peer(cx, feature(TCP4))?;
            card.stock(2048, 16)?;
            [0, 14, 20, 0xffff]
                .into_iter()
                .try_for_each(|hdr_len| cut_and_judge(&mut card, TCP4, 2500, Header { hdr_len, ..header(TCP4, 1000) }))
        },
    },
    Check {
        name: "net-offload/cut-without-needs-csum-is-survived",
        rule: "A frame that makes no sense is lost, not the card",
        clause: DEVICE,
        method: "gso_type TCPV4 without NEEDS_CSUM, then a sound packet",
        expectation: "The first is used, the second is cut",
        level: Should,
        run: |cx| nonsense(cx, Header { flags: 0, ..header(TCP4, 1000) }),
    },
    Check {
        name: "net-offload/cut-into-nothing-is-survived",
        rule: "A frame that makes no sense is lost, not the card",
        clause: DEVICE,
        method: "gso_size 0, then a sound packet",
        expectation: "The first is used, the second is cut",
        level: Should,
        run: |cx| nonsense(cx, Header { gso_size: 0, ..header(TCP4, 1000) }),
    },
    Check {
        name: "net-offload/received-checksum-flags-are-true",
        rule: "DATA_VALID is for packets with a right checksum, NEEDS_CSUM for those that have only the sum of the \
            pseudo header",
        clause: RECEIVE_DEVICE,
        method: "With GUEST_CSUM, a UDP packet with a right and one with a wrong checksum",
        expectation: "No DATA_VALID for the wrong one; no byte changed where the checksum is not left open",
        run: |cx| {
            // With GUEST_CSUM the device may say that a checksum was verified, or leave it open; both must be true.
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
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const TCP4: Kind = Kind { ip: Ip::V4, transport: Transport::Tcp };

    pub const TCP6: Kind = Kind { ip: Ip::V6, transport: Transport::Tcp };

    pub const UDP4: Kind = Kind { ip: Ip::V4, transport: Transport::Udp };

    pub const UDP6: Kind = Kind { ip: Ip::V6, transport: Transport::Udp };

    /// The header that asks for a checksum, and for segments of `size` unless that is 0.
    pub fn header(kind: Kind, size: u16) -> Header {
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
    pub fn feature(kind: Kind) -> Features {
        let cut = match (kind.transport, kind.ip) {
            (Transport::Udp, _) => Features::HOST_USO,
            (Transport::Tcp, Ip::V4) => Features::HOST_TSO4,
            (Transport::Tcp, Ip::V6) => Features::HOST_TSO6,
        };
        cut | Features::CSUM
    }

    /// A port that distinguishes a packet from earlier ones.
    pub fn port() -> u16 {
        0x8000 | tag() as u16
    }

    /// The next echo of a packet from a port.
    pub fn echo_from(card: &mut Card<'_>, kind: Kind, port: u16, what: &str) -> Result<Vec<u8>, End> {
        let found = card.receive_where(5 * PATIENCE, |frame| word(frame, kind.start()) == Some(port.into()))?;
        let Some(received) = found else { return Err(fail(what, "its echo within 5 s", "none")) };
        equal(&format!("{what}: gso_type of the echo"), GSO_NONE, received.header.gso_type)?;
        equal(&format!("{what}: NEEDS_CSUM of the echo"), 0, received.header.flags & HDR_NEEDS_CSUM)?;
        Ok(received.frame)
    }

    pub fn completed(cx: &Context, kind: Kind, len: usize) -> Verdict {
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

    pub fn cut(cx: &Context, kind: Kind, counts: &[usize], size: usize) -> Verdict {
        for &count in counts {
            // The last segment is full, one byte short, one byte long.
            for len in [count * size, count * size - 1, count * size + 1] {
                whole_cut(cx, kind, len, size)?;
            }
        }
        Ok(())
    }

    pub fn whole_cut(cx: &Context, kind: Kind, len: usize, size: usize) -> Verdict {
        let mut card = Card::with_echo_peer(cx, feature(kind))?;
        card.stock(2048, 16)?;
        cut_and_judge(&mut card, kind, len, header(kind, size as u16))?;
        card.dev.healthy()
    }

    /// Sends `len` bytes of payload, and judges each segment of it.
    pub fn cut_and_judge(card: &mut Card<'_>, kind: Kind, len: usize, header: Header) -> Verdict {
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

    /// A packet to cut whose header makes no sense: whatever becomes of it, the next one is cut.
    pub fn nonsense(cx: &Context, nonsense: Header) -> Verdict {
        let mut card = Card::with_echo_peer(cx, feature(TCP4))?;
        card.stock(2048, 16)?;
        let mut packet = TCP4.packet(card.mac(), port(), &payload(2500));
        TCP4.put_pseudo(&mut packet);
        card.send_frame(nonsense, &packet)?;
        cut_and_judge(&mut card, TCP4, 2500, header(TCP4, 1000))
    }
}
