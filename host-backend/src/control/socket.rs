//! A control socket's file: made for its owner alone, or for its group too, over a dead one if there is one, and removed only
//! if it is ours.

use crate::keeper::SocketFile;
use crate::unix_socket::{connect, listen, peer};
use std::cell::RefCell;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another process may hold the folder's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often the lock is tried.
const LOCK_STEP: Duration = Duration::from_millis(10);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("create control socket {}: it is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("create control socket {}: the file exists; remove it or choose another name", .0.display())]
    Exists(PathBuf),
    #[error("create control socket {}: another process keeps its folder locked; wait for it, or use another folder", .0.display())]
    Locked(PathBuf),
    #[error("create control socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What the clients of a socket may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything, for processes of our user and of root.
    Full,
    /// Ask for numbers, for those of our group too.
    Read,
}

impl Access {
    fn mode(self) -> libc::mode_t {
        match self {
            Self::Full => 0o600,
            Self::Read => 0o660,
        }
    }
}

/// A bound control socket. Its file goes when it goes.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    access: Access,
    /// The user and the group that made it.
    owner: (libc::uid_t, libc::gid_t),
    /// None once the keeper removes it. Its inode is not reused while the listener is open.
    file: Option<SocketFile>,
    /// A descriptor to give up for a client that is turned away, when there is no other left.
    spare: RefCell<Option<UnixListener>>,
}

impl ControlSocket {
    /// Binds the socket. A socket without a listener, left by a process that was killed, is replaced.
    ///
    /// # Errors
    /// [`Error`]; any other file is never touched.
    pub fn bind(path: &Path, access: Access) -> Result<Self, Error> {
        let failed = |source| Error::Io { path: path.into(), source };
        // Two that find the same dead socket must not remove each other's new one.
        let _turn = lock_folder(path)?;
        let listener = match listen(path, access.mode()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_dead(path)?;
                listen(path, access.mode())
            }
            other => other,
        };
        let listener = listener.map_err(failed)?;
        let file = Some(SocketFile::of(path).map_err(failed)?);
        let spare = RefCell::new(listener.try_clone().ok());
        // SAFETY: neither call can fail or touches memory.
        let owner = unsafe { (libc::geteuid(), libc::getegid()) };
        Ok(Self { listener, access, owner, file, spare })
    }

    /// Leaves it to the caller to remove the file.
    pub fn leave_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    /// What its clients may do.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// The listener, which does not block.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next client that may ask here: one of this user's processes, or root's; for [`Access::Read`] also one of our
    /// group's.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return self.turn_away(error);
            }
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let peer = peer(&stream)?;
        let (user, group) = self.owner;
        let ours = peer.user == user || peer.user == 0 || self.access == Access::Read && peer.groups.contains(&group);
        Ok(ours.then_some(stream))
    }

    /// Answers a client for whom there is no descriptor: one that stays in the queue would make the socket readable for good.
    fn turn_away(&self, why: io::Error) -> io::Result<Option<UnixStream>> {
        if self.spare.take().is_none() {
            return Err(why);
        }
        let turned_away = self.listener.accept().and_then(|(mut stream, _)| {
            stream.set_nonblocking(true)?;
            stream.write_all(b"{\"ok\":false,\"error\":\"no descriptors left\"}\n")
        });
        self.spare.replace(self.listener.try_clone().ok());
        // Whether it reads that is its own business.
        turned_away.map(|()| None)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// Keeps other processes of ours from binding in the same folder meanwhile. A folder that does not support locks is used
/// without one. The wait has a bound because signals are blocked by now, and anyone who can read the folder can lock it.
fn lock_folder(path: &Path) -> Result<Option<File>, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = File::open(folder) else { return Ok(None) };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(Error::Locked(path.into())),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_STEP),
        }
    }
}

/// Removes a socket without a listener.
fn remove_dead(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(Error::Exists(path.into()));
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        _ => Err(Error::InUse(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_for_its_owner_alone_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let socket = ControlSocket::bind(&path, Access::Full).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        // Dropping a listener leaves its file, as a kill does.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = ControlSocket::bind(&path, Access::Full).unwrap();
        assert!(matches!(ControlSocket::bind(&path, Access::Full), Err(Error::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
    }

    #[test]
    fn a_locked_folder_is_an_error_and_no_endless_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let holder = File::open(folder.path()).unwrap();
        holder.lock().unwrap();
        let (send, bound) = std::sync::mpsc::channel();
        let wanted = path.clone();
        std::thread::spawn(move || send.send(ControlSocket::bind(&wanted, Access::Full)));
        let result = bound.recv_timeout(Duration::from_secs(20)).expect("an answer while the lock is held");
        assert!(matches!(result, Err(Error::Locked(_))), "{result:?}");
        assert!(!path.exists());
        drop(holder);
        assert!(ControlSocket::bind(&path, Access::Full).is_ok());
    }

    #[test]
    fn files_that_are_no_sockets_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(matches!(ControlSocket::bind(path, Access::Full), Err(Error::Exists(_))));
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert!(matches!(
            ControlSocket::bind(&folder.path().join("x".repeat(200)), Access::Full),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn the_socket_of_another_process_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let ours = ControlSocket::bind(&path, Access::Full).unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = ControlSocket::bind(&path, Access::Full).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
        assert!(!path.exists());
    }

    /// Makes this thread, and no other, one of that user.
    fn become_user(user: libc::uid_t) {
        // SAFETY: the system call, unlike the function of that name, changes this thread only.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) };
        assert_eq!(result, 0);
    }

    #[test]
    fn a_client_of_another_user_is_turned_away() {
        // SAFETY: geteuid cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return eprintln!("SKIPPED a_client_of_another_user_is_turned_away: only root can be another user");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let socket = ControlSocket::bind(&path, Access::Full).unwrap();
        // The user has made it accessible.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                become_user(65534);
                UnixStream::connect(&path).map(drop).unwrap();
            });
        });
        assert!(socket.accept().unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(socket.accept().unwrap().is_some());
    }

    #[test]
    fn of_many_who_find_a_dead_socket_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let all = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| ControlSocket::bind(&path, Access::Full))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(all.iter().filter(|socket| socket.is_ok()).count(), 1);
            drop(all);
        }
    }
}
