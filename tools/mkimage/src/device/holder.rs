//! The holder of a block device, for messages. The kernel itself says only "busy"; `/proc` and sysfs have the rest, and may
//! also not know: a device can be mounted where this process cannot see it, or be held open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder of a block device in sysfs (Documentation/ABI/testing/sysfs-block), if the number is one.
pub(super) fn sysfs(number: u64) -> PathBuf {
    format!("/sys/dev/block/{}", text(number)).into()
}

/// What uses a device or one of its partitions.
pub(super) fn of(number: u64) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for Part { name, number, folder } in parts(number) {
        if let Some(place) = mounts.lines().find_map(|line| mounted(line, &number)) {
            return format!("{name} is mounted on {place}");
        }
        let mut swaps = swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
        if swaps.any(|path| number_of(path).as_ref() == Some(&number)) {
            return format!("{name} is swap space");
        }
        if let Some(holder) = names(&folder.join("holders")).first() {
            return format!("{name} is part of {holder}");
        }
    }
    "another program holds it".into()
}

/// A device or a partition of it.
struct Part {
    name: String,
    /// As `major:minor`.
    number: String,
    folder: PathBuf,
}

/// The device and its partitions.
fn parts(number: u64) -> Vec<Part> {
    let folder = sysfs(number);
    // A link to where the device is, by its name.
    let name = folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let whole = Part { name: name.unwrap_or_else(|| text(number)), number: text(number), folder: folder.clone() };
    let partitions = names(&folder).into_iter().filter_map(|name| {
        let folder = folder.join(&name);
        let number = fs::read_to_string(folder.join("dev")).ok().filter(|_| folder.join("partition").exists())?;
        Some(Part { name, number: number.trim().into(), folder })
    });
    std::iter::once(whole).chain(partitions).collect()
}

/// Where a device is mounted, if a line of `mountinfo` (proc_pid_mountinfo(5)) is about it. Some file systems have device
/// numbers of their own, so that the source counts as well.
fn mounted(line: &str, number: &str) -> Option<String> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (device, place) = (fields.next()?, fields.nth(1)?);
    let source = after.split(' ').nth(1)?;
    let is_it = device == number || number_of(&source.replace("\\040", " ")).as_deref() == Some(number);
    // Other white space stays as the kernel escapes it: this is to be one line.
    is_it.then(|| place.replace("\\040", " "))
}

fn number_of(device: &str) -> Option<String> {
    let path = Path::new(device);
    super::is_device(path).then(|| fs::metadata(path).ok().map(|metadata| text(metadata.rdev())))?
}

fn text(number: u64) -> String {
    format!("{}:{}", libc::major(number), libc::minor(number))
}

/// The names in a folder, sorted; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number_and_its_place_is_read_back() {
        let line = r"42 27 259:0 / /media/my\040stick rw,relatime shared:1 - ext2 /dev/none rw";
        assert_eq!(mounted(line, "259:0").as_deref(), Some("/media/my stick"));
        assert_eq!(mounted(line, "259:1"), None);
        for broken in ["", "42 27 259:0", "42 27 259:0 / /place rw -", "42 27 259:0 / /place - ext2"] {
            assert_eq!(mounted(broken, "259:0"), None);
        }
    }
}
