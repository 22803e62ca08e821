//! The kernel's reader of newc archives, against archives of the `cpio` crate and against damaged ones.

use crate::fs::initrd::{Archive, Error, Node};
use cpio::newc::{self, Builder};
use proptest::prelude::*;
use std::io::Write;

const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

fn archive(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (inode, (name, mode, content)) in entries.iter().enumerate() {
        let entry = Builder::new(name).ino(inode as u32 + 1).mode(*mode).nlink(1);
        let mut entry = entry.write(&mut bytes, content.len() as u32);
        entry.write_all(content).unwrap();
        entry.finish().unwrap();
    }
    newc::trailer(&mut bytes).unwrap();
    bytes
}

fn sample() -> Vec<u8> {
    archive(&[
        (".", DIRECTORY, b""),
        ("bin", DIRECTORY, b""),
        ("bin/run", FILE, b"#!"),
        ("a.txt", FILE, b"hello"),
        ("deep/er/file", FILE, b"x"),
        ("start", LINK, b"bin/run"),
        ("bin/up", LINK, b"../a.txt"),
        ("out", LINK, b"/bin"),
        ("round", LINK, b"round"),
        ("null", 0o020_666, b""),
    ])
}

#[test]
fn paths_lead_to_files_directories_and_through_links() {
    let bytes = sample();
    let archive = Archive::open(&bytes).unwrap();
    assert_eq!(archive.count(), 3);
    for path in ["a.txt", "/a.txt", "//bin/../a.txt", "./a.txt", "bin/up", "out/up"] {
        assert_eq!(archive.find(path), Ok(Node::File(b"hello")), "{path}");
    }
    assert_eq!(archive.find("start"), Ok(Node::File(b"#!")));
    assert_eq!(archive.find("deep/er/file"), Ok(Node::File(b"x")));
    assert_eq!(archive.find("deep"), Ok(Node::Directory), "a directory that only a name in it implies");
    assert_eq!(archive.find("null"), Ok(Node::Special));
    assert_eq!(archive.find("bin/none").unwrap_err(), "bin/none: no such file or directory");
    assert_eq!(archive.find("a.txt/b").unwrap_err(), "a.txt: not a directory");
    assert_eq!(archive.find("round").unwrap_err(), "round: more than 8 symbolic links");
    assert_eq!(archive.find("../../a.txt"), Ok(Node::File(b"hello")), "nothing is above the root");
}

#[test]
fn slashes_and_dots_in_names_of_the_archive_are_no_parts_of_them() {
    let bytes = archive(&[("b.///run", FILE, b"x"), ("./c/.//d/", DIRECTORY, b""), ("/c/./d//e", FILE, b"y")]);
    let archive = Archive::open(&bytes).unwrap();
    for (path, content) in [("b./run", b"x"), ("b.//run", b"x"), ("c/d/e", b"y")] {
        assert_eq!(archive.find(path), Ok(Node::File(content)), "{path}");
    }
    for (path, names) in [("", vec!["b.", "c"]), ("b.", vec!["run"]), ("c", vec!["d"]), ("c/d", vec!["e"])] {
        assert_eq!(archive.list(path).unwrap().into_keys().collect::<Vec<_>>(), names, "{path:?}");
    }
}

#[test]
fn a_directory_is_listed_by_name_without_what_lies_deeper() {
    let bytes = sample();
    let archive = Archive::open(&bytes).unwrap();
    let names = |path| archive.list(path).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names("/"), ["a.txt", "bin", "deep", "null", "out", "round", "start"]);
    assert_eq!(names("bin"), ["run", "up"]);
    assert_eq!(names("out/"), ["run", "up"]);
    assert_eq!(archive.list("bin").unwrap()["up"], Node::Link("../a.txt"));
    assert_eq!(archive.list("a.txt").unwrap_err(), "a.txt: not a directory");
}

#[test]
fn no_initrd_is_an_empty_directory() {
    let archive = Archive::open(&[]).unwrap();
    assert!(archive.list("/").unwrap().is_empty());
    assert_eq!(archive.find("x").unwrap_err(), "x: no such file or directory");
}

#[test]
fn concatenated_archives_are_one_and_the_last_of_two_files_counts() {
    let mut bytes = archive(&[("a", FILE, b"old"), ("b", FILE, b"b")]);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(archive(&[("a", FILE, b"new")]));
    let archive = Archive::open(&bytes).unwrap();
    assert_eq!(archive.find("a"), Ok(Node::File(b"new")));
    assert_eq!(archive.find("b"), Ok(Node::File(b"b")));
}

#[test]
fn a_file_with_two_names_has_its_content_at_both() {
    let mut bytes = Vec::new();
    for (name, content) in [("first", &b""[..]), ("second", b"same")] {
        let mut entry = Builder::new(name).ino(7).mode(FILE).nlink(2).write(&mut bytes, content.len() as u32);
        entry.write_all(content).unwrap();
        entry.finish().unwrap();
    }
    newc::trailer(&mut bytes).unwrap();
    let archive = Archive::open(&bytes).unwrap();
    assert_eq!(archive.find("first"), Ok(Node::File(b"same")));
}

#[test]
fn damage_of_an_archive_is_reported_with_its_place() {
    let good = sample();
    let error = |bytes: &[u8]| Archive::open(bytes).unwrap_err();
    assert_eq!(error(b"MZ and more"), Error::NotAnArchive);
    assert_eq!(error(&[0x1f, 0x8b, 8, 0]).to_string(), "compressed; pack it as a plain newc cpio archive");
    // Every archive that is cut is found out, wherever the cut is.
    let whole = good.len() - good.iter().rev().take_while(|&&byte| byte == 0).count() + 1;
    for len in 1..whole {
        assert!(Archive::open(&good[..len]).is_err(), "cut at {len} of {whole}");
    }
    let without_trailer = good.windows(6).rposition(|window| window == b"070701").unwrap();
    assert_eq!(error(&good[..without_trailer]), Error::NoTrailer);
    let change = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        error(&bytes)
    };
    // The first entry: "." with 2 bytes of name and no content.
    assert_eq!(change(6 + 8, b"0000zzzz"), Error::BadNumber(14));
    assert_eq!(change(6 + 8, b"+0000000"), Error::BadNumber(14));
    assert_eq!(change(6 + 6 * 8, b"ffffffff"), Error::Truncated(0));
    assert_eq!(change(6 + 11 * 8, b"ffffffff"), Error::Truncated(0));
    assert_eq!(change(6 + 11 * 8, b"00000000"), Error::BadName(0));
    assert_eq!(change(110, &[0xff]), Error::BadName(0));
    assert_eq!(change(112, b"xxxxxx"), Error::NoHeader(112));
    assert_eq!(error(&archive(&[("a/../../b", FILE, b"")])), Error::BadName(0));
}

proptest! {
    /// Whatever the bytes: an answer, no panic, and no walk without end.
    #[test]
    fn any_bytes_are_an_archive_or_an_error(
        mut bytes in Just(sample()),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        path in "[a-z./]{0,12}",
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(archive) = Archive::open(&bytes) {
            let _ = archive.list(&path);
            let _ = archive.find(&path);
        }
    }
}
