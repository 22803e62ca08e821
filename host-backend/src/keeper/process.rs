//! A keeper's life.

use super::{DONE, Duties, END, KeptLog, ROTATE, SocketFile};
use crate::config::{LOG_SIZE, LogFile};
use crate::devices::output::rotate;
use crate::sandbox;
use crate::terminal;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Serves until the other end is gone, or says that all is well.
pub fn run() {
    terminal::ignore_stops();
    // Else it would be called after the link by which it was started.
    // SAFETY: the name is a string with its NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"ringside-keeper".as_ptr()) };
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else { return };
    let mut socket = BufReader::new(UnixStream::from(socket));
    let mut line = String::new();
    let Ok(duties) = socket.read_line(&mut line).and_then(|_| Ok(serde_json::from_str::<Duties>(&line)?)) else {
        return;
    };
    let logs: Vec<_> = duties.logs.iter().map(log_file).collect();
    let folders = logs.iter().map(|log| sandbox::Folder::renames(&log.path));
    let folders = folders.chain(duties.sockets.iter().map(|socket| sandbox::Folder::removals(Path::new(&socket.path))));
    // What it cannot put on it does without: a terminal that stays raw helps nobody.
    sandbox::enter_keeper(&folders.collect::<Vec<_>>());
    let all_is_well = serve(&mut socket, &logs);
    if let (false, Some(modes)) = (all_is_well, &duties.terminal) {
        modes.give_back_output();
    }
    duties.sockets.iter().for_each(SocketFile::remove);
}

/// Whether it ended by being told that all is well.
fn serve(socket: &mut BufReader<UnixStream>, logs: &[LogFile]) -> bool {
    let mut request = [0; 2];
    while socket.read_exact(&mut request).is_ok() {
        if request == END {
            return true;
        }
        let rotated = match logs.get(usize::from(request[1])) {
            Some(log) if request[0] == ROTATE => rotate(log),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let answered = match rotated {
            Ok(file) => socket.get_ref().send_with_fd(&[DONE][..], file.as_raw_fd()).is_ok(),
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
                socket.get_mut().write_all(&[&[DONE + 1], &number[..]].concat()).is_ok()
            }
        };
        if !answered {
            break;
        }
    }
    false
}

fn log_file(log: &KeptLog) -> LogFile {
    LogFile { path: log.path.clone().into(), size: LOG_SIZE, keep: log.keep }
}
