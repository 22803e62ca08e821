//! Checksums and segments that the driver leaves to the card, seen on the wire by the echo peer.

use super::{Check, row};

const TRANSMIT: &str = "5.1.9.2 Packet Transmission";
const DEVICE: &str = "5.1.9.2.2 Device Requirements: Packet Transmission";
const RECEIVE_DEVICE: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets";

/// The checks of this group; each skips itself without an echo peer, and without the feature that it is about.
pub const CHECKS: &[Check] = &[
    row(
        "net-offload/checksums-are-completed",
        "The device completes the checksum from csum_start on",
        TRANSMIT,
        "TCP and UDP over IPv4 and IPv6, payloads of 1, 2, 100, 777 and 1400 bytes, the pseudo header's sum in the field",
        "The echo has the right checksum; no other byte changed",
    ),
    row(
        "net-offload/checksum-anywhere-is-completed",
        "The device completes the checksum from csum_start on, whatever the protocol",
        TRANSMIT,
        "Five frames of a protocol for experiments, checksums at odd places and at the end among them",
        "The echo has the sum where it belongs; no other byte changed",
    ),
    row(
        "net-offload/checksum-of-a-largest-frame-is-completed",
        "The device completes the checksum from csum_start on",
        TRANSMIT,
        "All four kinds in frames of 1514 bytes",
        "The echo has the right checksum; no other byte changed",
    ),
    row(
        "net-offload/bytes-stay-without-needs-csum",
        "Without NEEDS_CSUM the device does not use csum_start and csum_offset",
        DEVICE,
        "A packet with a wrong checksum, places in the header, flags 0",
        "The echo has the wrong checksum",
    ),
    row(
        "net-offload/checksum-outside-of-the-frame-is-survived",
        "A frame that makes no sense is lost, not the card",
        DEVICE,
        "Five frames whose checksum lies behind their end, then a plain one",
        "Each is used; the last comes back",
    )
    .should(),
    row(
        "net-offload/tcp4-is-cut",
        "TCP over IPv4 is cut into segments of gso_size",
        TRANSMIT,
        "1, 2, 3 and 10 segments of 1000 bytes, one byte less, one more",
        "Segments in order: lengths, sequence numbers, identifications, checksums and payload right, FIN and PSH in the last only, other header bytes as sent",
    ),
    row(
        "net-offload/tcp6-is-cut",
        "TCP over IPv6 is cut into segments of gso_size",
        TRANSMIT,
        "The same over IPv6",
        "The same",
    ),
    row(
        "net-offload/udp-is-cut",
        "UDP is cut into datagrams of gso_size",
        TRANSMIT,
        "1, 2 and 10 datagrams of 1000 bytes, one byte less, one more, over both IPs",
        "Datagrams in order: lengths, checksums and payload right, other header bytes as sent",
    ),
    row(
        "net-offload/odd-segments-are-cut",
        "TCP over IPv4 is cut into segments of gso_size",
        TRANSMIT,
        "Three segments of 333 bytes, one byte less, one more",
        "As for larger ones",
    ),
    row(
        "net-offload/largest-tcp4-is-cut",
        "A packet to cut may be as large as IP allows",
        TRANSMIT,
        "An IP packet of 65535 bytes, segments of 1448",
        "As for smaller ones",
    ),
    row(
        "net-offload/header-length-is-only-a-hint",
        "The device does not rely on hdr_len to be correct",
        DEVICE,
        "Three segments with hdr_len 0, 14, 20 and 0xffff",
        "Cut as with the right one",
    ),
    row(
        "net-offload/cut-without-needs-csum-is-survived",
        "A frame that makes no sense is lost, not the card",
        DEVICE,
        "gso_type TCPV4 without NEEDS_CSUM, then a sound packet",
        "The first is used, the second is cut",
    )
    .should(),
    row(
        "net-offload/cut-into-nothing-is-survived",
        "A frame that makes no sense is lost, not the card",
        DEVICE,
        "gso_size 0, then a sound packet",
        "The first is used, the second is cut",
    )
    .should(),
    row(
        "net-offload/received-checksum-flags-are-true",
        "DATA_VALID is for packets with a right checksum, NEEDS_CSUM for those that have only the sum of the pseudo header",
        RECEIVE_DEVICE,
        "With GUEST_CSUM, a UDP packet with a right and one with a wrong checksum",
        "No DATA_VALID for the wrong one; no byte changed where the checksum is not left open",
    ),
];
