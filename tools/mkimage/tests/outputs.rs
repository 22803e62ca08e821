//! Where images go, and as what: locked disks, formats by name, and the format bzimage.

mod common;

use common::disks;
use common::disks::program;
use mkimage::bootable::Format;
use mkimage::image;
use mkimage::kernel::Kernel;
use mkimage::output::Existing;
use object::LittleEndian as LE;
use object::read::elf::ProgramHeader;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const MIB: u64 = 1 << 20;

#[test]
fn a_disk_that_a_machine_has_locked_is_not_replaced_and_stays_as_it_is() {
    use nix::fcntl::{FcntlArg, fcntl};
    let place = tempfile::tempdir().unwrap();
    disks::prepare(place.path());
    let disk = place.path().join("disk.img");
    fs::write(&disk, "the machine's").unwrap();
    let make =
        |name: &str| program(&["--kernel", "kernel", "--loaders", "loaders", "-o", name, "--force"], place.path());
    // As QEMU does it: a lock for reading, of some bytes far from the start.
    let running = File::open(&disk).unwrap();
    let lock =
        libc::flock { l_type: libc::F_RDLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 100, l_len: 1, l_pid: 0 };
    fcntl(&running, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let (code, message) = make("disk.img");
    let says =
        "mkimage: cannot replace disk.img: a running machine has locked it; end that first, or choose another output\n";
    assert_eq!((code, message.as_str()), (Some(1), says));
    assert_eq!(fs::read(&disk).unwrap(), b"the machine's");
    drop(running);
    assert_eq!(make("disk.img"), (Some(0), String::new()));
    assert!(fs::metadata(&disk).unwrap().len() >= 64 * MIB);
}

#[test]
fn a_signal_leaves_no_file_that_is_half_made() {
    let place = tempfile::tempdir().unwrap();
    disks::prepare(place.path());
    let names = || {
        let mut names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    // The signal comes when the disk has been made raw, and its other format has a file.
    let tools = tempfile::tempdir().unwrap();
    let script = tools.path().join("qemu-img");
    fs::write(&script, "#!/bin/sh\nkill -$SIGNAL $PPID\nexec sleep 5\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, number) in [("INT", libc::SIGINT), ("TERM", libc::SIGTERM), ("HUP", libc::SIGHUP)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkimage"));
        command.args(["--kernel", "kernel", "--loaders", "loaders", "-o", "out.qcow2"]).current_dir(place.path());
        command.env("PATH", format!("{}:/usr/bin:/bin", tools.path().display())).env("SIGNAL", name);
        let ended = command.output().unwrap();
        assert_eq!(ended.status.signal(), Some(number), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(names(), before, "{name}");
    }
}

#[test]
fn the_format_follows_from_the_outputs_name_unless_it_is_given() {
    let place = tempfile::tempdir().unwrap();
    disks::prepare(place.path());
    let make = |more: &[&str]| program(&[&["--kernel", "kernel", "--loaders", "loaders"], more].concat(), place.path());
    for (name, start) in
        [("a.elf", &b"\x7fELF"[..]), ("a.ISO", &[0x90; 2]), ("a.img", &[0x90; 2]), ("a.bzimage", &[0x91; 2])]
    {
        assert_eq!(make(&["-o", name]), (Some(0), String::new()), "{name}");
        assert!(fs::read(place.path().join(name)).unwrap().starts_with(start), "{name}");
    }
    assert_eq!(make(&["-o", "odd.bin", "--format", "elf"]).0, Some(0));
    let (code, message) = make(&["-o", "image"]);
    assert!(
        code == Some(1) && message.starts_with("mkimage: cannot tell the format of image from its name; use --format"),
        "{message}"
    );
    let (code, message) = make(&["-o", "big.bzimage", "--size", "1G"]);
    assert!(code == Some(1) && message.contains("the format bzimage is as large as it needs to be"), "{message}");
}

#[test]
fn a_bzimage_is_the_setup_part_and_the_segments_where_they_are_loaded() {
    use shared_abi::bzimage::{ENTRY, LOAD, field};
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("x.bzimage");
    let image = disks::image();
    image.write(Format::BzImage, &output, Existing::Keep, &mut |_, _| {}).unwrap();
    let bytes = fs::read(&output).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let setup = (usize::from(bytes[field::SETUP_SECTORS]) + 1) * 512;
    assert_eq!(setup, disks::loaders().linux.len());
    assert_eq!(bytes.len() - setup, word(field::SYSTEM_SIZE) as usize * 16);
    let elf = image::build(&image.kernel, &image.cmdline, image.initrd.clone()).unwrap();
    let kernel = Kernel::parse(&elf).unwrap();
    assert_eq!(u64::from(word(ENTRY)), kernel.pvh_entry().unwrap());
    for load in kernel.loads() {
        let data = load.data(LE, &*elf).unwrap();
        let at = setup + (load.p_paddr(LE) - u64::from(LOAD)) as usize;
        assert!(bytes[at..at + data.len()] == *data, "the segment at {:#x}", load.p_paddr(LE));
    }
    assert!(u64::from(word(field::INIT_SIZE)) + u64::from(LOAD) >= kernel.physical_end().unwrap());
}
