//! A passt of our own: the peer that leads the guest's TCP and UDP through ordinary sockets of this machine, with no
//! privileges and no interface. It lives as long as the VM: it ends when its socket closes, however we end.

use super::{MTU, stream::StreamLink};
use crate::config::Publish;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The name of the program.
const PROGRAM: &str = "passt";

/// Why there is no passt.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("publish port {port}: {source}; choose another one")]
    Port { port: u16, source: io::Error },
    #[error("start passt: it is not installed")]
    Missing,
    #[error("start passt: {0}")]
    Start(io::Error),
}

/// A running passt.
#[derive(Debug)]
pub struct Passt {
    child: Child,
}

impl Passt {
    /// Starts passt with these ports of 127.0.0.1 leading to the guest.
    ///
    /// # Errors
    /// [`Error::Port`] when a port is taken: passt would end without a word.
    pub fn start(publish: &[Publish]) -> Result<(Self, StreamLink), Error> {
        for Publish { host, .. } in publish {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *host)).map_err(|source| Error::Port { port: *host, source })?;
        }
        let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
        let fd = theirs.as_raw_fd();
        // Inherited by flag rather than by code in the child: that would cost a fork of this process, some 2 ms.
        // SAFETY: the descriptor is open, and no other thread starts a program.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
            return Err(Error::Start(io::Error::last_os_error()));
        }
        let mut command = Command::new(PROGRAM);
        command.args(["--foreground", "--quiet", "--one-off", "--fd", &fd.to_string()]);
        // The guest is no user of this machine: it does not get at the services of the loopback interface.
        command.args(["--no-map-gw", "--mtu", &MTU.to_string()]);
        for Publish { host, guest } in publish {
            command.args(["--tcp-ports", &format!("{}/{host}:{guest}", Ipv4Addr::LOCALHOST)]);
        }
        // passt gives up root otherwise, which needs a user to become.
        // SAFETY: geteuid cannot fail and touches no memory.
        if unsafe { libc::geteuid() } == 0 {
            command.args(["--runas", "0"]);
        }
        // A group of its own: Ctrl-C is for us, and ends it with the VM.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            _ => Error::Start(error),
        })?;
        let link = StreamLink::new(ours).map_err(Error::Start)?;
        Ok((Self { child }, link))
    }

    /// Says how it ended, if it ended before it was told to.
    pub fn ended_early(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        if self.ended_early().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
