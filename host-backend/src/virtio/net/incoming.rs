//! What becomes of a packet of the link before the guest gets it: it gets what its driver has agreed to, whatever the link
//! delivers.

use super::{ETHERNET_HEADER, MTU, offload};
use shared_abi::virtio::net::{Features, GSO_NONE, HDR_DATA_VALID, HDR_NEEDS_CSUM, Header};
use zerocopy::FromBytes;

/// The protocols of the tags that lengthen an Ethernet header by 4 bytes: 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

/// Whether the guest may have the packet. Its header becomes one that the driver expects (5.1.4.1, 5.1.9.4.1).
pub(super) fn admit(features: Features, packet: &mut [u8]) -> bool {
    let Ok((header, frame)) = Header::mut_from_prefix(packet) else { return false };
    let tag = if frame.get(12..14).is_some_and(|protocol| TAGS.iter().any(|tag| tag == protocol)) { 4 } else { 0 };
    let too_long = frame.len() > ETHERNET_HEADER + tag + usize::from(MTU);
    // No driver is offered segments that were left together.
    if header.gso_type != GSO_NONE || features.contains(Features::MTU) && too_long {
        return false;
    }
    let open = header.flags & HDR_NEEDS_CSUM != 0;
    let said = *header;
    *header = Header::default();
    if !features.contains(Features::GUEST_CSUM) {
        return !open || offload::complete(&said, frame);
    }
    header.flags = said.flags & (HDR_NEEDS_CSUM | HDR_DATA_VALID);
    if open {
        (header.csum_start, header.csum_offset) = (said.csum_start, said.csum_offset);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn packet(header: Header, frame: &[u8]) -> Vec<u8> {
        [header.as_bytes(), frame].concat()
    }

    fn frame(protocol: [u8; 2], payload: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(protocol);
        frame.extend(vec![0x5a; payload]);
        frame
    }

    #[test]
    fn a_frame_past_the_mtu_is_not_for_a_driver_that_knows_the_mtu() {
        for (protocol, payload, fits) in [
            ([8, 0], usize::from(MTU), true),
            ([8, 0], usize::from(MTU) + 1, false),
            ([0x81, 0], usize::from(MTU) + 4, true),
            ([0x81, 0], usize::from(MTU) + 5, false),
            ([0x88, 0xa8], usize::from(MTU) + 4, true),
        ] {
            let mut sent = packet(Header::default(), &frame(protocol, payload));
            assert_eq!(admit(Features::MTU, &mut sent), fits, "{protocol:x?} {payload}");
            assert!(admit(Features::empty(), &mut sent), "{protocol:x?} {payload}");
        }
    }

    #[test]
    fn a_driver_without_guest_csum_gets_no_flags_and_whole_checksums() {
        let valid = Header { flags: HDR_DATA_VALID, ..Header::default() };
        let mut sent = packet(valid, &frame([8, 0], 50));
        assert!(admit(Features::empty(), &mut sent));
        assert_eq!(sent, packet(Header::default(), &frame([8, 0], 50)));
        let open = Header { flags: HDR_NEEDS_CSUM, csum_start: 14, csum_offset: 48, ..Header::default() };
        let mut body = frame([8, 0], 50);
        body[62..].fill(0);
        let mut sent = packet(open, &body);
        assert!(admit(Features::empty(), &mut sent));
        assert!(offload::complete(&open, &mut body));
        assert_eq!(sent, packet(Header::default(), &body));
        assert_ne!(body[62..], [0, 0]);
        let outside = Header { csum_offset: 49, ..open };
        assert!(!admit(Features::empty(), &mut packet(outside, &body)), "there is no such checksum");
    }

    #[test]
    fn a_driver_with_guest_csum_gets_the_flags_that_it_knows_and_nothing_else() {
        let said = Header { flags: 0xff, csum_start: 14, csum_offset: 8, gso_size: 9, hdr_len: 9, ..Header::default() };
        let mut sent = packet(said, &frame([8, 0], 50));
        assert!(admit(Features::GUEST_CSUM, &mut sent));
        let flags = HDR_NEEDS_CSUM | HDR_DATA_VALID;
        let expected = Header { flags, csum_start: 14, csum_offset: 8, ..Header::default() };
        assert_eq!(sent, packet(expected, &frame([8, 0], 50)));
    }

    #[test]
    fn segments_that_were_left_together_are_for_nobody() {
        for gso_type in [1, 3, 4, 0x80] {
            let mut sent = packet(Header { gso_type, ..Header::default() }, &frame([8, 0], 50));
            assert!(!admit(Features::all(), &mut sent), "{gso_type:#x}");
        }
    }
}
