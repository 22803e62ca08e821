//! A host that has no descriptors left. Without KVM the test says that it was skipped.

mod common;

use common::{Place, eventually, kvm_works, ringside, started, status_of};
use host_backend::sample::{print, spin};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_client_for_whom_there_is_no_descriptor_is_turned_away_and_not_left_waiting() {
    if !kvm_works("a_client_for_whom_there_is_no_descriptor_is_turned_away_and_not_left_waiting") {
        return;
    }
    let place = Place::new();
    let control = place.path("control");
    let mut child = started(ringside(&place.kernel(&[print(b"!"), spin()].concat())).arg("--control").arg(&control));
    eventually("the control socket", || UnixStream::connect(&control).is_ok());
    let id = child.child().id();
    let limit = |number: usize| {
        let limit = format!("--nofile={number}:");
        assert!(Command::new("prlimit").args(["--pid", &id.to_string(), &limit]).status().unwrap().success());
    };
    // One more than there are: numbers are given from the lowest on.
    let taken: BTreeSet<usize> = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (0..).find(|number| !taken.contains(number)).unwrap();
    limit(free + 1);
    let mut clients = Vec::new();
    eventually("the last descriptor", || {
        let mut client = BufReader::new(UnixStream::connect(&control).unwrap());
        client.get_mut().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may be turned away before it has asked.
        let _ = client.get_mut().write_all(b"{\"command\":\"status\"}\n");
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        clients.push(client);
        line == "{\"ok\":false,\"error\":\"no descriptors left\"}\n"
    });
    drop(clients);
    limit(free + 8);
    assert_eq!(status_of(&control)["ok"], true);
}
