//! The keeper: a second process that does by name what `ringside` gives up the right to do when its sandbox is put on, and
//! what is left to do when `ringside` is gone, however it ended.
//!
//! | duty | when |
//! |---|---|
//! | restore the terminal | `ringside` ended without having done it |
//! | remove the control sockets | `ringside` ended |
//! | rename a full log, and make the next one | asked for; the answer carries the new file's descriptor |
//!
//! It is this program again, with one end of a socket as its standard input and the terminal, if there is one, as its standard
//! output. All names that it uses come with its duties, before the guest runs: an attacker who takes over `ringside` later can
//! have logs renamed, and nothing else.

mod process;

use crate::config::LogFile;
use crate::say;
use crate::terminal::Modes;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub use process::run;

/// The argument with which this program becomes a keeper.
pub const ARGUMENT: &str = "keeper";

/// How long it may take to make a new log; the guest's console waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// `ringside` has done what it had to.
const END: [u8; 2] = [b'e', 0];
/// Followed by the number of a log.
const ROTATE: u8 = b'r';
/// The first byte of an answer; an error's number follows if it is not this.
const DONE: u8 = 0;

/// What a keeper has to do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Duties {
    /// The terminal at standard input, if it is made raw.
    pub terminal: Option<Modes>,
    /// Sockets to remove.
    pub sockets: Vec<SocketFile>,
    /// Logs to rename, by their number.
    pub logs: Vec<KeptLog>,
}

impl Duties {
    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        self.terminal.is_none() && self.sockets.is_empty() && self.logs.is_empty()
    }
}

/// The file of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    path: OsString,
    /// Device and inode: another file of that name is not ours.
    identity: (u64, u64),
}

impl SocketFile {
    /// The file of a socket that was just bound.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), identity: identity(path)? })
    }

    /// Removes the file, unless another one has its name by now.
    pub fn remove(&self) {
        if identity(Path::new(&self.path)).is_ok_and(|file| file == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// A log of which full files are kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptLog {
    path: OsString,
    keep: u32,
}

impl KeptLog {
    /// One as the user described it.
    pub fn new(log: &LogFile) -> Self {
        Self { path: log.path.clone().into(), keep: log.keep }
    }
}

/// The way to a running keeper.
#[derive(Debug)]
pub struct Keeper {
    child: Mutex<Child>,
    /// None once an answer was not understood or did not come.
    socket: Mutex<Option<UnixStream>>,
}

impl Keeper {
    /// Starts a keeper.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn start(duties: &Duties) -> io::Result<Self> {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        let mut command = Command::new("/proc/self/exe");
        let terminal = match duties.terminal {
            Some(_) => Stdio::from(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            None => Stdio::null(),
        };
        command.arg(ARGUMENT).stdin(OwnedFd::from(theirs)).stdout(terminal).stderr(Stdio::null());
        // A group of its own: what ends ours does not end it.
        let mut child = command.process_group(0).spawn()?;
        let line = format!("{}\n", serde_json::to_string(duties).map_err(io::Error::other)?);
        if let Err(error) = ours.write_all(line.as_bytes()) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(Self { child: Mutex::new(child), socket: Mutex::new(Some(ours)) })
    }

    /// Has a full log renamed, and the next one made; returns that.
    ///
    /// # Errors
    /// Those of the file system, and of a keeper that does not answer: then it is not asked again.
    pub fn rotate(&self, log: u8) -> io::Result<File> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = socket.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut answer = [0; 5];
        let received = connected.write_all(&[ROTATE, log]).and_then(|()| Ok(connected.recv_with_fd(&mut answer)?));
        match received {
            Ok((1, Some(file))) if answer[0] == DONE => Ok(file),
            Ok((5, None)) => {
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes([answer[1], answer[2], answer[3], answer[4]])))
            }
            other => {
                *socket = None;
                Err(other.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))
            }
        }
    }

    /// The terminal is as it should be, and nothing is asked for any more. Returns when the sockets are gone.
    pub fn dismiss(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut socket) = socket {
            let _ = socket.write_all(&END);
        }
        match self.child.lock().unwrap_or_else(PoisonError::into_inner).wait() {
            Ok(status) if status.success() => {}
            Ok(status) => say!("the keeper ended with {status}"),
            Err(error) => say!("wait for the keeper: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duties_with_names_that_are_no_utf8_arrive_as_they_are() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(b"/tmp/\xff\n".to_vec());
        let duties = Duties {
            terminal: None,
            sockets: vec![SocketFile { path: path.clone(), identity: (1, u64::MAX) }],
            logs: vec![KeptLog { path: path.clone(), keep: 3 }],
        };
        let line = serde_json::to_string(&duties).unwrap();
        assert!(!line.contains('\n'));
        let arrived: Duties = serde_json::from_str(&line).unwrap();
        assert_eq!(arrived.sockets, duties.sockets);
        assert_eq!((arrived.logs[0].path.clone(), arrived.logs[0].keep), (path, 3));
    }
}
