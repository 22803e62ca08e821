//! Each kind of lie is as described, the same seed gives the same lies, and no lie writes beyond the driver's buffers.

use super::Hostile;
use crate::config::hostile::{Options, TYPES};
use crate::config::lie::Lie;
use crate::config::{Disk, DiskAccess, Mac};
use crate::devices::output::Output;
use crate::virtio::Device;
use crate::virtio::balloon::{Balloon, BalloonHandle};
use crate::virtio::block::{Block, RawFile};
use crate::virtio::harness::{DATA, MEMORY, READ, Rig, SIZE, WRITE, available, descriptors, used};
use crate::virtio::net::Net;
use crate::virtio::net::stream::StreamLink;
use crate::virtio::rng::Rng;
use crate::vmm::GuestRam;
use shared_abi::virtio::mmio::{InterruptStatus, Register};
use shared_abi::virtio::ring::{UsedElement, available_len, used_len};
use shared_abi::virtio::{CommonFeatures, DeviceType, Status};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vm_memory::GuestAddress;
use vmm_sys_util::epoll::EventSet;

/// A machine with one hostile device, and what it writes down.
struct Machine {
    rig: Rig,
    hostile: Hostile,
    log: Arc<Output>,
}

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap()
}

impl Machine {
    fn new(options: Options, device: impl Device + 'static, balloon: Option<&BalloonHandle>) -> Self {
        let log = Arc::new(Output::kept());
        let mut hostile = Hostile::new(options, Some(log.clone()));
        let name = device.device_type().name();
        let rig = Rig::made(memory(), |line| hostile.device(name, Box::new(device), line, balloon));
        let rig = rig.behind(|transport| hostile.slot(&transport, transport.clone()));
        Self { rig, hostile, log }
    }

    /// An entropy device that tells this kind of lie at every chance.
    fn rng(seed: u64, lie: Lie) -> Self {
        Self::new(always(seed, lie), Rng::new(), None)
    }

    /// The same, at work.
    fn running_rng(seed: u64, lie: Lie) -> Self {
        let machine = Self::rng(seed, lie);
        machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
        machine.rig.edges.take();
        machine
    }

    fn told(&self, lie: Lie) -> u64 {
        let liar = self.hostile.liar(self.rig.transport.name()).unwrap();
        liar.told().find(|(told, _)| *told == lie).map_or(0, |(_, count)| count)
    }

    fn request(&self) -> Option<UsedElement> {
        self.rig.request(0, &[(DATA, 8, WRITE)])
    }
}

fn always(seed: u64, lie: Lie) -> Options {
    Options { lies: Some(vec![lie]), rate: 1, ..Options::new(seed) }
}

/// What `look` sees with each of some seeds; that is not the same for all, unless it is for any.
fn seeds<R>(look: impl Fn(u64) -> R) -> Vec<R> {
    (0..40).map(look).collect()
}

#[test]
fn identity_is_wrong() {
    let ids = seeds(|seed| Machine::rng(seed, Lie::Identity).rig.read(Register::DeviceId));
    assert!(ids.iter().all(|id| *id != DeviceType::RNG.0) && ids.contains(&0), "{ids:?}");
}

#[test]
fn features_change_between_reads_and_are_accepted_without_being_there() {
    let packed = CommonFeatures::RING_PACKED.bits();
    let mut differences = 0;
    for seed in 0..40 {
        let machine = Machine::rng(seed, Lie::Features);
        let offered = [machine.rig.offered(), machine.rig.offered()];
        assert!(offered.iter().all(|offered| offered & packed == 0), "rings of another layout would lie elsewhere");
        differences += u32::from(offered[0] != offered[1]);
        let all = offered[0] | offered[1] | CommonFeatures::VERSION_1.bits();
        assert!(machine.rig.negotiate(all), "{offered:x?}");
    }
    assert!(differences > 30, "{differences}");
}

#[test]
fn features_ok_is_refused() {
    let machine = Machine::rng(0, Lie::FeaturesRefused);
    assert!(!machine.rig.negotiate(CommonFeatures::VERSION_1.bits()));
    assert_eq!(machine.told(Lie::FeaturesRefused), 1);
}

#[test]
fn status_is_not_what_was_written() {
    let odd = seeds(|seed| {
        let machine = Machine::rng(seed, Lie::Status);
        machine.rig.write(Register::Status, 1);
        machine.rig.read(Register::Status)
    });
    assert!(odd.iter().filter(|status| **status != 1).count() > 25, "{odd:?}");
}

#[test]
fn reset_is_not_confirmed_for_a_while_or_never_but_the_device_has_let_go() {
    let polls = seeds(|seed| {
        let machine = Machine::running_rng(seed, Lie::Reset);
        machine.rig.write(Register::Status, 0);
        assert_eq!(machine.rig.transport.status(), Status::empty());
        assert!(machine.request().is_none(), "it has no queues any more");
        (0..2000).find(|_| machine.rig.read(Register::Status) == 0)
    });
    assert!(polls.contains(&None) && polls.iter().flatten().any(|poll| *poll > 0), "{polls:?}");
    // What has nothing to forget has nothing to ignore.
    let machine = Machine::rng(0, Lie::Reset);
    machine.rig.write(Register::Status, 0);
    assert_eq!((machine.rig.status(), machine.told(Lie::Reset)), (Status::empty(), 0));
}

#[test]
fn a_reset_is_asked_for() {
    let machine = Machine::running_rng(0, Lie::NeedsReset);
    assert!(!machine.rig.needs_reset() && machine.request().is_some() && machine.rig.needs_reset());
    assert!(machine.rig.transport.fault().is_some_and(|fault| fault.contains("without a reason")));
}

#[test]
fn queue_registers_are_odd() {
    let sizes = seeds(|seed| Machine::rng(seed, Lie::QueueSize).rig.read(Register::QueueSizeMax));
    assert!([0, 3, 65535].iter().all(|odd| sizes.contains(odd)) && !sizes.contains(&256), "{sizes:?}");
    assert_eq!(Machine::rng(0, Lie::QueueReady).rig.read(Register::QueueReady), 1);
}

fn balloon(seed: u64, lie: Lie) -> (Machine, BalloonHandle) {
    let balloon = Balloon::new(&memory()).unwrap();
    let handle = balloon.handle();
    (Machine::new(always(seed, lie), balloon, Some(&handle)), handle)
}

#[test]
fn configuration_changes_with_and_without_its_generation() {
    let look = |seed, lie| {
        let (machine, _) = balloon(seed, lie);
        machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
        let (generation, edges) = (machine.rig.read(Register::ConfigGeneration), machine.rig.edges.take());
        machine.rig.request(0, &[(DATA, 4, READ)]);
        let mut config = [0; 16];
        machine.rig.config(0, &mut config);
        let same = machine.rig.read(Register::ConfigGeneration) == generation;
        machine.rig.write(Register::Status, 0);
        let mut after = [0; 16];
        machine.rig.transport.read(0x100, &mut after);
        assert_eq!(after, [0; 16], "a reset ends it");
        (config != [0; 16], same, machine.rig.edges.take() > edges)
    };
    let changes = seeds(|seed| look(seed, Lie::ConfigChange));
    assert!(changes.iter().all(|change| !change.1) && changes.iter().any(|change| change.0), "{changes:?}");
    let values = seeds(|seed| look(seed, Lie::ConfigValue));
    assert!(values.iter().all(|value| value.1) && values.iter().any(|value| value.0), "{values:?}");
    let generations = seeds(|seed| look(seed, Lie::Generation));
    assert!(generations.iter().all(|generation| !generation.0 && !generation.1), "{generations:?}");
    let (machine, _) = balloon(0, Lie::ConfigInterrupt);
    machine.rig.start(u64::MAX);
    assert_eq!(machine.rig.edges.take(), 0, "there was no request yet");
    machine.rig.request(0, &[(DATA, 4, READ)]);
    assert_eq!(machine.rig.read(Register::InterruptStatus) & InterruptStatus::CONFIG_CHANGE.bits(), 2);
}

#[test]
fn used_elements_are_wrong() {
    let ids = seeds(|seed| {
        let machine = Machine::running_rng(seed, Lie::UsedId);
        (machine.request().unwrap().id, machine.rig.used_index(0), machine.rig.edges.take())
    });
    assert!(ids.contains(&(0, 2, 1)), "the same twice: {ids:?}");
    assert!([1, 16, 23, 0x1_0000, u32::MAX].iter().all(|id| ids.contains(&(*id, 1, 1))), "{ids:?}");
    let lengths = seeds(|seed| Machine::running_rng(seed, Lie::UsedLength).request().unwrap().len);
    assert!([0, 9, u32::MAX].iter().all(|len| lengths.contains(len)) && !lengths.contains(&8), "{lengths:?}");
    let indices = seeds(|seed| {
        let machine = Machine::running_rng(seed, Lie::UsedIndex);
        machine.request();
        machine.rig.used_index(0)
    });
    assert!([0, 2, 18, 0x8001].iter().all(|index| indices.contains(index)) && !indices.contains(&1), "{indices:?}");
}

#[test]
fn used_index_is_right_again_with_the_next_chain() {
    let options = Options { rate: 2, ..always(3, Lie::UsedIndex) };
    let machine = Machine::new(options, Rng::new(), None);
    machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
    let (mut right, mut wrong) = (0, 0);
    for round in 1..=100 {
        machine.request();
        if machine.rig.used_index(0) == round { right += 1 } else { wrong += 1 }
    }
    assert!(right > 20 && wrong > 20, "{right} {wrong}");
}

#[test]
fn chains_come_late_never_or_after_the_next() {
    let machine = Machine::running_rng(0, Lie::Late);
    assert!(machine.request().is_none());
    machine.hostile.fire();
    assert_eq!((machine.rig.used_index(0), machine.rig.used(0, 0).len, machine.rig.edges.take()), (1, 8, 1));
    // A driver that has taken the queue back gets nothing of what was before.
    let machine = Machine::running_rng(0, Lie::Late);
    machine.request();
    machine.rig.write(Register::Status, 0);
    machine.rig.set_available_index(0, 0);
    machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
    machine.hostile.fire();
    assert_eq!(machine.rig.used_index(0), 0);

    let machine = Machine::running_rng(0, Lie::Lost);
    assert!(machine.request().is_none());
    machine.hostile.fire();
    assert_eq!(machine.rig.used_index(0), 0);

    let machine = Machine::new(Options { rate: 2, ..always(1, Lie::Order) }, Rng::new(), None);
    machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
    for index in 0..SIZE {
        machine.rig.chain(0, index, &[(DATA, 8, WRITE)]);
        machine.rig.offer(0, index);
    }
    machine.rig.kick(0);
    machine.hostile.fire();
    assert_eq!(machine.rig.used_index(0), SIZE);
    let mut ids: Vec<_> = (0..SIZE).map(|index| machine.rig.used(0, index).id).collect();
    assert!(!ids.is_sorted(), "{ids:?}");
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..u32::from(SIZE)), "each once: {ids:?}");
}

#[test]
fn interrupts_are_lost_late_many_or_without_a_cause() {
    let edges = |lie| {
        let machine = Machine::running_rng(0, lie);
        machine.request().unwrap();
        let now = machine.rig.edges.take();
        machine.hostile.fire();
        (now, machine.rig.edges.take())
    };
    assert_eq!(edges(Lie::InterruptLost), (0, 0));
    assert_eq!(edges(Lie::InterruptLate), (0, 1));
    let (now, storm) = edges(Lie::InterruptStorm);
    assert!(now == 1 && (1..64).contains(&storm), "{now} {storm}");
    let machine = Machine::rng(0, Lie::InterruptSpurious);
    machine.rig.read(Register::InterruptStatus);
    assert_eq!(machine.rig.edges.take(), 1);
    let odd = seeds(|seed| Machine::rng(seed, Lie::InterruptStatus).rig.read(Register::InterruptStatus));
    assert!(odd.contains(&4) && odd.contains(&u32::MAX), "{odd:?}");
}

fn card(options: Options) -> (Machine, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    let net = Net::new(Box::new(StreamLink::new(ours).unwrap()), Some(Mac([2; 6])));
    let machine = Machine::new(options, net, None);
    machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
    (machine, peer)
}

#[test]
fn received_frames_have_random_headers_and_lengths() {
    let receive = |seed, lie| {
        let (machine, mut peer) = card(always(seed, lie));
        machine.rig.chain(0, 0, &[(DATA, 2048, WRITE)]);
        machine.rig.offer(0, 0);
        peer.write_all(&[&60_u32.to_be_bytes(), [9; 60].as_slice()].concat()).unwrap();
        machine.rig.transport.process_event(EventSet::IN);
        assert_eq!(machine.rig.used_index(0), 1);
        assert_eq!(machine.rig.get(DATA + 12, 61), [&[9; 60], [0].as_slice()].concat());
        (machine.rig.get(DATA, 12), machine.rig.used(0, 0).len)
    };
    let headers = seeds(|seed| receive(seed, Lie::Header));
    assert!(headers.iter().all(|(header, len)| header[10..] != [1, 0] && *len == 72), "{headers:?}");
    assert!(headers.iter().any(|(header, _)| header[0] & 1 != 0 && [1, 4].contains(&header[1])), "{headers:?}");
    let lengths = seeds(|seed| receive(seed, Lie::Frame).1);
    assert!(lengths.iter().all(|len| *len < 26 || *len == 2048), "{lengths:?}");
    assert!(lengths.iter().any(|len| *len < 12) && lengths.contains(&2048), "{lengths:?}");
}

fn disk(options: Options) -> (Machine, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [1; 4096]).unwrap();
    let disk = Disk::at(file.path(), DiskAccess::ReadWrite);
    let block = Block::new(Box::new(RawFile::open(&disk).unwrap()), disk.access, "");
    let machine = Machine::new(options, block, None);
    machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
    (machine, file)
}

/// Reads the first sector: the header is zeroes.
fn read_sector(machine: &Machine) {
    let (header, data, status) = (DATA, DATA + 0x1000, DATA + 0x2000);
    machine.rig.request(0, &[(header, 16, READ), (data, 512, WRITE), (status, 1, WRITE)]);
}

#[test]
fn requests_fail_or_have_an_unknown_status_and_data_stays_right() {
    let statuses = seeds(|seed| {
        let (machine, _file) = disk(always(seed, Lie::RequestStatus));
        read_sector(&machine);
        assert_eq!(machine.rig.get(DATA + 0x1000, 512), [1; 512]);
        machine.rig.get(DATA + 0x2000, 1)[0]
    });
    assert!([1, 2, 3, 0xff].iter().all(|status| statuses.contains(status)) && !statuses.contains(&0), "{statuses:?}");
}

#[test]
fn statistics_are_asked_for_at_odd_times() {
    let (machine, handle) = balloon(0, Lie::Statistics);
    machine.rig.start(!CommonFeatures::EVENT_IDX.bits());
    machine.rig.request(2, &[(DATA, 10, READ)]);
    machine.rig.transport.process_event(EventSet::IN);
    assert_eq!(machine.rig.used_index(2), 1, "the buffer comes back although nobody wants numbers");
    assert!(machine.told(Lie::Statistics) > 0);
    drop(handle);
}

/// Lets a driver do the same things as often as it takes for many lies; what the device wrote down.
fn play(options: Options) -> String {
    let (machine, _file) = disk(options);
    for _ in 0..200 {
        read_sector(&machine);
        machine.rig.read(Register::InterruptStatus);
        machine.hostile.fire();
    }
    machine.log.take_text()
}

#[test]
fn the_same_seed_tells_the_same_lies_and_another_one_others() {
    for seed in 0..10 {
        let options = Options { rate: 8, ..Options::new(seed) };
        let lies = play(options.clone());
        assert_eq!(lies, play(options));
        assert_ne!(lies, play(Options { rate: 8, ..Options::new(seed + 1) }));
        assert!(lies.lines().count() > 3, "{lies}");
    }
}

#[test]
fn lies_of_a_kind_do_not_depend_on_other_kinds() {
    let of = |lies: &[Lie]| {
        let options = Options { rate: 8, lies: Some(lies.to_vec()), ..Options::new(5) };
        let all = play(options);
        all.lines().filter(|line| line.contains("used-length")).map(str::to_owned).collect::<Vec<_>>()
    };
    let alone = of(&[Lie::UsedLength]);
    assert!(alone.len() > 10);
    let others = [Lie::UsedLength, Lie::RequestStatus, Lie::InterruptLost, Lie::UsedIndex, Lie::Late];
    assert_eq!(alone, of(&others));
}

#[test]
fn devices_that_were_not_named_stay_honest() {
    let options = Options { devices: vec![DeviceType::NET], ..always(0, Lie::Identity) };
    let mut hostile = Hostile::new(options, None);
    let rig = Rig::made(memory(), |line| hostile.device("rng", Box::new(Rng::new()), line, None));
    let rig = rig.behind(|transport| hostile.slot(&transport, transport.clone()));
    assert_eq!(rig.read(Register::DeviceId), DeviceType::RNG.0);
    assert!(hostile.liar("rng").is_none());
}

#[test]
fn no_lie_writes_beyond_the_used_ring_and_the_buffers() {
    // Those that it may write.
    let buffers = [(DATA + 0x1000, 512), (DATA + 0x2000, 1)];
    for seed in 0..60 {
        let (machine, _file) = disk(Options { rate: 2, lies: Some(Lie::ALL.to_vec()), ..Options::new(seed) });
        let rig = &machine.rig;
        for _ in 0..4 {
            // Whatever the status says.
            read_sector(&machine);
            machine.hostile.fire();
        }
        let used_ring = (used(0), used_len(SIZE) as u64);
        rig.put(used_ring.0, &vec![0; used_ring.1 as usize]);
        buffers.iter().for_each(|(at, len)| rig.put(*at, &vec![0; *len]));
        rig.set_available_index(0, 0);
        // All that is left is what the driver itself has put there.
        rig.put(descriptors(0), &[0; 3 * 16]);
        rig.put(available(0), &vec![0; available_len(SIZE)]);
        assert!(rig.get(0, MEMORY as usize).iter().all(|byte| *byte == 0), "seed {seed}");
    }
}

#[test]
fn every_type_of_device_has_lies_and_every_lie_a_device() {
    for lie in Lie::ALL {
        assert!(TYPES.iter().any(|device_type| lie.fits(*device_type)), "{}", lie.name());
    }
}

#[test]
fn the_documentation_has_every_lie_in_the_same_words() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/host.md")).unwrap();
    let section = page.split("## Devices that lie").nth(1).unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows, Lie::ALL.map(|lie| format!("| `{}` | {} |", lie.name(), lie.what())));
}
