//! A passt of our own: the peer that leads the guest's TCP and UDP through ordinary sockets of this machine, with no
//! privileges and no interface. It lives as long as the VM: it ends when its socket closes, however we end. It starts before
//! our sandbox is put on, and has one of its own.

use super::{MTU, stream::StreamLink};
use crate::config::Publish;
use crate::say;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it has to end after its socket is closed.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// The user and group that a passt of root becomes: nobody's, which need not be in a list of users.
const NOBODY: u32 = 65534;
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

/// A passt that can be started, once all else is known to be right.
#[derive(Debug)]
pub struct Prepared {
    command: Command,
    /// The end of the link that passt inherits.
    socket: UnixStream,
    /// Our end.
    link: UnixStream,
}

/// A running passt.
#[derive(Debug)]
pub struct Passt {
    child: Child,
    /// Our end of the link.
    link: UnixStream,
}

impl Prepared {
    /// Prepares a passt with these ports of 127.0.0.1 leading to the guest. Root's becomes this user, or nobody.
    ///
    /// # Errors
    /// [`Error::Port`] when a port is taken, about which passt would say nothing; [`Error::Missing`].
    pub fn new(publish: &[Publish], user: Option<u32>, group: Option<u32>) -> Result<(Self, StreamLink), Error> {
        for Publish { host, .. } in publish {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *host)).map_err(|source| Error::Port { port: *host, source })?;
        }
        let program = find(PROGRAM).ok_or(Error::Missing)?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
        let mut command = Command::new(program);
        command.args(["--foreground", "--quiet", "--one-off", "--fd", &theirs.as_raw_fd().to_string()]);
        // The guest is no user of this machine: it does not get at the services of the loopback interface.
        command.args(["--no-map-gw", "--mtu", &MTU.to_string()]);
        for Publish { host, guest } in publish {
            command.args(["--tcp-ports", &format!("{}/{host}:{guest}", Ipv4Addr::LOCALHOST)]);
        }
        // By number, since it would look nobody up in a list that need not be there.
        // SAFETY: geteuid cannot fail and touches no memory.
        if unsafe { libc::geteuid() } == 0 {
            let user = user.filter(|user| *user != 0).unwrap_or(NOBODY);
            let group = group.filter(|group| *group != 0).unwrap_or(user);
            command.args(["--runas", &format!("{user}:{group}")]);
        }
        // A group of its own: Ctrl-C is for us, and ends it with the VM.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let link = ours.try_clone().map_err(Error::Start)?;
        Ok((Self { command, socket: theirs, link }, StreamLink::new(ours).map_err(Error::Start)?))
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(mut self) -> Result<Passt, Error> {
        // Inherited by flag rather than by code in the child: that would cost a fork of this process, some 2 ms.
        // SAFETY: the descriptor is open, and no other thread starts a program.
        if unsafe { libc::fcntl(self.socket.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
            return Err(Error::Start(io::Error::last_os_error()));
        }
        let child = self.command.spawn().map_err(Error::Start)?;
        Ok(Passt { child, link: self.link })
    }
}

/// The executable of that name in PATH.
fn find(name: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(executable)
}

impl Passt {
    /// Becomes readable when it ends.
    ///
    /// # Errors
    /// When the system has no such descriptors.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        // SAFETY: the child has not been waited for, so the id is still its own; the returned descriptor is ours.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, self.child.id() as libc::pid_t, 0);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as libc::c_int)) }
        }
    }

    /// Reports how it ended, if it ended before it was asked to.
    pub fn ended_early(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Passt {
    /// By its socket: in our sandbox no signal can be sent.
    fn drop(&mut self) {
        let _ = self.link.shutdown(Shutdown::Both);
        let deadline = Instant::now() + END_PATIENCE;
        while self.ended_early().is_none() {
            if Instant::now() >= deadline {
                return say!("passt (process {}) does not end although its socket is closed", self.child.id());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
