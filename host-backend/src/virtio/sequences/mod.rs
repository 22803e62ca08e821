//! Any sequence of a driver's writes, of changes of memory and of the worker's turns, for each type of device, also after the
//! device was activated: the registers read as in a [`reference::Reference`], a queue uses only memory that was checked for its
//! current places, and after a reset an orderly driver can work.
//!
//! Firecracker's PCI transport let a driver change the size and the addresses of a live queue, whose checks were over by
//! then (CVE-2026-5747): the device divided by a size of 0, and wrote beyond its rings. That very mistake can be made here too,
//! and has to be found.

mod devices;
mod operations;
mod reference;

use super::Device;
use super::harness::{DATA, READ, Rig, SIZE, WRITE, available, descriptors, used};
use super::notifier::{Notifier, QueueEvent};
use super::queue::{Placement, audit};
use crate::event::event;
use crate::mistake::{Mistake, making};
use crate::vmm::GuestRam;
use operations::{HIGH, HIGH_END, LOW_END, Op, operation};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestError, TestRunner};
use reference::{DRIVER_OK, NEEDS_RESET, Reference};
use shared_abi::virtio::Status;
use shared_abi::virtio::mmio::{CONFIG, Register};
use shared_abi::virtio::ring::{self, DescriptorFlags};
use std::os::unix::net::UnixStream;
use vmm_sys_util::epoll::EventSet;

/// Sequences of each device, and how many times as many with `RINGSIDE_LONG`.
const CASES: u32 = 300;
const LONG: u32 = 20;
/// Sequences in which a mistake must show.
const MISTAKE_CASES: u32 = 3000;
const LENGTH: usize = 100;
/// Turns until a request must have been answered.
const TURNS: usize = 8;

/// How far sequences came.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// Turns in which chains came back.
    answers: u32,
    /// Turns that ended in a fault.
    faults: u32,
    /// Queues refused for their places or size.
    refused: u32,
    /// Live queues taken back alone.
    taken_back: u32,
    /// Writes of registers that are a live queue's places.
    at_live_queues: u32,
    /// Live queues above 4 GiB, of the largest size, or of the smallest.
    extreme: u32,
}

/// What is looked at after each step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Everything,
    /// Only what memory the queues use.
    Memory,
}

/// A device with its memory.
struct Subject {
    rig: Rig,
    reference: Reference,
    look: Look,
    /// What memory was before the step, where only rings may change.
    shadow: Option<Vec<u8>>,
    /// A request that the device answers: its queue and buffers.
    request: (u32, Vec<(u64, u32, DescriptorFlags)>),
    reached: Reached,
    _files: Files,
}

/// What the devices' other ends are.
enum Files {
    None,
    Disk { _file: tempfile::NamedTempFile },
    Peer { _socket: UnixStream },
}

impl Subject {
    fn new(
        device: impl Device + 'static,
        memory: GuestRam,
        request: (u32, Vec<(u64, u32, DescriptorFlags)>),
        files: Files,
    ) -> Self {
        let rig = Rig::with_memory(device, memory);
        let transport = &rig.transport;
        let queues = (0..transport.queue_count()).map(|_| QueueEvent::new().unwrap()).collect();
        transport.attach(Notifier { queues, wake: event().unwrap() });
        let ram = vec![0..LOW_END, HIGH..HIGH_END];
        let reference = Reference::new(transport.device_type().0, rig.offered(), transport.queue_count(), ram);
        rig.write(Register::Status, 0);
        Self {
            rig,
            reference,
            look: Look::Everything,
            shadow: None,
            request,
            reached: Reached::default(),
            _files: files,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.rig.get(0, LOW_END as usize);
        bytes.extend(self.rig.get(HIGH, (HIGH_END - HIGH) as usize));
        bytes
    }

    /// Does one thing and looks at what became of it.
    fn step(&mut self, op: &Op) -> TestCaseResult {
        let transport = self.rig.transport.clone();
        let faults = || transport.counters().faults.get();
        let (before, was_live, needed_reset) = (faults(), self.reference.is_live(), self.reference.has(NEEDS_RESET));
        let (live, requests) = (self.reference.live().collect::<Vec<_>>(), transport.counters().requests.get());
        self.rig.edges.take();
        match op {
            Op::Write(register, value) => self.write(register.offset(), &value.to_le_bytes()),
            Op::WriteBytes { offset, bytes } => self.write(*offset, bytes),
            Op::Config { offset, bytes } => self.rig.transport.write(CONFIG.saturating_add(*offset), bytes),
            Op::Place { queue, size, descriptors, driver, device } => {
                self.place(
                    *queue,
                    Placement { size: *size, descriptors: *descriptors, driver: *driver, device: *device },
                );
            }
            Op::SetUp { queue } => self.set_up(*queue),
            Op::SetUpAt { queue, size, descriptors, driver, device } => {
                self.register(Register::QueueSel, *queue);
                self.register(Register::QueueReady, 0);
                self.place(
                    *queue,
                    Placement { size: *size, descriptors: *descriptors, driver: *driver, device: *device },
                );
                self.register(Register::QueueReady, 1);
            }
            Op::Request { queue, head, writable } => {
                self.rig.chain(*queue, *head, &[(DATA, 64, if *writable { WRITE } else { READ })]);
                self.rig.offer(*queue, *head);
            }
            Op::Negotiate { mask } => self.negotiate(*mask),
            Op::Start { mask } => self.start(*mask),
            Op::Descriptor { queue, at, address, len, flags, next } => {
                let flags = DescriptorFlags::from_bits_retain(*flags);
                self.rig.descriptor(*queue, *at, (*address, *len), flags, *next);
            }
            Op::Offer { queue, head } => self.rig.offer(*queue, *head),
            Op::AvailableIndex { queue, index } => self.rig.set_available_index(*queue, *index),
            Op::Memory { address, bytes } => self.rig.put(*address, bytes),
            Op::Turn { .. } | Op::Event => {
                self.shadow = self.shadow.is_some().then(|| self.bytes());
                match op {
                    Op::Turn { queue } => self.rig.transport.process_notified(*queue as usize),
                    _ => drop(self.rig.transport.process_event(EventSet::IN)),
                }
                self.check_turn(was_live)?;
            }
        }
        self.count(op, &live, needed_reset, requests);
        self.check_memory()?;
        if self.look == Look::Memory {
            return Ok(());
        }
        self.check_registers()?;
        if !was_live && needed_reset && self.reference.has(NEEDS_RESET) && self.reference.has(DRIVER_OK) {
            let repeats = matches!(op, Op::Turn { .. } | Op::Event);
            prop_assert!(!repeats || self.rig.edges.take() == 0, "a device that needs a reset interrupts");
        }
        if !needed_reset && self.reference.has(NEEDS_RESET) && !matches!(op, Op::Start { .. }) {
            prop_assert_eq!(faults(), before + 1, "a fault is counted once");
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.rig.transport.write(offset, data);
        self.reference.write(offset, data);
    }

    fn register(&mut self, register: Register, value: u32) {
        self.write(register.offset(), &value.to_le_bytes());
    }

    fn place(&mut self, queue: u32, place: Placement) {
        self.register(Register::QueueSel, queue);
        self.register(Register::QueueSize, place.size);
        self.register(Register::QueueDescLow, place.descriptors as u32);
        self.register(Register::QueueDescHigh, (place.descriptors >> 32) as u32);
        self.register(Register::QueueDriverLow, place.driver as u32);
        self.register(Register::QueueDriverHigh, (place.driver >> 32) as u32);
        self.register(Register::QueueDeviceLow, place.device as u32);
        self.register(Register::QueueDeviceHigh, (place.device >> 32) as u32);
    }

    fn set_up(&mut self, queue: u32) {
        let at = queue.min(3);
        let (descriptors, driver, device) = (descriptors(at), available(at), used(at));
        self.place(queue, Placement { size: SIZE.into(), descriptors, driver, device });
        self.register(Register::QueueReady, 1);
    }

    fn negotiate(&mut self, mask: u64) {
        self.register(Register::Status, 3);
        for half in 0..2 {
            self.register(Register::DeviceFeaturesSel, half);
            let offered = self.rig.read(Register::DeviceFeatures);
            self.register(Register::DriverFeaturesSel, half);
            self.register(Register::DriverFeatures, offered & (mask >> (32 * half)) as u32);
        }
        self.register(Register::Status, 3 | 8);
    }

    fn start(&mut self, mask: u64) {
        self.register(Register::Status, 0);
        // Rings as a driver has them at the start.
        for queue in 0..4 {
            self.rig.put(available(queue), &vec![0; ring::available_len(SIZE)]);
            self.rig.put(used(queue), &vec![0; ring::used_len(SIZE)]);
        }
        self.negotiate(mask | 1 << 32);
        for queue in 0..self.rig.transport.queue_count() as u32 {
            self.set_up(queue);
        }
        self.register(Register::Status, 15);
    }

    /// Counts what the step has reached.
    fn count(&mut self, op: &Op, before: &[Option<Placement>], needed_reset: bool, requests: u64) {
        let turn = matches!(op, Op::Turn { .. } | Op::Event);
        let faulty = !needed_reset && self.reference.has(NEEDS_RESET);
        let places = Register::QueueDescLow.offset()..=Register::QueueDeviceHigh.offset();
        let is_place = |register: &Register| *register == Register::QueueSize || places.contains(&register.offset());
        let after: Vec<_> = self.reference.live().collect();
        let lost = before.iter().zip(&after).filter(|(before, after)| before.is_some() && after.is_none()).count();
        let is_new = |place: &Placement| !before.contains(&Some(*place));
        let is_extreme = |place: &Placement| place.descriptors >= HIGH || [1, 256].contains(&place.size);
        let reached = &mut self.reached;
        reached.answers += u32::from(turn && self.rig.transport.counters().requests.get() > requests);
        reached.faults += u32::from(turn && faulty);
        reached.refused += u32::from(!turn && faulty);
        reached.taken_back += u32::from(lost == 1 && !matches!(op, Op::Write(Register::Status, 0)));
        reached.at_live_queues +=
            u32::from(matches!(op, Op::Write(register, _) if is_place(register)) && self.reference.selects_live());
        reached.extreme += after.iter().flatten().filter(|place| is_new(place) && is_extreme(place)).count() as u32;
    }

    /// Takes over what a turn may have done, and finds out whether it may.
    fn check_turn(&mut self, was_live: bool) -> TestCaseResult {
        let (status, interrupts) = (self.rig.read(Register::Status), self.rig.read(Register::InterruptStatus));
        self.reference.turn(status, interrupts);
        let Some(before) = &self.shadow else { return Ok(()) };
        let after = self.bytes();
        let places: Vec<_> = self.reference.live().flatten().filter(|_| was_live).collect();
        for at in (0..after.len()).filter(|at| before[*at] != after[*at]) {
            let address = if (at as u64) < LOW_END { at as u64 } else { HIGH + (at as u64 - LOW_END) };
            let is_ring =
                |place: &Placement| (place.device..place.device + 6 + 8 * u64::from(place.size)).contains(&address);
            prop_assert!(places.iter().any(is_ring), "the device wrote at {address:#x}, which is no used ring");
        }
        Ok(())
    }

    fn check_memory(&self) -> TestCaseResult {
        let violations = audit::violations();
        prop_assert!(violations.is_empty(), "{violations:?}");
        Ok(())
    }

    fn check_registers(&self) -> TestCaseResult {
        for offset in (0..CONFIG).step_by(4) {
            let mut data = [0; 4];
            self.rig.transport.read(offset, &mut data);
            let (is, must) = (u32::from_le_bytes(data), self.reference.read(offset));
            prop_assert_eq!(is, must, "register {:#x} reads {:#x}, not {:#x}", offset, is, must);
        }
        let must: Vec<_> = self.reference.live().collect();
        prop_assert_eq!(self.rig.transport.placements(), must, "the places of the live queues");
        Ok(())
    }

    /// A driver that starts over gets what it asks for.
    fn check_restart(&mut self) -> TestCaseResult {
        self.register(Register::Status, 0);
        self.check_registers()?;
        self.start(u64::MAX);
        let (queue, buffers) = self.request.clone();
        self.rig.put(DATA, &[0; 2048]);
        self.rig.chain(queue, 0, &buffers);
        self.rig.offer(queue, 0);
        self.register(Register::QueueNotify, queue);
        for _ in 0..TURNS {
            self.rig.transport.process_notified(queue as usize);
        }
        prop_assert_eq!(self.rig.used_index(queue), 1, "the request was not answered");
        prop_assert_eq!(self.rig.status(), Status::from_bits_retain(15));
        self.check_memory()
    }
}

fn run(mut subject: Subject, ops: &[Op], look: Look) -> TestCaseResult {
    subject.look = look;
    drive(&mut subject, ops)
}

fn drive(subject: &mut Subject, ops: &[Op]) -> TestCaseResult {
    drop(audit::violations());
    for op in ops {
        subject.step(op)?;
    }
    if subject.look == Look::Everything { subject.check_restart() } else { Ok(()) }
}

fn cases() -> ProptestConfig {
    let cases = if std::env::var_os("RINGSIDE_LONG").is_some() { CASES * LONG } else { CASES };
    ProptestConfig::with_cases(cases)
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(operation(), 1..LENGTH)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn rng_is_as_in_the_reference(ops in operations()) {
        run(Subject::rng(), &ops, Look::Everything)?;
    }

    #[test]
    fn console_is_as_in_the_reference(ops in operations()) {
        run(Subject::console(), &ops, Look::Everything)?;
    }

    #[test]
    fn balloon_is_as_in_the_reference(ops in operations()) {
        run(Subject::balloon(), &ops, Look::Everything)?;
    }

    #[test]
    fn net_is_as_in_the_reference(ops in operations()) {
        run(Subject::net(), &ops, Look::Everything)?;
    }

    #[test]
    fn block_is_as_in_the_reference(ops in operations()) {
        run(Subject::block(), &ops, Look::Everything)?;
    }

    /// Nothing changes but the used rings of live queues.
    #[test]
    fn queues_write_into_their_used_rings_only(ops in operations()) {
        run(Subject::sink(), &ops, Look::Everything)?;
    }
}

/// Sequences are worth nothing unless they come where defects are.
#[test]
fn sequences_come_far() {
    let mut sum = Reached::default();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let sums = std::cell::RefCell::new(&mut sum);
    let mut runner = TestRunner::new_with_rng(config, TestRunner::deterministic().new_rng());
    let result = runner.run(&operations(), |ops| {
        let mut subject = Subject::rng();
        drive(&mut subject, &ops)?;
        let (reached, mut sums) = (subject.reached, sums.borrow_mut());
        sums.answers += reached.answers;
        sums.faults += reached.faults;
        sums.refused += reached.refused;
        sums.taken_back += reached.taken_back;
        sums.at_live_queues += reached.at_live_queues;
        sums.extreme += reached.extreme;
        Ok(())
    });
    result.unwrap();
    let Reached { answers, faults, refused, taken_back, at_live_queues, extreme } = sum;
    println!("{sum:?}");
    let least = [answers, faults, refused, taken_back, at_live_queues, extreme].into_iter().min();
    assert!(least > Some(25), "{sum:?}");
}

/// Each register of a place, with each value at a bound, written to a live queue that is then made ready again.
#[test]
fn no_value_of_a_register_changes_a_live_queue() {
    let registers = [
        Register::QueueSize,
        Register::QueueDescLow,
        Register::QueueDescHigh,
        Register::QueueDriverLow,
        Register::QueueDriverHigh,
        Register::QueueDeviceLow,
        Register::QueueDeviceHigh,
    ];
    let values = [0, 1, 2, 3, 8, 17, 255, 256, 257, 32768, 65535, 65536, LOW_END as u32 - 4, 0xd000_0000, u32::MAX];
    for register in registers {
        for value in values {
            let ops = [
                Op::Start { mask: u64::MAX },
                Op::Offer { queue: 0, head: 0 },
                Op::Write(register, value),
                Op::Turn { queue: 0 },
                Op::Write(Register::QueueReady, 1),
                Op::Turn { queue: 0 },
            ];
            run(Subject::sink(), &ops, Look::Everything).unwrap();
        }
    }
}

#[test]
fn queue_reset_is_ignored_until_it_was_negotiated() {
    let (descriptors, driver, device) = (descriptors(0), available(0), used(0));
    let ops = [
        Op::Write(Register::DriverFeaturesSel, 1),
        Op::Write(Register::DriverFeatures, 1 | 1 << 8),
        Op::Place { queue: 0, size: 16, descriptors, driver, device },
        Op::Write(Register::QueueReset, 1),
        Op::Write(Register::Status, 3 | 8),
        Op::Write(Register::QueueReady, 1),
    ];
    run(Subject::rng(), &ops, Look::Everything).unwrap();
}

/// The shortest sequence that shows a mistake.
fn shortest(mistake: Mistake, subject: fn() -> Subject, look: Look) -> Vec<Op> {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(MISTAKE_CASES) };
    let mut runner = TestRunner::new_with_rng(config, TestRunner::deterministic().new_rng());
    let result = making(mistake, || runner.run(&operations(), |ops| run(subject(), &ops, look)));
    match result {
        Err(TestError::Fail(_, ops)) => ops,
        other => panic!("{mistake:?} is not found: {other:?}"),
    }
}

/// CVE-2026-5747, found by the memory that the queues use alone.
#[test]
fn live_queue_that_moves_is_found_by_the_memory_it_uses() {
    for subject in [Subject::rng, Subject::sink] {
        let ops = shortest(Mistake::LiveQueueMoves, subject, Look::Memory);
        println!("{ops:#x?}");
        assert!(ops.len() <= 4, "it shrinks to a few steps: {ops:?}");
    }
}

#[test]
fn live_queue_that_moves_is_found_by_its_places() {
    shortest(Mistake::LiveQueueMoves, Subject::block, Look::Everything);
}

#[test]
fn unchecked_places_are_found() {
    shortest(Mistake::PlacesUnchecked, Subject::rng, Look::Everything);
}

#[test]
fn reset_that_keeps_the_selected_queue_is_found() {
    shortest(Mistake::ResetKeepsSelection, Subject::rng, Look::Everything);
}

#[test]
fn fault_that_is_announced_again_is_found() {
    shortest(Mistake::FaultRepeats, Subject::rng, Look::Everything);
}
