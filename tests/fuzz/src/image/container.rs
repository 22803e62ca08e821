//! Disks in the formats of other hypervisors: what decides whether `qemu-img` may see a file at all. It is not started here.

use mkimage::container::names_others;
use std::fs::{self, File};
use tempfile::TempDir;

/// A folder with something that a descriptor may name, and something that it may not.
fn folder() -> TempDir {
    let made = tempfile::tempdir().and_then(|folder| {
        fs::write(folder.path().join("flat"), [7; 512])?;
        fs::write(folder.path().join("empty"), b"KDMV\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0")?;
        fs::create_dir(folder.path().join("folder"))?;
        Ok(folder)
    });
    made.unwrap_or_else(|error| panic!("the system gives no folder: {error}"))
}

pub(crate) fn run(bytes: &[u8]) {
    thread_local! {
        static FOLDER: TempDir = folder();
    }
    let path = FOLDER.with(|folder| folder.path().join("disk"));
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("the system takes no file: {error}"));
    let looked_at = File::open(&path).and_then(|mut file| names_others(&mut file, &path));
    // Only a file that is gone meanwhile is an error.
    let refused = looked_at.unwrap_or_else(|error| panic!("{error}")).is_some();
    let number = |at: usize, len: usize| bytes.get(at..at + len).unwrap_or_default();
    let is_zero = |at: usize, len: usize| number(at, len).iter().all(|byte| *byte == 0);
    if bytes.starts_with(b"QFI\xfb") && bytes.len() >= 80 {
        let has_data_file = !is_zero(4, 3) || number(4, 4)[3] >= 3;
        let has_data_file = has_data_file && number(72, 8)[7] & 4 != 0;
        assert_eq!(refused, !is_zero(8, 8) || has_data_file, "a qcow2 file with a backing or data file");
    } else if bytes.starts_with(b"KDMV") && bytes.len() >= 20 {
        assert_eq!(refused, is_zero(12, 8), "a VMDK file without a size");
    } else if bytes.starts_with(b"# Disk DescriptorFile") {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let named = |name: &[u8]| text.windows(name.len()).any(|window| window == name);
        let elsewhere = text.iter().any(|byte| b"/\\:".contains(byte));
        assert!(refused || !elsewhere, "a descriptor that names other places");
        assert!(refused || !named(b"\"folder\"") && !named(b"\"empty\""), "a descriptor that names what it may not");
    } else {
        assert!(!refused, "something that is no container is refused as one");
    }
}
