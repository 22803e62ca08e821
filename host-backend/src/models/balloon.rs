//! The balloon's handle against the device and its driver: the driver learns of the last target, and a client that
//! asks for statistics gets them or gives up.

use super::transport::{Bench, FLAGS, memory};
use super::{finds, holds};
use crate::mistake::Mistake;
use crate::sync::thread::{self, JoinHandle};
use crate::virtio::balloon::{Balloon, BalloonHandle};
use crate::virtio::harness::{DATA, READ};
use shared_abi::virtio::mmio::Register;
use std::sync::Arc;
use std::time::Duration;

/// The statistics queue.
const STATS: u32 = 2;
const TARGETS: [u32; 3] = [0, 20, 7];

/// A started balloon, its handle, and the handler of its interrupts.
fn started() -> (Arc<Bench>, BalloonHandle, JoinHandle<()>) {
    let memory = memory();
    let balloon = Balloon::new(&memory).unwrap();
    let handle = balloon.handle();
    let bench = Bench::new(memory, balloon);
    let handler = bench.handler();
    bench.rig.start(FLAGS);
    (bench, handle, handler)
}

fn target_changes() {
    let (bench, handle, handler) = started();
    let client = thread::spawn(move || TARGETS[1..].iter().for_each(|target| assert!(handle.set_target(*target))));
    let target = || {
        let mut pages = [0; 4];
        bench.rig.config(0, &mut pages);
        u32::from_le_bytes(pages)
    };
    bench.until(|| {
        let before = bench.rig.read(Register::ConfigGeneration);
        let (first, second) = (target(), target());
        let same = bench.rig.read(Register::ConfigGeneration) == before;
        assert!(!same || first == second, "the target changed and the generation did not");
        assert!(TARGETS.contains(&first));
        same && first == TARGETS[2]
    });
    client.join().unwrap();
    bench.end(handler);
}

/// A driver that answers each request for statistics, two clients, and a reset of the queue in between.
fn statistics_are_asked_for() {
    let (bench, handle, handler) = started();
    let stats = |value: u8| {
        let bytes = [vec![4, 0, value], vec![0; 7]].concat();
        bench.rig.put(DATA, &bytes);
        bench.rig.chain(STATS, 0, &[(DATA, 10, READ)]);
        bench.rig.offer(STATS, 0);
        bench.rig.kick(STATS);
    };
    stats(1);
    let clients = [0, 1].map(|_| {
        let handle = handle.clone();
        thread::spawn(move || {
            let numbers = handle.fresh_numbers(Duration::from_millis(100));
            assert!(numbers.guest.values().all(|value| (1..5).contains(value)));
        })
    });
    for round in 2..5 {
        thread::yield_now();
        if u32::from(bench.rig.used_index(STATS)) + 1 == round {
            stats(round as u8);
        }
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    bench.end(handler);
}

#[test]
fn last_target_is_announced() {
    holds(target_changes);
}

#[test]
fn statistics_come_or_are_given_up() {
    holds(statistics_are_asked_for);
}

#[test]
fn request_for_statistics_without_end_is_found() {
    finds(Mistake::StatisticsWithoutEnd, statistics_are_asked_for);
}

#[test]
fn poke_before_the_target_is_found() {
    finds(Mistake::PokeBeforeTarget, target_changes);
}
