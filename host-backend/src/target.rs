//! Which file a name means, also where it does not exist yet: a link that leads nowhere stands for what it would make.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Links followed at most, as by the kernel.
const LINKS_MAX: u32 = 40;

/// The folder and the name under which opening `path` would create a file.
///
/// # Errors
/// When no file can be created there, because the name is that of a folder or the links lead in a circle.
pub fn new_file(path: &Path) -> io::Result<(PathBuf, OsString)> {
    let mut path = path.to_owned();
    for _ in 0..=LINKS_MAX {
        // `Path` ignores a slash or dot at the end, the kernel does not.
        let last = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if matches!(last, b"" | b"." | b"..") {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        let name = OsStr::from_bytes(last).to_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        match fs::read_link(&path) {
            Ok(link) => path = folder.join(link),
            // It is no link, or not there.
            Err(_) => return Ok((folder, name)),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// A file whatever it is called: by its inode, or by its folder and name if it does not exist.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity {
    /// Device and inode.
    There(u64, u64),
    /// Folder, without links, and name.
    Absent(PathBuf, OsString),
}

/// The file that a name means; `None` if there can be none.
pub fn identity(path: &Path) -> Option<Identity> {
    if let Ok(file) = fs::metadata(path) {
        return Some(Identity::There(file.dev(), file.ino()));
    }
    let (folder, name) = new_file(path).ok()?;
    Some(Identity::Absent(folder.canonicalize().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_that_leads_nowhere_is_what_it_would_make() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        symlink("sub/second", path("first")).unwrap();
        symlink(path("file"), path("sub/second")).unwrap();
        assert_eq!(new_file(&path("first")).unwrap(), (folder.path().to_owned(), "file".into()));
        for same in ["first", "sub/second", "sub/../file"] {
            assert_eq!(identity(&path(same)), identity(&path("file")), "{same}");
        }
        assert_ne!(identity(&path("sub/file")), identity(&path("file")));
        fs::write(path("file"), b"").unwrap();
        assert!(matches!(identity(&path("first")), Some(Identity::There(..))));
        assert_eq!(identity(&path("first")), identity(&path("file")));
    }

    #[test]
    fn names_of_folders_and_circles_make_nothing() {
        let folder = tempfile::tempdir().unwrap();
        symlink("circle", folder.path().join("circle")).unwrap();
        for (name, error) in
            [("new/", libc::EISDIR), ("new/.", libc::EISDIR), ("..", libc::EISDIR), ("circle", libc::ELOOP)]
        {
            assert_eq!(new_file(&folder.path().join(name)).unwrap_err().raw_os_error(), Some(error), "{name}");
        }
    }
}
