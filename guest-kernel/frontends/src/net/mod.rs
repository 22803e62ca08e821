//! The network driver (section 5.1): frames in and out, one queue pair.
//!
//! Made by the kernel for each card; the TCP/IP stack takes frames from it and fills frames for it. Neither way
//! allocates per frame. Each frame is copied once, for the stack may see nothing that a device can still change.

mod checksum;
mod receive;
mod transmit;

pub use receive::Frame;
pub use transmit::TransmitChecksum;

use crate::device::{Device, Driver};
use crate::error::{InitError, Violation};
use crate::memory::DmaPages;
use crate::transport::Transport;
use core::mem::offset_of;
use receive::Receiver;
use transmit::Transmitter;
use virtio_abi::DeviceType;
use virtio_abi::net::{Config, ETHERNET_HEADER, Features, RECEIVE_QUEUE, STATUS_LINK_UP, TRANSMIT_QUEUE};

/// What we make use of; MTU only if it is within the caller's limit.
const SUPPORTED: Features =
    Features::CSUM.union(Features::GUEST_CSUM).union(Features::MAC).union(Features::MRG_RXBUF).union(Features::STATUS);
/// The smallest MTU that a device may have (section 5.1.4).
const MTU_MIN: u16 = 68;
/// The MTU of a device that reports none.
const MTU_DEFAULT: u16 = 1500;
/// Bytes of a VLAN tag.
const VLAN_TAG: usize = 4;

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Receive buffers to keep posted, at most: entries of the receive ring. Some devices receive nothing unless 65,562
    /// bytes are posted, the largest packet with its header (Firecracker): 64 buffers for the usual MTU are enough.
    pub receive_buffers: u16,
    /// Frames in transmission, at most: entries of the transmit ring. Their buffers are allocated at first use.
    pub transmit_buffers: u16,
    /// The address to take if the device has none to offer.
    pub fallback_mac: [u8; 6],
    /// The largest MTU to agree to. Every buffer holds a frame of the MTU.
    pub mtu_limit: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { receive_buffers: 64, transmit_buffers: 64, fallback_mac: [2, 0, 0, 0, 0, 1], mtu_limit: MTU_DEFAULT }
    }
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
    /// Received frames that were joined because they span buffers.
    pub reassembled: u64,
}

/// A network card.
pub struct Net<T: Transport> {
    device: Device<T>,
    features: Features,
    receiver: Receiver,
    transmitter: Transmitter,
    mac: [u8; 6],
    mtu: u16,
    link_up: bool,
    counters: Counters,
    leaked_pages: usize,
}

impl<T: Transport> Net<T> {
    /// Brings a device up and posts its receive buffers.
    pub fn new(transport: T, dma: &'static dyn DmaPages, settings: Settings) -> Result<Self, InitError> {
        let limit = settings.mtu_limit.max(MTU_MIN);
        let mut device = Device::begin_with(transport, DeviceType::NET, |fields| {
            // A driver that agrees to an MTU has to have buffers for it.
            let fits = fields.u16(offset_of!(Config, mtu)) <= limit;
            (if fits { SUPPORTED | Features::MTU } else { SUPPORTED }).bits()
        })?;
        let features = Features::from_bits_truncate(device.features());
        let (mac, mtu, link_up) = read_config(&device, features, settings).map_err(|error| device.give_up(error))?;
        let frame_max = ETHERNET_HEADER + VLAN_TAG + usize::from(mtu);
        let receive_ring = device.ring(RECEIVE_QUEUE, settings.receive_buffers, 1, dma)?;
        let transmit_ring = device.ring(TRANSMIT_QUEUE, settings.transmit_buffers, 1, dma)?;
        let mut receiver = Receiver::new(receive_ring, features, frame_max);
        receiver.start(settings.receive_buffers, dma).map_err(|error| device.give_up(error))?;
        let transmitter = Transmitter::new(transmit_ring, features, frame_max, dma);
        device.start();
        let counters = Counters::default();
        let mut this = Self { device, features, receiver, transmitter, mac, mtu, link_up, counters, leaked_pages: 0 };
        this.kick();
        Ok(this)
    }

    /// The address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Largest IP packet, without the Ethernet header.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether the link is up; follows the device. A device that does not report it is up.
    pub fn link_up(&self) -> bool {
        self.link_up && self.device.is_live()
    }

    /// Whether the device completes checksums of transmitted frames: then [`TransmitChecksum::Offload`] costs next to
    /// nothing.
    pub fn has_checksum_offload(&self) -> bool {
        self.features.contains(Features::CSUM)
    }

    /// The next received frame; call [`Driver::kick`] after the last one of a batch. Corrupt ones are dropped and counted.
    pub fn receive(&mut self) -> Option<Frame> {
        if !self.device.is_live() {
            return None;
        }
        match self.receiver.next(&mut self.counters) {
            Ok(frame) => frame,
            Err(violation) => {
                self.fail(violation);
                None
            }
        }
    }

    /// Gives a frame back, so that the next one need not allocate.
    pub fn recycle(&mut self, frame: Frame) {
        self.receiver.recycle(frame);
    }

    /// Receives a frame, shows it to `handle` and recycles it.
    pub fn receive_with<R>(&mut self, handle: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let mut frame = self.receive()?;
        let result = handle(frame.bytes_mut());
        self.recycle(frame);
        Some(result)
    }

    /// Whether [`Net::transmit`] would take a frame. Takes back the buffers that the device is done with.
    pub fn can_transmit(&mut self) -> bool {
        while self.device.is_live() {
            match self.transmitter.is_ready() {
                Ok(ready) => return ready,
                // A device that was restarted has all buffers again.
                Err(violation) => self.fail(violation),
            }
        }
        false
    }

    /// Lets `fill` write a frame of `len` bytes into a transmit buffer and queues it; call [`Driver::kick`] after the
    /// last one of a batch. `None`, without calling `fill`, if no buffer is free, the length is less than an Ethernet
    /// header or more than the MTU allows, or the device is stopped. The bytes are those of an earlier frame until
    /// `fill` writes them.
    pub fn transmit<R>(
        &mut self,
        len: usize,
        checksum: TransmitChecksum,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        if !self.can_transmit() {
            return None;
        }
        let result = self.transmitter.send(len, checksum, fill)?;
        self.counters.transmitted += 1;
        self.counters.transmitted_bytes += len as u64;
        Some(result)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

fn read_config<T: Transport>(
    device: &Device<T>,
    features: Features,
    settings: Settings,
) -> Result<([u8; 6], u16, bool), InitError> {
    let (mut mac, mtu, status) = device.config(|fields| {
        let mac = features.contains(Features::MAC).then(|| core::array::from_fn(|i| fields.u8(i)));
        let mtu = features.contains(Features::MTU).then(|| fields.u16(offset_of!(Config, mtu)));
        (mac, mtu, link_status(features, &fields))
    })?;
    if let Some(bad) = mac.filter(|mac: &[u8; 6]| *mac == [0; 6] || mac[0] & 1 != 0) {
        log::warn!("net: {bad:02x?} is no card's address, taking another");
        mac = None;
    }
    if let Some(value) = mtu.filter(|mtu| *mtu < MTU_MIN) {
        return Err(InitError::BadConfig { field: "mtu", value: value.into() });
    }
    let fallback_mtu = settings.mtu_limit.clamp(MTU_MIN, MTU_DEFAULT);
    Ok((mac.unwrap_or(settings.fallback_mac), mtu.unwrap_or(fallback_mtu), status))
}

fn link_status<T: Transport>(features: Features, fields: &crate::device::ConfigFields<'_, T>) -> bool {
    !features.contains(Features::STATUS) || fields.u16(offset_of!(Config, status)) & STATUS_LINK_UP != 0
}

impl<T: Transport> Driver for Net<T> {
    type Transport = T;

    fn device(&self) -> &Device<T> {
        &self.device
    }

    fn device_mut(&mut self) -> &mut Device<T> {
        &mut self.device
    }

    fn stop(&mut self, reason: Violation) {
        let was_stopped = self.device.broken().is_some();
        if !self.device.stop(reason) && !was_stopped {
            self.leaked_pages = self.receiver.leak() + self.transmitter.leak();
        }
    }

    /// Frames that were on their way are lost, as on any wire.
    fn restart(&mut self, _: Violation) -> Result<(), InitError> {
        self.link_up = self.device.config(|fields| link_status(self.features, &fields))?;
        self.device.ring_again(&mut self.receiver.ring)?;
        self.device.ring_again(&mut self.transmitter.ring)?;
        self.receiver.restart();
        self.transmitter.restart();
        self.device.start();
        self.kick();
        Ok(())
    }

    fn config_changed(&mut self) {
        match self.device.config(|fields| link_status(self.features, &fields)) {
            Ok(link_up) => self.link_up = link_up,
            Err(error) => log::warn!("net: link status stays: {error}"),
        }
    }

    /// Transmit buffers that come back interrupt only while [`Net::transmit`] waits for one.
    fn enable_interrupts(&mut self) -> bool {
        if !self.device.is_live() {
            return false;
        }
        let sent = self.transmitter.is_blocked && self.transmitter.ring.enable_interrupts();
        self.receiver.ring.enable_interrupts() || sent
    }

    fn disable_interrupts(&mut self) {
        self.receiver.ring.disable_interrupts();
        self.transmitter.ring.disable_interrupts();
    }

    fn kick(&mut self) {
        self.device.kick(&mut self.receiver.ring);
        self.device.kick(&mut self.transmitter.ring);
    }

    fn leaked_pages(&self) -> usize {
        self.leaked_pages
    }
}

impl<T: Transport> Drop for Net<T> {
    fn drop(&mut self) {
        self.stop(Violation::ShutDown);
    }
}
