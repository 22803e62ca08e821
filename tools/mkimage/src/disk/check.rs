//! Looks through a FAT file system before fatfs does: that one trusts the disk, and would panic at an invalid cluster, or
//! walk in circles. A volume that passes has every cluster at most once in a chain, and chains as long as their files.

use super::fat::{ATTRIBUTES, DELETED, ENTRY, FOLDER, LONG_NAME, Root, Volume, damaged, len_of};
use std::io::{self, Read, Seek};

const VOLUME_LABEL: u8 = 0x08;
/// Names of a folder itself and the one that it is in.
const DOTS: [&[u8; 11]; 2] = [b".          ", b"..         "];

/// Checks a volume.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub(crate) fn check<T: Read + Seek>(disk: T) -> io::Result<()> {
    let mut volume = Volume::open(disk)?;
    let mut seen = Seen(vec![0; volume.end as usize / 64 + 1]);
    let mut folders = Vec::new();
    if let Root::Cluster(first) = volume.root {
        seen.chain(&mut volume, first)?;
    }
    let mut content = volume.read_root()?;
    loop {
        for entry in content.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
            let attributes = entry[ATTRIBUTES];
            if entry[0] == DELETED || attributes == LONG_NAME || attributes & VOLUME_LABEL != 0 {
                continue;
            }
            let (first, is_folder) = (volume.cluster_of(entry), attributes & FOLDER != 0);
            if is_folder && DOTS.iter().any(|dots| entry.starts_with(*dots)) {
                continue;
            }
            let clusters = if first == 0 && !is_folder { 0 } else { seen.chain(&mut volume, first)? };
            if is_folder {
                folders.push(first);
            } else if clusters < volume.clusters_for(len_of(entry)) {
                return Err(damaged(format!("a file of {} bytes has {clusters} clusters", len_of(entry))));
            }
        }
        let Some(first) = folders.pop() else { return Ok(()) };
        content = volume.read_folder(first)?;
    }
}

/// A bit for each cluster.
struct Seen(Vec<u64>);

impl Seen {
    /// Follows a chain to its end, and says how long it is.
    fn chain<T: Read + Seek>(&mut self, volume: &mut Volume<T>, first: u32) -> io::Result<u64> {
        let (mut cluster, mut clusters) = (Some(first), 0);
        while let Some(number) = cluster {
            cluster = volume.next(number)?;
            let (word, bit) = (&mut self.0[number as usize / 64], 1 << (number % 64));
            if *word & bit != 0 {
                return Err(damaged(format!("cluster {number} belongs to two files")));
            }
            *word |= bit;
            clusters += 1;
        }
        Ok(clusters)
    }
}
