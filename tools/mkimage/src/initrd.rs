//! The initrd: a file as it is, or a folder as a newc cpio archive with sorted names, no owners and no times.

use crate::{Error, Result};
use cpio::newc;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Bytes of the largest initrd: `extract` takes no larger file, and no guest has room for it below 4 GiB.
pub(crate) const LARGEST: u64 = 2 << 30;

/// The bytes of an initrd made of `path`.
///
/// # Errors
/// When something cannot be read, is no file, folder or link, or is too large.
pub fn load(path: &Path) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(|why| Error::Read { path: path.into(), why })?;
    if metadata.is_dir() {
        pack(path).and_then(|archive| if archive.len() as u64 > LARGEST { Err(too_large(path)) } else { Ok(archive) })
    } else if metadata.is_file() && metadata.len() > LARGEST {
        Err(too_large(path))
    } else if metadata.is_file() {
        fs::read(path).map_err(|why| Error::Read { path: path.into(), why })
    } else {
        Err(Error::OddFile(path.into()))
    }
}

fn too_large(path: &Path) -> Error {
    Error::BadName { path: path.into(), why: "an initrd larger than 2 GiB".into() }
}

fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    let mut inode = 0;
    for (name, path) in walk(root)? {
        let unreadable = |why| Error::Read { path: path.clone(), why };
        let metadata = fs::symlink_metadata(&path).map_err(unreadable)?;
        if archive.len() as u64 + metadata.len() > LARGEST {
            return Err(too_large(root));
        }
        let kind = metadata.file_type();
        let (mode, content) = if kind.is_dir() {
            (FOLDER | 0o755, Vec::new())
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(unreadable)?;
            (LINK | 0o777, target.as_os_str().as_bytes().to_vec())
        } else if kind.is_file() {
            let executable = metadata.permissions().mode() & 0o100 != 0;
            let permissions = if executable { 0o755 } else { 0o644 };
            (FILE | permissions, fs::read(&path).map_err(unreadable)?)
        } else {
            return Err(Error::OddFile(path));
        };
        let size = u32::try_from(content.len())
            .map_err(|_| Error::BadName { path: path.clone(), why: "larger than 4 GiB".into() })?;
        inode += 1;
        let links = if kind.is_dir() { 2 } else { 1 };
        let mut entry = newc::Builder::new(&name).ino(inode).mode(mode).nlink(links).mtime(0).write(&mut archive, size);
        entry.write_all(&content).and_then(|()| entry.finish().map(drop)).map_err(unreadable)?;
    }
    newc::trailer(&mut archive).map_err(|why| Error::Read { path: root.into(), why })?;
    Ok(archive)
}

/// Everything below `root`, a folder before what is in it, names in byte order: archive name and path.
pub(crate) fn walk(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    collect(root, "", &mut found)?;
    Ok(found)
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    let unreadable = |why| Error::Read { path: folder.into(), why };
    let mut entries =
        fs::read_dir(folder).map_err(unreadable)?.collect::<std::io::Result<Vec<_>>>().map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::BadName { path, why: "its name is not UTF-8".into() });
        };
        let name = format!("{prefix}{name}");
        let is_folder = entry.file_type().map_err(unreadable)?.is_dir();
        found.push((name.clone(), path.clone()));
        if is_folder {
            collect(&path, &format!("{name}/"), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_becomes_a_sorted_archive_without_times_or_owners() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/run"), b"#!").unwrap();
        fs::set_permissions(folder.path().join("bin/run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.path().join("a.txt"), b"hello").unwrap();
        symlink("bin/run", folder.path().join("z")).unwrap();

        let archive = load(folder.path()).unwrap();
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            seen.push((entry.name().to_owned(), entry.mode()));
            rest = reader.finish().unwrap();
        }
        let expected = [("a.txt", 0o100_644), ("bin", 0o040_755), ("bin/run", 0o100_755), ("z", 0o120_777)];
        assert_eq!(seen, expected.map(|(name, mode)| (name.to_owned(), mode)));
        assert_eq!(archive, load(folder.path()).unwrap());
    }

    #[test]
    fn a_folder_that_is_too_large_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("hole")).unwrap();
        // More than there is memory for.
        file.set_len(1 << 42).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("an initrd larger than 2 GiB"), "{error}");
    }

    #[test]
    fn a_missing_initrd_is_named() {
        let error = load(Path::new("/nonexistent/initrd")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/initrd: "), "{error}");
    }
}
