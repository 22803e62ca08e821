//! A network card with its control queue, and what its filters let in.

use super::card::{Card, PATIENCE, find_echo_peer};
use super::device::Dev;
use super::raw::{Dir, Link, Queue, link};
use super::{Context, End, Verdict, advice, equal, fail, holds};
use alloc::format;
use alloc::vec::Vec;
use core::mem::offset_of;
use shared_abi::virtio::CommonFeatures;
use shared_abi::virtio::net::control::{ALLMULTI, MAC, OK, PROMISC, RX, TABLE_SET};
use shared_abi::virtio::net::{Config, Features};

/// How long a frame is waited for that must not come.
pub const QUIET: u64 = PATIENCE / 5;

pub const UNWRITTEN: u8 = 0xaa;

/// Whether a frame arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    Yes,
    No,
}

/// A card with its control queue.
pub struct Control<'a> {
    pub card: Card<'a>,
    pub queue: Queue,
    /// Further pairs: receive and transmit queues.
    pub more: Vec<(Queue, Queue)>,
}

pub fn pairs(dev: &Dev<'_>) -> u16 {
    dev.regs().config_read(offset_of!(Config, max_virtqueue_pairs), 2) as u16
}

impl<'a> Control<'a> {
    pub fn start(cx: &'a Context, features: Features) -> Result<Self, End> {
        let card = Card::prepare(cx, Features::CTRL_VQ | features, CommonFeatures::empty())?;
        let pairs = if features.contains(Features::MQ) { pairs(&card.dev) } else { 1 };
        holds((1..=0x8000).contains(&pairs), "max_virtqueue_pairs", "1 to 0x8000", pairs)?;
        let more = (1..pairs).map(|pair| Ok((card.dev.queue(2 * pair, 16)?, card.dev.queue(2 * pair + 1, 16)?)));
        let more = more.collect::<Result<_, End>>()?;
        let queue = card.dev.queue(2 * pairs, 16)?;
        card.dev.start()?;
        Ok(Self { card, queue, more })
    }

    /// The same with an echo peer and with all filters on: only what is for the card is received.
    pub fn filtering(cx: &'a Context, features: Features) -> Result<Self, End> {
        find_echo_peer(cx)?;
        let mut control = Self::start(cx, Features::CTRL_RX | features)?;
        control.must(RX, PROMISC, &[0])?;
        control.must(RX, ALLMULTI, &[0])?;
        control.table(&[], &[])?;
        Ok(control)
    }

    pub fn pairs(&self) -> u16 {
        pairs(&self.card.dev)
    }

    /// Sends a command in one buffer; its answer.
    pub fn command(&mut self, class: u8, command: u8, data: &[u8]) -> Result<u8, End> {
        // As drivers do it: a descriptor for class and command, one for the data, one for the answer.
        let parts = [2, data.len()];
        self.command_in(class, command, data, if data.is_empty() { &parts[..1] } else { &parts })
    }

    /// The same with class, command and data in descriptors of these lengths.
    pub fn command_in(&mut self, class: u8, command: u8, data: &[u8], parts: &[usize]) -> Result<u8, End> {
        let message = self.card.dev.buffer(2 + data.len())?;
        message.put(&[&[class, command], data].concat());
        let answer = self.card.dev.buffer(1)?;
        answer.write8(0, UNWRITTEN);
        let mut at = 0;
        let mut links: Vec<Link> = Vec::new();
        for &len in parts {
            links.push(link(&message.part(at, len), Dir::Out));
            at += len;
        }
        links.push(link(&answer, Dir::In));
        let head = self.queue.chain(0, &links);
        self.queue.send(&self.card.dev, head);
        let used = self.queue.wait()?;
        holds(used.len <= 1, "used length of a command", "at most 1", used.len)?;
        self.card.dev.healthy()?;
        Ok(answer.read8(0))
    }

    /// Sends a command that the device must do.
    pub fn must(&mut self, class: u8, command: u8, data: &[u8]) -> Verdict {
        let answer = self.command(class, command, data)?;
        equal(&format!("answer to command {command} of class {class} with {data:02x?}"), OK, answer)
    }

    pub fn table(&mut self, unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> Verdict {
        let part = |addresses: &[[u8; 6]]| [&(addresses.len() as u32).to_le_bytes()[..], &addresses.concat()].concat();
        self.must(MAC, TABLE_SET, &[part(unicast), part(multicast)].concat())
    }

    /// Has the echo peer send to an address, and checks whether that arrives.
    pub fn hears(&mut self, address: [u8; 6], expected: Heard) -> Verdict {
        let mut frame = self.card.to_echo_peer(80);
        frame[6..12].copy_from_slice(&address);
        self.expect(&frame, expected, &format!("a frame for {address:02x?}"))
    }

    pub fn expect(&mut self, frame: &[u8], expected: Heard, what: &str) -> Verdict {
        let patience = if expected == Heard::Yes { 5 * PATIENCE } else { QUIET };
        let saw = if self.card.try_echo(frame, patience)?.is_some() { Heard::Yes } else { Heard::No };
        let verdict = if saw == expected { Ok(()) } else { Err(fail(what, shown(expected), shown(saw))) };
        // What a device drops, it SHOULD drop: see the clauses.
        if expected == Heard::No { advice(verdict) } else { verdict }
    }
}

pub fn shown(heard: Heard) -> &'static str {
    match heard {
        Heard::Yes => "received",
        Heard::No => "not received",
    }
}
