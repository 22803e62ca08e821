//! The network card (section 5.1 "Network Device"): one pair of queues over a [`Link`], and a control queue.
//!
//! A packet is a [`Header`] and a frame. One packet per direction is held here, in buffers of fixed size; what the link
//! cannot take waits in the guest's queue, what the guest cannot take waits in the link.

mod control;
mod incoming;
mod limits;
mod offload;
mod outgoing;
pub mod passt;
mod shown;
pub mod stream;
pub mod tap;

use super::queue::Chain;
use super::throttle::Admission;
use super::{BATCH, Cable, Change, Changed, ConfigSpace, Device, Fault, Io, Progress};
use crate::config::{Mac, RateLimit};
use crate::rate::{Clock, SystemClock};
use control::Filter;
use limits::Limits;
use outgoing::Sending;
use shared_abi::virtio::mmio::InterruptStatus;
use shared_abi::virtio::net::{ETHERNET_HEADER, Features, Header, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use shared_abi::virtio::{CommonFeatures, DeviceType};
use shown::Shown;
use std::io;
use std::mem::offset_of;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;
use vmm_sys_util::epoll::EventSet;

const RX: usize = RECEIVE_QUEUE as usize;
const TX: usize = TRANSMIT_QUEUE as usize;
const CONTROL: usize = 2;
/// What the card does itself if its link does not.
const OFFLOADS: Features =
    Features::CSUM.union(Features::HOST_TSO4).union(Features::HOST_TSO6).union(Features::HOST_USO);
/// Bytes of the header before every frame.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Largest packet that a link may deliver or the guest send: a header and a 64 KiB frame.
pub const PACKET_MAX: usize = HEADER_LEN + ETHERNET_HEADER + (1 << 16);
/// The MTU that the device offers.
pub const MTU: u16 = 1500;

/// Where frames go. Nothing blocks: [`fd`](Self::fd) becomes ready instead.
pub trait Link: Send {
    /// Offloads that it can do.
    fn offloads(&self) -> Features;

    /// The driver accepted these features.
    fn activate(&mut self, _features: Features) {}

    /// Becomes readable when a packet came, writable when a packet can go.
    fn fd(&self) -> RawFd;

    /// Sends a packet.
    ///
    /// # Errors
    /// When this packet cannot be sent, or none can any more ([`Link::is_up`] distinguishes the two).
    fn send(&mut self, packet: &[u8]) -> io::Result<Sent>;

    /// Receives a packet into `packet`, if one is there, and returns its length.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn receive(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>>;

    /// Goes on with what a [`send`](Self::send) left to do; true when a packet can go.
    fn flush(&mut self) -> bool;

    /// Whether packets can still come and go.
    fn is_up(&self) -> bool;
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The link has it.
    Yes,
    /// Not now; try again when [`Link::fd`] is writable.
    Busy,
}

/// A network card.
pub struct Net {
    link: Box<dyn Link>,
    mac: Mac,
    features: Features,
    /// A packet on its way to the guest, its length, 0 for none.
    incoming: Vec<u8>,
    incoming_len: usize,
    /// It was charged to the card's limit.
    incoming_paid: bool,
    outgoing: Vec<u8>,
    /// The packet in `outgoing`, if one is on its way.
    sending: Option<Sending>,
    /// A segment of it, after a header that requests nothing.
    segment: Vec<u8>,
    filter: Filter,
    /// The guest has no buffers for what came.
    starved: bool,
    /// The link has no room for what the guest sends.
    busy: bool,
    up: bool,
    limits: Limits,
    /// A pulled cable loses the frames of both directions.
    cable: Cable,
    shown: Arc<Shown>,
}

/// What became of an incoming packet.
enum Delivery {
    Done,
    Dropped,
    NoBuffers,
}

impl Net {
    /// A card at `link`; without a MAC one is made up.
    pub fn new(link: Box<dyn Link>, mac: Option<Mac>) -> Self {
        let mac = mac.unwrap_or_else(random_mac);
        Self {
            link,
            mac,
            features: Features::empty(),
            incoming: vec![0; PACKET_MAX],
            incoming_len: 0,
            incoming_paid: false,
            outgoing: vec![0; PACKET_MAX],
            sending: None,
            segment: Vec::new(),
            filter: Filter::new(mac),
            starved: false,
            busy: false,
            limits: Limits::new(&RateLimit::default(), &SystemClock::shared()),
            up: true,
            cable: Cable::Up,
            shown: Arc::new(Shown::new(mac, Cable::Up)),
        }
    }

    /// The same with a limit of bytes and packets per second, in each direction.
    #[must_use]
    pub fn with_limit(self, limit: &RateLimit, clock: &Arc<dyn Clock>) -> Self {
        Self { limits: Limits::new(limit, clock), ..self }
    }

    /// Moves packets from the link to the guest.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<Progress, Fault> {
        if !io.queues[RX].ready() {
            self.limits.incoming.forget(io.signal);
            self.starved = true;
            return Ok(Progress::Done);
        }
        self.starved = false;
        let mut progress = Progress::More;
        for _ in 0..BATCH {
            if io.interrupted() {
                break;
            }
            if self.incoming_len == 0 {
                match self.link.receive(&mut self.incoming) {
                    Ok(Some(len)) if !self.filter.lets_in(&self.incoming[HEADER_LEN..len]) => continue,
                    Ok(Some(len)) if incoming::admit(self.features, &mut self.incoming[..len]) => {
                        self.incoming_len = len;
                    }
                    Ok(Some(_)) => {
                        io.signal.counters.errors.add(1);
                        continue;
                    }
                    Ok(None) => {
                        progress = Progress::Done;
                        break;
                    }
                    Err(_) => {
                        io.signal.counters.errors.add(1);
                        if !self.link.is_up() {
                            progress = Progress::Done;
                            break;
                        }
                        continue;
                    }
                }
            }
            if self.cable == Cable::Down {
                io.signal.counters.errors.add(1);
                self.drop_incoming();
                continue;
            }
            // Paid once, however long the guest then has no buffers for it. What the limit holds waits here and in the link.
            if !self.incoming_paid && self.limits.incoming.admit(self.incoming_len, 1, io.signal) == Admission::Later {
                io.interrupt(RX)?;
                return Ok(Progress::Done);
            }
            self.incoming_paid = true;
            match self.deliver(io)? {
                Delivery::Done => {
                    io.signal.counters.requests.add(1);
                    io.signal.counters.bytes_to_guest.add((self.incoming_len - HEADER_LEN) as u64);
                    io.interrupt_soon(RX)?;
                    self.drop_incoming();
                }
                Delivery::Dropped => {
                    io.signal.counters.errors.add(1);
                    self.drop_incoming();
                }
                Delivery::NoBuffers => {
                    self.starved = true;
                    progress = Progress::Done;
                    break;
                }
            }
        }
        self.limits.incoming.forget(io.signal);
        self.follow_link(io);
        io.interrupt(RX)?;
        Ok(progress)
    }

    /// The packet in `incoming` is done with.
    fn drop_incoming(&mut self) {
        self.incoming_len = 0;
        self.incoming_paid = false;
    }

    /// Puts the incoming packet into the guest's buffers: one, or as many as it takes with MRG_RXBUF.
    fn deliver(&mut self, io: &mut Io<'_>) -> Result<Delivery, Fault> {
        let queue = &mut io.queues[RX];
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0;
        while room < self.incoming_len as u64 {
            let Some(chain) = queue.pop_or_arm(io.memory)? else {
                queue.undo_pop(chains.len() as u16);
                return Ok(if chains.len() == usize::from(queue.size()) {
                    Delivery::Dropped
                } else {
                    Delivery::NoBuffers
                });
            };
            if chain.writable_len() == 0 {
                return Err(Fault::NoAnswer(chain.head()));
            }
            room += chain.writable_len();
            chains.push(chain);
            if !self.features.contains(Features::MRG_RXBUF) && room < self.incoming_len as u64 {
                queue.undo_pop(1);
                return Ok(Delivery::Dropped);
            }
        }
        let packet = &mut self.incoming[..self.incoming_len];
        let count = offset_of!(Header, num_buffers);
        packet[count..count + 2].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut rest = &*packet;
        for chain in &chains {
            let written = chain.write(io.memory, 0, rest);
            rest = &rest[written..];
            queue.push_used(io.memory, chain.head(), written as u32)?;
        }
        Ok(Delivery::Done)
    }

    /// Executes the commands in the control queue.
    fn control(&mut self, io: &mut Io<'_>) -> Result<Progress, Fault> {
        if !self.features.contains(Features::CTRL_VQ) {
            return Ok(Progress::Done);
        }
        io.drain(CONTROL, |memory, chain, signal| {
            if chain.writable_len() == 0 {
                return Err(Fault::NoAnswer(chain.head()));
            }
            let mut command = vec![0; chain.readable_len().min(control::COMMAND_MAX as u64) as usize];
            chain.read(memory, 0, &mut command);
            signal.counters.oversized.add((chain.readable_len() > command.len() as u64).into());
            let before = self.filter.mac();
            let answer = self.filter.execute(&command);
            if self.filter.mac() != before {
                signal.change_config(|| self.shown.set(self.filter.mac(), self.seen()));
            }
            signal.counters.errors.add((answer != 0).into());
            chain.write(memory, 0, &[answer]);
            Ok(1)
        })
    }

    /// Tells the guest when the link went down.
    fn follow_link(&mut self, io: &mut Io<'_>) {
        if self.up && !self.link.is_up() {
            self.up = false;
            io.signal.change_config(|| self.show_link());
            io.signal.report("link", || "the peer of the network card is gone; its link is down".into());
            io.signal.raise(InterruptStatus::CONFIG_CHANGE);
        }
    }

    /// The cable as the driver sees it: one that leads nowhere is pulled.
    fn seen(&self) -> Cable {
        if self.up { self.cable } else { Cable::Down }
    }

    fn show_link(&self) {
        self.shown.set(self.filter.mac(), self.seen());
    }
}

/// A locally administered unicast address.
fn random_mac() -> Mac {
    let mut bytes = [0u8; 6];
    // SAFETY: the kernel writes at most the six bytes. Should it fail, the address is still a valid one.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes[0] = bytes[0] & 0xfc | 0x02;
    Mac(bytes)
}

impl Device for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::NET
    }

    fn features(&self) -> u64 {
        let always = Features::MAC | Features::MTU | Features::STATUS | Features::MRG_RXBUF;
        (always | OFFLOADS | control::FEATURES | self.link.offloads()).bits()
    }

    fn queue_count(&self) -> usize {
        3
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.shown.clone()
    }

    fn activate(&mut self, features: u64) {
        debug_assert!(features & CommonFeatures::VERSION_1.bits() != 0);
        self.features = Features::from_bits_truncate(features);
        self.filter.activate(self.features);
        self.link.activate(self.features);
    }

    fn change(&mut self, change: Change) -> Result<Changed, String> {
        let Change::Cable(cable) = change else { return Err("a network card has no size".into()) };
        let seen = self.up && cable != self.cable;
        self.cable = cable;
        Ok(if seen { Changed::Config } else { Changed::Nothing })
    }

    fn show(&mut self) {
        self.show_link();
    }

    fn reset(&mut self) {
        self.features = Features::empty();
        self.filter = Filter::new(self.mac);
        self.drop_incoming();
        self.starved = false;
        self.busy = false;
        self.sending = None;
        self.limits.clear();
        self.show_link();
    }

    fn reset_queue(&mut self, index: usize) {
        if index == TX {
            self.busy = false;
            self.sending = None;
        }
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        match index {
            RX => self.receive(io),
            TX => self.transmit(io),
            _ => self.control(io),
        }
    }

    fn event_source(&self) -> Option<(RawFd, EventSet)> {
        let mut set = EventSet::empty();
        set.set(EventSet::IN, !self.starved && !self.limits.incoming.holds());
        set.set(EventSet::OUT, self.busy);
        // With nothing to wait for, a hang-up would still wake us again and again.
        (self.link.is_up() && !set.is_empty()).then(|| (self.link.fd(), set))
    }

    fn process_event(&mut self, events: EventSet, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let mut progress = Progress::Done;
        if self.busy && events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            progress = self.transmit(io)?;
        }
        if !self.starved && !self.limits.incoming.holds() && self.receive(io)? == Progress::More {
            progress = Progress::More;
        }
        Ok(progress)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.limits.wake_at()
    }

    fn process_timer(&mut self, io: &mut Io<'_>) -> Result<(), Fault> {
        if self.limits.outgoing.holds() && self.transmit(io)? == Progress::More {
            self.limits.outgoing.queue_up();
        }
        if self.limits.incoming.holds() && self.receive(io)? == Progress::More {
            self.limits.incoming.queue_up();
        }
        Ok(())
    }
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
