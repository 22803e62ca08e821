//! Every device against a driver that fills its rings with anything: no panic, no hang, no byte written where no
//! descriptor points, and after a reset the device can be set up again.

use super::block::{Block, RawFile};
use super::console::Console;
use super::harness::{DATA, MEMORY, Rig, SIZE, available, descriptors, used};
use super::net::Net;
use super::net::stream::StreamLink;
use super::rng::Rng;
use super::{Progress, balloon::Balloon};
use crate::config::{Disk, DiskAccess};
use crate::devices::InputSink;
use crate::devices::output::Output;
use crate::vmm::GuestRam;
use proptest::prelude::*;
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::ring::{self, DescriptorFlags};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vm_memory::GuestAddress;
use vmm_sys_util::epoll::EventSet;

/// No descriptor of the tests points here.
const UNTOUCHED: u64 = MEMORY - 0x1000;

/// A descriptor: address, length, flags, next.
type Entry = (u64, u32, u16, u16);

fn entry() -> impl Strategy<Value = Entry> {
    let address = prop_oneof![
        8 => DATA..UNTOUCHED - 0x2_0000,
        // Tables of descriptors, for the indirect ones.
        4 => Just(descriptors(0)),
        1 => MEMORY..u64::MAX,
    ];
    let len = prop_oneof![4 => 0u32..2000, 2 => (1u32..16).prop_map(|n| n * 16), 1 => Just(u32::MAX)];
    // Mostly chains that end, so that the devices get to see them.
    let flags = prop_oneof![4 => Just(2u16), 3 => Just(0), 3 => Just(1), 1 => Just(3), 1 => 4u16..8];
    (address, len, flags, prop_oneof![20 => 0..SIZE, 1 => Just(SIZE)])
}

#[derive(Clone, Debug)]
enum Step {
    Kick { queue: u32, table: Vec<Entry>, heads: Vec<u16> },
    Event,
    Feed(Vec<u8>),
    Config(u64, u32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let table = prop::collection::vec(entry(), usize::from(SIZE));
    let heads = prop::collection::vec(prop_oneof![40 => 0..SIZE, 1 => Just(SIZE)], 0..12);
    prop_oneof![
        6 => (0u32..5, table, heads).prop_map(|(queue, table, heads)| Step::Kick { queue, table, heads }),
        2 => Just(Step::Event),
        2 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Step::Feed),
        1 => (0u64..32, any::<u32>()).prop_map(|(offset, value)| Step::Config(offset, value)),
        2 => Just(Step::Restart),
    ]
}

/// Drives a device through the steps; `feed` gives it bytes from outside.
fn drive(rig: &Rig, steps: Vec<Step>, mut feed: impl FnMut(&[u8])) {
    rig.put(UNTOUCHED, &[0x5a; 0x1000]);
    let restart = || {
        rig.write(Register::Status, 0);
        for queue in 0..rig.transport.queue_count() as u32 {
            rig.put(available(queue), &vec![0; ring::available_len(SIZE)]);
            rig.put(used(queue), &vec![0; ring::used_len(SIZE)]);
        }
        rig.start(u64::MAX);
        assert!(!rig.needs_reset());
    };
    restart();
    for step in steps {
        match step {
            Step::Kick { queue, table, heads } if (queue as usize) < rig.transport.queue_count() => {
                for (at, (address, len, flags, next)) in (0..).zip(table) {
                    let flags = DescriptorFlags::from_bits_retain(flags);
                    rig.put_descriptor(descriptors(queue), at, (address, len), flags, next);
                }
                heads.iter().for_each(|head| rig.offer(queue, *head));
                rig.kick(queue);
            }
            Step::Kick { queue, .. } => rig.kick(queue),
            Step::Event => while rig.transport.process_event(EventSet::IN | EventSet::OUT) == Progress::More {},
            Step::Feed(bytes) => feed(&bytes),
            Step::Config(offset, value) => {
                rig.transport.write(shared_abi::virtio::mmio::CONFIG + offset, &value.to_le_bytes());
            }
            Step::Restart => restart(),
        }
    }
    restart();
}

fn untouched(rig: &Rig) -> bool {
    rig.get(UNTOUCHED, 0x1000) == [0x5a; 0x1000]
}

fn output() -> Arc<Output> {
    Arc::new(Output::new(std::fs::File::options().write(true).open("/dev/null").unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn block_survives_any_rings(steps in prop::collection::vec(step(), 1..12), writes: bool) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * 512).unwrap();
        let access = if writes { DiskAccess::ReadWrite } else { DiskAccess::ReadOnly };
        let engine = RawFile::open(&Disk::at(file.path(), access)).unwrap();
        let rig = Rig::new(Block::new(Box::new(engine), access, "x"));
        drive(&rig, steps, |_| {});
        prop_assert!(untouched(&rig));
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), 64 * 512);
    }

    #[test]
    fn net_survives_any_rings(steps in prop::collection::vec(step(), 1..12)) {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let rig = Rig::new(Net::new(Box::new(StreamLink::new(ours).unwrap()), None));
        drive(&rig, steps, |bytes| {
            // Whatever the guest sent is taken, so that the link does not stay full.
            let _ = peer.read(&mut [0; 1 << 16]);
            let _ = peer.write_all(&(bytes.len() as u32).to_be_bytes()).and_then(|()| peer.write_all(bytes));
        });
        prop_assert!(untouched(&rig));
    }

    #[test]
    fn balloon_survives_any_rings(steps in prop::collection::vec(step(), 1..12)) {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let balloon = Balloon::new(&memory).unwrap();
        let handle = balloon.handle();
        // Any page may end up in the balloon, also the one that the other devices leave untouched.
        drive(&Rig::with_memory(balloon, memory), steps, |bytes| {
            handle.set_target(bytes.len() as u32);
        });
        prop_assert!(handle.numbers().returned_pages <= MEMORY / 4096);
    }

    #[test]
    fn console_survives_any_rings(steps in prop::collection::vec(step(), 1..12)) {
        let console = Console::new(output()).unwrap();
        let input = console.input();
        let rig = Rig::new(console);
        drive(&rig, steps, |bytes| {
            input.input(bytes);
        });
        prop_assert!(untouched(&rig));
    }

    #[test]
    fn rng_survives_any_rings(steps in prop::collection::vec(step(), 1..12)) {
        let rig = Rig::new(Rng::new());
        drive(&rig, steps, |_| {});
        prop_assert!(untouched(&rig));
    }
}
