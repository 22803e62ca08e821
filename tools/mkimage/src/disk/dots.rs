//! Puts `.` and `..` where they belong. fatfs 0.3 gives them long names, so that they are the second and the fourth
//! entry of a folder; the FAT specification (section 6.5) and fsck want them first and second, and in the `..` of a
//! folder in the root the cluster 0, also where the root has a cluster.
//!
//! Runs on a volume that this program has just made, and trusts it.

use super::fat::{ATTRIBUTES, DELETED, ENTRY, FOLDER, LONG_NAME, Root, Volume};
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Reorders the first entries of every folder but the root.
pub(crate) fn repair<T: Read + Write + Seek>(disk: T) -> io::Result<()> {
    let mut volume = Volume::open(disk)?;
    let root = volume.read_root()?;
    let mut folders = folders_in(&volume, &root);
    while let Some(first) = folders.pop() {
        let content = volume.read_folder(first)?;
        folders.extend(folders_in(&volume, &content));
        if let Some(mut start) = reordered(&content) {
            if matches!(volume.root, Root::Cluster(root) if root == volume.cluster_of(&start[ENTRY..])) {
                start[ENTRY + 20..ENTRY + 22].fill(0);
                start[ENTRY + 26..ENTRY + 28].fill(0);
            }
            let at = volume.cluster(first);
            volume.disk.seek(SeekFrom::Start(at))?;
            volume.disk.write_all(&start)?;
        }
    }
    volume.disk.flush()
}

/// Clusters of the folders in a folder.
fn folders_in<T: Read + Seek>(volume: &Volume<T>, content: &[u8]) -> Vec<u32> {
    content
        .chunks_exact(ENTRY)
        .take_while(|entry| entry[0] != 0)
        .filter(|entry| entry[0] != DELETED && entry[0] != b'.')
        .filter(|entry| entry[ATTRIBUTES] != LONG_NAME && entry[ATTRIBUTES] & FOLDER != 0)
        .map(|entry| volume.cluster_of(entry))
        .collect()
}

/// `long name, ., long name, ..` as `., .., deleted, deleted`; `None` if it is in order.
fn reordered(content: &[u8]) -> Option<Vec<u8>> {
    let mut entries: Vec<&[u8]> = content.chunks_exact(ENTRY).take(4).collect();
    if entries.first()?[ATTRIBUTES] != LONG_NAME {
        return None;
    }
    entries.sort_by_key(|entry| entry[ATTRIBUTES] == LONG_NAME);
    let mut start = entries.concat();
    start[2 * ENTRY] = DELETED;
    start[3 * ENTRY] = DELETED;
    Some(start)
}
