//! The network driver (section 5.1): frames in and out, one queue pair.
//!
//! Made by the kernel for each card; the TCP/IP stack takes frames from it and fills frames for it. Neither way
//! allocates or copies per frame, but for a frame that spans several receive buffers.

use crate::device::{Device, Driver, InterruptSource};
use crate::error::{InitError, Violation};
use crate::memory::{DmaBuffer, DmaPages};
use crate::transport::Transport;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::mmio::InterruptStatus;

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Receive buffers to keep posted, at most: entries of the receive ring.
    pub receive_buffers: u16,
    /// Frames in transmission, at most: entries of the transmit ring. Their buffers are allocated at first use.
    pub transmit_buffers: u16,
    /// The address to take if the device has none to offer.
    pub fallback_mac: [u8; 6],
    /// The largest MTU to agree to.
    pub mtu_limit: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { receive_buffers: 64, transmit_buffers: 64, fallback_mac: [2, 0, 0, 0, 0, 1], mtu_limit: 1500 }
    }
}

/// Who completes the checksum of a frame to transmit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitChecksum {
    /// The caller has: the frame is sent as it is.
    Complete,
    /// The driver is to: the TCP or UDP checksum field of the frame holds anything. It is left to the device if
    /// that takes the work, else computed here.
    Offload,
}

/// Frames and errors since the driver came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames handed to the device.
    pub transmitted: u64,
    /// Bytes handed to the device.
    pub transmitted_bytes: u64,
    /// Frames dropped because their header or their length made no sense.
    pub dropped: u64,
    /// Received frames that were copied because they span buffers.
    pub reassembled: u64,
}

/// A received frame, owned. Give it back with [`Net::recycle`]; one that is only dropped costs the card a buffer until
/// the next allocation.
#[derive(Debug)]
pub struct Frame {
    buffer: DmaBuffer,
}

impl Frame {
    /// The frame, from its destination address on, without check sequence.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

/// A network card.
pub struct Net<T: Transport> {
    device: Device<T>,
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Net<T> {
    /// Brings a device up and posts its receive buffers.
    pub fn new(transport: T, dma: &'static dyn DmaPages, settings: Settings) -> Result<Self, InitError> {
        todo!()
    }

    /// The address.
    pub fn mac(&self) -> [u8; 6] {
        todo!()
    }

    /// Largest IP packet, without the Ethernet header.
    pub fn mtu(&self) -> u16 {
        todo!()
    }

    /// Whether the link is up; follows the device. A device that does not tell is up.
    pub fn link_up(&self) -> bool {
        todo!()
    }

    /// Whether the device completes checksums of transmitted frames: then [`TransmitChecksum::Offload`] costs nothing.
    pub fn has_checksum_offload(&self) -> bool {
        todo!()
    }

    /// The next received frame. Corrupt ones are dropped and counted.
    pub fn receive(&mut self) -> Option<Frame> {
        todo!()
    }

    /// Gives a frame's buffer back to the device; it sees it at the next [`Driver::kick`].
    pub fn recycle(&mut self, frame: Frame) {
        todo!()
    }

    /// Receives a frame, shows it to `handle` and recycles it.
    pub fn receive_with<R>(&mut self, handle: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        todo!()
    }

    /// Whether [`Net::transmit`] would take a frame. Takes back the buffers that the device is done with.
    pub fn can_transmit(&mut self) -> bool {
        todo!()
    }

    /// Lets `fill` write a frame of `len` bytes into a transmit buffer and queues it; the device sees it at the next
    /// [`Driver::kick`]. `None`, without calling `fill`, if no buffer is free, the frame is too long or the device is
    /// stopped. The bytes are those of an earlier frame until `fill` writes them.
    pub fn transmit<R>(
        &mut self,
        len: usize,
        checksum: TransmitChecksum,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        todo!()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        todo!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<T: Transport> Driver for Net<T> {
    fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }
    fn features(&self) -> u64 {
        self.device.features()
    }
    fn interrupt(&mut self, source: InterruptSource) -> InterruptStatus {
        todo!()
    }
    fn enable_interrupts(&mut self) -> bool {
        todo!()
    }
    fn disable_interrupts(&mut self) {
        todo!()
    }
    fn kick(&mut self) {
        todo!()
    }
    fn broken(&self) -> Option<Violation> {
        self.device.broken()
    }
    fn notifications(&self) -> u64 {
        self.device.notifications()
    }
    fn leaked_pages(&self) -> usize {
        todo!()
    }
    fn shut_down(&mut self) {
        todo!()
    }
}
