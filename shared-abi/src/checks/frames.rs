//! Frames through the network card to an echo peer that echoes them, and back.

use super::{Check, row};

const TRANSMIT: &str = "5.1.9.2 Packet Transmission";
const RECEIVE: &str = "5.1.9.4 Processing of Incoming Packets";
const RECEIVE_DEVICE: &str = "5.1.9.4.1 Device Requirements: Processing of Incoming Packets";
const BUFFERS: &str = "5.1.9.3 Setting Up Receive Buffers";

/// The checks of this group; each skips itself where no echo peer echoes frames.
pub const CHECKS: &[Check] = &[
    row(
        "net-frames/every-size-comes-back",
        "A frame leaves and arrives with all its bytes",
        TRANSMIT,
        "Some fifty sizes from 60 to 1514, odd ones and those around powers of 2 among them, one after the other",
        "Each echo has the same length and bytes",
    ),
    row(
        "net-frames/frame-of-the-mtu-comes-back",
        "A device takes and delivers frames as large as its MTU",
        "5.1.4.1 Device Requirements: Device configuration layout",
        "Where MTU is offered: frames of mtu and of mtu - 1 bytes of payload",
        "Each echo has the same length and bytes",
    ),
    row(
        "net-frames/past-the-mtu-is-survived",
        "A frame that cannot go is lost, not the card",
        TRANSMIT,
        "Frames of 1515, 1518, 2000, 4096, 9014 and 65549 bytes, 2048 bytes of receive buffers each, then one of 60",
        "Each is used; what comes back is whole; the short one comes back",
    ),
    row(
        "net-frames/frame-in-parts-comes-back",
        "A device makes no assumptions about how a message is divided",
        "2.7.4.1 Device Requirements: Message Framing",
        "Header and 600 bytes in descriptors of 5, 7, 13, 37, 111 bytes and the rest",
        "The echo has the same bytes",
    ),
    row(
        "net-frames/burst-comes-back-in-order",
        "Frames in flight are all sent, and stay in order",
        TRANSMIT,
        "Twelve frames of different sizes with one notification",
        "All echoes, in order, with the same bytes",
    ),
    row(
        "net-frames/frame-for-another-address-is-no-broadcast",
        "The destination of a frame is not changed",
        RECEIVE,
        "Broadcast a frame; the echo peer answers to the card alone",
        "The echo's destination is the card's address",
    ),
    row(
        "net-frames/exhaustion-loses-whole-frames",
        "A card without buffers loses frames, or keeps them; it does not cut them",
        BUFFERS,
        "Four receive buffers, twelve frames, then buffers for all, then one frame more",
        "What arrives is whole, in order and no more than once; the last frame arrives",
    ),
    row(
        "net-frames/buffer-in-parts-is-filled",
        "A receive buffer may be several descriptors",
        "2.7.4.1 Device Requirements: Message Framing",
        "A receive buffer of 12, 14, 50 and 1600 bytes, a frame of 300",
        "The echo has the same bytes, and the used length is that of header and frame",
    ),
    row(
        "net-frames/mergeable-buffers-hold-every-size",
        "With MRG_RXBUF a frame may span buffers, all full but the last",
        RECEIVE_DEVICE,
        "Receive buffers of 256 bytes, frames from 60 to 1514 bytes",
        "num_buffers as few as can be, used lengths full but for the last, the same bytes",
    ),
    row(
        "net-frames/mergeable-frame-may-fill-its-last-buffer",
        "With MRG_RXBUF the last buffer may be full",
        RECEIVE_DEVICE,
        "Receive buffers of 256 bytes, frames that with their header are 512, 513, 767 and 768 bytes",
        "num_buffers 2, 3, 3 and 3, the same bytes",
    ),
];
