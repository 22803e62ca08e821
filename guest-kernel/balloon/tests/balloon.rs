//! The balloon against a host that plays by the rules.

mod host;

use balloon::{Balloon, FreeBlock, Pfn, Report, Settings, State};
use frontends::device::{Driver, InterruptSource};
use frontends::fake::FakeTransport;
use host::{Host, Kernel, kernel, pair};
use virtio_abi::Status;
use virtio_abi::balloon::{Features, Stat, stat_tag};
use zerocopy::FromBytes;

/// Polls and serves until the balloon rests.
fn settle(balloon: &mut Balloon<FakeTransport>, host: &mut Host, kernel: &mut Kernel) -> State {
    balloon.interrupt(InterruptSource::Shared);
    for _ in 0..1000 {
        let state = balloon.poll(kernel);
        if !host.serve() && !matches!(state, State::Inflating | State::Deflating) {
            return state;
        }
    }
    panic!("the balloon never rests");
}

#[test]
fn restarted_balloon_keeps_its_pages_and_finishes_what_was_on_its_way() {
    for (first, then) in [(300, 700), (700, 300)] {
        let (mut balloon, mut host) =
            pair(Features::MUST_TELL_HOST, Settings { batch: 64, report_blocks: 3, ..Default::default() });
        let mut kernel = kernel(1000, 0);
        host.want(first);
        assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
        host.want(then);
        balloon.interrupt(InterruptSource::Config);
        balloon.poll(&mut kernel);
        // A batch is on its way that the host has not looked at.
        host.transport.model().status |= Status::DEVICE_NEEDS_RESET;
        balloon.interrupt(InterruptSource::Config);
        assert_eq!((balloon.broken(), balloon.restarts()), (None, 1));
        (host.inflate, host.deflate) = (host.transport.queue(host.memory, 0), host.transport.queue(host.memory, 1));
        assert_eq!(host.actual(), balloon.actual());
        assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
        assert_eq!((balloon.actual(), host.actual(), host.pages.len()), (then, then, then as usize));
        assert_eq!((kernel.free.len() as u32, balloon.lost_pages()), (1000 - then, 0));
    }
}

#[test]
fn host_that_has_a_request_for_too_long_is_restarted_and_a_slow_one_is_not() {
    const SECOND: u64 = 1_000_000_000;
    let settings = Settings { batch: 64, patience: 10 * SECOND, ..Settings::default() };
    let (mut balloon, mut host) = pair(Features::empty(), settings);
    let mut kernel = kernel(1000, 0);
    balloon.check_time(0);
    balloon.check_time(100 * SECOND);
    host.want(640);
    balloon.interrupt(InterruptSource::Config);
    // Nine seconds for each batch.
    let mut now = 200 * SECOND;
    while balloon.poll(&mut kernel) != State::Steady {
        balloon.check_time(now);
        now += 9 * SECOND;
        balloon.check_time(now);
        host.serve();
    }
    assert_eq!((balloon.restarts(), balloon.actual()), (0, 640));
    host.want(700);
    balloon.interrupt(InterruptSource::Config);
    balloon.poll(&mut kernel);
    balloon.check_time(now);
    balloon.check_time(now + 10 * SECOND);
    assert_eq!((balloon.restarts(), balloon.broken()), (1, None));
    (host.inflate, host.deflate) = (host.transport.queue(host.memory, 0), host.transport.queue(host.memory, 1));
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    assert_eq!((balloon.actual(), host.pages.len()), (700, 700));
}

#[test]
fn restarted_balloon_reports_free_pages_and_statistics_again() {
    let (mut balloon, mut host) = pair(Features::STATS_VQ | Features::REPORTING, Settings::default());
    let mut kernel = kernel(1000, 0);
    kernel.blocks.push(FreeBlock { first: Pfn::new(0x9000), pages: 512 });
    balloon.poll(&mut kernel);
    host.transport.model().status |= Status::DEVICE_NEEDS_RESET;
    balloon.interrupt(InterruptSource::Config);
    host.statistics = Some(host.transport.queue(host.memory, 2));
    host.reporting = Some(host.transport.queue(host.memory, 3));
    balloon.poll(&mut kernel);
    let (chain, blocks) = host.next_report().expect("the block is reported again");
    assert_eq!(blocks, [(0x9000 * 4096, 512 * 4096)]);
    host.reporting.as_mut().unwrap().complete(&chain, 0);
    assert!(host.statistics.as_mut().unwrap().next_chain().is_some(), "statistics are there for the host again");
    balloon.poll(&mut kernel);
    assert_eq!(kernel.returned_blocks, [(FreeBlock { first: Pfn::new(0x9000), pages: 512 }, Report::Reported)]);
}

#[test]
fn host_that_keeps_a_report_is_restarted() {
    const SECOND: u64 = 1_000_000_000;
    let settings = Settings { patience: 10 * SECOND, ..Settings::default() };
    let (mut balloon, _host) = pair(Features::REPORTING, settings);
    let mut kernel = kernel(1000, 0);
    kernel.blocks.push(FreeBlock { first: Pfn::new(0x9000), pages: 512 });
    balloon.poll(&mut kernel);
    balloon.check_time(100 * SECOND);
    balloon.check_time(109 * SECOND);
    assert_eq!(balloon.restarts(), 0);
    balloon.check_time(110 * SECOND);
    assert_eq!(balloon.restarts(), 1, "megabytes of the kernel would stay with it forever");
}

#[test]
fn it_inflates_and_deflates_to_the_target_in_batches() {
    let (mut balloon, mut host) = pair(Features::empty(), Settings::default());
    let mut kernel = kernel(5000, 0);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    host.want(1000);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    assert_eq!((balloon.target(), balloon.actual(), host.actual(), host.pages.len()), (1000, 1000, 1000, 1000));
    assert_eq!((kernel.free.len(), &host.inflations[..]), (4000, &[256, 256, 256, 232][..]));
    host.want(100);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    assert_eq!((balloon.actual(), host.actual(), host.pages.len(), kernel.free.len()), (100, 100, 100, 4900));
    assert_eq!(host.deflations, [256, 256, 256, 132]);
    let counters = balloon.counters();
    assert_eq!((counters.inflated, counters.deflated, counters.shortfalls), (1000, 900, 0));
}

#[test]
fn a_target_that_is_there_at_the_start_is_met_without_an_interrupt() {
    let memory = frontends::fake::Memory::leaked(32);
    let config = [10, 0, 0, 0, 0, 0, 0, 0];
    let transport = FakeTransport::new(virtio_abi::DeviceType::BALLOON, 0, 2, &config);
    let mut balloon = Balloon::new(transport, memory, Settings::default()).unwrap();
    assert_eq!(balloon.poll(&mut kernel(100, 0)), State::Inflating);
}

#[test]
fn each_poll_does_one_batch_with_one_notification() {
    let (mut balloon, mut host) = pair(Features::empty(), Settings { batch: 64, ..Settings::default() });
    let mut kernel = kernel(5000, 0);
    host.want(640);
    balloon.interrupt(InterruptSource::Config);
    for round in 1..=10 {
        assert_eq!(balloon.poll(&mut kernel), State::Inflating);
        assert_eq!(balloon.poll(&mut kernel), State::Inflating, "nothing happens before the host answers");
        assert_eq!((kernel.free.len(), balloon.notifications()), (5000 - 64 * round, round as u64));
        host.serve();
    }
    assert_eq!(balloon.poll(&mut kernel), State::Steady);
}

#[test]
fn pages_are_used_again_only_when_the_host_has_acknowledged() {
    let (mut balloon, mut host) = pair(Features::MUST_TELL_HOST, Settings::default());
    let mut kernel = kernel(100, 0);
    host.want(50);
    settle(&mut balloon, &mut host, &mut kernel);
    host.want(0);
    balloon.interrupt(InterruptSource::Config);
    assert_eq!(balloon.poll(&mut kernel), State::Deflating);
    assert_eq!((kernel.free.len(), balloon.actual()), (50, 50));
    host.serve();
    assert_eq!(balloon.poll(&mut kernel), State::Steady);
    assert_eq!((kernel.free.len(), balloon.actual(), host.actual()), (100, 0, 0));
}

#[test]
fn the_kernels_reserve_stays_and_the_shortfall_is_told_once_until_memory_comes_back() {
    let (mut balloon, mut host) = pair(Features::empty(), Settings::default());
    let mut kernel = kernel(1000, 300);
    host.want(900);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Shortfall { wanted: 900, got: 700 });
    assert_eq!((kernel.free.len(), host.actual()), (300, 700));
    for _ in 0..10 {
        balloon.poll(&mut kernel);
    }
    assert_eq!(balloon.counters().shortfalls, 1);
    kernel.reserve = 50;
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    assert_eq!(host.actual(), 900);
}

#[test]
fn absurd_targets_are_shortfalls() {
    let (mut balloon, mut host) = pair(Features::empty(), Settings::default());
    let mut kernel = kernel(1000, 10);
    host.want(u32::MAX);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Shortfall { wanted: u32::MAX, got: 990 });
    host.want(0);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    assert_eq!(kernel.free.len(), 1000);
}

#[test]
fn out_of_memory_gets_pages_back_at_once_if_the_host_agreed() {
    let (mut balloon, mut host) = pair(Features::DEFLATE_ON_OOM, Settings::default());
    let mut kernel = kernel(1000, 100);
    host.want(800);
    settle(&mut balloon, &mut host, &mut kernel);
    assert_eq!(balloon.release_on_oom(&mut kernel, 50), 50);
    assert_eq!((kernel.free.len(), balloon.actual(), host.actual()), (250, 750, 750));
    assert_eq!(balloon.release_on_oom(&mut kernel, 50), 0, "the first request is still on its way");
    host.serve();
    assert_eq!(balloon.release_on_oom(&mut kernel, 10_000), 256, "one batch at most");
    host.serve();
    assert_eq!(balloon.counters().released_on_oom, 306);
    assert_eq!(host.pages.len(), 494);
}

#[test]
fn after_out_of_memory_the_balloon_grows_only_when_as_much_is_to_spare_again() {
    let (mut balloon, mut host) = pair(Features::DEFLATE_ON_OOM, Settings::default());
    let mut kernel = kernel(1000, 100);
    host.want(900);
    settle(&mut balloon, &mut host, &mut kernel);
    balloon.release_on_oom(&mut kernel, 200);
    // The kernel uses what it got.
    let used: Vec<u32> = (0..150).map(|_| kernel.free.pop_first().unwrap()).collect();
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Shortfall { wanted: 900, got: 700 });
    kernel.free.extend(used);
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
}

#[test]
fn out_of_memory_under_must_tell_host_brings_pages_with_the_acknowledgement() {
    let (mut balloon, mut host) = pair(Features::DEFLATE_ON_OOM | Features::MUST_TELL_HOST, Settings::default());
    let mut kernel = kernel(1000, 100);
    host.want(900);
    settle(&mut balloon, &mut host, &mut kernel);
    assert_eq!(balloon.release_on_oom(&mut kernel, 50), 0);
    assert_eq!(kernel.free.len(), 100);
    host.serve();
    balloon.release_on_oom(&mut kernel, 50);
    assert_eq!(kernel.free.len(), 150);
}

#[test]
fn out_of_memory_during_an_inflation_keeps_all_accounts() {
    let (mut balloon, mut host) = pair(Features::DEFLATE_ON_OOM, Settings { batch: 1024, ..Settings::default() });
    let mut kernel = kernel(20_000, 0);
    host.want(9_000);
    balloon.interrupt(InterruptSource::Config);
    for _ in 0..9 {
        assert_eq!(balloon.poll(&mut kernel), State::Inflating);
        balloon.release_on_oom(&mut kernel, 1024);
        host.serve();
    }
    assert_eq!(settle(&mut balloon, &mut host, &mut kernel), State::Steady);
    assert_eq!((host.pages.len(), host.actual(), kernel.free.len()), (9_000, 9_000, 11_000));
}

#[test]
fn without_the_feature_the_balloon_keeps_its_pages() {
    let (mut balloon, mut host) = pair(Features::empty(), Settings::default());
    let mut kernel = kernel(100, 0);
    host.want(50);
    settle(&mut balloon, &mut host, &mut kernel);
    assert_eq!(balloon.release_on_oom(&mut kernel, 10), 0);
    assert_eq!(balloon.actual(), 50);
}

#[test]
fn statistics_are_sent_at_first_and_whenever_the_host_returns_the_buffer() {
    let (mut balloon, mut host) = pair(Features::STATS_VQ, Settings::default());
    let mut kernel = kernel(100, 0);
    let mut last = None;
    for round in 1..5_u64 {
        balloon.poll(&mut kernel);
        balloon.poll(&mut kernel);
        let queue = host.statistics.as_mut().unwrap();
        let chain = queue.next_chain().expect("the buffer is there");
        assert!(queue.next_chain().is_none());
        let bytes = chain.read(host.memory);
        let stats: Vec<Stat> = bytes.chunks_exact(10).map(|stat| Stat::read_from_bytes(stat).unwrap()).collect();
        let free = kernel.free.len() as u64 * 4096;
        // The third makes the length a multiple of 6 bytes (5.5.6.3.1).
        let expected = [(stat_tag::TOTAL_MEMORY, 409_600), (stat_tag::FREE_MEMORY, free), (u16::MAX, 0)];
        assert_eq!(stats, expected.map(|(tag, value)| Stat { tag, value }));
        assert_ne!(last.replace(free), Some(free));
        assert_eq!(balloon.counters().statistics_sent, round);
        queue.complete(&chain, 0);
        kernel.free.pop_first();
    }
}

#[test]
fn settings_past_their_bounds_are_taken_as_the_bounds() {
    let settings = Settings { batch: u16::MAX, report_blocks: u16::MAX, ..Settings::default() };
    pair(Features::REPORTING, settings);
    pair(Features::REPORTING, Settings { batch: 0, report_blocks: 0, ..Settings::default() });
}

#[test]
fn free_blocks_are_lent_in_batches_and_come_back_reported() {
    let features = Features::REPORTING | Features::FREE_PAGE_HINT;
    let (mut balloon, mut host) = pair(features, Settings { report_blocks: 4, ..Settings::default() });
    let mut kernel = kernel(100, 0);
    let blocks: Vec<_> = (0..6).map(|i| FreeBlock { first: Pfn::new(0x8000 + i * 1024), pages: 512 }).collect();
    kernel.blocks.clone_from(&blocks);
    balloon.poll(&mut kernel);
    balloon.poll(&mut kernel);
    let (chain, lent) = host.next_report().unwrap();
    let address = |block: &FreeBlock| (u64::from(block.first.number()) * 4096, 512 * 4096);
    assert_eq!(lent, blocks[2..].iter().rev().map(address).collect::<Vec<_>>());
    assert!(host.next_report().is_none(), "one report at a time");
    assert!(kernel.returned_blocks.is_empty());
    host.reporting.as_mut().unwrap().complete(&chain, 0);
    balloon.poll(&mut kernel);
    assert_eq!(kernel.returned_blocks.len(), 4);
    assert!(kernel.returned_blocks.iter().all(|(_, outcome)| *outcome == Report::Reported));
    assert_eq!(balloon.counters().reported, 2048);
    assert_eq!(host.next_report().unwrap().1.len(), 2);
}

#[test]
fn a_block_too_large_for_a_descriptor_goes_back_unreported() {
    let (mut balloon, mut host) = pair(Features::REPORTING, Settings::default());
    let mut kernel = kernel(100, 0);
    let large = FreeBlock { first: Pfn::new(0), pages: 1 << 20 };
    kernel.blocks.push(large);
    balloon.poll(&mut kernel);
    assert_eq!(kernel.returned_blocks, [(large, Report::NotReported)]);
    assert!(host.next_report().is_none());
}

#[test]
fn shutting_down_gives_all_pages_back_in_batches() {
    let (mut balloon, mut host) = pair(Features::empty(), Settings::default());
    let mut kernel = kernel(1000, 0);
    host.want(600);
    settle(&mut balloon, &mut host, &mut kernel);
    balloon.shut_down();
    let mut polls = 0;
    while balloon.actual() > 0 {
        assert!(matches!(balloon.poll(&mut kernel), State::Broken(_)));
        polls += 1;
    }
    assert_eq!((kernel.free.len(), polls), (1000, 3));
    drop(balloon);
    assert_eq!(host.memory.allocated_pages(), 0);
}
