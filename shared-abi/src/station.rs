//! The station: the other end of the guest's Ethernet on the testbeds of the conformance suite.
//!
//! It sends every frame that is for it, or for everybody, back to the frame's source address, with its own address as
//! the source and no other byte changed. So the guest can see what its frames looked like on the wire, and have frames
//! sent to any address: it only has to pretend that they came from there.

/// Its address.
pub const MAC: [u8; 6] = [0x02, 0x52, 0x49, 0x4e, 0x47, 0x01];
/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Protocol of the frames that carry nothing else: IEEE 802's first one for local experiments.
pub const PROTOCOL: [u8; 2] = [0x88, 0xb5];
