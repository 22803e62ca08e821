//! The console driver against a terminal that plays by the rules.

use frontends::console::{Console, Size};
use frontends::device::{Driver, InterruptSource};
use frontends::fake::{DeviceQueue, FakeTransport, Memory};
use virtio_abi::console::{Config, Features};
use virtio_abi::{CommonFeatures, DeviceType};
use zerocopy::IntoBytes;

fn pair(features: Features) -> (Console<FakeTransport>, FakeTransport, &'static Memory, DeviceQueue, DeviceQueue) {
    let memory = Memory::leaked(32);
    let config = Config { cols: 80, rows: 25, max_nr_ports: 1, emerg_wr: 0 };
    let features = features.bits() | CommonFeatures::EVENT_IDX.bits();
    let transport = FakeTransport::new(DeviceType::CONSOLE, features, 2, config.as_bytes());
    let console = Console::new(transport.clone(), memory).expect("the driver comes up");
    let (receive, transmit) = (transport.queue(memory, 0), transport.queue(memory, 1));
    (console, transport, memory, receive, transmit)
}

fn sent(memory: &Memory, transmit: &mut DeviceQueue) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chain) = transmit.next_chain() {
        bytes.extend(chain.read(memory));
        transmit.complete(&chain, 0);
    }
    bytes
}

#[test]
fn output_arrives_in_order_and_stops_when_the_terminal_does() {
    let (mut console, _, memory, _, mut transmit) = pair(Features::empty());
    assert_eq!(console.transmit(b"hello "), 6);
    assert_eq!(console.transmit(b"world\n"), 6);
    console.kick();
    assert_eq!(sent(memory, &mut transmit), b"hello world\n");

    let long: Vec<u8> = (0..50_000_u32).map(|i| i as u8).collect();
    let taken = console.transmit(&long);
    assert_eq!(taken, 8 * 4096);
    assert_eq!(console.transmit(b"x"), 0);
    assert_eq!(sent(memory, &mut transmit), &long[..taken]);
    assert_eq!(console.transmit(&long[taken..]), long.len() - taken);
    assert_eq!(sent(memory, &mut transmit), &long[taken..]);
}

#[test]
fn input_is_read_in_pieces_of_any_size() {
    let (mut console, _, memory, mut receive, _) = pair(Features::empty());
    let mut bytes = [0; 5];
    assert_eq!(console.receive(&mut bytes), 0);
    for round in 0..100 {
        for part in [b"hello".as_slice(), b"", b"terminal"] {
            let chain = receive.next_chain().unwrap_or_else(|| panic!("a buffer is posted in round {round}"));
            chain.write(memory, part);
            receive.complete(&chain, part.len() as u32);
        }
        assert!(console.enable_interrupts());
        let mut all = Vec::new();
        loop {
            match console.receive(&mut bytes) {
                0 => break,
                count => all.extend_from_slice(&bytes[..count]),
            }
        }
        assert_eq!(all, b"helloterminal");
    }
}

#[test]
fn the_size_follows_the_terminal() {
    let (mut console, transport, ..) = pair(Features::SIZE);
    assert_eq!(console.size(), Some(Size { columns: 80, rows: 25 }));
    transport.change_config(0, &132_u16.to_le_bytes());
    console.interrupt(InterruptSource::Shared);
    assert_eq!(console.size(), Some(Size { columns: 132, rows: 25 }));
    let (console, ..) = pair(Features::empty());
    assert_eq!(console.size(), None);
}

#[test]
fn an_emergency_write_goes_through_the_configuration_if_offered() {
    let (mut console, transport, ..) = pair(Features::EMERG_WRITE);
    assert!(console.emergency_write(b'!'));
    assert_eq!(transport.model().config[8..12], [b'!', 0, 0, 0]);
    let (mut console, transport, ..) = pair(Features::empty());
    assert!(!console.emergency_write(b'!'));
    assert_eq!(transport.model().config[8], 0);
}

#[test]
fn dropping_the_driver_gives_all_memory_back() {
    let (mut console, _, memory, mut receive, _) = pair(Features::empty());
    console.transmit(b"pending");
    let chain = receive.next_chain().unwrap();
    receive.complete(&chain, 100);
    console.receive(&mut [0; 3]);
    drop(console);
    assert_eq!(memory.allocated_pages(), 0);
}
