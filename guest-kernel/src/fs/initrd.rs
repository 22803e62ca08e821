//! The initrd: a newc cpio archive (`cpio(5)`, Linux `Documentation/driver-api/early-userspace/buffer-format.rst`), read
//! where it lies. Its content is not trusted: it is walked once when it is opened, and damage is an error
//! that names the place.
//!
//! Published readers stop silently at a damaged header, or read through a stream and copy; so this one is ours.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str;

/// Bytes of a header: the magic number and 13 numbers of eight hexadecimal digits.
const HEADER: usize = 110;
const DIGITS: usize = 8;
/// Fields of a header that are used.
mod field {
    pub(super) const INODE: usize = 0;
    pub(super) const MODE: usize = 1;
    pub(super) const LINKS: usize = 4;
    pub(super) const SIZE: usize = 6;
    pub(super) const NAME_SIZE: usize = 11;
}

const MODE_KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Symbolic links that are followed on one path.
const LINKS_MAX: u32 = 8;

/// Why an archive cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is no newc archive from the first byte on.
    NotAnArchive,
    /// It is compressed.
    Compressed,
    /// No header where one should be.
    NoHeader(usize),
    /// A header has something else than hexadecimal digits.
    BadNumber(usize),
    /// An entry extends past the archive's end.
    Truncated(usize),
    /// A name is not UTF-8, not terminated, or leads out of the archive.
    BadName(usize),
    /// The archive ends without saying so.
    NoTrailer,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnArchive => f.write_str("not a newc cpio archive"),
            Self::Compressed => f.write_str("compressed; pack it as a plain newc cpio archive"),
            Self::NoHeader(at) => write!(f, "no header of a file at byte {at}"),
            Self::BadNumber(at) => write!(f, "a header's number at byte {at} is not hexadecimal"),
            Self::Truncated(at) => write!(f, "truncated: the file at byte {at} extends past the end"),
            Self::BadName(at) => write!(f, "the file at byte {at} has a bad name"),
            Self::NoTrailer => f.write_str("truncated: its last entry is missing"),
        }
    }
}

/// A header and what belongs to it.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    inode: u32,
    links: u32,
    mode: u32,
    content: &'a [u8],
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// A directory.
    Directory,
    /// A file.
    File(&'a [u8]),
    /// A symbolic link, and where it leads to.
    Link(&'a str),
    /// A device or something else without content.
    Special,
}

/// An archive that was found to be whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Archive<'a> {
    bytes: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Takes the bytes; none are an empty archive.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        match bytes {
            [0x1f, 0x8b, ..] | [0xfd, b'7', b'z', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'B', b'Z', b'h', ..] => {
                return Err(Error::Compressed);
            }
            [] => return Ok(Self { bytes }),
            _ if !is_magic(bytes) => return Err(Error::NotAnArchive),
            _ => {}
        }
        let mut walk = Walk { bytes, at: 0, ended: false };
        walk.by_ref().try_for_each(|entry| entry.map(drop))?;
        if walk.ended { Ok(Self { bytes }) } else { Err(Error::NoTrailer) }
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        Walk { bytes: self.bytes, at: 0, ended: false }.map_while(Result::ok)
    }

    /// Files in it.
    pub fn count(&self) -> usize {
        self.entries().filter(|entry| entry.mode & MODE_KIND == FILE).count()
    }

    /// Bytes of it.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What has exactly that path. Of several the last counts, as if they were unpacked one after the other.
    fn node(&self, path: &str) -> Option<Node<'a>> {
        if path.is_empty() {
            return Some(Node::Directory);
        }
        let exact = self.entries().filter(|entry| parts(entry.name).eq(parts(path))).last();
        exact.map(|entry| self.meaning(entry)).or_else(|| {
            let is_below = |entry: Entry<'_>| below(entry.name, path).is_some_and(|mut inside| inside.next().is_some());
            let implied = self.entries().any(is_below);
            implied.then_some(Node::Directory)
        })
    }

    fn meaning(&self, entry: Entry<'a>) -> Node<'a> {
        match entry.mode & MODE_KIND {
            DIRECTORY => Node::Directory,
            FILE => Node::File(self.content(entry)),
            LINK => str::from_utf8(entry.content).map_or(Node::Special, Node::Link),
            _ => Node::Special,
        }
    }

    /// The content; that of a file with several names may stand at any of them.
    fn content(&self, entry: Entry<'a>) -> &'a [u8] {
        if entry.links < 2 || !entry.content.is_empty() {
            return entry.content;
        }
        let same = |other: &Entry<'_>| other.inode == entry.inode && other.mode & MODE_KIND == FILE;
        self.entries().filter(same).map(|other| other.content).find(|content| !content.is_empty()).unwrap_or(&[])
    }

    /// Follows a path; the last part is followed, too, if it is a link.
    ///
    /// # Errors
    /// One line.
    pub fn find(&self, path: &str) -> Result<Node<'a>, String> {
        self.resolve(path).map(|(_, node)| node)
    }

    fn resolve(&self, path: &str) -> Result<(String, Node<'a>), String> {
        let mut rest: Vec<&str> = path.split('/').rev().collect();
        let (mut at, mut node, mut links) = (String::new(), Node::Directory, 0);
        while let Some(part) = rest.pop() {
            match part {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    node = Node::Directory;
                    continue;
                }
                _ if node != Node::Directory => return Err(format!("{at}: not a directory")),
                _ => {}
            }
            let child = if at.is_empty() { part.to_string() } else { format!("{at}/{part}") };
            match self.node(&child).ok_or_else(|| format!("{path}: no such file or directory"))? {
                Node::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(format!("{path}: more than {LINKS_MAX} symbolic links"));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(target.split('/').rev());
                }
                found => (at, node) = (child, found),
            }
        }
        Ok((at, node))
    }

    /// What is in a directory, by name.
    ///
    /// # Errors
    /// One line.
    pub fn list(&self, path: &str) -> Result<BTreeMap<&'a str, Node<'a>>, String> {
        let (directory, node) = self.resolve(path)?;
        if node != Node::Directory {
            return Err(format!("{path}: not a directory"));
        }
        let mut found = BTreeMap::new();
        for entry in self.entries() {
            let Some(mut inside) = below(entry.name, &directory) else { continue };
            let Some(name) = inside.next() else { continue };
            if inside.next().is_some() {
                found.entry(name).or_insert(Node::Directory);
            } else {
                found.insert(name, self.meaning(entry));
            }
        }
        Ok(found)
    }
}

/// The parts of a name: `./a` and `/a` are `a`, `a//./b/` is `a/b`, and the root has none.
fn parts<'a>(name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
    name.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// The parts of a name below a directory, none of the directory itself; `None` if it does not lie there.
fn below<'a>(name: &'a str, directory: &str) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
    let mut inside = parts(name);
    parts(directory).all(|part| inside.next() == Some(part)).then_some(inside)
}

fn is_magic(bytes: &[u8]) -> bool {
    // With checksums (070702) or without.
    bytes.starts_with(b"070701") || bytes.starts_with(b"070702")
}

/// From header to header.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The last entry was the one that ends an archive; after it zeros may follow, and another archive.
    ended: bool,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.ended {
                let zeros = self.bytes.get(self.at..)?.iter().position(|&byte| byte != 0)?;
                self.at += zeros;
                self.ended = false;
            } else if self.at >= self.bytes.len() {
                return None;
            }
            match self.entry() {
                Ok(entry) if entry.name == TRAILER => self.ended = true,
                Err(error) => {
                    self.at = self.bytes.len();
                    return Some(Err(error));
                }
                entry => return Some(entry),
            }
        }
    }
}

impl<'a> Walk<'a> {
    fn entry(&mut self) -> Result<Entry<'a>, Error> {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or(&[]);
        if !is_magic(rest) {
            return Err(Error::NoHeader(start));
        }
        let header = rest.get(..HEADER).ok_or(Error::Truncated(start))?;
        let number = |index: usize| {
            let at = 6 + index * DIGITS;
            let digits = str::from_utf8(&header[at..at + DIGITS]).ok().filter(|text| !text.starts_with('+'));
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or(Error::BadNumber(start + at))
        };
        let (name_size, size) = (number(field::NAME_SIZE)? as usize, number(field::SIZE)? as usize);
        let take = |from: usize, len: usize| {
            let end = from.checked_add(len).filter(|&end| end <= self.bytes.len()).ok_or(Error::Truncated(start))?;
            Ok((&self.bytes[from..end], end.next_multiple_of(4)))
        };
        let (name, after_name) = take(start + HEADER, name_size)?;
        let name = name.strip_suffix(&[0]).and_then(|name| str::from_utf8(name).ok());
        let name = name.filter(|name| !name.contains('\0') && !name.split('/').any(|part| part == ".."));
        let name = name.ok_or(Error::BadName(start))?;
        let (content, next) = take(after_name, size)?;
        let entry = Entry {
            name,
            inode: number(field::INODE)?,
            links: number(field::LINKS)?,
            mode: number(field::MODE)?,
            content,
        };
        self.at = next;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests;
