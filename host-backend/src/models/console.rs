//! The console's two ends outside the guest: input that found no room is typed when there is some, and what a client reads is
//! what the guest printed, once and in order.

use super::transport::{Bench, FLAGS, memory};
use super::{finds, holds};
use crate::devices::InputSink;
use crate::devices::output::Output;
use crate::event::EventFd;
use crate::mistake::Mistake;
use crate::sync::{look_again, thread};
use crate::virtio::console::Console;
use crate::virtio::harness::{DATA, READ, WRITE};
use std::sync::Arc;

/// More than the console holds.
const TYPED: usize = 4096 + 300;
const PART: usize = 700;

/// A typist that waits for room, and a driver that reads.
fn all_input_arrives() {
    let console = Console::new(Arc::new(Output::kept())).unwrap();
    let input = console.input();
    let bench = Bench::new(memory(), console);
    let handler = bench.handler();
    bench.rig.start(FLAGS);
    let typist = thread::spawn(move || {
        let mut typed = 0;
        while typed < TYPED {
            let more = [7; TYPED];
            let took = input.input(&more[typed..]);
            typed += took;
            if typed < TYPED {
                look_again(|| EventFd::read(input.room()).ok());
            }
        }
    });
    let mut got = 0;
    while got < TYPED {
        let before = bench.rig.used_index(0);
        bench.rig.chain(0, 0, &[(DATA, PART as u32, WRITE)]);
        bench.rig.offer(0, 0);
        bench.rig.kick(0);
        bench.until(|| bench.rig.used_index(0) != before);
        got += bench.rig.used(0, before).len as usize;
    }
    assert_eq!(got, TYPED);
    typist.join().unwrap();
    bench.end(handler);
}

/// A client takes what the guest prints.
fn all_output_is_taken_once() {
    let output = Arc::new(Output::kept());
    let bench = Bench::new(memory(), Console::new(output.clone()).unwrap());
    let handler = bench.handler();
    bench.rig.start(FLAGS);
    let guest = {
        let bench = bench.clone();
        thread::spawn(move || {
            for text in [&b"ab"[..], b"cd\xc3", b"\xa9ef"] {
                let before = bench.rig.used_index(1);
                bench.rig.put(DATA, text);
                bench.rig.chain(1, 0, &[(DATA, text.len() as u32, READ)]);
                bench.rig.offer(1, 0);
                bench.rig.kick(1);
                bench.until(|| bench.rig.used_index(1) != before);
            }
        })
    };
    let mut taken = String::new();
    for _ in 0..4 {
        taken += &output.take_text();
        thread::yield_now();
    }
    guest.join().unwrap();
    taken += &output.take_text();
    assert_eq!(taken, "abcd\u{e9}ef");
    bench.end(handler);
}

#[test]
fn typist_without_room_goes_on_when_there_is_some() {
    holds(all_input_arrives);
}

#[test]
fn client_takes_each_character_once() {
    holds(all_output_is_taken_once);
}

#[test]
fn output_that_is_taken_in_two_steps_is_found() {
    finds(Mistake::OutputInTwoSteps, all_output_is_taken_once);
}

#[test]
fn forgotten_typist_is_found() {
    finds(Mistake::NoStarvation, all_input_arrives);
}
