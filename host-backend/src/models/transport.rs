//! A machine of the model: a device on a transport with its worker, a driver with a lock around the registers that belong
//! together, and a guest's interrupt handler.

use crate::devices::InterruptLine;
use crate::stop::{Outcome, Stop};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::virtio::harness::{DATA, Rig, SIZE, WRITE, available, descriptors, used};
use crate::virtio::worker::{self, Worker};
use crate::virtio::{Change, Changed, ConfigSpace, Device, Fault, Io, NoConfig, Progress};
use crate::vmm::GuestRam;
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::ring::{self, USED_NO_NOTIFY};
use shared_abi::virtio::{CommonFeatures, DeviceType};
use std::sync::{Arc, PoisonError};
use vm_memory::{Bytes, GuestAddress};

/// Memory of the guest: the rings and the first page of data.
const MEMORY: usize = DATA as usize + 0x1000;
/// In the rings of a queue that is off.
const UNTOUCHED: u8 = 0xa5;
/// Features without an event index: the rings' flags enable and disable notifications and interrupts.
pub(super) const FLAGS: u64 = !CommonFeatures::EVENT_IDX.bits();

/// A counter to wait for.
#[derive(Default)]
pub(super) struct Count(Mutex<u64>, Condvar);

impl Count {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> u64 {
        *self.lock()
    }

    pub(super) fn add(&self) {
        *self.lock() += 1;
        self.1.notify_all();
    }

    pub(super) fn wait_for_more_than(&self, seen: u64) -> u64 {
        *self.1.wait_while(self.lock(), |count| *count == seen).unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterruptLine for Count {
    fn raise(&self) {
        self.add();
    }
}

/// A machine that runs.
pub(super) struct Bench {
    pub(super) rig: Rig,
    pub(super) stop: Arc<Stop>,
    worker: Worker,
    line: Arc<Count>,
    /// Interrupts that the guest's handler found a reason for.
    handled: Count,
    /// The guest ends.
    ended: AtomicBool,
    /// Around QueueSel and what it selects.
    registers: Mutex<()>,
}

impl Bench {
    /// A device whose driver has not begun.
    pub(super) fn new(memory: GuestRam, device: impl Device + 'static) -> Arc<Self> {
        let line = Arc::new(Count::default());
        let rig = Rig::made(memory, |_| (Box::new(device), line.clone()));
        let stop = Arc::new(Stop::new().unwrap());
        let worker = worker::start(rig.transport.clone(), stop.clone(), || ()).unwrap();
        let (handled, ended, registers) = (Count::default(), AtomicBool::new(false), Mutex::new(()));
        Arc::new(Self { rig, stop, worker, line, handled, ended, registers })
    }

    /// The guest's interrupt handler, as Linux has it: an interrupt without a reason is not for this device.
    pub(super) fn handler(self: &Arc<Self>) -> JoinHandle<()> {
        let bench = self.clone();
        thread::spawn(move || {
            let mut edges = 0;
            loop {
                edges = bench.line.wait_for_more_than(edges);
                if bench.ended.load(Ordering::SeqCst) {
                    return;
                }
                let reasons = bench.rig.read(Register::InterruptStatus);
                if reasons != 0 {
                    bench.rig.write(Register::InterruptAck, reasons);
                    bench.handled.add();
                }
            }
        })
    }

    /// Ends everything. The worker leaves without a signal.
    pub(super) fn end(&self, handler: JoinHandle<()>) {
        self.worker.leave();
        while !self.worker.has_ended() {
            thread::yield_now();
        }
        self.ended.store(true, Ordering::SeqCst);
        self.line.add();
        handler.join().unwrap();
        assert_eq!(self.stop.outcome(), None::<Outcome>);
    }

    /// Access to the registers of a queue.
    pub(super) fn select(&self, queue: u32) -> MutexGuard<'_, ()> {
        let guard = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        self.rig.write(Register::QueueSel, queue);
        guard
    }

    /// Waits for interrupts until `done`.
    pub(super) fn until(&self, done: impl Fn() -> bool) {
        loop {
            let handled = self.handled.get();
            if done() {
                return;
            }
            self.handled.wait_for_more_than(handled);
        }
    }

    /// Makes buffers available, and notifies if the device asks for that.
    pub(super) fn offer(&self, queue: u32, count: u16) {
        for at in 0..count {
            self.rig.chain(queue, at, &[(DATA + 0x100 * u64::from(queue), 8, WRITE)]);
            self.rig.offer(queue, at);
        }
        let flags: u16 = self.rig.memory.read_obj(GuestAddress(used(queue))).unwrap();
        if flags & USED_NO_NOTIFY == 0 {
            self.rig.kick(queue);
        }
    }

    /// Makes requests and waits until they are answered.
    pub(super) fn request(&self, queue: u32, count: u16) {
        let target = self.rig.used_index(queue).wrapping_add(count);
        self.offer(queue, count);
        self.until(|| self.rig.used_index(queue) == target);
    }

    /// The same with an event index.
    pub(super) fn request_by_index(&self, queue: u32, count: u16) {
        let (rig, before) = (&self.rig, self.rig.available_index(queue));
        let target = rig.used_index(queue).wrapping_add(count);
        rig.set_used_event(queue, target.wrapping_sub(1));
        for at in 0..count {
            rig.chain(queue, at, &[(DATA + 0x100 * u64::from(queue), 8, WRITE)]);
            rig.offer(queue, at);
        }
        let available_event = used(queue) + ring::avail_event_offset(SIZE) as u64;
        let event: u16 = rig.memory.read_obj(GuestAddress(available_event)).unwrap();
        // 2.7.7.1: as in `vring_need_event`.
        let passed = rig.available_index(queue).wrapping_sub(event).wrapping_sub(1);
        if passed < rig.available_index(queue).wrapping_sub(before) {
            rig.kick(queue);
        }
        self.until(|| rig.used_index(queue) == target);
    }

    /// Writes something into the rings of a queue that is off.
    pub(super) fn mark(&self, queue: u32) {
        for (address, len) in rings(queue) {
            self.rig.put(address, &vec![UNTOUCHED; len]);
        }
    }

    /// What was written is still there; the rings are as a driver needs them for the start.
    pub(super) fn check_and_clear(&self, queue: u32) {
        for (address, len) in rings(queue) {
            assert_eq!(self.rig.get(address, len), vec![UNTOUCHED; len], "a queue was used that is off");
            self.rig.put(address, &vec![0; len]);
        }
    }
}

fn rings(queue: u32) -> [(u64, usize); 3] {
    [
        (descriptors(queue), ring::descriptor_table_len(SIZE)),
        (available(queue), ring::available_len(SIZE)),
        (used(queue), ring::used_len(SIZE)),
    ]
}

/// A started [`Probe`], what it has seen, and the handler of its interrupts.
pub(super) fn probed(features: u64) -> (Arc<Bench>, Arc<Seen>, JoinHandle<()>) {
    let seen = Arc::new(Seen::default());
    let bench = Bench::new(memory(), Probe(seen.clone()));
    let handler = bench.handler();
    bench.rig.start(features);
    (bench, seen, handler)
}

pub(super) fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

/// What a driver and the device know of each other.
#[derive(Default)]
pub(super) struct Seen {
    /// The driver was told that a queue is off.
    pub(super) off: [AtomicBool; 2],
    /// Requests that the device has begun.
    pub(super) begun: AtomicU32,
}

impl Seen {
    pub(super) fn set_off(&self, queue: u32, off: bool) {
        self.off[queue as usize].store(off, Ordering::SeqCst);
    }
}

/// A device with two queues whose requests take time.
pub(super) struct Probe(pub(super) Arc<Seen>);

impl Device for Probe {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_count(&self) -> usize {
        2
    }
    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(NoConfig)
    }
    fn change(&mut self, _change: Change) -> Result<Changed, String> {
        Ok(Changed::Config)
    }
    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<Progress, Fault> {
        let seen = &self.0;
        let is_on = || assert!(!seen.off[index].load(Ordering::SeqCst), "a queue is used that is off");
        io.drain(index, |memory, chain, _| {
            seen.begun.fetch_add(1, Ordering::SeqCst);
            is_on();
            thread::yield_now();
            is_on();
            Ok(chain.write(memory, 0, &[1; 8]) as u32)
        })
    }
}
