//! The guest's reader of newc archives, and what it makes of every name in one.

use crate::assert_one_line;
use guest_kernel::fs::initrd::{Archive, Node};

/// Directories that are listed, at most: a script has a second.
const DIRECTORIES: usize = 64;

pub(crate) fn run(bytes: &[u8]) {
    let archive = match Archive::open(bytes) {
        Ok(archive) => archive,
        Err(error) => return assert_one_line(&error.to_string()),
    };
    assert_eq!(archive.size(), bytes.len());
    let (mut waiting, mut seen) = (vec![String::new()], 0);
    while let Some(folder) = waiting.pop().filter(|_| seen < DIRECTORIES) {
        seen += 1;
        // A link may lead anywhere, and a name may hide a folder that another implied.
        let Ok(entries) = archive.list(&folder) else { continue };
        for (name, node) in entries {
            assert!(!name.is_empty() && !name.contains('/') && name != "..", "{name:?} in {folder:?}");
            let path = format!("{folder}/{name}");
            match node {
                Node::Directory => waiting.push(path),
                Node::File(content) => {
                    assert!(content.is_empty() || bytes.as_ptr_range().contains(&content.as_ptr()), "{path}");
                    assert!(content.len() <= bytes.len(), "{path}: {} bytes", content.len());
                }
                // Whether it leads anywhere: an answer either way.
                Node::Link(_) => _ = archive.find(&path),
                Node::Special => {}
            }
        }
    }
    assert!(archive.count() * 110 <= bytes.len(), "{} files", archive.count());
}
