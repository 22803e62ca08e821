//! A network card in the hands of the checks: frames out, frames in, and the echo peer that echoes them.
//!
//! The echo peer is the only other end of the Ethernet on testbeds that have one (`{echo_peer}` in profiles): it sends every
//! frame for it back to the frame's source, with its own address as source and no other byte changed.

use super::device::Dev;
use super::raw::{Buf, Dir, Queue, link, wait_until};
use super::{Context, End, Verdict, equal, fail, holds, skip};
use crate::echo;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use shared_abi::virtio::net::{ETHERNET_HEADER, Features, Header, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use shared_abi::virtio::{CommonFeatures, DeviceType};
use zerocopy::{FromBytes, IntoBytes};

pub const HEADER: usize = size_of::<Header>();
/// Default size of a receive buffer, and what it is filled with.
pub const BUFFER: usize = 2048;
pub const FILL: u8 = 0xa5;
/// How long an answer is waited for, and how often it is asked for.
pub const PATIENCE: u64 = 1_000_000_000;
pub const ATTEMPTS: u32 = 3;
/// Longest frame that is sent.
pub const SEND_MAX: usize = 65_550;

/// It identifies frames, over all checks: an echo may come late.
static TAG: AtomicU32 = AtomicU32::new(1);

/// A number that no frame has had yet.
pub fn tag() -> u32 {
    TAG.fetch_add(1, Ordering::Relaxed)
}

/// A frame that came in.
pub struct Received {
    pub header: Header,
    pub frame: Vec<u8>,
    /// Used lengths of its buffers.
    pub parts: Vec<usize>,
}

/// A live card.
pub struct Card<'a> {
    pub dev: Dev<'a>,
    pub receive: Queue,
    pub transmit: Queue,
    /// The receive buffers and the length of each.
    stock: Option<(Buf, usize)>,
    outgoing: Option<Buf>,
}

impl<'a> Card<'a> {
    /// Starts the first one.
    ///
    /// # Errors
    /// Not applicable without one, or without a feature.
    pub fn start(cx: &'a Context, features: Features) -> Result<Self, End> {
        Self::start_more(cx, features, CommonFeatures::empty())
    }

    /// The same with features of the rings.
    ///
    /// # Errors
    /// The same.
    pub fn start_more(cx: &'a Context, features: Features, common: CommonFeatures) -> Result<Self, End> {
        let card = Self::prepare(cx, features, common)?;
        card.dev.start()?;
        Ok(card)
    }

    /// The same before DRIVER_OK: more queues may be set up.
    ///
    /// # Errors
    /// The same.
    pub fn prepare(cx: &'a Context, features: Features, common: CommonFeatures) -> Result<Self, End> {
        let wanted = (features | Features::MAC).bits() | common.bits();
        let dev = Dev::with_features(cx.device(DeviceType::NET)?, wanted)?;
        dev.needs(features)?;
        dev.needs(common)?;
        let (receive, transmit) = (dev.queue(RECEIVE_QUEUE, 16)?, dev.queue(TRANSMIT_QUEUE, 16)?);
        Ok(Self { dev, receive, transmit, stock: None, outgoing: None })
    }

    pub fn mac(&self) -> [u8; 6] {
        core::array::from_fn(|at| self.dev.regs().config_read(at, 1) as u8)
    }

    /// Sends what is in a buffer, header first.
    ///
    /// # Errors
    /// A failure when it is not taken.
    pub fn send(&mut self, buf: &Buf) -> Verdict {
        let head = self.transmit.chain(0, &[link(buf, Dir::Out)]);
        self.transmit.send(&self.dev, head);
        equal("used length", 0, self.transmit.wait()?.len)?;
        self.dev.healthy()
    }

    /// Sends a frame after a header.
    ///
    /// # Errors
    /// A failure when it is not taken.
    pub fn send_frame(&mut self, header: Header, frame: &[u8]) -> Verdict {
        let buf = match &self.outgoing {
            Some(buf) => buf.clone(),
            None => self.outgoing.insert(self.dev.buffer(HEADER + SEND_MAX)?).clone(),
        };
        let buf = buf.part(0, HEADER + frame.len());
        buf.put(header.as_bytes());
        buf.part(HEADER, frame.len()).put(frame);
        self.send(&buf)
    }

    /// Offers receive buffers, parts of one.
    ///
    /// # Errors
    /// An error when there is no memory.
    pub fn offer(&mut self, len: usize, count: u16) -> Result<Buf, End> {
        let buf = self.dev.buffer(len * usize::from(count))?;
        buf.fill(FILL);
        for n in 0..count {
            let head = self.receive.chain(n, &[link(&buf.part(usize::from(n) * len, len), Dir::In)]);
            self.receive.offer(head);
        }
        self.receive.publish();
        self.receive.notify(&self.dev);
        Ok(buf)
    }

    /// Offers receive buffers that [`receive`](Self::receive) takes and offers again.
    ///
    /// # Errors
    /// An error when there is no memory.
    pub fn stock(&mut self, len: usize, count: u16) -> Result<Buf, End> {
        let buf = self.offer(len, count)?;
        self.stock = Some((buf.clone(), len));
        Ok(buf)
    }

    /// Takes the next frame, and offers its buffers again.
    ///
    /// # Errors
    /// A failure when header, ids or lengths make no sense.
    pub fn receive(&mut self, patience: u64) -> Result<Option<Received>, End> {
        let Some((stock, len)) = self.stock.clone() else { return Ok(None) };
        if !wait_until(patience, || self.receive.used_index() != self.receive.seen()) {
            return Ok(None);
        }
        let mut received = Received { header: Header::default(), frame: Vec::new(), parts: Vec::new() };
        let mut missing = 1;
        while received.parts.len() < missing {
            let used = self.receive.wait()?;
            let (id, used) = (used.id as usize, used.len as usize);
            holds((id + 1) * len <= stock.len(), "id of a used element", "one that is in flight", id)?;
            holds((1..=len).contains(&used), "used length", format_args!("1 to {len}"), used)?;
            let bytes = stock.part(id * len, used).bytes();
            if received.parts.is_empty() {
                let header = Header::read_from_prefix(&bytes).map_err(|_| fail("used length", "a header", used))?.0;
                if self.dev.has(Features::MRG_RXBUF.bits()) {
                    missing = header.num_buffers.into();
                    let most = stock.len() / len;
                    holds((1..=most).contains(&missing), "num_buffers", format_args!("1 to {most}"), missing)?;
                }
                received.header = header;
                received.frame.extend(&bytes[HEADER..]);
            } else {
                received.frame.extend(&bytes);
            }
            received.parts.push(used);
            self.receive.offer(id as u16);
        }
        self.receive.publish();
        self.receive.notify(&self.dev);
        Ok(Some(received))
    }

    /// Waits for a frame of the echo peer that `wanted` takes.
    ///
    /// # Errors
    /// Those of [`receive`](Self::receive).
    pub fn receive_where(&mut self, patience: u64, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Received>, End> {
        while let Some(received) = self.receive(patience)? {
            if received.frame.get(6..12) == Some(&echo::MAC) && wanted(&received.frame) {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// A frame for the echo peer: its tag and a pattern in a protocol for experiments.
    pub fn to_echo_peer(&self, len: usize) -> Vec<u8> {
        let tag = tag();
        let mut frame: Vec<u8> = [&echo::MAC[..], &self.mac(), &echo::PROTOCOL, &tag.to_le_bytes()].concat();
        frame.extend((frame.len()..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ tag as u8));
        frame
    }

    /// Sends a frame to the echo peer and returns what comes back for it, if anything does.
    ///
    /// # Errors
    /// Those of sending and receiving.
    pub fn try_echo(&mut self, frame: &[u8], patience: u64) -> Result<Option<Received>, End> {
        self.try_echo_after(Header::default(), frame, patience)
    }

    /// The same after another header.
    ///
    /// # Errors
    /// The same.
    pub fn try_echo_after(&mut self, header: Header, frame: &[u8], patience: u64) -> Result<Option<Received>, End> {
        if self.stock.is_none() {
            self.stock(BUFFER, 16)?;
        }
        self.send_frame(header, frame)?;
        self.receive_where(patience, |received| {
            // After a VLAN's tag, too, the tag of a frame is among these.
            received.get(12..ETHERNET_HEADER + 8) == frame.get(12..ETHERNET_HEADER + 8)
        })
    }

    /// Sends a frame to the echo peer; it must come back with every byte.
    ///
    /// # Errors
    /// A failure when it does not.
    pub fn echo(&mut self, frame: &[u8]) -> Result<Received, End> {
        self.echo_after(Header::default(), frame)
    }

    /// The same after another header.
    ///
    /// # Errors
    /// The same.
    pub fn echo_after(&mut self, header: Header, frame: &[u8]) -> Result<Received, End> {
        let Some(received) = self.try_echo_after(header, frame, 5 * PATIENCE)? else {
            let what = alloc::format!("a frame of {} bytes sent to the echo peer", frame.len());
            return Err(fail(&what, "its echo within 5 s", "none"));
        };
        same(frame, &received.frame)?;
        Ok(received)
    }

    /// Starts the first one where an echo peer echoes frames.
    ///
    /// # Errors
    /// Not applicable without one.
    pub fn with_echo_peer(cx: &'a Context, features: Features) -> Result<Self, End> {
        find_echo_peer(cx)?;
        Self::start(cx, features)
    }
}

/// A frame with the tag of a VLAN. Its echo is recognized by what follows the addresses: the tag, and after it the protocol.
pub fn tagged(frame: &[u8], id: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &id.to_be_bytes(), &frame[12..]].concat()
}

/// Goes on only if an echo peer echoes frames here.
///
/// # Errors
/// Not applicable without one.
pub fn find_echo_peer(cx: &Context) -> Verdict {
    if cx.echo_peer.get().is_none() {
        let mut card = Card::start(cx, Features::MAC)?;
        let mut found = false;
        for _ in 0..ATTEMPTS {
            let probe = card.to_echo_peer(60);
            found = found || card.try_echo(&probe, PATIENCE)?.is_some();
        }
        cx.echo_peer.set(Some(found));
    }
    if cx.echo_peer.get() == Some(true) { Ok(()) } else { Err(skip("there is no echo peer on the Ethernet")) }
}

/// Fails unless `echo` is the echo of `frame`, byte by byte; short frames may have been padded.
///
/// # Errors
/// Then.
pub fn same(frame: &[u8], echo: &[u8]) -> Verdict {
    let len = frame.len();
    if len >= 60 {
        equal(&alloc::format!("length of the echo of {len} bytes"), len, echo.len())?;
    }
    let at = (ETHERNET_HEADER - 2..len).find(|&at| frame.get(at) != echo.get(at));
    equal(&alloc::format!("first byte that changed in an echo of {len} bytes"), None, at)
}
