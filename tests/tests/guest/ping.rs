//! The guest on an Ethernet whose only other station is this test: ARP and ping, byte by byte (RFC 826, RFC 792).

use super::{PATIENCE, guest_with};
use ringside_tests::machine::Machine;
use ringside_tests::running::Running;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const OUR_IP: [u8; 4] = [10, 9, 8, 1];
const GUEST_IP: [u8; 4] = [10, 9, 8, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const ARP: [u8; 2] = [8, 6];
const IPV4: [u8; 2] = [8, 0];

fn send(wire: &mut UnixStream, frame: &[u8]) {
    wire.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
    wire.write_all(frame).unwrap();
}

/// The next frame that `wanted` takes.
fn receive<R>(wire: &mut UnixStream, wanted: impl Fn(&[u8]) -> Option<R>) -> R {
    loop {
        let mut len = [0; 4];
        wire.read_exact(&mut len).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        wire.read_exact(&mut frame).unwrap();
        if let Some(found) = wanted(&frame) {
            return found;
        }
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ethernet(to: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to[..], &OUR_MAC, &kind, payload].concat()
}

fn echo_request(to: [u8; 6], number: u16, payload: &[u8]) -> Vec<u8> {
    let mut icmp = [&[8, 0, 0, 0, 0x12, 0x34][..], &number.to_be_bytes(), payload].concat();
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let len = (20 + icmp.len() as u16).to_be_bytes();
    let mut ip = [&[0x45, 0][..], &len, &[0, 0, 0, 0, 64, 1, 0, 0], &OUR_IP, &GUEST_IP].concat();
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    ethernet(to, IPV4, &[ip, icmp].concat())
}

#[test]
fn the_guest_answers_arp_and_ping_with_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wire");
    let listener = UnixListener::bind(&path).unwrap();
    let start = |machine: &Machine| Running::spawn(machine.command_on_wire(&path));
    let Some(mut guest) = guest_with("ping", 64, "ringside.ip=10.9.8.2/24", start) else { return };
    let (mut wire, _) = listener.accept().unwrap();
    wire.set_read_timeout(Some(PATIENCE)).unwrap();

    let question = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &OUR_MAC, &OUR_IP, &[0; 6], &GUEST_IP].concat();
    send(&mut wire, &ethernet(BROADCAST, ARP, &question));
    let mac: [u8; 6] = receive(&mut wire, |frame| {
        let is_answer = frame.get(12..14) == Some(&ARP) && frame.get(20..22) == Some(&[0, 2]);
        (is_answer && frame.get(28..32) == Some(&GUEST_IP)).then(|| frame[22..28].try_into().unwrap())
    });

    // From nothing to the largest that fits into a frame: 1500 - 20 - 8.
    for (number, len) in [0, 1, 56, 1000, 1472].into_iter().enumerate() {
        let payload: Vec<u8> = (0..len).map(|index: usize| index as u8 ^ number as u8).collect();
        send(&mut wire, &echo_request(mac, number as u16, &payload));
        let answer = receive(&mut wire, |frame| {
            let is_icmp = frame.get(12..14) == Some(&IPV4) && frame.get(23) == Some(&1);
            let total = 14 + usize::from(u16::from_be_bytes(frame.get(16..18)?.try_into().ok()?));
            is_icmp.then(|| frame[34..total].to_vec())
        });
        assert_eq!(checksum(&answer), 0, "the checksum of the answer to {len} bytes");
        assert_eq!(answer[..2], [0, 0], "echo reply");
        assert_eq!(answer[4..8], [&[0x12, 0x34][..], &(number as u16).to_be_bytes()].concat());
        assert!(answer[8..] == payload, "{len} bytes came back changed");
    }
    guest.type_line("poweroff");
    guest.end();
}
