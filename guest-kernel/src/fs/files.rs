//! The tree of files as the shell shows it: the initrd's are in `/`, those of disk N's file system in `/diskN`. All of it is
//! read-only. What is damaged is an error of the command that asked.

use super::initrd::{Archive, Error, Node};
use crate::devices::disk::Disk;
use alloc::borrow::Cow;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Where files are.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// In the file systems of disks.
    pub disks: &'a [Rc<Disk>],
    /// In the initrd, if it can be read.
    pub initrd: Result<Archive<'static>, Error>,
}

/// What a name stands for.
pub enum What {
    /// A directory.
    Directory,
    /// A file and its size.
    File(u64),
    /// A symbolic link and where it leads to.
    Link(String),
    /// Something without content.
    Special,
}

/// A name in a directory.
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it is.
    pub what: What,
}

/// Where a path leads to.
enum Place<'a> {
    /// To a path on a disk.
    Disk(&'a Rc<Disk>, String),
    /// Into the initrd.
    Initrd(Archive<'static>),
}

fn place<'a>(tree: Tree<'a>, path: &str) -> Result<Place<'a>, String> {
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    if let Some(number) = parts.next().and_then(|first| first.strip_prefix("disk"))
        && let Ok(number) = number.parse::<usize>()
    {
        let disk = tree.disks.get(number).ok_or_else(|| format!("there is no disk {number}"))?;
        return Ok(Place::Disk(disk, parts.collect::<Vec<_>>().join("/")));
    }
    tree.initrd.map(Place::Initrd).map_err(|error: Error| format!("initrd: {error}"))
}

/// Lists a directory.
///
/// # Errors
/// One line.
pub fn list(tree: Tree<'_>, path: &str) -> Result<Vec<Entry>, String> {
    let archive = match place(tree, path) {
        Ok(Place::Disk(disk, inside)) => {
            let entries = super::fat::list(disk, &inside).map_err(|error| format!("{path}: {error}"))?;
            let what = |size: Option<u32>| size.map_or(What::Directory, |size| What::File(size.into()));
            return Ok(entries.into_iter().map(|entry| Entry { name: entry.name, what: what(entry.size) }).collect());
        }
        Ok(Place::Initrd(archive)) => archive,
        Err(error) => return Err(error),
    };
    let inside = archive.list(path)?.into_iter().map(|(name, node)| Entry {
        name: name.to_string(),
        what: match node {
            Node::Directory => What::Directory,
            Node::File(content) => What::File(content.len() as u64),
            Node::Link(target) => What::Link(target.to_string()),
            Node::Special => What::Special,
        },
    });
    let is_root = path.split('/').all(|part| matches!(part, "" | "."));
    let disks = (0..if is_root { tree.disks.len() } else { 0 })
        .map(|number| Entry { name: format!("disk{number}"), what: What::Directory });
    // A disk hides what has its name.
    let hidden = |entry: &Entry| {
        let number = entry.name.strip_prefix("disk").and_then(|number| number.parse::<usize>().ok());
        is_root && number.is_some()
    };
    Ok(disks.chain(inside.filter(|entry| !hidden(entry))).collect())
}

/// Reads a file.
///
/// # Errors
/// One line.
pub fn read(tree: Tree<'_>, path: &str) -> Result<Cow<'static, [u8]>, String> {
    match place(tree, path)? {
        Place::Disk(_, inside) if inside.is_empty() => Err(format!("{path}: a directory")),
        Place::Disk(disk, inside) => {
            super::fat::read(disk, &inside).map(Cow::Owned).map_err(|error| format!("{path}: {error}"))
        }
        Place::Initrd(archive) => match archive.find(path)? {
            Node::File(content) => Ok(Cow::Borrowed(content)),
            Node::Directory => Err(format!("{path}: a directory")),
            Node::Link(_) | Node::Special => Err(format!("{path}: not a file")),
        },
    }
}
