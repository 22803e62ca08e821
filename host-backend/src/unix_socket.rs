//! Unix sockets without the waits of the standard library's: connecting to a listener that is full fails at once, since
//! nothing that happens before a VM runs may hold up the signals that end us.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connects without waiting. The stream does not block.
///
/// # Errors
/// Those of connecting; [`io::ErrorKind::WouldBlock`] when the listener has too many that wait.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket()?;
    let (address, len) = address(path)?;
    // SAFETY: the descriptor is open, and `address` is a sockaddr_un of at least `len` bytes.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket.into())
}

/// Listens on a new socket file of this mode. The listener does not block.
///
/// # Errors
/// Those of making it.
pub fn listen(path: &Path, mode: libc::mode_t) -> io::Result<UnixListener> {
    let socket = socket()?;
    let (address, len) = address(path)?;
    // The file gets the socket's mode, whatever the umask is, so that it never has another one.
    // SAFETY: the descriptor is open, and `address` is a sockaddr_un of at least `len` bytes. Should another thread make a file
    // just now, it gets no more than it asks for.
    unsafe {
        check(libc::fchmod(socket.as_raw_fd(), mode))?;
        let umask = libc::umask(!mode & 0o777);
        let bound = check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len));
        libc::umask(umask);
        bound?;
        check(libc::listen(socket.as_raw_fd(), 16))?;
    }
    Ok(socket.into())
}

/// Whose process is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub user: libc::uid_t,
    /// All its groups.
    pub groups: Vec<libc::gid_t>,
}

/// Groups that are looked at; a process with more has none of them but its first.
const GROUPS_MAX: usize = 256;

/// Whose process made the connection.
///
/// # Errors
/// Those of the system.
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` has room for the `len` bytes of a ucred.
    check(unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len)
    })?;
    let mut groups = vec![0; GROUPS_MAX];
    let mut len = (GROUPS_MAX * size_of::<libc::gid_t>()) as libc::socklen_t;
    // SAFETY: `groups` has room for `len` bytes.
    let got = unsafe {
        let groups = groups.as_mut_ptr().cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups, &raw mut len)
    };
    groups.truncate(if got == 0 { len as usize / size_of::<libc::gid_t>() } else { 0 });
    groups.push(peer.gid);
    Ok(Peer { user: peer.uid, groups })
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: socket touches no memory; a descriptor that it returns is ours.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte is left for the NUL.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let most = address.sun_path.len() - 1;
        return Err(io::Error::other(format!("the name of a socket has 1 to {most} bytes")));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_is_full_is_an_error_and_no_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = listen(&path, 0o600).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).take(1000).collect();
        assert!((1..1000).contains(&waiting.len()));
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
