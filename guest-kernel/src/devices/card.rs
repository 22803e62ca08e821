//! The network card, as smoltcp sees it: one of two drivers that implement its `Device` trait.

use super::reference::{self, ReferenceTransport};
use crate::devices::place::{AnyTransport, Place};
use crate::mm::dma::ReferenceHal;
use crate::trap::Interrupts;
use alloc::string::{String, ToString};
use core::cell::RefCell;
use frontends::net::{Counters, Frame, Settings, TransmitChecksum};
use frontends::{Driver, Net};
use shared_abi::virtio::net::FRAME_MAX;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use virtio_drivers::device::net::{RxBuffer, VirtIONet};

/// Entries of the reference driver's rings.
const REFERENCE_RING: usize = 16;
/// Bytes of its receive buffers: header and frame.
const REFERENCE_BUFFER: usize = 2048;

type ReferenceNet = VirtIONet<ReferenceHal, ReferenceTransport, REFERENCE_RING>;

/// A network card.
pub struct Card {
    driver: RefCell<CardDriver>,
    interrupts: Interrupts,
}

#[expect(clippy::large_enum_variant, reason = "there is one card")]
enum CardDriver {
    Own(Net<AnyTransport>),
    Reference(ReferenceNet),
}

impl Card {
    /// As many receive buffers as Firecracker wants, and few others: each costs instructions at boot.
    pub const SETTINGS: Settings =
        Settings { receive_buffers: 64, transmit_buffers: 16, fallback_mac: [2, 0, 0, 0, 0, 1], mtu_limit: 1500 };

    /// With our driver.
    pub fn own(net: Net<AnyTransport>, interrupts: Interrupts) -> Self {
        Self { driver: RefCell::new(CardDriver::Own(net)), interrupts }
    }

    /// With the reference driver, which is polled.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reference(place: &Place) -> Result<Self, String> {
        let net =
            ReferenceNet::new(reference::transport(place)?, REFERENCE_BUFFER).map_err(|error| error.to_string())?;
        Ok(Self { driver: RefCell::new(CardDriver::Reference(net)), interrupts: Interrupts::none() })
    }

    /// Where its interrupts arrive.
    pub fn interrupts(&self) -> Interrupts {
        self.interrupts
    }

    /// The address.
    pub fn mac(&self) -> [u8; 6] {
        match &*self.driver.borrow() {
            CardDriver::Own(net) => net.mac(),
            CardDriver::Reference(net) => net.mac_address(),
        }
    }

    /// Largest IP packet.
    pub fn mtu(&self) -> u16 {
        match &*self.driver.borrow() {
            CardDriver::Own(net) => net.mtu(),
            CardDriver::Reference(_) => 1500,
        }
    }

    /// Whether the link is up.
    pub fn link_up(&self) -> bool {
        match &*self.driver.borrow() {
            CardDriver::Own(net) => net.link_up(),
            CardDriver::Reference(_) => true,
        }
    }

    /// Frames so far, and notifications, where the driver counts them.
    pub fn counters(&self) -> Option<(Counters, u64)> {
        match &*self.driver.borrow() {
            CardDriver::Own(net) => Some((net.counters(), net.notifications())),
            CardDriver::Reference(_) => None,
        }
    }

    /// Handles interrupts. True if frames may have arrived.
    pub fn service(&self) -> bool {
        match &mut *self.driver.borrow_mut() {
            CardDriver::Own(net) => {
                let any = self.interrupts.handle(|source| net.interrupt(source));
                net.enable_interrupts() || any
            }
            CardDriver::Reference(net) => {
                net.ack_interrupt();
                net.can_recv()
            }
        }
    }

    /// Shows the device what was queued.
    pub fn kick(&self) {
        if let CardDriver::Own(net) = &mut *self.driver.borrow_mut() {
            net.kick();
        }
    }

    fn has_room(&self) -> bool {
        match &mut *self.driver.borrow_mut() {
            CardDriver::Own(net) => net.can_transmit(),
            CardDriver::Reference(net) => net.can_send(),
        }
    }

    fn offloads(&self) -> bool {
        match &*self.driver.borrow() {
            CardDriver::Own(net) => net.has_checksum_offload(),
            CardDriver::Reference(_) => false,
        }
    }
}

/// Frames that are taken at once: a card that is never empty must not keep the other tasks from their turns.
const FRAMES_AT_ONCE: u32 = 64;

/// The card in smoltcp's hands, for one poll.
pub struct Port<'a> {
    card: &'a Card,
    frames_left: u32,
}

impl<'a> Port<'a> {
    /// For one poll.
    pub fn new(card: &'a Card) -> Self {
        Self { card, frames_left: FRAMES_AT_ONCE }
    }
}

/// A received frame.
pub struct Received<'a> {
    card: &'a Card,
    frame: Option<AnyFrame>,
}

enum AnyFrame {
    Own(Frame),
    Reference(RxBuffer),
}

/// Room for a frame to send.
pub struct Room<'a>(&'a Card);

impl RxToken for Received<'_> {
    /// The frame's memory is kept for the next one when the token is dropped.
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, handle: F) -> R {
        match &self.frame {
            Some(AnyFrame::Own(frame)) => handle(frame.bytes()),
            Some(AnyFrame::Reference(buffer)) => handle(buffer.packet()),
            None => handle(&[]),
        }
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        match (&mut *self.card.driver.borrow_mut(), self.frame.take()) {
            (CardDriver::Own(net), Some(AnyFrame::Own(frame))) => net.recycle(frame),
            (CardDriver::Reference(net), Some(AnyFrame::Reference(buffer))) => {
                if let Err(error) = net.recycle_rx_buffer(buffer) {
                    log::warn!("net: {error}");
                }
            }
            _ => {}
        }
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        match &mut *self.0.driver.borrow_mut() {
            CardDriver::Own(net) => {
                let checksum =
                    if net.has_checksum_offload() { TransmitChecksum::Offload } else { TransmitChecksum::Complete };
                let mut fill = Some(fill);
                let sent = net.transmit(len, checksum, |frame| fill.take().map(|fill| fill(frame)));
                match (sent.flatten(), fill) {
                    (Some(result), _) => result,
                    // The device stopped after it had room: the frame is lost, as on any wire.
                    (None, Some(fill)) => fill(&mut alloc::vec![0; len]),
                    (None, None) => unreachable!("fill gives a result when it is called"),
                }
            }
            CardDriver::Reference(net) => {
                let mut buffer = net.new_tx_buffer(len);
                let result = fill(buffer.packet_mut());
                if let Err(error) = net.send(buffer) {
                    log::warn!("net: {error}");
                }
                result
            }
        }
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Room<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Room<'_>)> {
        let card = self.card;
        // A frame is only taken when its answer has room.
        if self.frames_left == 0 || !card.has_room() {
            return None;
        }
        let frame = match &mut *card.driver.borrow_mut() {
            CardDriver::Own(net) => AnyFrame::Own(net.receive()?),
            CardDriver::Reference(net) => AnyFrame::Reference(net.can_recv().then(|| net.receive().ok()).flatten()?),
        };
        self.frames_left -= 1;
        Some((Received { card, frame: Some(frame) }, Room(card)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        self.card.has_room().then_some(Room(self.card))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.card.mtu())
            .min(FRAME_MAX - shared_abi::virtio::net::ETHERNET_HEADER)
            + shared_abi::virtio::net::ETHERNET_HEADER;
        if self.card.offloads() {
            capabilities.checksum.tcp = Checksum::Rx;
            capabilities.checksum.udp = Checksum::Rx;
        }
        capabilities
    }
}
