//! Tests of the console in both directions.

use super::*;
use crate::virtio::harness::{DATA, READ, Rig, WRITE};
use shared_abi::virtio::mmio::CONFIG;

fn rig() -> (Rig, Arc<ConsoleInput>, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let console = Console::new(Arc::new(Output::new(file.reopen().unwrap()))).unwrap();
    let input = console.input();
    (Rig::running(console), input, file)
}

#[test]
fn output_arrives_whole_and_in_order() {
    let (rig, _input, file) = rig();
    let text: Vec<u8> = (0..10_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    rig.put(DATA, &text);
    rig.request(1, &[(DATA, 4999, READ), (DATA + 4999, 5001, READ)]).unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), text);
}

#[test]
fn emergency_output_needs_no_queue() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let rig = Rig::new(Console::new(Arc::new(Output::new(file.reopen().unwrap()))).unwrap());
    rig.transport.write(CONFIG + 8, &u32::from(b'!').to_le_bytes());
    rig.transport.write(CONFIG + 8, &[]);
    assert_eq!(std::fs::read(file.path()).unwrap(), b"!");
}

#[test]
fn input_waits_for_buffers_and_fills_them() {
    let (rig, input, _file) = rig();
    assert_eq!(input.input(b"hello"), 5);
    rig.transport.process_event(EventSet::IN);
    let used = rig.request(0, &[(DATA, 3, WRITE)]).unwrap();
    assert_eq!((used.len, rig.get(DATA, 3)), (3, b"hel".to_vec()));
    let used = rig.request(0, &[(DATA, 10, WRITE)]).unwrap();
    assert_eq!((used.len, rig.get(DATA, 2)), (2, b"lo".to_vec()));
}

#[test]
fn input_beyond_the_bound_is_left_to_the_sender() {
    let (rig, input, _file) = rig();
    assert_eq!(input.input(&[7; INPUT_MAX + 1]), INPUT_MAX);
    assert_eq!(input.input(&[7]), 0);
    assert!(input.room().read().is_err());
    rig.request(0, &[(DATA, INPUT_MAX as u32, WRITE)]).unwrap();
    assert!(input.room().read().is_ok());
}

#[test]
fn a_flood_in_one_buffer_is_bounded() {
    let (rig, _input, file) = rig();
    let buffers = vec![(DATA, 1 << 20, READ); 3];
    rig.request(1, &buffers).unwrap();
    assert_eq!(file.as_file().metadata().unwrap().len(), OUTPUT_MAX);
    let counters = rig.transport.counters();
    assert_eq!((counters.errors.get(), counters.oversized.get()), (1, 1));
}
