//! A console's log: a file of bounded size that makes room by being renamed, as logrotate does it.

use crate::config::LogFile;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    config: LogFile,
    /// None until the file is made.
    file: Option<File>,
    len: u64,
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
            Err(io::Error::other("it is a pipe that nobody reads, or a socket"))
        }
        Err(error) => Err(error),
    }
}

/// Whether a file can be made there.
fn check_folder(config: &LogFile) -> io::Result<()> {
    let folder = config.path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
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
        Self { config: config.clone(), file, len: 0 }
    }

    /// Makes the file, or empties it.
    pub(super) fn create(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) => file.set_len(0)?,
            None => self.file = Some(make(&self.config.path)?),
        }
        self.len = 0;
        Ok(())
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
        for number in (1..self.config.keep).rev() {
            // One that is not there needs no move.
            let _ = fs::rename(self.kept(number), self.kept(number + 1));
        }
        let moved = self.config.keep > 0 && fs::rename(&self.config.path, self.kept(1)).is_ok();
        if moved && let Ok(file) = make(&self.config.path) {
            self.file = Some(file);
        } else if let Some(file) = &mut self.file {
            // A console goes on without its past rather than without a bound.
            let _ = file.set_len(0).and_then(|()| file.rewind());
        }
    }

    fn kept(&self, number: u32) -> PathBuf {
        self.config.kept(number)
    }
}

impl LogFile {
    /// The name of the full file before the last, for 2; and so on.
    pub fn kept(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

fn make(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &tempfile::TempDir, size: u64, keep: u32) -> Log {
        let config = LogFile { path: folder.path().join("log"), size, keep };
        match open(&config).unwrap() {
            Named::Log(mut log) => {
                log.create().unwrap();
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
        let inside = LogFile { path: folder.path().join("none/log"), ..config };
        assert_eq!(open(&inside).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
