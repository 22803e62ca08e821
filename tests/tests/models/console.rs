//! The console: our driver against the host's device, which prints to a file and is typed to.

use crate::bridge::{Rig, dma};
use frontends::{Console, Driver};
use host_backend::devices::InputSink;
use host_backend::devices::output::Output;
use host_backend::virtio::console::Console as Model;
use std::fs;
use std::sync::Arc;
use tempfile::NamedTempFile;
use vmm_sys_util::epoll::EventSet;

#[test]
fn output_reaches_the_file_and_input_the_driver() {
    let file = NamedTempFile::new().unwrap();
    let model = Model::new(Arc::new(Output::to_new_file(file.path()).unwrap())).unwrap();
    let input = model.input();
    let rig = Rig::new(dma(), Box::new(model));
    let mut console = Console::new(rig.transport(), rig.dma).expect("the driver comes up");

    let text: Vec<u8> = (0..100_000_u32).map(|i| b' ' + (i % 90) as u8).collect();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let taken = console.transmit(rest);
        console.kick();
        rest = &rest[taken..];
    }
    assert_eq!(fs::read(file.path()).unwrap(), text);
    assert!(console.emergency_write(b'!'));
    assert_eq!(fs::read(file.path()).unwrap().last(), Some(&b'!'));

    let mut typed = Vec::new();
    for _ in 0..10 {
        assert_eq!(input.input(&text[..4000]), 4000);
        rig.model.process_event(EventSet::IN);
        let mut bytes = [0; 700];
        loop {
            match console.receive(&mut bytes) {
                0 => break,
                count => typed.extend_from_slice(&bytes[..count]),
            }
        }
    }
    assert_eq!(typed, text[..4000].repeat(10));
    rig.assert_content();
    drop(console);
    assert_eq!(rig.dma.allocated(), 0);
}
