//! The transports over models of their registers: what they read and write, and what they refuse.

use frontends::transport::pci::{Vectors, Windows};
use frontends::transport::{MmioTransport, PciTransport, QueueLayout, Registers, Transport, TransportError};
use std::cell::RefCell;
use std::rc::Rc;
use virtio_abi::mmio::InterruptStatus;
use virtio_abi::{DeviceType, Status};

/// A window of plain memory that notes every write as (offset, width, value), and may answer reads otherwise.
#[derive(Clone)]
struct Window {
    bytes: Rc<RefCell<Vec<u8>>>,
    writes: Rc<RefCell<Vec<(usize, usize, u32)>>>,
    /// Offsets that keep their value when written.
    read_only: Rc<RefCell<Vec<usize>>>,
}

impl Window {
    fn new(len: usize) -> Self {
        Self { bytes: Rc::new(RefCell::new(vec![0; len])), writes: Rc::default(), read_only: Rc::default() }
    }

    fn set(&self, offset: usize, value: u32, width: usize) -> &Self {
        self.bytes.borrow_mut()[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
        self
    }

    fn get(&self, offset: usize, width: usize) -> u32 {
        assert!(offset.is_multiple_of(width), "an unaligned access");
        let mut value = [0; 4];
        value[..width].copy_from_slice(&self.bytes.borrow()[offset..offset + width]);
        u32::from_le_bytes(value)
    }

    fn put(&self, offset: usize, value: u32, width: usize) {
        assert!(offset.is_multiple_of(width), "an unaligned access");
        self.writes.borrow_mut().push((offset, width, value));
        if !self.read_only.borrow().contains(&offset) {
            self.set(offset, value, width);
        }
    }

    fn take_writes(&self) -> Vec<(usize, usize, u32)> {
        self.writes.take()
    }
}

impl Registers for Window {
    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }
    fn read8(&self, offset: usize) -> u8 {
        self.get(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.get(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.get(offset, 4)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.put(offset, value.into(), 1);
    }
    fn write16(&self, offset: usize, value: u16) {
        self.put(offset, value.into(), 2);
    }
    fn write32(&self, offset: usize, value: u32) {
        self.put(offset, value, 4);
    }
}

const LAYOUT: QueueLayout = QueueLayout { size: 8, descriptors: 0x1_0000_2000, available: 0x3000, used: 0x3100 };

fn mmio() -> (Window, MmioTransport<Window>) {
    let window = Window::new(0x200);
    window.set(0, 0x7472_6976, 4).set(4, 2, 4).set(8, 2, 4).set(0x34, 256, 4);
    (window.clone(), MmioTransport::new(window).unwrap())
}

#[test]
fn mmio_refuses_what_is_no_device_of_version_2() {
    let error = |window: Window| MmioTransport::new(window).err();
    let short = TransportError::WindowTooShort { what: "virtio-mmio", len: 0xff, needed: 0x100 };
    assert_eq!(error(Window::new(0xff)), Some(short));
    assert_eq!(error(Window::new(0x200)), Some(TransportError::BadMagic { magic: 0 }));
    let legacy = Window::new(0x200);
    legacy.set(0, 0x7472_6976, 4).set(4, 1, 4);
    assert_eq!(error(legacy), Some(TransportError::BadVersion { version: 1 }));
}

#[test]
fn mmio_sets_a_queue_up_and_makes_it_ready_last() {
    let (window, mut transport) = mmio();
    assert_eq!((transport.device_type(), transport.max_queue_size(1)), (DeviceType::BLOCK, 256));
    window.take_writes();
    transport.set_queue(1, LAYOUT).unwrap();
    let expected = [
        (0x30, 4, 1),
        (0x38, 4, 8),
        (0x80, 4, 0x2000),
        (0x84, 4, 1),
        (0x90, 4, 0x3000),
        (0x94, 4, 0),
        (0xa0, 4, 0x3100),
        (0xa4, 4, 0),
        (0x44, 4, 1),
    ];
    assert_eq!(window.take_writes(), expected);
    assert_eq!(transport.set_queue(1, LAYOUT), Err(TransportError::QueueUnavailable { queue: 1 }));
    window.take_writes();
    transport.notify(1);
    assert_eq!(window.take_writes(), [(0x50, 4, 1)]);
}

/// Interrupt status and acknowledgement as a device has them; `coming` reasons come one after each acknowledgement.
struct Acknowledged {
    window: Window,
    coming: RefCell<Vec<u32>>,
}

const STATUS: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;

impl Registers for Acknowledged {
    fn len(&self) -> usize {
        self.window.len()
    }
    fn read8(&self, offset: usize) -> u8 {
        self.window.read8(offset)
    }
    fn read16(&self, offset: usize) -> u16 {
        self.window.read16(offset)
    }
    fn read32(&self, offset: usize) -> u32 {
        self.window.read32(offset)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.window.write8(offset, value);
    }
    fn write16(&self, offset: usize, value: u16) {
        self.window.write16(offset, value);
    }
    fn write32(&self, offset: usize, value: u32) {
        self.window.write32(offset, value);
        if offset == ACKNOWLEDGE {
            let next = self.coming.borrow_mut().pop().unwrap_or(0);
            self.window.set(STATUS, self.window.get(STATUS, 4) & !value | next, 4);
        }
    }
}

fn acknowledged(status: u32, coming: &[u32]) -> (Window, MmioTransport<Acknowledged>) {
    let (window, _) = mmio();
    window.set(STATUS, status, 4);
    let coming = RefCell::new(coming.iter().rev().copied().collect());
    (window.clone(), MmioTransport::new(Acknowledged { window, coming }).unwrap())
}

#[test]
fn mmio_acknowledges_exactly_what_it_saw() {
    let (window, mut transport) = acknowledged(0, &[]);
    assert_eq!(transport.take_interrupt(), InterruptStatus::empty());
    assert_eq!(window.take_writes(), [], "nothing to acknowledge");
    window.set(STATUS, 0xffff_fff1, 4);
    assert_eq!(transport.take_interrupt(), InterruptStatus::USED_BUFFER);
    assert_eq!(window.take_writes(), [(ACKNOWLEDGE, 4, 1)]);
}

#[test]
fn mmio_acknowledges_what_comes_in_between() {
    let (window, mut transport) = acknowledged(1, &[2, 0]);
    let both = InterruptStatus::USED_BUFFER | InterruptStatus::CONFIG_CHANGE;
    assert_eq!(transport.take_interrupt(), both);
    assert_eq!(window.take_writes(), [(ACKNOWLEDGE, 4, 1), (ACKNOWLEDGE, 4, 2)]);
    assert_eq!(window.get(STATUS, 4), 0, "the device raises its line again");
}

#[test]
fn mmio_acknowledges_a_device_that_never_ends_a_bounded_number_of_times() {
    let (window, mut transport) = acknowledged(1, &[1; 1000]);
    assert_eq!(transport.take_interrupt(), InterruptStatus::USED_BUFFER);
    assert_eq!(window.take_writes().len(), 8);
}

#[test]
fn mmio_features_and_status_go_both_ways() {
    let (window, mut transport) = mmio();
    transport.set_driver_features(0x1_0000_0020);
    assert_eq!(window.take_writes(), [(0x24, 4, 0), (0x20, 4, 0x20), (0x24, 4, 1), (0x20, 4, 1)]);
    window.set(0x10, 0x8000_0001, 4);
    assert_eq!(transport.device_features(), 0x8000_0001_8000_0001);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    assert_eq!(transport.status().bits(), 3);
}

#[test]
fn configuration_fields_are_accessed_in_their_width_and_not_outside() {
    let (window, mut transport) = mmio();
    window.set(0x104, 0x0403_0201, 4);
    let (mut one, mut two, mut four) = ([0; 1], [0; 2], [0; 4]);
    transport.read_config(5, &mut one);
    transport.read_config(6, &mut two);
    transport.read_config(4, &mut four);
    assert_eq!((one, two, four), ([2], [3, 4], [1, 2, 3, 4]));
    window.take_writes();
    transport.write_config(4, &[1, 0, 0, 0]);
    assert_eq!(window.take_writes(), [(0x104, 4, 1)]);
    assert_eq!(transport.config_len(), 0x100);
    transport.read_config(0x100, &mut four);
    assert_eq!(four, [0; 4]);
    transport.write_config(0xfe, &[1, 0, 0, 0]);
    assert_eq!(window.take_writes(), []);
}

struct Pci {
    common: Window,
    notify: Window,
    isr: Window,
}

fn pci(vectors: Option<Vectors>) -> (Pci, PciTransport<Window>) {
    let (common, notify, isr) = (Window::new(56), Window::new(64), Window::new(1));
    // num_queues 2, queue_size 256, queue_notify_off 3.
    common.set(18, 2, 2).set(24, 256, 2).set(30, 3, 2);
    let windows = Windows {
        common: common.clone(),
        notify: notify.clone(),
        notify_multiplier: 4,
        isr: isr.clone(),
        device: Some(Window::new(16)),
    };
    let transport = PciTransport::new(windows, DeviceType::NET, vectors).unwrap();
    (Pci { common, notify, isr }, transport)
}

#[test]
fn pci_sets_a_queue_up_with_its_vector_and_enables_it_last() {
    let (device, mut transport) = pci(Some(Vectors { config: 0, first_queue: 1, queues: 2 }));
    assert_eq!((transport.max_queue_size(1), transport.max_queue_size(2)), (256, 0));
    device.common.take_writes();
    transport.set_queue(1, LAYOUT).unwrap();
    let expected = [
        (22, 2, 1),
        (24, 2, 8),
        (32, 4, 0x2000),
        (36, 4, 1),
        (40, 4, 0x3000),
        (44, 4, 0),
        (48, 4, 0x3100),
        (52, 4, 0),
        (16, 2, 0),
        (26, 2, 2),
        (28, 2, 1),
    ];
    assert_eq!(device.common.take_writes(), expected);
    transport.notify(1);
    transport.notify(0);
    transport.notify(77);
    assert_eq!(device.notify.take_writes(), [(12, 2, 1)], "a queue that was not set up is not notified");
}

#[test]
fn pci_takes_the_queue_size_that_it_reads_back_or_refuses() {
    let (device, mut transport) = pci(None);
    assert_eq!(transport.set_queue_size(1, 8), Ok(8));
    device.common.set(24, 256, 2).read_only.borrow_mut().push(24);
    assert_eq!(transport.set_queue_size(1, 8), Ok(256), "the device keeps its own");
    for size in [0, 100] {
        device.common.set(24, size, 2);
        let error = TransportError::BadQueueSize { queue: 1, wanted: 8, size: size as u16 };
        assert_eq!(transport.set_queue_size(1, 8), Err(error));
    }
    assert_eq!(transport.set_queue_size(2, 8), Err(TransportError::QueueUnavailable { queue: 2 }));
}

#[test]
fn pci_refuses_windows_and_offsets_that_do_not_fit() {
    let windows = |common, notify, isr| Windows {
        common: Window::new(common),
        notify: Window::new(notify),
        notify_multiplier: 4,
        isr: Window::new(isr),
        device: None,
    };
    for (common, notify, isr) in [(55, 64, 1), (56, 1, 1), (56, 64, 0)] {
        let error = PciTransport::new(windows(common, notify, isr), DeviceType::NET, None).err();
        assert!(matches!(error, Some(TransportError::WindowTooShort { .. })));
    }
    let (device, mut transport) = pci(None);
    for offset in [16, 0x3fff, 0xffff] {
        device.common.set(30, offset, 2);
        let error = transport.set_queue(0, LAYOUT);
        assert!(matches!(error, Err(TransportError::WindowTooShort { what: "notification", .. })));
    }
    assert_eq!(transport.set_queue(2, LAYOUT), Err(TransportError::QueueUnavailable { queue: 2 }));
    device.common.set(30, 0, 2).set(28, 1, 2);
    assert_eq!(transport.set_queue(0, LAYOUT), Err(TransportError::QueueUnavailable { queue: 0 }));
}

#[test]
fn pci_says_when_a_vector_is_refused() {
    for (register, vector) in [(16, 5), (26, 6)] {
        let (device, mut transport) = pci(Some(Vectors { config: 5, first_queue: 6, queues: 1 }));
        device.common.set(register, 0xffff, 2);
        device.common.read_only.borrow_mut().push(register);
        assert_eq!(transport.set_queue(0, LAYOUT), Err(TransportError::VectorRefused { vector }));
        assert_eq!(device.common.get(28, 2), 0, "the queue is not enabled");
    }
}

#[test]
fn pci_reads_the_interrupt_status_and_takes_used_buffers_for_granted_with_vectors() {
    let (device, mut transport) = pci(None);
    assert_eq!(transport.take_interrupt(), InterruptStatus::empty());
    device.isr.set(0, 3, 1);
    assert_eq!(transport.take_interrupt(), InterruptStatus::USED_BUFFER | InterruptStatus::CONFIG_CHANGE);
    let (_, mut transport) = pci(Some(Vectors::shared(1)));
    assert_eq!(transport.take_interrupt(), InterruptStatus::USED_BUFFER);
}

#[test]
fn vectors_are_shared_by_queues_that_have_none() {
    let vectors = Vectors { config: 0, first_queue: 1, queues: 2 };
    assert_eq!([0, 1, 2, 9].map(|queue| vectors.queue(queue)), [1, 2, 2, 2]);
    assert_eq!(Vectors::shared(4), Vectors { config: 4, first_queue: 4, queues: 1 });
    assert_eq!(Vectors { config: 0, first_queue: 3, queues: 0 }.queue(7), 3);
}

#[test]
fn a_reset_forgets_queues_and_assigns_vectors_again() {
    let (device, mut transport) = pci(Some(Vectors::shared(1)));
    transport.set_queue(0, LAYOUT).unwrap();
    transport.set_status(Status::empty());
    transport.notify(0);
    assert_eq!(device.notify.take_writes(), []);
    device.common.set(28, 0, 2).take_writes();
    transport.set_queue(0, LAYOUT).unwrap();
    assert!(device.common.take_writes().contains(&(16, 2, 1)));
}
