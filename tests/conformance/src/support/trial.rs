//! A device under attack: live units of it that can be asked for something well-formed, and the verdict over all shots.

use crate::support::device::{Dev, Target};
use crate::support::raw::{Buf, Queue, wait_until, write_descriptor};
use crate::support::{Context, End, error, fail, skip};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use guest_kernel::console;
use guest_kernel::devices::place::Place;
use shared_abi::board::IO_APIC_BASE;
use shared_abi::report::{Handling, Kind, Outcome};
use shared_abi::virtio::blk::{RequestType, SECTOR_SIZE};
use shared_abi::virtio::ring::DescriptorFlags;
use shared_abi::virtio::{DeviceType, Status};

/// Entries of the queues. QEMU's entropy device has no more.
pub const SIZE: u16 = 8;
/// Bytes of a unit's arena. An attack has the first half; the second is for well-formed requests.
pub const ARENA: usize = 0x8000;
const OURS: usize = 0x4000;
/// Where a shot's block header, status and data lie in the arena.
pub const HEADER_AT: usize = 0;
pub const STATUS_AT: usize = 0x100;
pub const DATA_AT: usize = 0x1000;
/// What stands in a status byte before the device writes it.
pub const UNWRITTEN: u8 = 0xaa;
/// Content of memory that must not be written.
const GUARD: u8 = 0xa5;

/// How long a device has to react to a shot, to serve on, and to answer after a reset.
const REACTION: u64 = 30_000_000;
const SERVES_ON: u64 = 500_000_000;
const REVIVES: u64 = 5_000_000_000;

pub const READ: u16 = 0;
pub const NEXT: u16 = DescriptorFlags::NEXT.bits();
pub const WRITE: u16 = DescriptorFlags::WRITE.bits();
pub const INDIRECT: u16 = DescriptorFlags::INDIRECT.bits();

/// A descriptor: address, length, flags, next.
pub type Entry = (u64, u32, u16, u16);

/// Types that [`Unit::ask`] has a request for; the first ones are the likeliest witnesses.
const ASKABLE: [DeviceType; 5] =
    [DeviceType::RNG, DeviceType::BLOCK, DeviceType::NET, DeviceType::BALLOON, DeviceType::CONSOLE];

/// A live device.
pub struct Unit<'a> {
    pub dev: Dev<'a>,
    pub queues: Vec<Queue>,
    pub arena: Buf,
    main: usize,
}

impl<'a> Unit<'a> {
    /// Resets a device and starts it with what it offers of `features`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(target: &'a Target, features: u64) -> Result<Self, End> {
        let unit = Self::prepare(target, features)?;
        unit.dev.start()?;
        Ok(unit)
    }

    /// The same without DRIVER_OK.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn prepare(target: &'a Target, features: u64) -> Result<Self, End> {
        let dev = Dev::with_features(target, features)?;
        let (count, main) = match target.device_type {
            DeviceType::NET | DeviceType::CONSOLE => (2, 1),
            DeviceType::BALLOON => (2, 0),
            _ => (1, 0),
        };
        let queues = (0..count).map(|index| dev.queue(index, SIZE)).collect::<Result<_, _>>()?;
        let arena = dev.buffer(ARENA)?;
        arena.write8(STATUS_AT, UNWRITTEN);
        Ok(Self { dev, queues, arena, main })
    }

    /// The queue that requests go to.
    pub fn main(&mut self) -> &mut Queue {
        &mut self.queues[self.main]
    }

    /// An address in the arena.
    pub fn at(&self, offset: usize) -> u64 {
        self.arena.address() + offset as u64
    }

    /// Writes a descriptor of the main queue.
    pub fn put(&self, at: u16, (address, len, flags, next): Entry) {
        let flags = DescriptorFlags::from_bits_retain(flags);
        write_descriptor(&self.queues[self.main].table, at, address, len, flags, next);
    }

    /// Writes a block request's header where shots have it.
    pub fn header(&self, kind: u32, sector: u64) {
        self.arena.write32(HEADER_AT, kind);
        self.arena.write32(HEADER_AT + 4, 0);
        self.arena.write64(HEADER_AT + 8, sector);
    }

    /// Offers a chain of the main queue, and notifies.
    pub fn fire(&mut self, head: u16) {
        self.queues[self.main].send(&self.dev, head);
    }

    /// Gives the device time to react: to return something, or to ask for a reset.
    pub fn settle(&self) {
        let queue = &self.queues[self.main];
        wait_until(REACTION, || queue.used_index() != queue.seen() || self.needs_reset());
    }

    pub fn needs_reset(&self) -> bool {
        self.dev.regs().status() & Status::DEVICE_NEEDS_RESET.bits() != 0
    }

    /// Asks for something well-formed, as often as it has returned what was asked before; why it failed.
    ///
    /// # Errors
    /// When no good answer comes in time.
    pub fn ask(&mut self, patience: u64) -> Result<(), String> {
        let (header, status, data, page) = (OURS, OURS + 0x100, OURS + 0x1000, OURS + 0x2000);
        let entries: Vec<Entry> = match self.dev.target.device_type {
            DeviceType::BLOCK => {
                self.arena.write32(header, RequestType::IN.0);
                self.arena.write64(header + 8, 0);
                self.arena.write8(status, UNWRITTEN);
                [(header, 16, READ), (data, SECTOR_SIZE as u32, WRITE), (status, 1, WRITE)]
                    .map(|e| self.entry(e))
                    .into()
            }
            DeviceType::RNG => [self.entry((data, 16, WRITE))].into(),
            DeviceType::NET => {
                self.arena.part(data, 12).fill(0);
                self.arena.part(data + 12, 6).fill(0xff);
                self.arena.part(data + 18, 8).put(&[2, 0, 0, 0, 0, 7, 0x88, 0xb5]);
                [self.entry((data, 72, READ))].into()
            }
            DeviceType::BALLOON => {
                self.arena.write32(data, (self.at(page) >> 12) as u32);
                [self.entry((data, 4, READ))].into()
            }
            DeviceType::CONSOLE => {
                self.arena.write8(data, b'.');
                [self.entry((data, 1, READ))].into()
            }
            _ => return Err("nothing is known that it could be asked".to_string()),
        };
        let queues: &[usize] = if self.dev.target.device_type == DeviceType::BALLOON { &[0, 1] } else { &[self.main] };
        for &queue in queues {
            self.exchange(queue, &entries, patience)?;
        }
        match self.arena.read8(status) {
            0 => Ok(()),
            other if self.dev.target.device_type == DeviceType::BLOCK => {
                Err(format!("a read ended with status {other:#x}"))
            }
            _ => Ok(()),
        }
    }

    fn entry(&self, (offset, len, flags): (usize, u32, u16)) -> Entry {
        (self.at(offset), len, flags, 0)
    }

    /// Sends a chain from descriptor 8 on, and waits until that head is back.
    fn exchange(&mut self, queue: usize, entries: &[Entry], patience: u64) -> Result<(), String> {
        const FIRST: u16 = SIZE / 2;
        let last = entries.len() - 1;
        for (n, &(address, len, flags, _)) in entries.iter().enumerate() {
            let (at, more) = (FIRST + n as u16, if n == last { 0 } else { NEXT });
            let flags = DescriptorFlags::from_bits_retain(flags | more);
            write_descriptor(&self.queues[queue].table, at, address, len, flags, if n == last { 0 } else { at + 1 });
        }
        let queue = &mut self.queues[queue];
        queue.catch_up();
        queue.send(&self.dev, FIRST);
        let regs = self.dev.regs();
        let mut back = false;
        let ended = wait_until(patience, || {
            while !back && let Some(used) = queue.take() {
                back = used.id == u32::from(FIRST);
            }
            back || regs.status() & Status::DEVICE_NEEDS_RESET.bits() != 0
        });
        match (back, ended) {
            (true, _) => Ok(()),
            (false, true) => Err("it asked for a reset".to_string()),
            (false, false) => Err(format!("no answer in {} ms", patience / 1_000_000)),
        }
    }
}

/// A device under attack, and what was seen so far.
pub struct Trial<'a> {
    pub cx: &'a Context,
    pub target: &'a Target,
    witness: Option<Unit<'a>>,
    guard: Buf,
    refusals: Vec<String>,
    shots: u32,
}

impl<'a> Trial<'a> {
    /// Finds the first device of a type, and another as witness; both must answer.
    ///
    /// # Errors
    /// Not applicable without a device; an error when it does not answer even before the attack.
    pub fn open(cx: &'a Context, device_type: DeviceType) -> Result<Self, End> {
        Self::on(cx, cx.device(device_type)?)
    }

    /// The same for a device.
    ///
    /// # Errors
    /// An error when it does not answer even before the attack.
    pub fn on(cx: &'a Context, target: &'a Target) -> Result<Self, End> {
        let other = |wanted: &DeviceType| {
            cx.targets.iter().find(|other| other.device_type == *wanted && *wanted != target.device_type)
        };
        let unable = |name: &str, why: String| error(format!("{name} does not work even before: {why}"));
        let mut witness =
            ASKABLE.iter().find_map(other).map(|other| Unit::start(other, 0)).transpose().map_err(as_error)?;
        if let Some(unit) = &mut witness {
            unit.ask(REVIVES).map_err(|why| unable(&unit.dev.target.name(), why))?;
        }
        Unit::start(target, 0).map_err(as_error)?.ask(REVIVES).map_err(|why| unable(&target.name(), why))?;
        let (guard, _) = Buf::allocate(4096).ok_or_else(|| error("no memory"))?;
        guard.fill(GUARD);
        Ok(Self { cx, target, witness, guard, refusals: Vec::new(), shots: 0 })
    }

    /// A live unit for a shot.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn unit(&self, features: u64) -> Result<Unit<'a>, End> {
        Unit::start(self.target, features)
    }

    /// Descriptors from 0 on, the head of a chain, and what the device makes of it.
    ///
    /// # Errors
    /// A failure when the device is wedged.
    pub fn shoot(&mut self, features: u64, head: u16, build: impl Fn(&Unit<'_>) -> Vec<Entry>) -> Result<(), End> {
        let mut unit = self.unit(features)?;
        for (at, entry) in (0..).zip(build(&unit)) {
            unit.put(at, entry);
        }
        unit.fire(head);
        unit.settle();
        self.judge(unit)
    }

    /// Looks at what a shot has done: whether the unit serves on, and whether the device does after a reset.
    ///
    /// # Errors
    /// A failure when the device is wedged.
    pub fn judge(&mut self, mut unit: Unit<'a>) -> Result<(), End> {
        let status = unit.arena.read8(STATUS_AT);
        if self.target.device_type == DeviceType::BLOCK && status != UNWRITTEN && status != 0 {
            self.refusals.push(format!("request status {status:#x}"));
        }
        if unit.needs_reset() {
            self.refusals.push("DEVICE_NEEDS_RESET".to_string());
        } else if let Err(why) = unit.ask(SERVES_ON) {
            self.refusals.push(format!("after it: {why}"));
        }
        drop(unit);
        self.revive()
    }

    /// Counts a shot after which the device must work again, from a reset.
    ///
    /// # Errors
    /// A failure when it does not.
    pub fn revive(&mut self) -> Result<(), End> {
        self.shots += 1;
        let wedged = |why: String| fail("wedged after a reset", "an answer to a well-formed request", why);
        let mut unit = Unit::start(self.target, 0).map_err(|end| match end {
            End::Fail { what, saw, .. } => wedged(format!("{what}: {saw}")),
            End::Skip(why) | End::Error(why) => wedged(why),
        })?;
        unit.ask(REVIVES).map_err(|why| wedged(format!("{}: {why}", self.target.name())))
    }

    /// Asks the witness.
    ///
    /// # Errors
    /// A failure when it does not answer.
    pub fn ask_witness(&mut self) -> Result<(), End> {
        let Some(unit) = &mut self.witness else { return Ok(()) };
        let name = unit.dev.target.name();
        unit.ask(REVIVES).map_err(|why| {
            fail("another device is wedged", "an answer to a well-formed request", format!("{name}: {why}"))
        })
    }

    /// The verdict over all shots; bad when something else than the device was harmed.
    pub fn conclude(mut self) -> Judged {
        self.ask_witness().map_err(|end| (Handling::Wedged, end))?;
        if let Some(at) = self.guard.first_not(GUARD) {
            let end = fail("memory that no device was given", "unchanged", format!("changed at byte {at}"));
            return Err((Handling::Handled, end));
        }
        let handling = if self.refusals.is_empty() { Handling::Handled } else { Handling::Rejected };
        let mut saw = format!("shots: {}", self.shots);
        self.refusals.dedup();
        for refusal in self.refusals.iter().take(4) {
            saw += "; ";
            saw += refusal;
        }
        Ok((handling, saw))
    }

    /// Whether everything still works although something is wrong.
    pub fn judge_failure(&mut self, end: End) -> (Handling, End) {
        let works = self.revive().is_ok() && self.ask_witness().is_ok();
        (if works { Handling::Handled } else { Handling::Wedged }, end)
    }

    /// Notes that the device said no.
    pub fn refused(&mut self, how: impl ToString) {
        self.refusals.push(how.to_string());
    }

    /// How often it said no.
    pub fn refusals(&self) -> usize {
        self.refusals.len()
    }

    /// A physical address that is a device's: of the device itself where its registers have a fixed place.
    pub fn device_memory(&self) -> u64 {
        match &self.target.place {
            Place::Mmio(slot, _) => slot.address,
            Place::Pci(_) => IO_APIC_BASE,
        }
    }

    /// Not applicable unless the device offers a feature.
    ///
    /// # Errors
    /// Then.
    pub fn needs(&self, feature: u64, name: &str) -> Result<(), End> {
        if self.target.regs.features() & feature != 0 {
            return Ok(());
        }
        Err(skip(format!("{} does not offer {name}", self.target.name())))
    }
}

/// What fails before an attack only says that it could not be tried.
fn as_error(end: End) -> End {
    match end {
        End::Fail { what, expected, saw, .. } => {
            error(format!("before the attack: {what}: expected {expected}, saw {saw}"))
        }
        other => other,
    }
}

/// A verdict and what it is founded on; or why there is none, or a bad one.
pub(crate) type Judged = Result<(Handling, String), (Handling, End)>;

/// An end before anything was sent.
pub(crate) fn unjudged(end: End) -> (Handling, End) {
    (Handling::Handled, end)
}

/// Says that from here on it may end badly: what follows is the device's doing.
pub(crate) fn announce(name: &str) {
    console::report(Kind::Check, name, Outcome::Waiting, |line| Ok(line));
}
