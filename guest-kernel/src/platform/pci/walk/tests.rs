//! The walk over PCI buses and the reading of BARs, on configuration spaces made by hand.

use crate::platform::pci::bars;
use crate::platform::pci::walk::{Walk, walk};
use pci_types::{ConfigRegionAccess, EndpointHeader, PciAddress, PciHeader};
use std::cell::RefCell;
use std::collections::BTreeMap;

const VIRTIO: u32 = 0x1042_1af4;
const OTHER: u32 = 0x1237_8086;
const OPEN: u32 = 0b110;
const MULTIFUNCTION: u32 = 1 << 23;

/// A register: its value, and which bits can be written.
type Space = BTreeMap<u16, (u32, u32)>;

/// Configuration spaces by address; all ones elsewhere.
#[derive(Default)]
struct Machine(RefCell<BTreeMap<PciAddress, Space>>);

impl ConfigRegionAccess for Machine {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let functions = self.0.borrow();
        functions.get(&address).map_or(u32::MAX, |space| space.get(&offset).map_or(0, |register| register.0))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        if let Some((old, mask)) = self.0.borrow_mut().get_mut(&address).and_then(|space| space.get_mut(&offset)) {
            *old = *old & !*mask | value & *mask;
        }
    }
}

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, bus, device, function)
}

impl Machine {
    fn add(&self, address: PciAddress, registers: &[(u16, u32, u32)]) {
        let space = registers.iter().map(|&(offset, value, mask)| (offset, (value, mask))).collect();
        self.0.borrow_mut().insert(address, space);
    }

    fn endpoint(&self, address: PciAddress, ids: u32) {
        self.add(address, &[(0, ids, 0), (4, 0, 0xffff)]);
    }

    fn bridge(&self, address: PciAddress, secondary: u8) {
        let buses = u32::from(secondary) << 8 | u32::from(address.bus());
        self.add(address, &[(0, OTHER, 0), (4, 0, 0xffff), (0xc, 1 << 16, 0), (0x18, buses, u32::MAX)]);
    }

    fn is_open(&self, bridge: PciAddress) -> bool {
        // SAFETY: memory of ours.
        unsafe { self.read(bridge, 4) & OPEN == OPEN }
    }

    fn walk(&self) -> Walk {
        self.walk_from(&[0])
    }

    fn walk_from(&self, roots: &[u8]) -> Walk {
        walk(self, roots, |vendor, device| vendor == 0x1af4 && device >= 0x1000)
    }
}

fn addresses(walk: &Walk) -> Vec<PciAddress> {
    walk.functions.iter().map(|found| found.address).collect()
}

#[test]
fn devices_below_nested_bridges_are_found_and_the_way_to_them_is_opened() {
    let machine = Machine::default();
    machine.endpoint(at(0, 0, 0), OTHER);
    machine.endpoint(at(0, 3, 0), VIRTIO);
    machine.bridge(at(0, 4, 0), 1);
    machine.bridge(at(0, 5, 0), 7);
    machine.bridge(at(1, 0, 0), 2);
    machine.endpoint(at(2, 31, 0), VIRTIO);
    machine.endpoint(at(7, 0, 0), OTHER);
    let found = machine.walk();
    assert_eq!(addresses(&found), [at(0, 3, 0), at(2, 31, 0)]);
    assert_eq!((found.functions[1].vendor, found.functions[1].device), (0x1af4, 0x1042));
    assert!(found.unnumbered.is_empty());
    assert!(machine.is_open(at(0, 4, 0)) && machine.is_open(at(1, 0, 0)));
    assert!(!machine.is_open(at(0, 5, 0)), "no device of ours is below it");
}

#[test]
fn functions_beyond_the_first_count_where_the_device_says_that_it_has_them() {
    let machine = Machine::default();
    machine.add(at(0, 1, 0), &[(0, OTHER, 0), (0xc, MULTIFUNCTION, 0)]);
    machine.endpoint(at(0, 1, 7), VIRTIO);
    machine.endpoint(at(0, 2, 0), OTHER);
    machine.endpoint(at(0, 2, 1), VIRTIO);
    assert_eq!(addresses(&machine.walk()), [at(0, 1, 7)]);
}

#[test]
fn a_bridge_without_a_number_or_in_a_loop_is_reported_and_the_walk_ends() {
    let machine = Machine::default();
    machine.bridge(at(0, 1, 0), 0);
    machine.bridge(at(0, 2, 0), 5);
    machine.bridge(at(5, 0, 0), 5);
    machine.bridge(at(5, 1, 0), 6);
    machine.bridge(at(6, 0, 0), 5);
    machine.endpoint(at(6, 1, 0), VIRTIO);
    let found = machine.walk();
    assert_eq!(found.unnumbered, [at(0, 1, 0), at(5, 0, 0), at(6, 0, 0)]);
    assert_eq!(addresses(&found), [at(6, 1, 0)]);
}

#[test]
fn each_host_bridge_s_buses_are_walked_once_and_in_their_order() {
    let machine = Machine::default();
    machine.bridge(at(0, 1, 0), 0x10);
    machine.endpoint(at(0x10, 0, 0), VIRTIO);
    machine.endpoint(at(0x40, 0, 0), VIRTIO);
    // It leads back to a bus of another host bridge, which is walked already.
    machine.bridge(at(0x40, 1, 0), 0x10);
    machine.bridge(at(0x40, 2, 0), 0x41);
    machine.endpoint(at(0x41, 0, 0), VIRTIO);
    let found = machine.walk_from(&[0, 0x10, 0x40, 0, 0xff]);
    assert_eq!(addresses(&found), [at(0x10, 0, 0), at(0x40, 0, 0), at(0x41, 0, 0)]);
    assert_eq!(found.unnumbered, [at(0x40, 1, 0)]);
    assert!(machine.is_open(at(0, 1, 0)), "a bus that a bridge leads to is below it, root or not");
    assert_eq!(addresses(&machine.walk_from(&[])), []);
}

fn memory_bars(machine: &Machine, address: PciAddress) -> [Option<(u64, u64)>; 6] {
    let header = EndpointHeader::from_header(PciHeader::new(address), machine).unwrap();
    bars::memory(&header, machine)
}

#[test]
fn a_64_bit_bar_above_4_gib_is_read_and_keeps_its_address() {
    let machine = Machine::default();
    let registers = [
        (0, VIRTIO, 0),
        // 32 bits, 4 KiB; ports; 64 bits, prefetchable, 16 KiB at 0x8_c000_0000; none; 32 bits.
        (0x10, 0xfebd_0000, 0xffff_f000),
        (0x14, 0xc001, 0xffff_ffe0),
        (0x18, 0xc000_000c, 0xffff_c000),
        (0x1c, 8, u32::MAX),
        (0x24, 0, 0xffff_0000),
    ];
    machine.add(at(0, 3, 0), &registers);
    let expected = [Some((0xfebd_0000, 0x1000)), None, Some((0x8_c000_0000, 0x4000)), None, None, Some((0, 0x1_0000))];
    assert_eq!(memory_bars(&machine, at(0, 3, 0)), expected);
    for (offset, value, _) in registers {
        // SAFETY: memory of ours.
        assert_eq!(unsafe { machine.read(at(0, 3, 0), offset) }, value, "register {offset:#x} is as it was");
    }
}

#[test]
fn bars_of_kinds_that_do_not_exist_are_left_alone() {
    let machine = Machine::default();
    // Two reserved kinds, and a BAR of 64 bits in the last register.
    machine
        .add(at(0, 3, 0), &[(0, VIRTIO, 0), (0x10, 0b110, u32::MAX), (0x14, 0b010, u32::MAX), (0x24, 0b100, u32::MAX)]);
    assert_eq!(memory_bars(&machine, at(0, 3, 0)), [None; 6]);
}
