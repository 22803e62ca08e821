//! Checksums and cuts that a guest leaves to the card, done here where its link cannot (a stream of plain frames).
//!
//! Header and frame are a copy of what the guest wrote, and hostile: every place in the frame is checked, lengths come from
//! the frame itself, and `hdr_len` is ignored (section 5.1.6.2 "Packet Transmission").

use super::ETHERNET_HEADER;
use shared_abi::virtio::net::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_NEEDS_CSUM, Header};

/// More segments than this of one packet are no use to anybody: a packet of 64 KiB has fewer at any MSS from 48 on.
const SEGMENTS_MAX: usize = 2048;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Completes the checksum that a header asks for; false if it lies outside of the frame.
pub(super) fn complete(header: &Header, frame: &mut [u8]) -> bool {
    let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    let Some(field) = start.checked_add(offset).filter(|at| at + 2 <= frame.len()) else { return false };
    let value = checksum(sum(&frame[start..]));
    put16(frame, field, value);
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

/// A packet that is cut into segments one by one.
#[derive(Debug)]
pub(super) struct Cut {
    ip: Ip,
    protocol: u8,
    /// Where the IP header, the transport header and the payload start.
    network: usize,
    transport: usize,
    payload: usize,
    /// Bytes of payload in a segment.
    size: usize,
    count: usize,
    next: usize,
}

impl Cut {
    /// How many segments there are.
    pub(super) fn segments(&self) -> usize {
        self.count
    }

    /// The cut that a header asks for; nothing if packet and header do not agree.
    pub(super) fn new(header: &Header, frame: &[u8]) -> Option<Self> {
        let tagged = get16(frame, 12)? == 0x8100;
        let network = ETHERNET_HEADER + if tagged { 4 } else { 0 };
        let (ip, protocol) = match (header.gso_type, get16(frame, network - 2)?) {
            (GSO_TCPV4, 0x0800) => (Ip::V4, TCP),
            (GSO_TCPV6, 0x86dd) => (Ip::V6, TCP),
            (GSO_UDP_L4, 0x0800) => (Ip::V4, UDP),
            (GSO_UDP_L4, 0x86dd) => (Ip::V6, UDP),
            _ => return None,
        };
        let first = *frame.get(network)?;
        // An IPv6 packet with extension headers is not segmented: no known guest sends one.
        let (version, len, next) = match ip {
            Ip::V4 => (4, usize::from(first & 15) * 4, *frame.get(network + 9)?),
            Ip::V6 => (6, 40, *frame.get(network + 6)?),
        };
        let transport = network + len;
        let payload = transport
            + match protocol {
                TCP => usize::from(*frame.get(transport + 12)? >> 4) * 4,
                _ => 8,
            };
        let least = transport + if protocol == TCP { 20 } else { 8 };
        let size = usize::from(header.gso_size);
        let sound = first >> 4 == version
            && len >= 20
            && next == protocol
            && header.flags & HDR_NEEDS_CSUM != 0
            && usize::from(header.csum_start) == transport
            && (least..=frame.len()).contains(&payload)
            && frame.len() - network <= usize::from(u16::MAX)
            && size > 0;
        let count = (frame.len().checked_sub(payload)?).div_ceil(size.max(1)).max(1);
        (sound && count <= SEGMENTS_MAX).then_some(Self {
            ip,
            protocol,
            network,
            transport,
            payload,
            size,
            count,
            next: 0,
        })
    }

    /// Appends the next segment of the frame to `out`; false when all are taken.
    pub(super) fn write_next(&self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        if self.next == self.count {
            return false;
        }
        let offset = self.next * self.size;
        let start = self.payload + offset;
        let end = frame.len().min(start + self.size);
        let base = out.len();
        out.extend(&frame[..self.payload]);
        out.extend(&frame[start..end]);
        self.mend(&mut out[base..], offset);
        true
    }

    /// The next segment has gone.
    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    /// Makes the headers of the whole those of the segment whose payload starts at `offset`.
    fn mend(&self, segment: &mut [u8], offset: usize) {
        let (network, transport) = (self.network, self.transport);
        let len = segment.len() - transport;
        let addresses = match self.ip {
            Ip::V4 => {
                put16(segment, network + 2, (segment.len() - network) as u16);
                let id = get16(segment, network + 4).unwrap_or(0).wrapping_add(self.next as u16);
                put16(segment, network + 4, id);
                put16(segment, network + 10, 0);
                let value = !fold(sum(&segment[network..transport]));
                put16(segment, network + 10, value);
                network + 12..network + 20
            }
            Ip::V6 => {
                put16(segment, network + 4, len as u16);
                network + 8..network + 40
            }
        };
        let field = if self.protocol == TCP {
            let sequence = &mut segment[transport + 4..transport + 8];
            let number = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
            sequence.copy_from_slice(&number.wrapping_add(offset as u32).to_be_bytes());
            if self.next + 1 < self.count {
                segment[transport + 13] &= !FIN_PSH;
            }
            if self.next > 0 {
                segment[transport + 13] &= !CWR;
            }
            transport + 16
        } else {
            put16(segment, transport + 4, len as u16);
            transport + 6
        };
        put16(segment, field, 0);
        let pseudo = sum(&segment[addresses]) + u64::from(self.protocol) + len as u64;
        let value = checksum(pseudo + sum(&segment[transport..]));
        put16(segment, field, value);
    }
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// Writes at a place that was checked.
fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Sum of big-endian words; an odd byte at the end is a high one.
fn sum(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let odd = pairs.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>() + odd
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum for a sum. Never 0, which would be "none" in UDP; 0xffff says the same.
fn checksum(sum: u64) -> u16 {
    match !fold(sum) {
        0 => 0xffff,
        value => value,
    }
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
