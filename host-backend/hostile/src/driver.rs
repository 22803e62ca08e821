//! The driver between two bytes of its script: a proper step, or one that no driver takes.

use crate::machine::{DATA, MEMORY, Machine, SIZE, UNTOUCHED, available, descriptors, used};
use crate::{Ending, Script, Subject};
use host_backend::virtio::Progress;
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::ring::{Descriptor, DescriptorFlags, available_len, used_len};
use vmm_sys_util::epoll::EventSet;

/// Steps of a script, at most, however long it is.
const STEPS: u32 = 200;
/// Calls that a device may want for what a full ring can hold, at most.
const CALLS: u32 = 1000;
/// A well-formed request has its parts here.
const REQUEST: u64 = 0x8_0000;

pub(crate) struct Driver {
    machine: Machine,
    /// A balloon gives any page away, also that which others leave alone.
    keeps_pages: bool,
    /// What the driver has shown since the start, by the index's steps.
    published: u64,
    /// Leaves queues where they are and rings to itself, as half of the drivers do: then the device can only handle what
    /// was published. Otherwise it may be told to write over a ring.
    tame: bool,
    /// Whether the device can only write where a descriptor points that was made here. Without rules a fuzzer writes tables of
    /// its own, also by the device's hand; a seed has no chance to.
    writes_are_known: bool,
    faulted: bool,
}

impl Driver {
    pub(crate) fn new(machine: Machine, subject: Subject) -> Self {
        let keeps_pages = subject != Subject::Balloon;
        Self { machine, keeps_pages, published: 0, tame: false, writes_are_known: false, faulted: false }
    }

    pub(crate) fn play(&mut self, script: &mut Script, outside: &mut dyn FnMut(&mut Script)) {
        self.tame = script.one_in(2);
        self.writes_are_known = self.tame || script.is_seeded();
        self.restart(script);
        for _ in 0..STEPS {
            if script.ended() {
                break;
            }
            match script.below(16) {
                0..7 => self.fill_and_notify(script),
                7..9 => outside(script),
                9..11 => self.event(script),
                11 => self.machine.write(Register::QueueNotify, script.below(9)),
                12 => self.restart(script),
                _ if self.tame => self.fill_and_notify(script),
                13 => self.access(script),
                14 => self.misplace(script),
                _ => self.set_up_out_of_order(script),
            }
            self.faulted |= self.machine.needs_reset();
        }
    }

    /// Behind everything: nothing was harmed, and the device serves on.
    pub(crate) fn conclude(self, subject: Subject) -> Ending {
        let machine = &self.machine;
        let served = machine.transport.counters().requests.get();
        let must_be_untouched = self.keeps_pages && self.writes_are_known;
        assert!(!must_be_untouched || machine.is_untouched(), "the device wrote where no descriptor points");
        if self.tame {
            let published = self.published;
            assert!(served <= published, "{served} requests handled, {published} published");
        }
        machine.start(0);
        serves(machine, subject);
        match (self.faulted, served) {
            (true, _) => Ending::Faulted,
            (false, 0) => Ending::Idle,
            (false, _) => Ending::Served,
        }
    }

    fn restart(&self, script: &mut Script) {
        let mask = if script.one_in(2) { u64::MAX } else { script.word() };
        self.machine.start(mask);
        assert!(!self.machine.needs_reset(), "a device that was started properly asks for a reset");
    }

    /// Anything, or mostly chains that end, so that the device gets to see them; in the rings' usual places.
    fn fill_and_notify(&mut self, script: &mut Script) {
        let queue = script.below(self.machine.transport.queue_count() as u32);
        let sane = !script.one_in(3);
        let entries = 1 + script.below(SIZE.into()) as u16;
        for at in 0..entries {
            let descriptor = self.descriptor(script, queue, sane.then_some((at, entries)));
            self.machine.describe(descriptors(queue), at, descriptor);
        }
        let index = self.machine.available_index(queue);
        let count = script.below(6) as u16;
        for step in 0..count {
            let head = if script.one_in(40) { script.below(65536) as u16 } else { script.below(entries.into()) as u16 };
            self.machine.offer(queue, index.wrapping_add(step), head);
        }
        let step = if script.one_in(30) { script.below(65536) as u16 } else { count };
        self.published += u64::from(step);
        self.machine.publish(queue, index.wrapping_add(step));
        if script.one_in(4) {
            // Flags, and the index that the driver wants to hear of.
            self.machine.put(available(queue), &[script.byte(), 0]);
            self.machine.put(available(queue) + available_len(SIZE) as u64 - 2, &script.word().to_le_bytes()[..2]);
        }
        if !script.one_in(6) {
            self.machine.write(Register::QueueNotify, queue);
        }
    }

    fn descriptor(&self, script: &mut Script, queue: u32, sane: Option<(u16, u16)>) -> Descriptor {
        let mut len = match script.below(8) {
            0 => 0,
            1 => 1,
            2 | 3 => 16,
            4 => 512,
            5 => script.below(64),
            _ => script.below(5000),
        };
        let addr = match script.below(32) {
            0 => script.word(),
            1 => MEMORY - 1,
            2 => u64::MAX - u64::from(script.byte()),
            3 if !self.tame => descriptors(queue),
            4 if !self.tame => available(queue),
            5 if !self.tame => used(queue),
            6 => {
                len = [u32::MAX, 0x8000_0000, MEMORY as u32][script.below(3) as usize];
                DATA
            }
            _ => DATA + u64::from(script.below(65536)) * 16,
        };
        // A request that means something, as often as not.
        if script.one_in(2) && (DATA..UNTOUCHED - 16).contains(&addr) {
            let kind = [0_u32, 1, 4, 8, 11, 13, 99][script.below(7) as usize];
            let sector = if script.one_in(4) { script.word() } else { u64::from(script.below(80)) };
            self.machine.put(addr, &kind.to_le_bytes());
            self.machine.put(addr + 8, &sector.to_le_bytes());
        }
        let any = DescriptorFlags::from_bits_truncate(script.byte().into());
        let (flags, next) = match sane {
            Some((at, entries)) => {
                let ends = at % 3 == 2 || at + 1 == entries;
                let mut flags = any - DescriptorFlags::INDIRECT;
                flags.set(DescriptorFlags::NEXT, !ends);
                flags.set(DescriptorFlags::WRITE, ends || at % 3 == 1 && flags.contains(DescriptorFlags::WRITE));
                (flags, at + 1)
            }
            None if self.tame => (any - DescriptorFlags::INDIRECT, script.below(u32::from(SIZE) + 1) as u16),
            None => (any, script.below(u32::from(SIZE) + 1) as u16),
        };
        let end = addr.checked_add(len.into()).filter(|end| *end <= MEMORY);
        let named = end.is_some_and(|end| addr < UNTOUCHED + 0x1000 && end > UNTOUCHED);
        // A device that writes over rings may find anything in them.
        let rings = self.tame && end.is_some() && addr < DATA;
        let (addr, len) = if named || rings { (DATA, 16) } else { (addr, len) };
        Descriptor { addr, len, flags: flags.bits(), next }
    }

    /// The back end has something for the device, or says so.
    fn event(&self, script: &mut Script) {
        let events = [EventSet::IN, EventSet::OUT, EventSet::IN | EventSet::OUT, EventSet::HANG_UP, EventSet::ERROR];
        let events = events[script.below(events.len() as u32) as usize];
        let calls = (0..CALLS).take_while(|_| self.machine.transport.process_event(events) == Progress::More).count();
        assert!(calls < CALLS as usize, "a device that never comes to an end");
        if self.machine.transport.awaited().until.is_some() {
            self.machine.transport.process_timer();
        }
    }

    /// One access of any width at any place of the slot.
    fn access(&self, script: &mut Script) {
        let offset = if script.one_in(8) { u64::from(script.below(65536)) } else { u64::from(script.below(0x140)) };
        let width = [1, 2, 4, 8, 3][script.below(5) as usize];
        if script.one_in(2) {
            self.machine.transport.read(offset, &mut [0; 8][..width]);
        } else {
            self.machine.transport.write(offset, &script.word().to_le_bytes()[..width]);
        }
    }

    /// A queue where no queue can be, or on top of another.
    fn misplace(&self, script: &mut Script) {
        let mut parts = [0_u64; 3];
        for part in &mut parts {
            *part = match script.below(5) {
                0 => script.word(),
                1 => MEMORY - 16,
                2 => u64::MAX - 15,
                3 => descriptors(script.below(4)),
                _ => DATA + u64::from(script.below(65536)),
            };
        }
        let size = [0, 1, 2, 7, 16, 256, 257, 0x1_0000, u32::MAX][script.below(9) as usize];
        let queue = script.below(6);
        self.machine.write(Register::QueueSel, queue);
        self.machine.write(Register::QueueReady, script.below(2));
        self.machine.place(queue, size, parts);
        self.machine.write(Register::QueueNotify, queue);
    }

    /// Steps of the initialization in any order.
    fn set_up_out_of_order(&self, script: &mut Script) {
        for _ in 0..script.below(8) {
            match script.below(4) {
                0 => self.machine.write(Register::Status, script.byte().into()),
                1 => {
                    self.machine.write(Register::DriverFeaturesSel, script.below(4));
                    self.machine.write(Register::DriverFeatures, script.word() as u32);
                }
                2 => self.machine.write(Register::QueueReady, script.below(3)),
                _ => self.machine.write(Register::InterruptAck, script.word() as u32),
            }
        }
    }
}

/// Sends a device that was just started something well-formed, and expects an answer. The back end may be in any state, so
/// that a request may fail; but it comes back.
fn serves(machine: &Machine, subject: Subject) {
    let (queue, parts): (u32, &[(u64, u32, DescriptorFlags)]) = match subject {
        Subject::Block => (
            0,
            &[
                (REQUEST, 16, DescriptorFlags::empty()),
                (REQUEST + 0x1000, 512, DescriptorFlags::WRITE),
                (REQUEST + 0x2000, 1, DescriptorFlags::WRITE),
            ],
        ),
        // A balloon's array of no numbers; a frame that a full wire keeps is no answer, so a card gets one it drops.
        Subject::Balloon => (0, &[(REQUEST, 0, DescriptorFlags::empty())]),
        Subject::Net => (1, &[(REQUEST, 5, DescriptorFlags::empty())]),
        Subject::Console => (1, &[(REQUEST, 3, DescriptorFlags::empty())]),
        Subject::Rng => (0, &[(REQUEST, 64, DescriptorFlags::WRITE)]),
    };
    machine.put(REQUEST, &[0; 16]);
    machine.put(REQUEST + 0x2000, &[0xaa]);
    for (at, &(addr, len, mut flags)) in (0..).zip(parts) {
        flags.set(DescriptorFlags::NEXT, usize::from(at) + 1 < parts.len());
        machine.describe(descriptors(queue), at, Descriptor { addr, len, flags: flags.bits(), next: at + 1 });
    }
    let before = machine.used_index(queue);
    machine.offer(queue, machine.available_index(queue), 0);
    machine.publish(queue, machine.available_index(queue).wrapping_add(1));
    machine.write(Register::QueueNotify, queue);
    // What the script had cost is paid for first.
    let wakes = (0..CALLS).take_while(|_| machine.transport.awaited().until.is_some());
    assert!(wakes.inspect(|_| machine.transport.process_timer()).count() < CALLS as usize, "a limit that never ends");
    assert!(!machine.needs_reset(), "a well-formed request is refused: {:?}", machine.transport.fault());
    let answered = machine.used_index(queue).wrapping_sub(before);
    assert_eq!(answered, 1, "a well-formed request behind a reset is not answered");
    if subject == Subject::Block {
        assert!(machine.get8(REQUEST + 0x2000) <= 1, "the status of a read");
    }
}

const _: () = assert!(REQUEST + 0x3000 <= DATA && used_len(SIZE) <= 0x100 && available_len(SIZE) <= 0x100);
