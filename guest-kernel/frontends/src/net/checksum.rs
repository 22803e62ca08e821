//! The Internet checksum (RFC 1071) of TCP and UDP, for offers that a device makes or does not make.
//!
//! Used by both directions of the driver. Frames come from our own stack or from the network: every offset in them is
//! checked.

use virtio_abi::net::ETHERNET_HEADER;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// A TCP or UDP segment in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    /// Where it starts and ends.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where its checksum is, from `start`.
    pub(super) offset: usize,
    /// Sum of the pseudo header.
    pseudo: u64,
    protocol: u8,
}

/// Finds the TCP or UDP segment of a frame, unless it is a fragment or the headers make no sense.
pub(super) fn locate(frame: &[u8]) -> Option<Transport> {
    let ip = frame.get(ETHERNET_HEADER..)?;
    let (header, total, protocol, addresses) = match be16(frame, 12)? {
        ETHERTYPE_IPV4 => {
            let header = usize::from(ip.first()? & 0xf) * 4;
            let fragment = be16(ip, 6)? & 0x3fff;
            if ip[0] >> 4 != 4 || header < 20 || fragment != 0 {
                return None;
            }
            (header, usize::from(be16(ip, 2)?), *ip.get(9)?, ip.get(12..20)?)
        }
        ETHERTYPE_IPV6 => (40, 40 + usize::from(be16(ip, 4)?), *ip.get(6)?, ip.get(8..40)?),
        _ => return None,
    };
    let (offset, least) = match protocol {
        PROTOCOL_TCP => (16, 20),
        PROTOCOL_UDP => (6, 8),
        _ => return None,
    };
    let len = total.checked_sub(header)?;
    if len < least || total > ip.len() {
        return None;
    }
    let pseudo = sum(addresses) + u64::from(u16::from(protocol).to_be()) + u64::from((len as u16).to_be());
    let start = ETHERNET_HEADER + header;
    Some(Transport { start, end: start + len, offset, pseudo, protocol })
}

/// Puts the pseudo header's sum where the checksum goes: a device or [`complete`] adds the rest.
pub(super) fn prepare(frame: &mut [u8], transport: Transport) {
    let at = transport.start + transport.offset;
    frame[at..at + 2].copy_from_slice(&fold(transport.pseudo).to_ne_bytes());
}

/// Computes the whole checksum.
pub(super) fn fill(frame: &mut [u8], transport: Transport) {
    let at = transport.start + transport.offset;
    frame[at..at + 2].fill(0);
    let sum = !fold(transport.pseudo + sum(&frame[transport.start..transport.end]));
    // UDP: 0 means "none", and its complement is the same number.
    let sum = if sum == 0 && transport.protocol == PROTOCOL_UDP { 0xffff } else { sum };
    frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Completes a checksum that covers the pseudo header only (NEEDS_CSUM). False if the offsets are not in the frame.
#[must_use]
pub(super) fn complete(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if at + 2 > frame.len() {
        return false;
    }
    let sum = !fold(sum(&frame[start..]));
    let sum = if sum == 0 { 0xffff } else { sum };
    frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    true
}

/// The sum in native order: one's complement addition does not care, as long as the result is stored in the same order.
fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(4);
    let mut sum = 0;
    for chunk in &mut chunks {
        sum += u64::from(u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let mut last = [0; 4];
    let rest = chunks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// The definition of RFC 1071, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn udp_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([0; 42]);
        frame.extend_from_slice(payload);
        let len = frame.len();
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
        frame[23] = PROTOCOL_UDP;
        frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        frame[34..40].copy_from_slice(&[0x12, 0x34, 0, 80, 0, (len - 34) as u8]);
        frame
    }

    /// What a receiver sums: pseudo header and segment, which gives all ones if the checksum is right.
    fn verify(frame: &[u8]) -> bool {
        let mut bytes = Vec::from(&frame[26..34]);
        bytes.extend_from_slice(&[0, PROTOCOL_UDP]);
        bytes.extend_from_slice(&((frame.len() - 34) as u16).to_be_bytes());
        bytes.extend_from_slice(&frame[34..]);
        reference(&bytes) == 0xffff
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_rfc(bytes: Vec<u8>) {
            prop_assert_eq!(fold(sum(&bytes)).to_be(), reference(&bytes));
        }

        #[test]
        fn filled_and_completed_checksums_verify(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = udp_frame(&payload);
            let segment = locate(&frame).unwrap();
            let mut partial = frame.clone();
            fill(&mut frame, segment);
            prop_assert!(verify(&frame));
            prepare(&mut partial, segment);
            prop_assert!(complete(&mut partial, segment.start as u16, segment.offset as u16));
            prop_assert_eq!(partial, frame);
        }

        #[test]
        fn nothing_that_arrives_makes_it_reach_outside(
            mut frame in prop::collection::vec(any::<u8>(), 0..100), start: u16, offset: u16, ipv4: bool,
        ) {
            if frame.len() > 14 {
                let ethertype = if ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            if let Some(segment) = locate(&frame) {
                prop_assert!(segment.end <= frame.len());
                fill(&mut frame, segment);
                prepare(&mut frame, segment);
            }
            let _ = complete(&mut frame, start, offset);
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_left_alone() {
        let mut frame = udp_frame(b"abc");
        frame[20] = 0x20;
        assert_eq!(locate(&frame), None);
        let mut frame = udp_frame(b"abc");
        frame[23] = 1;
        assert_eq!(locate(&frame), None);
    }
}
