//! A console's log: a file of bounded size that makes room by being renamed, as logrotate does it.

use crate::config::LogFile;
use crate::target;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

/// A log.
pub(super) struct Log {
    config: LogFile,
    /// None until the file is made.
    file: Option<File>,
    /// The name of the file if it was not there before.
    made: Option<PathBuf>,
    len: u64,
    /// Does what [`rotate`] does, where we may not.
    rotate: Option<Rotate>,
}

/// Has a full log renamed, and returns the next one.
pub type Rotate = Box<dyn Fn() -> io::Result<File> + Send>;

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("config", &self.config).field("len", &self.len).finish_non_exhaustive()
    }
}

/// What a console writes to under a name.
#[derive(Debug)]
pub(super) enum Named {
    /// A regular file, or one that is to be made.
    Log(Log),
    /// A device or a pipe, which has no size.
    Stream(File),
}

/// Checks what is there under a log's name, and neither makes nor empties anything.
pub(super) fn open(config: &LogFile) -> io::Result<Named> {
    // A pipe without a reader is refused instead of waited for.
    let open = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&config.path);
    match open {
        Ok(file) => {
            let kind = file.metadata()?.file_type();
            if kind.is_block_device() {
                return Err(io::Error::other("it is a block device"));
            }
            Ok(if kind.is_file() { Named::Log(Log::new(config, Some(file))) } else { Named::Stream(file) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_folder(config)?;
            Ok(Named::Log(Log::new(config, None)))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            Err(io::Error::other("it is a pipe without a reader, or a socket"))
        }
        Err(error) => Err(error),
    }
}

/// Whether a file can be made there.
fn check_folder(config: &LogFile) -> io::Result<()> {
    let (folder, _) = target::new_file(&config.path)?;
    let name = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(folder.as_os_str()))?;
    // SAFETY: `name` is a string with its NUL.
    if unsafe { libc::access(name.as_ptr(), libc::W_OK | libc::X_OK) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Log {
    fn new(config: &LogFile, file: Option<File>) -> Self {
        Self { config: config.clone(), file, made: None, len: 0, rotate: None }
    }

    /// From now on full files are renamed by this, if any are kept.
    pub(super) fn rotate_by(&mut self, rotate: Rotate) {
        self.rotate = Some(rotate);
    }

    /// Makes the file if it does not exist, and empties nothing.
    pub(super) fn make(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let (folder, name) = target::new_file(&self.config.path)?;
            let path = folder.join(name);
            // Not one that was put there meanwhile.
            self.file = Some(OpenOptions::new().write(true).create_new(true).open(&path)?);
            self.made = Some(path);
        }
        Ok(())
    }

    /// Removes the file if it was made here.
    pub(super) fn unmake(&mut self) {
        if let Some(path) = self.made.take() {
            self.file = None;
            // Not reported: the earlier failure is the message.
            let _ = fs::remove_file(path);
        }
    }

    /// Empties the file.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        self.len = 0;
        self.file.as_ref().map_or(Ok(()), |file| file.set_len(0))
    }

    /// Writes as much as can be, and returns how much that was.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.len + bytes.len() as u64 > self.config.size && self.len > 0 {
            self.make_room();
        }
        let Some(file) = &mut self.file else { return 0 };
        let mut done = 0;
        while done < bytes.len() {
            match file.write(&bytes[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.len += done as u64;
        done
    }

    /// Moves the full file to the next name, or empties it if none is kept or it cannot be moved.
    fn make_room(&mut self) {
        self.len = 0;
        let next = match &self.rotate {
            _ if self.config.keep == 0 => None,
            Some(rotate) => rotate().ok(),
            None => rotate(&self.config).ok(),
        };
        if next.is_some() {
            self.file = next;
        } else if let Some(file) = &mut self.file {
            // A console goes on without its past rather than without a bound.
            let _ = file.set_len(0).and_then(|()| file.rewind());
        }
    }
}

/// Renames a full log and those before it, and makes the next one.
///
/// # Errors
/// Those of the file system.
pub fn rotate(log: &LogFile) -> io::Result<File> {
    for number in (1..log.keep).rev() {
        // One that is not there needs no move.
        let _ = fs::rename(log.kept(number), log.kept(number + 1));
    }
    fs::rename(&log.path, log.kept(1))?;
    OpenOptions::new().write(true).create(true).truncate(true).open(&log.path)
}

impl LogFile {
    /// The name of the full file before the last, for 2; and so on.
    pub fn kept(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &tempfile::TempDir, size: u64, keep: u32) -> Log {
        let config = LogFile { path: folder.path().join("log"), size, keep };
        match open(&config).unwrap() {
            Named::Log(mut log) => {
                log.make().and_then(|()| log.empty()).unwrap();
                log
            }
            Named::Stream(_) => panic!("a stream"),
        }
    }

    fn content(folder: &tempfile::TempDir) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into(), fs::read_to_string(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_full_log_is_renamed_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(&folder, 10, 2);
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n", "eeee\n", "ffff\n", "gggg\n"] {
            assert_eq!(log.write(line.as_bytes()), 5);
        }
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            content(&folder),
            [file("log", "gggg\n"), file("log.1", "eeee\nffff\n"), file("log.2", "cccc\ndddd\n")]
        );
    }

    #[test]
    fn a_log_of_which_none_is_kept_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(&folder, 10, 0);
        for _ in 0..1000 {
            assert_eq!(log.write(b"1234567"), 7);
        }
        assert_eq!(content(&folder), [("log".to_owned(), "1234567".to_owned())]);
    }

    #[test]
    fn nothing_is_made_or_emptied_before_it_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let config = LogFile { path: folder.path().join("log"), size: 10, keep: 1 };
        open(&config).unwrap();
        assert_eq!(content(&folder), []);
        fs::write(&config.path, "precious").unwrap();
        open(&config).unwrap();
        assert_eq!(fs::read(&config.path).unwrap(), b"precious");
        let Named::Log(mut present) = open(&config).unwrap() else { panic!("a stream") };
        present.make().unwrap();
        present.unmake();
        assert_eq!(fs::read(&config.path).unwrap(), b"precious");
        let other = LogFile { path: folder.path().join("other"), ..config.clone() };
        let Named::Log(mut absent) = open(&other).unwrap() else { panic!("a stream") };
        absent.make().unwrap();
        assert!(other.path.exists());
        absent.unmake();
        assert!(!other.path.exists());
        let inside = LogFile { path: folder.path().join("none/log"), ..config };
        assert_eq!(open(&inside).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
