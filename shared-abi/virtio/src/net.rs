//! The network card (section 5.1 "Network Device"). Queue 0 receives, queue 1 transmits; the control queue is last.

use crate::assert_layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Receive queue.
pub const RECEIVE_QUEUE: u16 = 0;
/// Transmit queue.
pub const TRANSMIT_QUEUE: u16 = 1;
/// Largest Ethernet frame without its check sequence at the usual MTU of 1500.
pub const FRAME_MAX: usize = 1514;
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

bitflags::bitflags! {
    /// Feature bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// The device takes frames without a complete checksum.
        const CSUM = 1 << 0;
        /// The driver takes frames without a complete checksum.
        const GUEST_CSUM = 1 << 1;
        /// `mtu` is valid.
        const MTU = 1 << 3;
        /// `mac` is valid.
        const MAC = 1 << 5;
        /// The driver takes TCPv4 segments.
        const GUEST_TSO4 = 1 << 7;
        /// The driver takes TCPv6 segments.
        const GUEST_TSO6 = 1 << 8;
        /// The device takes TCPv4 segments.
        const HOST_TSO4 = 1 << 11;
        /// The device takes TCPv6 segments.
        const HOST_TSO6 = 1 << 12;
        /// A frame may span receive buffers.
        const MRG_RXBUF = 1 << 15;
        /// `status` is valid.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// Receive modes and MAC table over the control queue.
        const CTRL_RX = 1 << 18;
        /// VLAN filter over the control queue.
        const CTRL_VLAN = 1 << 19;
        /// More receive modes.
        const CTRL_RX_EXTRA = 1 << 20;
        /// The device may ask for gratuitous packets.
        const GUEST_ANNOUNCE = 1 << 21;
        /// Several queue pairs.
        const MQ = 1 << 22;
        /// The address can be set over the control queue.
        const CTRL_MAC_ADDR = 1 << 23;
        /// The device takes UDP datagrams to cut.
        const HOST_USO = 1 << 56;
    }
}

/// `virtio_net_hdr_v1`: before every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`HDR_NEEDS_CSUM`], [`HDR_DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`] or a kind of segmentation.
    pub gso_type: u8,
    /// Bytes of headers to copy to each segment.
    pub hdr_len: u16,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// Where the checksum starts to count.
    pub csum_start: u16,
    /// Where it goes, from `csum_start`.
    pub csum_offset: u16,
    /// Receive buffers that the frame spans (with MRG_RXBUF, else 1).
    pub num_buffers: u16,
}
assert_layout!(Header, size 12, csum_start at 6, csum_offset at 8, num_buffers at 10);

/// The checksum at `csum_start + csum_offset` covers the pseudo header only and is to be completed.
pub const HDR_NEEDS_CSUM: u8 = 1;
/// The checksum was verified.
pub const HDR_DATA_VALID: u8 = 2;
/// No segmentation.
pub const GSO_NONE: u8 = 0;

/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams, each with a header.
pub const GSO_UDP_L4: u8 = 5;

/// Commands of the control queue: class and command, then data; the device writes one byte of [`ack`](control::OK).
pub mod control {
    /// Answer: done.
    pub const OK: u8 = 0;
    /// Answer: not done.
    pub const ERR: u8 = 1;
    /// Class: receive modes. A byte of data, 0 or 1.
    pub const RX: u8 = 0;
    /// Of [`RX`]: frames for anybody.
    pub const PROMISC: u8 = 0;
    /// Of [`RX`]: all multicast.
    pub const ALLMULTI: u8 = 1;
    /// Of [`RX`], with CTRL_RX_EXTRA: all unicast.
    pub const ALLUNI: u8 = 2;
    /// Of [`RX`], with CTRL_RX_EXTRA: no multicast.
    pub const NOMULTI: u8 = 3;
    /// Of [`RX`], with CTRL_RX_EXTRA: no unicast.
    pub const NOUNI: u8 = 4;
    /// Of [`RX`], with CTRL_RX_EXTRA: no broadcast.
    pub const NOBCAST: u8 = 5;
    /// Class: addresses.
    pub const MAC: u8 = 1;
    /// Of [`MAC`]: two tables, each a u32 count and as many addresses: unicast, multicast.
    pub const TABLE_SET: u8 = 0;
    /// Of [`MAC`]: the card's own address.
    pub const ADDR_SET: u8 = 1;
    /// Class: VLAN filter. A u16 id.
    pub const VLAN: u8 = 2;
    /// Of [`VLAN`].
    pub const VLAN_ADD: u8 = 0;
    /// Of [`VLAN`].
    pub const VLAN_DEL: u8 = 1;
    /// Class: gratuitous packets.
    pub const ANNOUNCE: u8 = 3;
    /// Of [`ANNOUNCE`].
    pub const ANNOUNCE_ACK: u8 = 0;
    /// Class: queue pairs. A u16 count.
    pub const MQ: u8 = 4;
    /// Of [`MQ`].
    pub const PAIRS_SET: u8 = 0;
}

/// `status`: the driver is asked for gratuitous packets.
pub const STATUS_ANNOUNCE: u16 = 2;

/// `status`: the link is up.
pub const STATUS_LINK_UP: u16 = 1;

/// `virtio_net_config`, up to `mtu`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the field names are the specification's")]
pub struct Config {
    pub mac: [u8; 6],
    pub status: u16,
    pub max_virtqueue_pairs: u16,
    pub mtu: u16,
}
assert_layout!(Config, size 12, status at 6, max_virtqueue_pairs at 8, mtu at 10);
