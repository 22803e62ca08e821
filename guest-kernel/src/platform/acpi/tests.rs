//! The MCFG and the windows to configuration space that it describes: tables in a physical memory of our own, with whatever
//! bytes.

use crate::mm::BASE;
use crate::mm::Range;
use crate::platform::acpi::{PmTimer, bytecode, ecam, fadt, hpet, init, pm_timer, routing};
use crate::platform::pci::ecam::{BUS, Entry, Refusal, Window, offset, windows};
use pci_types::PciAddress;
use proptest::prelude::*;

const RSDP: usize = 0x100;
const XSDT: usize = 0x200;
const TABLE: usize = 0x1000;
const HEADER: usize = 36;
/// Up to where a machine of these tests has addresses.
const END: u64 = 1 << 40;

/// Lets the bytes from `start` add up to 0, for as many as there are of `len`, by the byte at `checksum`.
fn seal(memory: &mut [u8], start: usize, len: usize, checksum: usize) {
    memory[checksum] = 0;
    let end = (start + len).min(memory.len());
    let sum = memory[start..end].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    memory[checksum] = sum.wrapping_neg();
}

fn header(memory: &mut [u8], start: usize, signature: &[u8; 4], len: u32) {
    memory[start..start + 4].copy_from_slice(signature);
    memory[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    memory[start + 8] = 1;
    seal(memory, start, len as usize, start + 9);
}

/// A memory of `size` bytes whose root pointer leads to a table with a body; its length says `len`.
fn memory(size: usize, signature: &[u8; 4], body: &[u8], len: u32) -> Vec<u8> {
    let mut memory = vec![0; size];
    memory[RSDP..RSDP + 8].copy_from_slice(b"RSD PTR ");
    memory[RSDP + 15] = 2;
    memory[RSDP + 20] = 36;
    memory[RSDP + 24..RSDP + 32].copy_from_slice(&(XSDT as u64).to_le_bytes());
    seal(&mut memory, RSDP, 20, RSDP + 8);
    seal(&mut memory, RSDP, 36, RSDP + 32);
    memory[XSDT + HEADER..XSDT + HEADER + 8].copy_from_slice(&(TABLE as u64).to_le_bytes());
    header(&mut memory, XSDT, b"XSDT", HEADER as u32 + 8);
    let end = (TABLE + HEADER + body.len()).min(size);
    memory[TABLE + HEADER..end].copy_from_slice(&body[..end - TABLE - HEADER]);
    header(&mut memory, TABLE, signature, len);
    memory
}

/// What the kernel reads out of it.
fn windows_of(memory: &[u8]) -> Vec<Entry> {
    BASE.set(memory.as_ptr().addr());
    init(RSDP as u64);
    ecam()
}

/// The MCFG's body: 8 reserved bytes, then the entries.
fn body(entries: &[Entry]) -> Vec<u8> {
    let mut body = vec![0; 8];
    for entry in entries {
        body.extend(entry.base.to_le_bytes());
        body.extend(entry.segment.to_le_bytes());
        body.extend([entry.first, entry.last, 0, 0, 0, 0]);
    }
    body
}

fn mcfg(entries: &[Entry]) -> Vec<u8> {
    let body = body(entries);
    memory(0x4000, b"MCFG", &body, (HEADER + body.len()) as u32)
}

fn entry(base: u64, segment: u16, first: u8, last: u8) -> Entry {
    Entry { base, segment, first, last }
}

const RAM: [Range; 2] = [Range { start: 0x1000, end: 0x9f000 }, Range { start: 0x10_0000, end: 0x800_0000 }];

fn used_and_refused(entries: &[Entry]) -> (Vec<Window>, Vec<Refusal>) {
    let (used, refused) = windows(entries, &RAM, END, |_| true);
    (used, refused.into_iter().map(|(_, why)| why).collect())
}

#[test]
fn the_entries_of_a_table_are_returned_as_they_are() {
    let entries = [entry(0xb000_0000, 0, 0, 255), entry(0x40_0000_0000, 1, 0x10, 0x1f)];
    assert_eq!(windows_of(&mcfg(&entries)), entries);
    assert_eq!(windows_of(&mcfg(&[])), []);
    let mut damaged = mcfg(&entries);
    damaged[TABLE + HEADER + 12] ^= 1;
    assert_eq!(windows_of(&damaged), [], "the checksum does not hold");
    assert_eq!(windows_of(&memory(0x4000, b"HPET", &body(&entries), 76)), [], "another table");
    assert!(routing().is_none(), "no MADT either");
}

#[test]
fn a_length_without_a_table_in_it_is_no_table() {
    for len in [0, 1, 35, 36, 43] {
        assert_eq!(windows_of(&memory(0x4000, b"MCFG", &[0xff; 64], len)), [], "{len} bytes");
    }
    assert_eq!(windows_of(&memory(0x4000, b"MCFG", &[0xff; 64], 44)), [], "no entries");
    for len in [(16 << 20) + 1, u32::MAX] {
        // The memory is as large as what is mapped of it at most.
        assert_eq!(windows_of(&memory(TABLE + (16 << 20), b"MCFG", &[0xff; 64], len)), [], "{len} bytes");
    }
}

#[test]
fn registers_are_found_by_bus_device_and_function_from_bus_0_on() {
    // A host bridge with the buses from 0x40 on: the address is that of bus 0 nevertheless.
    let (used, refused) = used_and_refused(&[entry(0xe000_0000, 0, 0x40, 0x7f)]);
    assert_eq!(refused, []);
    let window = used[0];
    assert_eq!((window.bus(0x3f), window.bus(0x80)), (None, None));
    assert_eq!((window.bus(0x40), window.bus(0x7f)), (Some(0xe400_0000), Some(0xe7f0_0000)));
    assert_eq!(offset(PciAddress::new(0, 0x41, 31, 7), 0xffc), 0xf_fffc);
    assert_eq!(offset(PciAddress::new(0, 0x41, 2, 1), 0x10), 0x1_1010);
}

#[test]
fn windows_that_cannot_be_are_refused_with_the_reason() {
    for (entry, why) in [
        (entry(0xb000_0000, 0, 1, 0), Refusal::NoBuses),
        (entry(0xb008_0000, 0, 0, 255), Refusal::Unaligned),
        (entry(END - 255 * BUS, 0, 0, 255), Refusal::TooHigh),
        (entry(0xffff_ffff_fff0_0000, 0, 1, 255), Refusal::TooHigh),
        (entry(0, 0, 0, 255), Refusal::Ram),
        (entry(0x0070_0000, 0, 0, 0), Refusal::Ram),
    ] {
        assert_eq!(used_and_refused(&[entry]), (vec![], vec![why]), "{entry:x?}");
    }
    // Up to the end, and from the end of the RAM on.
    for fits in [entry(END - 256 * BUS, 0, 0, 255), entry(0x800_0000, 0, 0, 0), entry(0, 0, 0x80, 0xff)] {
        assert_eq!(used_and_refused(&[fits]).1, [], "{fits:x?}");
    }
    let twice = [entry(0xb000_0000, 0, 0, 0x7f), entry(0xd000_0000, 0, 0x7f, 0xff), entry(0xe000_0000, 0, 0x80, 0xff)];
    let (used, refused) = used_and_refused(&twice);
    assert_eq!((used[0].first, used[1].first, refused), (0, 0x80, vec![Refusal::Twice]));
    let (used, refused) = windows(&twice[..1], &RAM, END, |_| false);
    assert_eq!((used, refused), (vec![], vec![(twice[0], Refusal::OtherThanPorts)]));
    assert_eq!(used_and_refused(&[entry(0, 7, 1, 0)]), (vec![], vec![]), "another segment group is not ours");
}

proptest! {
    #[test]
    fn no_bytes_of_a_table_stop_the_kernel(
        body in prop::collection::vec(any::<u8>(), 0..600),
        len in prop_oneof![0..700_u32, 0..0x3000_u32, any::<u32>()],
        signature in prop_oneof![4 => Just(*b"MCFG"), 1 => any::<[u8; 4]>()],
    ) {
        // A length that is believed is one that is mapped.
        let size = if len as usize <= 16 << 20 { TABLE + (16 << 20) } else { 0x4000 + TABLE };
        let size = if len < 0x3000 { 0x5000 } else { size };
        let memory = memory(size, &signature, &body, len);
        let entries = windows_of(&memory);
        prop_assert!(entries.len() <= 256);
        windows(&entries, &RAM, END, |_| true);
    }

    #[test]
    fn windows_that_are_used_lie_apart_from_each_other_and_from_ram(
        entries in prop::collection::vec(
            (prop_oneof![(0..64_u64).prop_map(|bus| bus * BUS), (0..END / BUS + 300).prop_map(|bus| bus * BUS), any::<u64>()],
             0..2_u16, any::<u8>(), any::<u8>())
                .prop_map(|(base, segment, first, last)| entry(base, segment, first, last)),
            0..40,
        ),
    ) {
        let (used, refused) = windows(&entries, &RAM, END, |_| true);
        prop_assert_eq!(used.len() + refused.len(), entries.iter().filter(|entry| entry.segment == 0).count());
        for bus in 0..=255 {
            let places: Vec<u64> = used.iter().filter_map(|window| window.bus(bus)).collect();
            prop_assert!(places.len() <= 1, "one window has the bus");
            for place in places {
                prop_assert!(place % BUS == 0 && place + BUS <= END);
                prop_assert!(RAM.iter().all(|ram| place + BUS <= ram.start || ram.end <= place));
            }
        }
    }
}

/// Offsets in a FADT (ACPI 6.5, table 5.9).
mod at {
    pub(super) const DSDT: usize = 40;
    pub(super) const PM_TIMER: usize = 76;
    pub(super) const PM_TIMER_LENGTH: usize = 91;
    pub(super) const FLAGS: usize = 112;
    /// What ACPI 2 added begins here.
    pub(super) const X_FIELDS: usize = 132;
}

/// A FADT of `len` bytes that claims ACPI 6 and is followed by bytes that do not belong to it.
fn fadt_memory(len: usize) -> Vec<u8> {
    const LONGEST: usize = 276;
    const DSDT: usize = 0x3000;
    let mut table = vec![0; LONGEST];
    table[at::DSDT..at::DSDT + 4].copy_from_slice(&(DSDT as u32).to_le_bytes());
    table[at::PM_TIMER..at::PM_TIMER + 4].copy_from_slice(&0x608_u32.to_le_bytes());
    table[at::PM_TIMER_LENGTH] = 4;
    table[at::FLAGS + 1] = 1;
    table[len..].fill(0xa5);
    let mut memory = memory(0x4000, b"FACP", &table[HEADER..], len as u32);
    memory[TABLE + 8] = 6;
    seal(&mut memory, TABLE, len, TABLE + 9);
    memory[DSDT + HEADER..DSDT + HEADER + 3].copy_from_slice(&[0x10, 0x20, 0x30]);
    header(&mut memory, DSDT, b"DSDT", HEADER as u32 + 3);
    memory
}

#[test]
fn fields_that_a_short_fadt_lacks_are_zeroes() {
    // 116 bytes are ACPI 1's, 244 those of ACPI 2 to 4; a short one with a high revision number is Bochs'.
    for len in [116, 132, 244, 276] {
        let memory = fadt_memory(len);
        BASE.set(memory.as_ptr().addr());
        init(RSDP as u64);
        let Some(fadt) = fadt() else { panic!("{len} bytes: no FADT") };
        assert!(fadt.reset_register().is_ok_and(|register| register.address == 0), "{len}");
        assert!(fadt.sleep_control_register().is_ok_and(|register| register.is_none_or(|it| it.address == 0)), "{len}");
        assert_eq!(fadt.dsdt_address().ok(), Some(0x3000), "{len}: of the old field, the new one at {}", at::X_FIELDS);
        assert_eq!(pm_timer(), Some(PmTimer { port: 0x608, mask: u32::MAX }), "{len}");
        assert_eq!(bytecode(), Some(&[0x10, 0x20, 0x30][..]), "{len}");
    }
}

#[test]
fn a_dsdt_of_impossible_length_is_none() {
    for len in [0, 35, u32::MAX] {
        let mut memory = fadt_memory(244);
        memory[0x3004..0x3008].copy_from_slice(&len.to_le_bytes());
        BASE.set(memory.as_ptr().addr());
        init(RSDP as u64);
        assert_eq!(bytecode(), None, "{len}");
    }
}

#[test]
fn an_hpet_is_where_its_table_says_and_in_memory_only() {
    let found = |space: u8, base: u64, len: u32| {
        let mut body = vec![0; 20];
        body[4] = space;
        body[8..16].copy_from_slice(&base.to_le_bytes());
        let memory = memory(0x4000, b"HPET", &body, len);
        BASE.set(memory.as_ptr().addr());
        init(RSDP as u64);
        hpet()
    };
    assert_eq!(found(0, 0xfed0_0000, 56), Some(0xfed0_0000));
    assert_eq!(found(1, 0xfed0_0000, 56), None, "at a port");
    assert_eq!(found(0, 0, 56), None);
    assert_eq!(found(0, 0xfed0_0000, 40), None, "too short");
}

#[test]
fn tables_outside_of_the_address_space_are_none() {
    let mut memory = mcfg(&[entry(0xb000_0000, 0, 0, 255)]);
    for (at, len, checksum) in [(XSDT + HEADER, HEADER + 8, XSDT + 9), (RSDP + 24, 36, RSDP + 32)] {
        memory[at..at + 8].copy_from_slice(&(u64::MAX - 0xfff).to_le_bytes());
        seal(&mut memory, if at == RSDP + 24 { RSDP } else { XSDT }, len, checksum);
        assert_eq!(windows_of(&memory), [], "the address at {at:#x}");
    }
    init(1 << 60);
    assert_eq!(ecam(), []);
    let mut memory = fadt_memory(116);
    memory[TABLE + at::DSDT..TABLE + at::DSDT + 4].fill(0);
    seal(&mut memory, TABLE, 116, TABLE + 9);
    BASE.set(memory.as_ptr().addr());
    init(RSDP as u64);
    assert_eq!(bytecode(), None, "a DSDT at 0");
}
