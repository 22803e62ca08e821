//! The second serial line, led to the host program's control socket once it listens.

use crate::make_raw;
use anyhow::{Context, Result};
use inner_init::CONTROL;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

const LINE: &str = "/dev/ttyS1";

pub(crate) fn relay() -> Result<()> {
    let line = OpenOptions::new().read(true).write(true).open(LINE).with_context(|| format!("cannot open {LINE}"))?;
    make_raw(&line)?;
    thread::spawn(move || -> io::Result<()> {
        // What is said before the host program listens waits in the line.
        let socket = loop {
            match UnixStream::connect(CONTROL) {
                Ok(socket) => break socket,
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        let (mut from_line, mut to_socket) = (line.try_clone()?, socket.try_clone()?);
        thread::spawn(move || io::copy(&mut from_line, &mut to_socket));
        io::copy(&mut &socket, &mut &line).map(drop)
    });
    Ok(())
}
