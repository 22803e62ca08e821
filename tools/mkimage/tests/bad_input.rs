//! What a user can give wrongly to `mkimage --format disk`: each is one line, exit code 1, no output and nothing left over.

mod common;

use common::Fixture;
use common::disks::prepare;
use object::LittleEndian as LE;
use object::elf;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// "nobody".
const NOBODY: u32 = 65534;

/// A folder with good input, one for outputs, and one for temporary files; everybody may go in.
struct Place {
    folder: TempDir,
    program: PathBuf,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), program: env!("CARGO_BIN_EXE_mkimage").into() };
        open_to_all(place.path(), 0o755);
        prepare(place.path());
        for name in ["out", "tmp"] {
            fs::create_dir(place.path().join(name)).unwrap();
            open_to_all(&place.path().join(name), 0o777);
        }
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A folder with one file.
    fn folder_with(&self, folder: &str, file: &str) -> PathBuf {
        let path = self.path().join(folder);
        fs::create_dir(&path).unwrap();
        fs::write(path.join(file), "x").unwrap();
        path
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.path()).env("TMPDIR", self.path().join("tmp"));
        command.args(["--loaders", "loaders", "--format", "disk", "-o", "out/disk"]).args(more);
        command
    }

    /// Runs the program, and returns its one line.
    fn refused(&self, command: &mut Command) -> io::Result<String> {
        let done = command.output()?;
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), said.lines().count(), done.stdout.len()), (Some(1), 1, 0), "{said}");
        for name in ["out", "tmp"] {
            let left: Vec<_> = fs::read_dir(self.path().join(name)).unwrap().collect();
            assert!(left.is_empty(), "{said}: {left:?} was left behind");
        }
        Ok(said)
    }

    fn says(&self, more: &[&str], says: &str) {
        let said = self.refused(&mut self.command(more)).unwrap();
        assert!(said.starts_with(&format!("mkimage: {says}")), "{said}");
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_kernel_that_is_none_is_refused() {
    let place = Place::new();
    let kernel = |name: &str, bytes: &[u8]| fs::write(place.path().join(name), bytes).unwrap();
    let good = Fixture::default().build();
    kernel("empty", b"");
    kernel("text", b"#!/bin/sh\n");
    kernel("header", &good[..40]);
    kernel("half", &good[..good.len() / 2]);
    kernel("arm", &Fixture { machine: elf::EM_AARCH64, ..Fixture::default() }.build());
    File::create(place.path().join("huge")).unwrap().set_len(3 << 30).unwrap();
    // A note segment of 2 GiB, all of it a hole.
    let mut notes = good.clone();
    let (headers, len) = (size_of::<elf::FileHeader64<LE>>(), size_of::<elf::ProgramHeader64<LE>>());
    let is_note = |index: &usize| notes[headers + index * len..].starts_with(&elf::PT_NOTE.0.to_le_bytes());
    let index = (0..8).find(is_note).unwrap();
    let segment = headers + index * len;
    notes[segment + 32..segment + 40].copy_from_slice(&(2u64 << 30).to_le_bytes());
    kernel("notes", &notes);
    File::options().write(true).open(place.path().join("notes")).unwrap().set_len((2 << 30) + (1 << 20)).unwrap();
    kernel("plain", &Fixture { with_note: false, ..Fixture::default() }.build());
    for (kernel, says) in [
        ("missing", "cannot read missing: No such file or directory (os error 2)\n"),
        ("loaders", "cannot read loaders: "),
        ("empty", "empty: kernel is no ELF file"),
        ("text", "text: kernel is no ELF file"),
        ("header", "header: kernel ELF is damaged or truncated: "),
        ("half", "half: kernel ELF is damaged or truncated: "),
        (
            "arm",
            "arm: kernel is an ELF file of class 2, encoding 1, machine 183; a 64-bit little-endian x86-64 executable is needed\n",
        ),
        ("plain", "plain: kernel has no PVH entry"),
        ("/dev/zero", "cannot take /dev/zero: it is neither a file nor a folder\n"),
        ("huge", "cannot take huge: 3221225472 bytes; at most "),
        ("notes", "notes: kernel ELF is damaged or truncated: segment "),
    ] {
        place.says(&["--kernel", kernel], says);
    }
}

#[test]
fn a_size_that_is_none_or_too_small_for_the_files_is_refused() {
    let place = Place::new();
    File::create(place.path().join("large")).unwrap().set_len(70 * MIB).unwrap();
    let files = place.folder_with("files", "small");
    File::create(files.join("large")).unwrap().set_len(70 * MIB).unwrap();
    let small = "a disk of 67108864 bytes is too small: with these files between ";
    for (more, says) in [
        (["--size", "20M"].as_slice(), "a disk of 20971520 bytes is too small: with these files between "),
        (&["--size", "3T"], "a disk of 3298534883328 bytes is too large: "),
        (&["--size", "513G"], "a disk of 550829555712 bytes is too large: "),
        (&["--size", "64M", "--initrd", "large"], small),
        (&["--size", "64M", "--files", "files"], small),
    ] {
        place.says(&[&["--kernel", "kernel"], more].concat(), says);
    }
    // What is no size at all is a matter of arguments.
    let done = place.command(&["--kernel", "kernel", "--size", "many"]).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
}

#[test]
fn files_that_fat_cannot_hold_are_refused_by_name() {
    let place = Place::new();
    place.folder_with("question", "what?");
    let same = place.folder_with("same", "name");
    fs::write(same.join("NAME"), "y").unwrap();
    place.folder_with("long", &"x".repeat(255));
    let ours = place.folder_with("ours", "file");
    fs::create_dir(ours.join("ringside")).unwrap();
    fs::write(ours.join("ringside/kernel.elf"), "mine").unwrap();
    let huge = place.folder_with("huge", "small");
    File::create(huge.join("huge")).unwrap().set_len(1 << 32).unwrap();
    let odd = place.folder_with("odd", "file");
    symlink("/dev/null", odd.join("null")).unwrap();
    let dangling = place.folder_with("dangling", "file");
    symlink("nowhere", dangling.join("link")).unwrap();
    for (files, says) in [
        ("question", "cannot take question/what?: "),
        ("same", "cannot take same/name: another file has the same name but for case"),
        ("ours", "cannot take ours/ringside/kernel.elf: another file has the same name"),
        ("huge", "cannot take huge/huge: a file on FAT has less than 4 GiB"),
        ("odd", "cannot take odd/null: it is neither a file nor a folder"),
        ("dangling", "cannot read dangling/link: "),
        ("missing", "cannot read missing: "),
        ("kernel", "cannot read kernel: "),
    ] {
        place.says(&["--kernel", "kernel", "--files", files], says);
    }
}

#[test]
fn input_and_output_without_permission_are_refused_by_name() {
    let test = "input_and_output_without_permission_are_refused_by_name";
    let mut place = Place::new();
    // Its own folder is not everybody's.
    place.program = place.path().join("mkimage");
    fs::copy(env!("CARGO_BIN_EXE_mkimage"), &place.program).unwrap();
    open_to_all(&place.program, 0o755);
    let closed = place.folder_with("closed", "file");
    let inside = place.folder_with("inside", "file").join("file");
    let deep = place.folder_with("deep", "file").join("folder");
    fs::create_dir(&deep).unwrap();
    let secret = place.path().join("secret");
    fs::write(&secret, "x").unwrap();
    let no_output = place.path().join("no-output");
    fs::create_dir(&no_output).unwrap();
    // Permissions do not stop root, so the program runs as another user then.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let all = [&closed, &inside, &deep, &secret, &no_output];
    all.iter().for_each(|path| open_to_all(path, 0o000));
    for (more, says) in [
        (["--initrd", "closed"].as_slice(), "cannot read closed: "),
        (&["--initrd", "inside"], "cannot read inside/file: "),
        (&["--initrd", "deep"], "cannot read deep/folder: "),
        (&["--initrd", "secret"], "cannot read secret: "),
        (&["--files", "closed"], "cannot read closed: "),
        (&["--files", "inside"], "cannot read inside/file: "),
        (&["--files", "deep"], "cannot read deep/folder: "),
        (&["-o", "no-output/disk"], "cannot write no-output/disk: "),
    ] {
        let mut command = Command::new(&place.program);
        command.current_dir(place.path()).env("TMPDIR", place.path().join("tmp"));
        command.args(["--kernel", "kernel", "--loaders", "loaders", "--format", "disk"]).args(more);
        if !more.contains(&"-o") {
            command.args(["-o", "out/disk"]);
        }
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let said = match place.refused(&mut command) {
            Ok(said) => said,
            Err(error) => {
                eprintln!("SKIPPED {test}: cannot run a program as another user: {error}");
                break;
            }
        };
        assert!(said.starts_with(&format!("mkimage: {says}Permission denied (os error 13)")), "{said}");
        assert_eq!(said.matches("denied").count(), 1, "{said}");
    }
    // Otherwise they could not be removed.
    all.iter().for_each(|path| open_to_all(path, 0o755));
}
