//! TCP and UDP packets over both IPs, written and judged byte by byte (RFC 791, 768, 8200, 9293, 1071), for the checks of
//! offloads. Nothing here is shared with the driver or the device.

use super::{Verdict, equal, holds};
use crate::echo;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use shared_abi::virtio::net::ETHERNET_HEADER;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
}

/// What is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// TCP flags.
pub const FIN: u8 = 1;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// The first sequence number, near the wrap.
pub const SEQUENCE: u32 = 0xffff_fc00;
/// The first IPv4 identification, near the wrap.
pub const IDENTIFICATION: u16 = 0xfffe;
/// A timestamp option, padded: the TCP header is longer than the least.
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

/// A kind of packet.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub ip: Ip,
    pub transport: Transport,
}

/// All kinds.
pub const KINDS: [Kind; 4] = [
    Kind { ip: Ip::V4, transport: Transport::Tcp },
    Kind { ip: Ip::V4, transport: Transport::Udp },
    Kind { ip: Ip::V6, transport: Transport::Tcp },
    Kind { ip: Ip::V6, transport: Transport::Udp },
];

impl Kind {
    /// Bytes of the IP header.
    fn ip_len(self) -> usize {
        if self.ip == Ip::V4 { 20 } else { 40 }
    }

    /// Where the transport header starts.
    pub fn start(self) -> usize {
        ETHERNET_HEADER + self.ip_len()
    }

    /// Where the checksum is in the transport header.
    pub fn checksum_at(self) -> usize {
        if self.transport == Transport::Tcp { 16 } else { 6 }
    }

    /// Bytes of the transport header.
    fn transport_len(self) -> usize {
        if self.transport == Transport::Tcp { 20 + OPTIONS.len() } else { 8 }
    }

    /// Bytes before the payload.
    pub fn headers(self) -> usize {
        self.start() + self.transport_len()
    }

    fn protocol(self) -> u8 {
        if self.transport == Transport::Tcp { 6 } else { 17 }
    }

    /// A packet to the echo peer with a payload, of which only the transport's checksum is not there yet: the field is 0.
    pub fn packet(self, from: [u8; 6], port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&echo::MAC[..], &from].concat();
        let len = self.transport_len() + payload.len();
        match self.ip {
            Ip::V4 => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((20 + len as u16).to_be_bytes());
                frame.extend(IDENTIFICATION.to_be_bytes());
                frame.extend([0, 0, 64, self.protocol(), 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
                let sum = checksum(&frame[ETHERNET_HEADER..], 0);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            Ip::V6 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((len as u16).to_be_bytes());
                frame.extend([self.protocol(), 64]);
                for host in [2, 1] {
                    frame.extend([0xfd, 0x52, 0x49, 0x4e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
                }
            }
        }
        frame.extend(port.to_be_bytes());
        frame.extend(9u16.to_be_bytes());
        match self.transport {
            Transport::Tcp => {
                frame.extend(SEQUENCE.to_be_bytes());
                frame.extend(0x1122_3344u32.to_be_bytes());
                frame.extend([((20 + OPTIONS.len()) as u8 / 4) << 4, FIN | PSH | ACK, 0x20, 0, 0, 0, 0, 0]);
                frame.extend(OPTIONS);
            }
            Transport::Udp => {
                frame.extend((len as u16).to_be_bytes());
                frame.extend([0, 0]);
            }
        }
        frame.extend(payload);
        frame
    }

    /// The sum of the pseudo header, for a transport header and payload of `len` bytes; not complemented.
    fn pseudo(self, frame: &[u8], len: usize) -> u32 {
        let addresses = if self.ip == Ip::V4 { 26..34 } else { 22..54 };
        sum(&frame[addresses]) + u32::from(self.protocol()) + len as u32
    }

    /// Writes the sum of the pseudo header where the checksum goes: what NEEDS_CSUM starts from.
    pub fn put_pseudo(self, frame: &mut [u8]) {
        let pseudo = self.pseudo(frame, frame.len() - self.start());
        let at = self.start() + self.checksum_at();
        frame[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    }

    /// Writes the whole checksum.
    pub fn put_checksum(self, frame: &mut [u8]) {
        let at = self.start() + self.checksum_at();
        frame[at..at + 2].fill(0);
        let pseudo = self.pseudo(frame, frame.len() - self.start());
        let sum = checksum(&frame[self.start()..], pseudo);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The packet without what may pad it after its end; lengths in the headers must agree.
    ///
    /// # Errors
    /// A failure when they do not.
    fn whole<'a>(self, frame: &'a [u8], what: &str) -> Result<&'a [u8], super::End> {
        let told = match self.ip {
            Ip::V4 => word(frame, 16).map(|len| ETHERNET_HEADER + len),
            Ip::V6 => word(frame, 18).map(|len| self.start() + len),
        };
        let told = told.unwrap_or(0);
        holds(told >= self.headers() && told <= frame.len(), what, "an IP length of what arrived", told)?;
        let packet = &frame[..told];
        if self.transport == Transport::Udp {
            equal(&format!("{what}: UDP length"), Some(told - self.start()), word(packet, self.start() + 4))?;
        }
        Ok(packet)
    }

    /// Fails unless lengths and checksums of a packet are right; returns it without padding.
    ///
    /// # Errors
    /// Then.
    pub fn judge<'a>(self, frame: &'a [u8], what: &str) -> Result<&'a [u8], super::End> {
        let packet = self.whole(frame, what)?;
        if self.ip == Ip::V4 {
            equal(&format!("{what}: sum over the IP header"), 0, checksum(&packet[ETHERNET_HEADER..self.start()], 0))?;
        }
        let pseudo = self.pseudo(packet, packet.len() - self.start());
        equal(&format!("{what}: sum over the packet"), 0, checksum(&packet[self.start()..], pseudo))?;
        Ok(packet)
    }
}

/// A payload in which each byte depends on its place.
pub fn payload(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(7) ^ (at >> 8) as u8);
    bytes
}

/// The big-endian word at a place.
pub fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at + 2)?;
    Some(usize::from(pair[0]) << 8 | usize::from(pair[1]))
}

/// The big-endian double word at a place.
pub fn double(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The Internet checksum, with something added; 0 over what contains its checksum.
pub fn checksum(bytes: &[u8], add: u32) -> u16 {
    !fold(sum(bytes) + add)
}

/// Fails unless all headers of `segment` but what a cut changes are those of `whole`.
///
/// # Errors
/// Then.
pub fn same_headers(kind: Kind, whole: &[u8], segment: &[u8], what: &str) -> Verdict {
    let (ip, start) = (ETHERNET_HEADER, kind.start());
    // Length, identification and checksum of IPv4, length of IPv6; sequence, flags and checksum of TCP, length and checksum of UDP.
    let changes: &[core::ops::Range<usize>] = match (kind.ip, kind.transport) {
        (Ip::V4, Transport::Tcp) => &[
            0..12,
            ip + 2..ip + 6,
            ip + 10..ip + 12,
            start + 4..start + 8,
            start + 13..start + 14,
            start + 16..start + 18,
        ],
        (Ip::V6, Transport::Tcp) => {
            &[0..12, ip + 4..ip + 6, start + 4..start + 8, start + 13..start + 14, start + 16..start + 18]
        }
        (Ip::V4, Transport::Udp) => &[0..12, ip + 2..ip + 6, ip + 10..ip + 12, start + 4..start + 8],
        (Ip::V6, Transport::Udp) => &[0..12, ip + 4..ip + 6, start + 4..start + 8],
    };
    let stays = |at: &usize| !changes.iter().any(|range| range.contains(at));
    let differs = (0..kind.headers()).filter(stays).find(|&at| whole.get(at) != segment.get(at));
    equal(&format!("{what}: first byte of the headers that changed"), None, differs)
}
