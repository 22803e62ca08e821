//! Hosts that lie to the balloon: it stops, gives the pages back if the reset was confirmed, and counts them as lost
//! if not.

mod host;

use balloon::{Balloon, FreeBlock, Next, Pfn, Report, Settings, State};
use frontends::device::{Driver, InterruptSource};
use frontends::fake::{FakeTransport, Memory};
use frontends::{InitError, Violation};
use host::{Host, Kernel, kernel};
use proptest::prelude::*;
use virtio_abi::balloon::Features;
use virtio_abi::{DeviceType, Status};

const ALL: Features =
    Features::DEFLATE_ON_OOM.union(Features::STATS_VQ).union(Features::REPORTING).union(Features::MUST_TELL_HOST);

/// A balloon that stops at the first failure.
fn pair(features: Features, settings: Settings) -> (Balloon<FakeTransport>, Host) {
    let (mut balloon, host) = host::pair(features, settings);
    balloon.set_restart_limit(0);
    (balloon, host)
}

/// A balloon with 300 pages in it and 256 on their way.
fn inflated() -> (Balloon<FakeTransport>, Host, Kernel) {
    let (mut balloon, mut host) = pair(ALL, Settings::default());
    let mut kernel = kernel(1000, 0);
    host.want(300);
    balloon.interrupt(InterruptSource::Config);
    while balloon.poll(&mut kernel) != State::Steady {
        host.serve();
    }
    kernel.blocks.push(FreeBlock { first: Pfn::new(0x9000), pages: 512 });
    host.want(700);
    balloon.interrupt(InterruptSource::Config);
    assert_eq!(balloon.poll(&mut kernel), State::Inflating);
    assert_eq!((balloon.actual(), kernel.free.len()), (300, 444));
    (balloon, host, kernel)
}

fn expect_all_back(mut balloon: Balloon<FakeTransport>, host: &Host, mut kernel: Kernel, reason: Violation) {
    for _ in 0..10 {
        assert_eq!(balloon.poll(&mut kernel), State::Broken(reason));
    }
    assert_eq!((kernel.free.len(), balloon.actual(), balloon.lost_pages()), (1000, 0, 0));
    assert!(kernel.returned_blocks.iter().all(|(_, outcome)| *outcome == Report::NotReported));
    assert_eq!(kernel.returned_blocks.len(), 1);
    assert_eq!(balloon.release_on_oom(&mut kernel, 1), 0);
    drop(balloon);
    assert_eq!(host.memory.allocated_pages(), 0);
}

#[test]
fn a_used_id_out_of_range_gives_all_pages_back() {
    let (mut balloon, mut host, mut kernel) = inflated();
    host.inflate.write_used(host.inflate.used_index, 4, 0);
    host.inflate.set_used_index(host.inflate.used_index + 1);
    balloon.poll(&mut kernel);
    let reason = Violation::UsedIdOutOfRange { queue: 0, id: 4, size: 4 };
    expect_all_back(balloon, &host, kernel, reason);
}

#[test]
fn a_request_used_twice_inflates_once() {
    let (mut balloon, mut host, mut kernel) = inflated();
    let chain = host.inflate.next_chain().unwrap();
    host.inflate.complete(&chain, 0);
    assert_eq!(balloon.poll(&mut kernel), State::Inflating);
    assert_eq!(balloon.actual(), 556);
    let unknown = host.inflate.next_chain().map_or(0, |chain| (chain.head + 1) % 4);
    host.inflate.write_used(host.inflate.used_index, unknown.into(), 0);
    host.inflate.set_used_index(host.inflate.used_index + 1);
    balloon.poll(&mut kernel);
    expect_all_back(balloon, &host, kernel, Violation::UsedIdNotInFlight { queue: 0, id: unknown.into() });
}

#[test]
fn a_length_beyond_the_request_is_a_lie() {
    let (mut balloon, mut host, mut kernel) = inflated();
    let chain = host.inflate.next_chain().unwrap();
    host.inflate.complete(&chain, 1025);
    balloon.poll(&mut kernel);
    let reason = Violation::UsedLengthTooLong { queue: 0, id: chain.head.into(), len: 1025, writable: 0 };
    expect_all_back(balloon, &host, kernel, reason);
}

#[test]
fn a_deflation_that_was_never_asked_for_is_a_lie() {
    let (mut balloon, mut host, mut kernel) = inflated();
    host.deflate.set_used_index(host.deflate.used_index + 1);
    balloon.poll(&mut kernel);
    expect_all_back(balloon, &host, kernel, Violation::UsedIndexJump { queue: 1, advance: 1, in_flight: 0 });
}

#[test]
fn a_statistics_buffer_returned_twice_is_a_lie() {
    let (mut balloon, mut host, mut kernel) = inflated();
    let statistics = host.statistics.as_mut().unwrap();
    statistics.set_used_index(statistics.used_index + 2);
    balloon.poll(&mut kernel);
    expect_all_back(balloon, &host, kernel, Violation::UsedIndexJump { queue: 2, advance: 2, in_flight: 1 });
}

#[test]
fn a_device_that_needs_a_reset_gives_all_pages_back() {
    let (mut balloon, host, kernel) = inflated();
    host.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    balloon.interrupt(InterruptSource::Config);
    expect_all_back(balloon, &host, kernel, Violation::NeedsReset);
}

#[test]
fn stopped_balloon_is_polled_until_every_page_is_back() {
    let (mut balloon, mut host) = pair(ALL, Settings { batch: 64, report_blocks: 3, ..Default::default() });
    let mut kernel = kernel(1000, 0);
    host.want(900);
    balloon.interrupt(InterruptSource::Config);
    while balloon.poll(&mut kernel) != State::Steady {
        assert_eq!(balloon.next(), Next::Wait);
        host.serve();
    }
    host.want(1000);
    host.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    balloon.interrupt(InterruptSource::Config);
    // As the kernel does: a batch a turn, and then never again.
    let mut turns = 0;
    while balloon.next() == Next::Again {
        balloon.poll(&mut kernel);
        turns += 1;
    }
    assert_eq!((balloon.next(), turns), (Next::End, 900_usize.div_ceil(64)));
    assert_eq!((kernel.free.len(), balloon.actual(), balloon.lost_pages()), (1000, 0, 0));
}

#[test]
fn stopped_balloon_helps_when_memory_runs_out() {
    let (mut balloon, host, mut kernel) = inflated();
    host.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    balloon.interrupt(InterruptSource::Config);
    let (before, mut released) = (kernel.free.len(), 0);
    while balloon.next() == Next::Again {
        released += balloon.release_on_oom(&mut kernel, 1) as usize;
    }
    assert_eq!((released, kernel.free.len()), (1000 - before, 1000));
}

#[test]
fn balloon_whose_pages_are_lost_ends_at_once() {
    let (mut balloon, host, mut kernel) = inflated();
    host.transport.model().ignores_reset = true;
    host.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    balloon.interrupt(InterruptSource::Config);
    assert_eq!((balloon.next(), balloon.release_on_oom(&mut kernel, 9)), (Next::End, 0));
}

#[test]
fn pages_of_an_unresettable_device_are_lost_and_counted() {
    let (mut balloon, mut host, mut kernel) = inflated();
    host.transport.model().ignores_reset = true;
    host.deflate.set_used_index(7);
    for _ in 0..10 {
        assert!(matches!(balloon.poll(&mut kernel), State::Broken(_)));
    }
    assert_eq!((kernel.free.len(), balloon.lost_pages()), (444, 556));
    assert!(kernel.returned_blocks.is_empty(), "the device may still drop the lent block");
    let leaked = balloon.leaked_pages();
    drop(balloon);
    // 4 rings, the inflate request, the statistics; and the lent block, which is no DMA memory.
    assert_eq!((host.memory.allocated_pages(), leaked), (leaked - 512, 512 + 4 + 1 + 1));
}

#[test]
fn a_missing_queue_is_refused() {
    let memory = Memory::leaked(64);
    let transport = FakeTransport::new(DeviceType::BALLOON, ALL.bits(), 3, &[0; 16]);
    let error = Balloon::new(transport.clone(), memory, Settings::default()).err();
    assert_eq!(error, Some(InitError::BadQueue { queue: 3, size: 0 }));
    assert_eq!((memory.allocated_pages(), transport.model().status), (0, Status::FAILED));
}

#[test]
fn no_memory_for_requests_is_an_error() {
    let memory = Memory::leaked(4);
    let transport = FakeTransport::new(DeviceType::BALLOON, 0, 2, &[0; 16]);
    let error = Balloon::new(transport, memory, Settings::default()).err();
    assert_eq!(error, Some(InitError::NoMemory { what: "balloon requests" }));
    assert_eq!(memory.allocated_pages(), 0);
}

#[test]
fn rings_of_a_refused_device_that_was_not_reset_are_never_freed() {
    let memory = Memory::leaked(64);
    let transport = FakeTransport::new(DeviceType::BALLOON, ALL.bits(), 3, &[0; 16]);
    transport.model().ignores_reset = true;
    let error = Balloon::new(transport, memory, Settings::default()).err();
    assert_eq!(error, Some(InitError::BadQueue { queue: 3, size: 0 }));
    assert_eq!((memory.allocated_pages(), memory.leaked_pages()), (3, 3));
}

#[derive(Clone, Debug)]
enum Whim {
    Serve,
    Want(u32),
    Use { queue: usize, id: u32, len: u32, step: u16 },
    ReturnStatistics,
    ReturnReport(u32),
    OutOfMemory(u32),
    NeedReset,
}

fn whim() -> impl Strategy<Value = Whim> {
    prop_oneof![
        10 => Just(Whim::Serve),
        5 => prop_oneof![0..2000_u32, any::<u32>()].prop_map(Whim::Want),
        1 => (0..4_usize, 0..5_u32, 0..3_u32, 0..3_u16)
            .prop_map(|(queue, id, len, step)| Whim::Use { queue, id, len, step }),
        2 => Just(Whim::ReturnStatistics),
        2 => (0..4096_u32).prop_map(Whim::ReturnReport),
        3 => (0..500_u32).prop_map(Whim::OutOfMemory),
        1 => Just(Whim::NeedReset),
    ]
}

proptest! {
    #[test]
    fn no_page_is_ever_lost_or_doubled(
        features in 0..64_u64, whims in prop::collection::vec(whim(), 1..80), ignores_reset: bool,
    ) {
        let (mut balloon, mut host) =
            pair(Features::from_bits_truncate(features), Settings { batch: 64, report_blocks: 3, ..Default::default() });
        let mut kernel = kernel(1500, 200);
        host.lies = true;
        host.transport.model().ignores_reset = ignores_reset;
        for whim in &whims {
            if balloon.broken().is_some() {
                break;
            }
            kernel.blocks.push(FreeBlock { first: Pfn::new(0x9000), pages: 4 });
            match *whim {
                Whim::Serve => {
                    host.serve();
                }
                Whim::Want(pages) => host.want(pages),
                Whim::Use { queue, id, len, step } => {
                    let mut queues: Vec<_> = [&mut host.inflate, &mut host.deflate].into();
                    queues.extend(host.statistics.as_mut());
                    queues.extend(host.reporting.as_mut());
                    let count = queues.len();
                    let queue = &mut queues[queue % count];
                    queue.write_used(queue.used_index, id, len);
                    queue.set_used_index(queue.used_index.wrapping_add(step));
                }
                Whim::ReturnStatistics => {
                    if let Some(queue) = &mut host.statistics && let Some(chain) = queue.next_chain() {
                        queue.complete(&chain, 0);
                    }
                }
                Whim::ReturnReport(len) => {
                    if let Some((chain, _)) = host.next_report() {
                        host.reporting.as_mut().unwrap().complete(&chain, len);
                    }
                }
                Whim::OutOfMemory(pages) => {
                    let before = kernel.free.len() as u32;
                    let released = balloon.release_on_oom(&mut kernel, pages);
                    prop_assert!(kernel.free.len() as u32 >= before + released);
                }
                Whim::NeedReset => host.transport.model().status |= Status::DEVICE_NEEDS_RESET,
            }
            balloon.interrupt(InterruptSource::Shared);
            balloon.poll(&mut kernel);
            let free = kernel.free.len() as u32;
            prop_assert!(free >= 200, "the reserve stays");
        }
        balloon.shut_down();
        for _ in 0..40 {
            balloon.poll(&mut kernel);
        }
        prop_assert_eq!(kernel.free.len() as u32 + balloon.lost_pages(), 1500);
        prop_assert!(ignores_reset || balloon.lost_pages() == 0);
        let leaked = balloon.leaked_pages();
        drop(balloon);
        prop_assert!(host.memory.allocated_pages() <= leaked);
        prop_assert!(ignores_reset || leaked == 0);
    }
}
