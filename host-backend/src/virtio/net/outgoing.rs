//! Packets on their way from the guest to the link. One that is taken out of the queue is copied, checked and sent, and stays
//! here while the link is busy or the card's limit holds it.

use super::offload::{self, Cut};
use super::{ETHERNET_HEADER, HEADER_LEN, Net, PACKET_MAX, Sent, TX};
use crate::virtio::queue::Chain;
use crate::virtio::throttle::Admission;
use crate::virtio::{BATCH, Cable, Fault, Io, Progress};
use crate::vmm::GuestRam;
use shared_abi::virtio::net::{Features, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_NEEDS_CSUM, Header};
use std::io;
use zerocopy::FromBytes;

/// A packet of the guest that is on its way.
pub(super) struct Sending {
    /// Its chain.
    head: u16,
    len: usize,
    cut: Option<Cut>,
    /// It was charged to the card's limit.
    paid: bool,
}

impl Net {
    /// Moves packets from the guest to the link.
    pub(super) fn transmit(&mut self, io: &mut Io<'_>) -> Result<Progress, Fault> {
        if !io.queues[TX].ready() {
            self.limits.outgoing.forget(io.signal);
            return Ok(Progress::Done);
        }
        if self.busy && !self.link.flush() {
            return Ok(Progress::Done);
        }
        self.busy = false;
        let mut progress = Progress::More;
        for _ in 0..BATCH {
            if io.interrupted() {
                break;
            }
            if self.sending.is_none() {
                let Some(chain) = io.queues[TX].pop_or_arm(io.memory)? else {
                    progress = Progress::Done;
                    break;
                };
                self.sending = self.take(io.memory, &chain);
                if self.sending.is_none() {
                    io.signal.counters.oversized.add((chain.readable_len() > PACKET_MAX as u64).into());
                    io.signal.counters.errors.add(1);
                    io.queues[TX].push_used(io.memory, chain.head(), 0)?;
                    continue;
                }
            }
            if let Some(sending) = self.sending.as_mut().filter(|sending| !sending.paid) {
                let frames = sending.cut.as_ref().map_or(1, Cut::segments);
                if self.limits.outgoing.admit(sending.len, frames, io.signal) == Admission::Later {
                    io.interrupt(TX)?;
                    return Ok(Progress::Done);
                }
                sending.paid = true;
            }
            let sent = self.send();
            if matches!(sent, Ok(Sent::Busy)) {
                self.busy = true;
                progress = Progress::Done;
                break;
            }
            let Some(sending) = self.sending.take() else { continue };
            if sent.is_ok() {
                io.signal.counters.requests.add(1);
                io.signal.counters.bytes_from_guest.add((sending.len - HEADER_LEN) as u64);
            } else {
                io.signal.counters.errors.add(1);
            }
            io.queues[TX].push_used(io.memory, sending.head, 0)?;
            io.interrupt_soon(TX)?;
        }
        self.limits.outgoing.forget(io.signal);
        self.follow_link(io);
        io.interrupt(TX)?;
        Ok(progress)
    }

    /// Takes one packet of the guest, if it is one, and does what the link cannot.
    fn take(&mut self, memory: &GuestRam, chain: &Chain) -> Option<Sending> {
        let len = usize::try_from(chain.readable_len()).ok()?;
        if !(HEADER_LEN + ETHERNET_HEADER..=PACKET_MAX).contains(&len) {
            return None;
        }
        let packet = &mut self.outgoing[..len];
        chain.read(memory, 0, packet);
        let (header, frame) = Header::mut_from_prefix(packet).ok()?;
        header.num_buffers = 0;
        header.flags &= HDR_NEEDS_CSUM;
        let mut needed = if header.flags == 0 { Features::empty() } else { Features::CSUM };
        needed |= match header.gso_type {
            GSO_NONE => Features::empty(),
            GSO_TCPV4 => Features::HOST_TSO4,
            GSO_TCPV6 => Features::HOST_TSO6,
            GSO_UDP_L4 => Features::HOST_USO,
            _ => return None,
        };
        if !self.features.contains(needed) {
            return None;
        }
        let mut cut = None;
        if header.gso_type != GSO_NONE {
            cut = Some(Cut::new(header, frame)?);
        } else if !self.link.offloads().contains(needed) {
            offload::complete(header, frame).then_some(())?;
            *header = Header::default();
        }
        Some(Sending { head: chain.head(), len, cut, paid: false })
    }

    /// Sends the packet that was taken, or what is left of it.
    fn send(&mut self) -> io::Result<Sent> {
        let Some(sending) = &mut self.sending else { return Ok(Sent::Yes) };
        if !self.link.is_up() || self.cable == Cable::Down {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let packet = &self.outgoing[..sending.len];
        let Some(cut) = &mut sending.cut else { return self.link.send(packet) };
        loop {
            self.segment.clear();
            self.segment.resize(HEADER_LEN, 0);
            if !cut.write_next(&packet[HEADER_LEN..], &mut self.segment) {
                return Ok(Sent::Yes);
            }
            // A stream may have to finish the segment before.
            if !self.link.flush() || self.link.send(&self.segment)? == Sent::Busy {
                return Ok(Sent::Busy);
            }
            cut.advance();
        }
    }
}
