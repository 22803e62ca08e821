//! Declarations in bytecode: as QEMU's microvm and Firecracker make them, and any bytes.

use crate::platform::aml::{start_of_package, virtio_mmio};
use crate::platform::mmio::Slot;
use proptest::prelude::*;
use pvops::event::Trigger;

/// A package length and what it is the length of.
fn package(content: &[u8]) -> Vec<u8> {
    let mut package = match content.len() {
        len @ 0..=62 => vec![len as u8 + 1],
        len @ 63..=4093 => vec![0x40 | (len + 2) as u8 & 0xf, ((len + 2) >> 4) as u8],
        len => vec![0x80 | (len + 3) as u8 & 0xf, ((len + 3) >> 4) as u8, ((len + 3) >> 12) as u8],
    };
    package.extend(content);
    package
}

fn block(op: &[u8], name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    [op, &package(&[&[name], parts].concat().concat())].concat()
}

fn scope(name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    block(&[0x10], name, parts)
}

fn device(name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    block(&[0x5b, 0x82], name, parts)
}

fn text(name: &[u8; 4], value: &str) -> Vec<u8> {
    [&[0x08], name.as_slice(), &[0x0d], value.as_bytes(), &[0]].concat()
}

/// `_CRS`, with its size as QEMU writes it: in as few bytes as it takes.
fn resources(descriptors: &[&[u8]]) -> Vec<u8> {
    let bytes = [&descriptors.concat(), [0x79, 0].as_slice()].concat();
    let buffer = [&[0x0a, bytes.len() as u8], bytes.as_slice()].concat();
    [b"\x08_CRS\x11".as_slice(), &package(&buffer)].concat()
}

fn memory(address: u32, size: u32) -> Vec<u8> {
    [&[0x86, 9, 0, 1], address.to_le_bytes().as_slice(), &size.to_le_bytes()].concat()
}

fn interrupt(flags: u8, line: u32) -> Vec<u8> {
    [&[0x89, 6, 0, flags, 1], line.to_le_bytes().as_slice()].concat()
}

fn virtio(name: &[u8], resources: &[u8]) -> Vec<u8> {
    // _UID and _CCA next to it.
    let integers = [b"\x08_UID\x0a\x07".as_slice(), b"\x08_CCA\x01"].concat();
    device(name, &[&text(b"_HID", "LNRO0005"), &integers, resources])
}

const SLOT: Slot = Slot { address: 0xfeb0_0000, size: 512, line: 16, trigger: Trigger::LevelHigh };

fn usual() -> Vec<u8> {
    resources(&[&memory(0xfeb0_0000, 512), &interrupt(0x01, 16)])
}

#[test]
fn devices_are_found_wherever_they_are_declared() {
    let second = virtio(b"VR01", &resources(&[&memory(0xfeb0_0200, 512), &interrupt(0x03, 17)]));
    let inner = device(b"BUS0", &[&text(b"_HID", "ACPI0004"), &virtio(b"VR00", &usual())]);
    let aml = scope(b"\\_SB_", &[&inner, &second]);
    let (slots, unread) = virtio_mmio(&aml);
    assert_eq!(slots, [SLOT, Slot { address: 0xfeb0_0200, size: 512, line: 17, trigger: Trigger::Edge }]);
    assert_eq!(unread, 0);
}

#[test]
fn what_takes_running_and_what_is_no_device_is_passed_over() {
    let method = block(&[0x14], b"_INI", &[&[0], b"\x70\x01\x60\xa4\x60".as_slice()]);
    let region = b"\x5b\x80REGI\x01\x0b\x00\x60\x0a\x10".to_vec();
    let field = block(&[0x5b, 0x81], b"REGI", &[b"\x01ABCD\x08"]);
    let name = b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00".to_vec();
    let other = device(b"COM1", &[&b"\x08_HID\x0c\x41\xd0\x05\x01"[..], &usual()]);
    let wide =
        scope(b"\x2f\x03_SB_PCI0ISA_", &[&[0x5b, 0x01], b"MUT0\x00", b"\x5b\x02EVT0", b"\x06^ALI1\\.".as_slice()]);
    let aml = [method, region, field, name, other, wide, scope(b"\x00", &[&virtio(b"VR00", &usual())])].concat();
    assert_eq!(virtio_mmio(&aml), (vec![SLOT], 0));
}

#[test]
fn other_kinds_of_descriptors_are_read_and_what_is_not_constant_is_counted() {
    let dwords = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let qwords = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let space32 = [&[0x87, 23, 0, 0, 0, 0], dwords(&[0, 0xd000_0000, 0xd000_0fff, 0, 0x1000]).as_slice()].concat();
    let space64 = [&[0x8a, 43, 0, 0, 0, 0], qwords(&[0, 1 << 36, (1 << 36) + 0xfff, 0, 0x1000]).as_slice()].concat();
    // A bus number range, a vendor's own, and an I/O port are none of it.
    let others =
        [&[0x87, 23, 0, 2, 0, 0], dwords(&[0; 5]).as_slice(), b"\x84\x02\x00xx\x47\x01\x60\x00\x60\x00\x01\x08"]
            .concat();
    let slots = |descriptors: &[&[u8]]| virtio_mmio(&virtio(b"V000", &resources(descriptors)));
    let at = |address: u64| Slot { address, size: 0x1000, line: 5, trigger: Trigger::LevelHigh };
    assert_eq!(slots(&[&others, &space32, &interrupt(1, 5)]), (vec![at(0xd000_0000)], 0));
    assert_eq!(slots(&[&interrupt(1, 5), &space64]), (vec![at(1 << 36)], 0));
    assert_eq!(slots(&[&space64]), (vec![], 1), "no interrupt");
    let triggers =
        [(0x01, Trigger::LevelHigh), (0x05, Trigger::Level), (0x03, Trigger::Edge), (0x07, Trigger::EdgeLow)];
    for (flags, trigger) in triggers {
        let slot = Slot { trigger, ..at(1 << 36) };
        assert_eq!(slots(&[&space64, &interrupt(flags, 5)]), (vec![slot], 0), "flags {flags:#x}");
    }
    let by_method = block(&[0x14], b"_CRS", &[&[0, 0xa4, 0x00]]);
    assert_eq!(virtio_mmio(&virtio(b"V000", &by_method)), (vec![], 1));
}

#[test]
fn the_first_elements_of_a_package_are_found_by_its_name_whatever_stands_before() {
    let s5 = |package: &[u8]| start_of_package(&[b"\xff\x70\x99\x08_S5_".as_slice(), package].concat(), b"_S5_");
    assert_eq!(s5(b"\x12\x06\x04\x0a\x05\x00\x00"), Some([Some(5), Some(0)]));
    assert_eq!(s5(b"\x12\x06\x04\x00\x00\x00\x00"), Some([Some(0), Some(0)]));
    assert_eq!(s5(b"\x12\x46\x00\x04\x01\x00\x00"), Some([Some(1), Some(0)]), "a length of two bytes");
    assert_eq!(s5(b"\x12\x02\x00"), Some([None, None]), "no element");
    assert_eq!(s5(b"\x12\x06\x04\x0a\x05\x0a\x06\x00"), Some([Some(5), Some(6)]));
    assert_eq!(s5(b"\x12\x04\x01\x0a\x05"), Some([Some(5), None]), "one element");
    assert_eq!(s5(b"\x12\x06\x04\xff\x00\x00\x00"), Some([None, Some(0)]), "all ones");
    assert_eq!(s5(b"\x0a\x05"), None, "no package");
    assert_eq!(start_of_package(b"\x12\x06", b"_S5_"), None, "no such name");
}

/// Scopes in scopes, with the device in the innermost.
fn nested(depth: usize) -> Vec<u8> {
    (0..depth).fold(virtio(b"VR00", &usual()), |inner, _| scope(b"DEEP", &[&inner]))
}

#[test]
fn depth_and_length_have_a_bound() {
    assert_eq!(virtio_mmio(&nested(5)).0.len(), 1);
    assert_eq!(virtio_mmio(&nested(2000)), (vec![], 0));
    let many = virtio(b"VR00", &usual()).repeat(5000);
    assert_eq!(virtio_mmio(&many).0.len(), 256);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (slots, _) = virtio_mmio(&bytes);
        let _ = start_of_package(&[b"_S5_", bytes.as_slice()].concat(), b"_S5_");
        prop_assert!(slots.len() <= bytes.len() / 20);
    }

    #[test]
    fn damaged_declarations_are_read_without_harm(at in 0_usize..150, value in any::<u8>(), cut in 0_usize..200) {
        let inner = device(b"BUS0", &[&virtio(b"VR00", &usual())]);
        let mut aml = [scope(b"\\_SB_", &[&inner, &virtio(b"VR01", &usual())]), nested(3)].concat();
        let len = aml.len();
        aml[at % len] = value;
        aml.truncate(len.max(cut) - cut);
        let (slots, unread) = virtio_mmio(&aml);
        prop_assert!(slots.len() + unread <= 3 + 1);
    }
}
