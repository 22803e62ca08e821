//! Tests of raw images: each way in which one cannot be opened.

use super::*;
use std::path::Path;

fn disk(path: &Path, access: DiskAccess) -> Disk {
    Disk::at(path, access)
}

fn image(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    file
}

#[test]
fn a_missing_image_is_refused() {
    let error = RawFile::open(&disk(Path::new("/nonexistent/disk"), DiskAccess::ReadWrite)).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn an_image_of_odd_size_is_refused() {
    let file = image(1000);
    let error = RawFile::open(&disk(file.path(), DiskAccess::ReadWrite)).unwrap_err();
    assert!(matches!(error, OpenError::Size(1000)));
    assert!(matches!(RawFile::open(&disk(image(0).path(), DiskAccess::ReadOnly)), Err(OpenError::Empty)));
}

#[test]
fn a_directory_is_no_image() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(RawFile::open(&disk(folder.path(), DiskAccess::ReadOnly)), Err(OpenError::WrongKind)));
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let file = image(4096);
    let writer = RawFile::open(&disk(file.path(), DiskAccess::ReadWrite)).unwrap();
    for access in [DiskAccess::ReadWrite, DiskAccess::ReadOnly] {
        assert!(matches!(RawFile::open(&disk(file.path(), access)), Err(OpenError::Locked)));
    }
    drop(writer);
    let readers = [(); 2].map(|()| RawFile::open(&disk(file.path(), DiskAccess::ReadOnly)).unwrap());
    assert!(matches!(RawFile::open(&disk(file.path(), DiskAccess::ReadWrite)), Err(OpenError::Locked)));
    drop(readers);
}

#[test]
fn a_read_only_image_is_given_only_as_such() {
    let file = image(4096);
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o444)).unwrap();
    assert!(matches!(RawFile::open(&disk(file.path(), DiskAccess::ReadWrite)), Err(OpenError::ReadOnly)));
    assert!(RawFile::open(&disk(file.path(), DiskAccess::ReadOnly)).is_ok());
}

#[test]
fn vectors_advance_over_short_transfers() {
    let mut bytes = [0u8; 30];
    let base = bytes.as_mut_ptr();
    let mut vectors: Vec<_> =
        [0, 10, 20].map(|at| libc::iovec { iov_base: base.wrapping_add(at).cast(), iov_len: 10 }).to_vec();
    let rest = advance(&mut vectors, 15);
    assert_eq!(rest.iter().map(|vector| vector.iov_len).collect::<Vec<_>>(), [5, 10]);
    assert_eq!(rest[0].iov_base.cast::<u8>(), base.wrapping_add(15));
    assert!(advance(&mut vectors, 25).is_empty());
}

/// A loop device over a file.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8_lossy(&output.stdout).trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_in_use_is_refused() {
    let file = image(1 << 20);
    let Some(device) = Loop::over(file.path()) else {
        return eprintln!("SKIPPED a_block_device_in_use_is_refused: no loop device can be set up");
    };
    let path = Path::new(&device.0);
    // As a mount holds it.
    let held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path).unwrap();
    assert!(matches!(RawFile::open(&disk(path, DiskAccess::ReadWrite)), Err(OpenError::Busy)));
    assert!(RawFile::open(&disk(path, DiskAccess::ReadOnly)).is_ok());
    drop(held);
    let ours = RawFile::open(&disk(path, DiskAccess::ReadWrite)).unwrap();
    assert!(
        OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path).is_err(),
        "no other process can claim it"
    );
    drop(ours);
}
