//! The program as its users have it: copied alone into an empty folder, with nothing in its environment. `cargo xtask test` names it
//! in `RINGSIDE_SUITE`.

use object::Endianness;
use object::elf::{self, ProgramHeader64};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use ringside_tests::ready;
use ringside_tests::testbed::{QEMU, find_program};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The program, and the folder that it is in.
struct Alone {
    folder: TempDir,
    program: PathBuf,
}

impl Alone {
    /// `None`, said, without the program or something to test.
    fn new(test: &str) -> Option<Self> {
        let suite = ready::named(ready::SUITE, test)?;
        if find_program(QEMU).is_none() {
            eprintln!("SKIPPED {test}: {QEMU} is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("ringside-conform");
        fs::copy(suite, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder, program })
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.arg("300").arg(&self.program).args(arguments).current_dir(self.folder.path());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TMPDIR", self.folder.path());
        command.output().unwrap()
    }

    /// The standard output of what has to succeed.
    fn succeed(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(arguments);
        let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert!(status.success(), "{arguments:?}: {status}\n{stdout}\n{stderr}");
        stdout
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_program_alone_runs_the_checks_prints_the_matrix_and_leaves_only_what_was_asked_for() {
    let test = "the_program_alone_runs_the_checks_prints_the_matrix_and_leaves_only_what_was_asked_for";
    let Some(alone) = Alone::new(test) else { return };
    let arguments = ["run", "--on", "qemu-tcg-microvm", "--only", "mmio/*", "--json", "before.json"];
    let said = alone.succeed(&arguments);
    let row = said.lines().find(|line| line.trim_start().starts_with("mmio ")).unwrap_or_else(|| panic!("{said}"));
    assert!(row.contains(" pass"), "{said}");
    assert!(said.contains("1 of 1 testbeds ran: nothing failed that is not listed as a known defect"), "{said}");
    assert_eq!(alone.names(), ["before.json", "ringside-conform"]);
    // From a disk that firmware boots: the loaders are inside, too.
    let said = alone.succeed(&["compare", "before.json", "before.json"]);
    assert!(said.contains("0 outcomes are others, 0 of them worse"), "{said}");
}

#[test]
fn what_is_inside_can_be_looked_at_and_taken_out() {
    let Some(alone) = Alone::new("what_is_inside_can_be_looked_at_and_taken_out") else { return };
    assert!(alone.succeed(&["list", "--only", "block/*"]).contains("block/flush-succeeds"));
    let said = alone.succeed(&["show", "block/capacity-is-not-0"]);
    assert!(said.contains("5.2.4 Device configuration layout") && said.contains("should"), "{said}");
    assert!(alone.succeed(&["profiles"]).contains("qemu-tcg-q35"));
    let text = alone.succeed(&["profiles", "firecracker"]);
    fs::write(alone.folder.path().join("mine.toml"), text.replace("name = \"firecracker\"", "name = \"mine\""))
        .unwrap();
    alone.succeed(&["export-image", "guest.elf"]);
    alone.succeed(&["export-image", "disk.img", "--format", "disk", "--cmdline", "conform=mm/*"]);
    assert!(fs::read(alone.folder.path().join("guest.elf")).unwrap().starts_with(b"\x7fELF"));
    let again = alone.run(&["export-image", "guest.elf"]);
    assert_eq!(again.status.code(), Some(1), "a file that exists is kept");
    let lost = alone.run(&["export-image", "gone/guest.elf"]);
    let told = "ringside-conform: cannot write gone/guest.elf: No such file or directory (os error 2)\n";
    assert_eq!(String::from_utf8(lost.stderr).unwrap(), told);
    let unknown = alone.run(&["show", "block/nonsense"]);
    assert_eq!(
        String::from_utf8(unknown.stderr).unwrap(),
        "ringside-conform: there is no check block/nonsense; list shows them\n"
    );
}

#[test]
fn output_that_nobody_takes_ends_quietly_and_a_full_disk_is_an_error() {
    let Some(alone) = Alone::new("output_that_nobody_takes_ends_quietly_and_a_full_disk_is_an_error") else { return };
    let to = |output: Stdio| {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&alone.program).arg("list").stdout(output).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let closed = to(writer.into());
    assert_eq!((closed.status.code(), closed.stderr.as_slice()), (Some(0), &b""[..]));
    let full = to(fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
    let told = "ringside-conform: cannot write to standard output: No space left on device (os error 28)\n";
    assert_eq!((full.status.code(), String::from_utf8(full.stderr).unwrap()), (Some(1), told.into()));
}

#[test]
fn a_result_that_cannot_be_written_does_not_lose_the_others_and_none_overwrites_another() {
    let test = "a_result_that_cannot_be_written_does_not_lose_the_others_and_none_overwrites_another";
    let Some(alone) = Alone::new(test) else { return };
    let run = ["run", "--on", "qemu-tcg-microvm", "--only", "mm/*"];
    let full = alone.run(&[&run[..], &["--html", "/dev/full", "--json", "kept.json"]].concat());
    let (said, error) = (String::from_utf8(full.stdout).unwrap(), String::from_utf8(full.stderr).unwrap());
    assert_eq!(full.status.code(), Some(1));
    assert!(said.contains("1 of 1 testbeds ran") && error.contains("cannot write /dev/full"), "{said}\n{error}");
    alone.succeed(&["compare", "kept.json", "kept.json"]);
    let same = alone.run(&[&run[..], &["--junit", "kept.json", "--json", "./kept.json"]].concat());
    let told = "ringside-conform: --json would overwrite ./kept.json, which is --junit\n";
    assert_eq!((same.status.code(), String::from_utf8(same.stderr).unwrap()), (Some(1), told.into()));
    alone.succeed(&["compare", "kept.json", "kept.json"]);
    // A testbed that ran and is broken now is worse.
    fs::write(alone.folder.path().join("bad.toml"), "nonsense = 1").unwrap();
    assert!(!alone.run(&["run", "--profile", "bad.toml", "--json", "bad.json"]).status.success());
    let bad = fs::read_to_string(alone.folder.path().join("bad.json")).unwrap();
    fs::write(alone.folder.path().join("bad.json"), bad.replace("\"bad\"", "\"qemu-tcg-microvm\"")).unwrap();
    let compared = alone.run(&["compare", "kept.json", "bad.json"]);
    let said = String::from_utf8(compared.stdout).unwrap();
    assert!(!compared.status.success() && said.contains("ran before, is broken now"), "{said}");
    // Of the runs that came to logs there are logs.
    let mut names = alone.names();
    names.retain(|name| !name.starts_with("ringside-conform-"));
    assert_eq!(names, ["bad.json", "bad.toml", "kept.json", "ringside-conform"]);
    assert_eq!(alone.names().len(), names.len() + 1);
}

#[test]
fn a_device_is_not_replaced_by_a_file() {
    let Some(alone) = Alone::new("a_device_is_not_replaced_by_a_file") else { return };
    let pipe = alone.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = alone.run(&["export-image", "pipe", "--force"]);
    let told = "ringside-conform: cannot write pipe: it exists and is not a regular file\n";
    assert_eq!(String::from_utf8(refused.stderr).unwrap(), told);
    assert!(!fs::metadata(&pipe).unwrap().is_file());
}

#[test]
fn results_of_an_earlier_run_outlive_one_that_does_not_end() {
    let Some(alone) = Alone::new("results_of_an_earlier_run_outlive_one_that_does_not_end") else { return };
    fs::write(alone.folder.path().join("results.json"), "earlier").unwrap();
    let arguments =
        ["run", "--on", "qemu-tcg-microvm", "--only", "mm/*", "--image", "nowhere", "--json", "results.json"];
    assert!(!alone.run(&arguments).status.success());
    assert_eq!(fs::read_to_string(alone.folder.path().join("results.json")).unwrap(), "earlier");
}

#[test]
fn the_program_is_linked_statically() {
    let Some(suite) = ready::named(ready::SUITE, "the_program_is_linked_statically") else { return };
    let bytes = fs::read(suite).unwrap();
    let file = ElfFile64::<Endianness>::parse(&*bytes).unwrap();
    let names_a_linker = |header: &ProgramHeader64<_>| header.p_type(file.endian()) == elf::PT_INTERP;
    assert!(!file.elf_program_headers().iter().any(names_a_linker), "it asks for a dynamic linker");
}
