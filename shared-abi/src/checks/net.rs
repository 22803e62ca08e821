//! The network card.

use super::{Check, row};

const LAYOUT: &str = "5.1.4 Device configuration layout";
const TRANSMIT: &str = "5.1.9.2 Packet Transmission";
const RECEIVE: &str = "5.1.9.4 Processing of Incoming Packets";
const COUNTED: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets; 5.1.9.3.2 Device Requirements: Setting Up Receive Buffers";
const RECEIVE_DEVICE: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets";

/// Group `net`. What is received is the answer of a DHCP server, which user networking brings.
pub const NET: &[Check] = &[
    row("net/mac-is-unicast", "mac is the card's address", LAYOUT, "Read it, where offered", "Not 0, no group address"),
    row("net/link-is-up", "status tells the link", LAYOUT, "Read it, where offered", "Bit 0 set").should(),
    row(
        "net/mtu-is-valid",
        "mtu is at least 68",
        "5.1.4.1 Device Requirements: Device configuration layout",
        "Read it, where offered",
        "68 or more",
    ),
    row(
        "net/short-frame-is-taken",
        "A frame may be as short as Ethernet's",
        TRANSMIT,
        "Send 60 bytes",
        "Used, with length 0",
    ),
    row(
        "net/full-frame-is-taken",
        "A frame may be as long as the MTU says",
        TRANSMIT,
        "Send 1514 bytes",
        "Used, with length 0",
    ),
    row(
        "net/header-apart-is-taken",
        "A device makes no assumptions about how a message is divided",
        "2.7.4.1 Device Requirements: Message Framing",
        "Send 60 bytes with the header in a descriptor of its own",
        "Used",
    ),
    row(
        "net/batch-is-taken",
        "Frames in flight are all sent",
        TRANSMIT,
        "Send 16 frames with one notification",
        "All used, each id once",
    ),
    row(
        "net/answer-arrives",
        "A frame for the card is received",
        RECEIVE,
        "Send a DHCP request, wait for the answer",
        "A reply with the same transaction id",
    ),
    row(
        "net/received-header-is-plain",
        "Without offloads the header says nothing special",
        COUNTED,
        "The same, without features",
        "flags 0 or DATA_VALID, gso_type 0, num_buffers 1",
    ),
    row(
        "net/received-frame-has-its-length",
        "The used length is that of header and frame",
        RECEIVE_DEVICE,
        "Compare it with the length in the IP header",
        "At least header, Ethernet header and IP packet",
    ),
    row(
        "net/nothing-behind-the-used-length",
        "A device writes no more than it says",
        "2.7.8.2 Device Requirements: The Virtqueue Used Ring",
        "Fill the buffer with 0xa5 before",
        "0xa5 behind the used length",
    ),
    row(
        "net/receive-exhaustion-recovers",
        "A card without buffers loses frames, not itself",
        RECEIVE,
        "Three requests without receive buffers, then one with",
        "The answer arrives",
    ),
    row(
        "net/mergeable-buffers-are-counted",
        "num_buffers tells how many buffers a frame spans",
        COUNTED,
        "Receive buffers of 128 bytes, with MRG_RXBUF",
        "As many used elements as num_buffers, all but the last full",
    ),
];
