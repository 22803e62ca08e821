//! The echo peer: the other end of the guest's Ethernet on the testbeds of the conformance suite.
//!
//! It returns each frame that is addressed to it, or broadcast, to the frame's source address, with its own address as
//! the source and no other byte changed. So the guest sees what its frames looked like on the wire, and can have a frame
//! sent to any address by using that address as the source.

/// Its address.
pub const MAC: [u8; 6] = [0x02, 0x52, 0x49, 0x4e, 0x47, 0x01];
/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Protocol of the frames that carry nothing else: the first EtherType that IEEE 802 reserves for local experiments.
pub const PROTOCOL: [u8; 2] = [0x88, 0xb5];
