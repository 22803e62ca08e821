//! What a driver may do, in any order: single accesses of any kind, and whole steps of an orderly driver, without which no
//! sequence would come far.

use crate::virtio::harness::{DATA, SIZE};
use proptest::prelude::*;
use shared_abi::virtio::mmio::{CONFIG, Register};

/// RAM of the tests: below the device window, and above 4 GiB.
pub(super) const LOW_END: u64 = DATA + 0x4000;
pub(super) const HIGH: u64 = 1 << 32;
pub(super) const HIGH_END: u64 = HIGH + 0x8000;
/// Where the board has devices and no RAM.
const WINDOW: u64 = 0xd000_0000;

/// One thing that a driver does.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// It writes a register.
    Write(Register, u32),
    /// It writes bytes anywhere in the slot.
    WriteBytes { offset: u64, bytes: Vec<u8> },
    /// It writes into the configuration space.
    Config { offset: u64, bytes: Vec<u8> },
    /// It selects a queue and writes size and addresses, but not QueueReady.
    Place { queue: u32, size: u32, descriptors: u64, driver: u64, device: u64 },
    /// It selects a queue and sets it up where the tests have its rings.
    SetUp { queue: u32 },
    /// It takes a queue back, if it is live, and sets it up elsewhere.
    SetUpAt { queue: u32, size: u32, descriptors: u64, driver: u64, device: u64 },
    /// It makes a chain of one good buffer available.
    Request { queue: u32, head: u16, writable: bool },
    /// It negotiates those of the offered features that are in the mask.
    Negotiate { mask: u64 },
    /// From reset to DRIVER_OK.
    Start { mask: u64 },
    /// It writes a descriptor of the table where the tests have it.
    Descriptor { queue: u32, at: u16, address: u64, len: u32, flags: u16, next: u16 },
    /// It makes a chain available.
    Offer { queue: u32, head: u16 },
    /// It writes the index of the available ring.
    AvailableIndex { queue: u32, index: u16 },
    /// It writes into memory.
    Memory { address: u64, bytes: Vec<u8> },
    /// The worker serves a queue.
    Turn { queue: u32 },
    /// The worker serves the device's event source.
    Event,
}

fn queue() -> impl Strategy<Value = u32> {
    prop_oneof![20 => Just(0), 20 => 0u32..4, 1 => Just(4), 1 => Just(1 << 16), 1 => Just(u32::MAX)]
}

fn size() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => prop::sample::select(vec![1, 2, 4, 8, 16, 32, 64, 128, 256]),
        2 => prop::sample::select(vec![0, 3, 17, 255, 257, 512, 32768, 65535, 65536, 0x1_0010, u32::MAX]),
        1 => any::<u32>(),
    ]
}

/// Places of rings: good ones, and all ways in which one can be wrong.
fn address() -> impl Strategy<Value = u64> {
    let ends = vec![LOW_END, HIGH_END, HIGH, WINDOW, WINDOW + 0x10_0000, 1 << 63, u64::MAX, !0xfff, 0];
    prop_oneof![
        6 => (0u64..LOW_END / 0x1000).prop_map(|page| page * 0x1000),
        2 => (0u64..8).prop_map(|page| HIGH + page * 0x1000),
        2 => (0u64..LOW_END / 16).prop_map(|unit| unit * 16),
        2 => 0u64..LOW_END,
        // Around an end, so that the last byte of a ring is in or out.
        4 => (prop::sample::select(ends), 0u64..0x1100).prop_map(|(end, back)| end.wrapping_sub(back)),
        2 => (prop::sample::select(vec![16u64, 32, 256, 4096, 6 + 8, 6 + 8 * 16, 6 + 8 * 256, 6 + 2, 6 + 2 * 16, 6 + 2 * 256]))
            .prop_map(|len| LOW_END - len),
        1 => any::<u64>(),
    ]
}

/// A size and places that can be used, also those at the very end of RAM.
fn good_place() -> impl Strategy<Value = (u32, u64, u64, u64)> {
    let size = (0u32..9).prop_map(|power| 1u32 << power);
    size.prop_flat_map(|size| {
        let lens = [16 * u64::from(size), 6 + 2 * u64::from(size), 6 + 8 * u64::from(size)];
        let place = |len: u64, align: u64| {
            let last = |end: u64| (end - len) / align * align;
            prop_oneof![
                3 => (0..=last(LOW_END) / align).prop_map(move |unit| unit * align),
                2 => (HIGH / align..=last(HIGH_END) / align).prop_map(move |unit| unit * align),
                1 => Just(last(LOW_END)),
                1 => Just(last(HIGH_END)),
                1 => Just(HIGH),
            ]
        };
        (Just(size), place(lens[0], 16), place(lens[1], 2), place(lens[2], 4))
    })
}

fn register() -> impl Strategy<Value = Register> {
    let all: Vec<_> = (0..CONFIG).step_by(4).filter_map(Register::at).collect();
    prop::sample::select(all)
}

fn queue_register() -> impl Strategy<Value = Register> {
    prop::sample::select(vec![
        Register::QueueSize,
        Register::QueueDescLow,
        Register::QueueDescHigh,
        Register::QueueDriverLow,
        Register::QueueDriverHigh,
        Register::QueueDeviceLow,
        Register::QueueDeviceHigh,
        Register::QueueSel,
        Register::QueueReady,
        Register::QueueReset,
    ])
}

fn mask() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(u64::MAX), 2 => Just(!(1u64 << 29)), 1 => Just(!(1u64 << 40)), 1 => any::<u64>()]
}

pub(super) fn operation() -> impl Strategy<Value = Op> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9);
    let value =
        prop_oneof![4 => 0u32..4, 2 => size(), 1 => any::<u32>(), 2 => address().prop_map(|address| address as u32)];
    let status = prop_oneof![1 => Just(0u32), 6 => 0u32..256, 2 => Just(15), 1 => any::<u32>()];
    let at = || prop_oneof![6 => DATA..LOW_END - 600, 1 => address()];
    let any_place = || (size(), address(), address(), address());
    prop_oneof![
        4 => (register(), value.clone()).prop_map(|(register, value)| Op::Write(register, value)),
        6 => (queue_register(), value).prop_map(|(register, value)| Op::Write(register, value)),
        3 => queue().prop_map(|queue| Op::Write(Register::QueueSel, queue)),
        2 => size().prop_map(|size| Op::Write(Register::QueueSize, size)),
        3 => prop_oneof![9 => 0u32..2, 1 => any::<u32>()].prop_map(|ready| Op::Write(Register::QueueReady, ready)),
        1 => Just(Op::Write(Register::QueueReset, 1)),
        1 => status.prop_map(|status| Op::Write(Register::Status, status)),
        2 => queue().prop_map(|queue| Op::Write(Register::QueueNotify, queue)),
        1 => (0u64..CONFIG, bytes()).prop_map(|(offset, bytes)| Op::WriteBytes { offset, bytes }),
        1 => (prop_oneof![4 => 0u64..64, 1 => any::<u64>()], bytes())
            .prop_map(|(offset, bytes)| Op::Config { offset, bytes }),
        2 => (queue(), any_place()).prop_map(|(queue, (size, descriptors, driver, device))| {
            Op::Place { queue, size, descriptors, driver, device }
        }),
        1 => (queue(), any_place()).prop_map(|(queue, (size, descriptors, driver, device))| {
            Op::SetUpAt { queue, size, descriptors, driver, device }
        }),
        3 => (queue(), good_place()).prop_map(|(queue, (size, descriptors, driver, device))| {
            Op::SetUpAt { queue, size, descriptors, driver, device }
        }),
        2 => queue().prop_map(|queue| Op::SetUp { queue }),
        2 => mask().prop_map(|mask| Op::Negotiate { mask }),
        9 => mask().prop_map(|mask| Op::Start { mask }),
        9 => (0u32..4, 0..SIZE, any::<bool>()).prop_map(|(queue, head, writable)| Op::Request { queue, head, writable }),
        6 => (0..SIZE, any::<bool>()).prop_map(|(head, writable)| Op::Request { queue: 0, head, writable }),
        3 => (0u32..4, 0..SIZE, at(), prop_oneof![4 => 0u32..600, 1 => any::<u32>()], 0u16..8, 0..SIZE).prop_map(
            |(queue, at, address, len, flags, next)| Op::Descriptor { queue, at, address, len, flags, next }
        ),
        2 => (0u32..4, prop_oneof![20 => 0..SIZE, 1 => any::<u16>()])
            .prop_map(|(queue, head)| Op::Offer { queue, head }),
        3 => (0u32..4, any::<u16>()).prop_map(|(queue, index)| Op::AvailableIndex { queue, index }),
        2 => (0u64..LOW_END - 16, bytes()).prop_map(|(address, bytes)| Op::Memory { address, bytes }),
        20 => queue().prop_map(|queue| Op::Turn { queue }),
        1 => Just(Op::Event),
    ]
}
