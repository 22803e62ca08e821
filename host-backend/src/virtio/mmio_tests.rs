//! Tests of the registers: negotiation, set-up, reset, and everything that is not defined.

use super::*;
use crate::virtio::harness::{DATA, MEMORY, Rig, SIZE, WRITE, available, descriptors, used};
use crate::virtio::read_config_bytes;
use crate::virtio::rng::Rng;
use proptest::prelude::*;
use shared_abi::virtio::{CommonFeatures, ring};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};

const VERSION_1: u64 = CommonFeatures::VERSION_1.bits();

#[test]
fn the_slot_says_what_it_is() {
    let rig = Rig::new(Rng::new());
    assert_eq!(rig.read(Register::MagicValue), MAGIC);
    assert_eq!(rig.read(Register::Version), 2);
    assert_eq!(rig.read(Register::DeviceId), DeviceType::RNG.0);
    assert_eq!(rig.read(Register::QueueSizeMax), 256);
    rig.write(Register::QueueSel, 1);
    assert_eq!(rig.read(Register::QueueSizeMax), 0);
    assert_eq!(rig.read(Register::ShmLenLow), u32::MAX);
}

#[test]
fn unknown_features_are_refused() {
    let rig = Rig::new(Rng::new());
    assert!(!rig.negotiate(VERSION_1 | 1 << 5));
    rig.write(Register::Status, 0);
    assert!(!rig.negotiate(0), "without VERSION_1");
    rig.write(Register::Status, 0);
    assert!(rig.negotiate(VERSION_1));
}

#[test]
fn a_driver_cannot_start_without_features() {
    let rig = Rig::new(Rng::new());
    rig.set_status(Status::ACKNOWLEDGE | Status::DRIVER | Status::DRIVER_OK);
    assert!(!rig.status().contains(Status::DRIVER_OK));
}

#[test]
fn features_are_fixed_once_agreed() {
    let rig = Rig::new(Rng::new());
    assert!(rig.negotiate(VERSION_1));
    rig.write(Register::DriverFeaturesSel, 0);
    rig.write(Register::DriverFeatures, CommonFeatures::EVENT_IDX.bits() as u32);
    rig.queue(0);
    rig.set_status(Status::DRIVER_OK);
    // With EVENT_IDX the missing used_event would swallow the second interrupt.
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    assert_eq!(rig.edges.take(), 2);
}

#[test]
fn a_queue_placed_outside_memory_needs_a_reset() {
    let places = [
        (MEMORY, available(0), used(0)),
        (descriptors(0), MEMORY - 2, used(0)),
        (descriptors(0), available(0), u64::MAX - 3),
        (descriptors(0) + 8, available(0), used(0)),
        (descriptors(0), available(0) + 1, used(0)),
        (descriptors(0), available(0), used(0) + 2),
    ];
    for (table, driver, device) in places {
        let rig = Rig::new(Rng::new());
        assert!(rig.negotiate(VERSION_1));
        rig.place(0, SIZE.into(), table, driver, device);
        assert!(rig.needs_reset(), "{table:#x} {driver:#x} {device:#x}");
        assert_eq!(rig.read(Register::QueueReady), 0);
        // The driver is notified when it starts.
        rig.set_status(Status::DRIVER_OK);
        assert_eq!(rig.read(Register::InterruptStatus), InterruptStatus::CONFIG_CHANGE.bits());
    }
}

#[test]
fn a_queue_of_an_impossible_size_needs_a_reset() {
    for size in [0, 3, 512, 0x1_0010, u32::MAX] {
        let rig = Rig::new(Rng::new());
        assert!(rig.negotiate(VERSION_1));
        rig.place(0, size, descriptors(0), available(0), used(0));
        assert!(rig.needs_reset(), "{size}");
    }
}

#[test]
fn a_live_queue_cannot_be_moved() {
    let rig = Rig::running(Rng::new());
    rig.write(Register::QueueDescLow, MEMORY as u32);
    rig.write(Register::QueueReady, 1);
    assert!(rig.request(0, &[(DATA, 8, WRITE)]).is_some());
}

#[test]
fn acknowledged_interrupts_go_away() {
    let rig = Rig::running(Rng::new());
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    assert_eq!(rig.read(Register::InterruptStatus), 1);
    rig.write(Register::InterruptAck, 1);
    assert_eq!(rig.read(Register::InterruptStatus), 0);
}

#[test]
fn a_reset_brings_the_fresh_state_back() {
    let rig = Rig::running(Rng::new());
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    rig.write(Register::Status, 0);
    assert_eq!(rig.status(), Status::empty());
    assert_eq!(rig.read(Register::InterruptStatus), 0);
    assert_eq!(rig.read(Register::QueueReady), 0);
    rig.kick(0);
    rig.memory_cleared();
    rig.start(u64::MAX);
    assert!(rig.request(0, &[(DATA, 8, WRITE)]).is_some());
}

#[test]
fn a_queue_reset_takes_one_queue_back_and_lets_it_be_set_up_elsewhere() {
    let rig = Rig::running(Rng::new());
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    rig.write(Register::QueueReset, 1);
    assert_eq!((rig.read(Register::QueueReset), rig.read(Register::QueueReady)), (0, 0));
    assert!(rig.status().contains(Status::DRIVER_OK));
    rig.chain(0, 0, &[(DATA, 8, WRITE)]);
    rig.offer(0, 0);
    rig.kick(0);
    assert_eq!(rig.used_index(0), 1, "nothing is used any more");
    rig.memory_cleared();
    rig.place(0, 8, descriptors(1), available(0), used(0));
    rig.put_descriptor(descriptors(1), 0, (DATA, 8), WRITE, 0);
    rig.offer(0, 0);
    rig.kick(0);
    assert_eq!(rig.used_index(0), 1);
}

#[test]
fn a_queue_reset_that_was_not_negotiated_is_ignored() {
    let rig = Rig::new(Rng::new());
    rig.start(VERSION_1);
    rig.write(Register::QueueReset, 1);
    assert_eq!(rig.read(Register::QueueReady), 1);
}

#[test]
fn buffers_offered_before_driver_ok_are_served_after_it() {
    let rig = Rig::new(Rng::new());
    rig.negotiate(VERSION_1);
    rig.queue(0);
    rig.chain(0, 0, &[(DATA, 8, WRITE)]);
    rig.offer(0, 0);
    rig.kick(0);
    assert_eq!(rig.used_index(0), 0);
    rig.set_status(Status::DRIVER_OK);
    assert_eq!(rig.used_index(0), 1);
}

#[test]
fn only_what_the_guest_notifies_is_counted_as_a_notification() {
    let rig = Rig::running(Rng::new());
    let notifications = || rig.transport.counters().notifications.get();
    assert_eq!(notifications(), 0, "the device looks at its queues by itself when the driver is ready");
    rig.request(0, &[(DATA, 8, WRITE)]).unwrap();
    assert_eq!(notifications(), 1);
}

#[test]
fn a_changed_configuration_has_a_new_generation() {
    let rig = Rig::running(Rng::new());
    let before = rig.read(Register::ConfigGeneration);
    rig.transport.change_config(|| ());
    assert_ne!(rig.read(Register::ConfigGeneration), before);
    assert_eq!(rig.read(Register::InterruptStatus), InterruptStatus::CONFIG_CHANGE.bits());
}

/// A device with a field of 64 bits. While it shows a new value, another vCPU is let read it.
struct Wide {
    field: Arc<Field>,
    shows: Sender<()>,
    has_read: Receiver<()>,
}

struct Field(AtomicU64);

impl ConfigSpace for Field {
    fn read(&self, offset: usize, data: &mut [u8]) {
        read_config_bytes(&self.0.load(Ordering::SeqCst).to_le_bytes(), offset, data);
    }
}

impl Device for Wide {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_count(&self) -> usize {
        1
    }
    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.field.clone()
    }
    fn process_queue(&mut self, _index: usize, _io: &mut Io<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Done)
    }
    fn change(&mut self, _change: Change) -> Result<Changed, String> {
        Ok(Changed::Config)
    }
    fn show(&mut self) {
        self.field.0.store(u64::MAX, Ordering::SeqCst);
        self.shows.send(()).unwrap();
        // The reader is kept waiting until the generation has changed too; a defect would let it through here.
        let _ = self.has_read.recv_timeout(Duration::from_millis(200));
    }
}

#[test]
fn no_reader_sees_a_field_half_changed_under_one_generation() {
    let ((shows, shown), (reads, has_read)) = (channel(), channel());
    let rig = &Rig::running(Wide { field: Arc::new(Field(AtomicU64::new(0))), shows, has_read });
    let half = |offset: u64| {
        let mut bytes = [0; 4];
        rig.config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let before = rig.read(Register::ConfigGeneration);
    assert_eq!(half(0), 0);
    let (high, after) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            shown.recv().unwrap();
            let read = (half(4), rig.read(Register::ConfigGeneration));
            // The device may have stopped waiting for it.
            let _ = reads.send(());
            read
        });
        rig.transport.change(Change::Size(0), Duration::ZERO).unwrap();
        reader.join().unwrap()
    });
    assert_eq!((high, after), (u32::MAX, before + 1));
}

#[test]
fn undefined_registers_read_zero_and_ignore_writes() {
    let rig = Rig::running(Rng::new());
    for offset in (0..CONFIG).filter(|offset| Register::at(*offset).is_none()) {
        let mut data = [0xff; 4];
        rig.transport.read(offset, &mut data);
        assert_eq!(data, [0; 4], "{offset:#x}");
        rig.transport.write(offset, &[0xff; 4]);
    }
    for len in [0, 1, 2, 3, 5, 8] {
        rig.transport.read(Register::Status.offset(), &mut vec![0; len]);
        rig.transport.write(Register::Status.offset(), &vec![0; len]);
    }
    assert!(rig.transport.counters().bad_accesses.get() > 0);
    assert!(rig.status().contains(Status::DRIVER_OK));
}

#[test]
fn no_legal_access_is_counted_as_a_bad_one() {
    let rig = Rig::running(Rng::new());
    let readable = (0..CONFIG).step_by(4).filter_map(Register::at);
    let writable = [
        Register::DeviceFeaturesSel,
        Register::DriverFeaturesSel,
        Register::DriverFeatures,
        Register::QueueSel,
        Register::QueueSize,
        Register::QueueDescLow,
        Register::QueueDescHigh,
        Register::QueueDriverLow,
        Register::QueueDriverHigh,
        Register::QueueDeviceLow,
        Register::QueueDeviceHigh,
        Register::QueueReady,
        Register::QueueReset,
        Register::QueueNotify,
        Register::InterruptAck,
        Register::ShmSel,
        Register::Status,
    ];
    for register in readable {
        rig.read(register);
    }
    for register in writable {
        for value in [0, 1, 17] {
            rig.write(register, value);
        }
    }
    for len in [1, 2, 4, 8] {
        rig.config(0, &mut vec![0; len]);
        rig.transport.write(CONFIG, &vec![0; len]);
    }
    assert_eq!(rig.transport.counters().bad_accesses.get(), 0);
    rig.write(Register::MagicValue, 0);
    assert_eq!(rig.transport.counters().bad_accesses.get(), 1);
}

#[test]
fn the_configuration_space_has_no_end_to_fall_off() {
    let rig = Rig::new(Rng::new());
    for offset in [0, 0xeff, u64::MAX - CONFIG] {
        let mut data = [0xff; 8];
        rig.config(offset, &mut data);
        assert_eq!(data, [0; 8]);
        rig.transport.write(CONFIG + offset, &[1; 8]);
    }
}

impl Rig {
    /// The rings as a driver that starts over finds them.
    fn memory_cleared(&self) {
        self.put(available(0), &vec![0; ring::available_len(SIZE)]);
        self.put(used(0), &vec![0; ring::used_len(SIZE)]);
    }
}

proptest! {
    /// Any sequence of register accesses: no panic, no hang, and a reset always helps.
    #[test]
    fn random_accesses_never_hurt_the_host(
        accesses in prop::collection::vec((prop_oneof![0u64..0x110, any::<u64>()], any::<u32>(), 0usize..9), 0..60),
    ) {
        let rig = Rig::new(Rng::new());
        for (offset, value, len) in accesses {
            let bytes = [value.to_le_bytes(), value.to_le_bytes()].concat();
            rig.transport.write(offset, &bytes[..len]);
            rig.transport.read(offset, &mut vec![0; len]);
        }
        rig.write(Register::Status, 0);
        rig.memory_cleared();
        rig.start(u64::MAX);
        prop_assert!(rig.request(0, &[(DATA, 8, WRITE)]).is_some());
    }
}
