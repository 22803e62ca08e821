//! Images from a kernel made in memory: what they carry, and what is refused.

mod common;

use common::{DATA, DATA_MEMORY, Fixture, TEXT};
use mkimage::bundle::Bundle;
use mkimage::kernel::Kernel;
use mkimage::{Error, image};
use object::LittleEndian as LE;
use object::elf;
use object::read::elf::ProgramHeader;
use shared_abi::bundle::{KERNEL_VIRTUAL_BASE, SLOT_MAGIC, Slot};
use std::fs;
use std::path::Path;
use std::process::Command;
use zerocopy::IntoBytes;

#[test]
fn an_image_carries_command_line_initrd_and_symbols_after_the_kernel() {
    let bytes = image::build(&Fixture::default().build(), "tour a=b", b"an initrd".to_vec()).unwrap();
    let kernel = Kernel::parse(&bytes).unwrap();
    let slot = kernel.slot().unwrap().slot;
    assert_eq!(slot.paddr, (DATA + DATA_MEMORY).next_multiple_of(4096));

    let last = kernel.loads().last().unwrap();
    assert_eq!((last.p_paddr(LE), last.p_vaddr(LE)), (slot.paddr, KERNEL_VIRTUAL_BASE + slot.paddr));
    assert_eq!((last.p_filesz(LE), last.p_memsz(LE)), (slot.len, slot.len));
    assert!(last.p_flags(LE) == elf::PF_R);

    let bundle = Bundle::parse(&bytes[kernel.physical_range(slot.paddr, slot.len).unwrap()]).unwrap();
    assert_eq!((bundle.cmdline.as_str(), bundle.initrd.as_slice()), ("tour a=b", b"an initrd".as_slice()));
    let functions: Vec<_> = bundle.functions.iter().map(|f| (f.address as u64, f.name.as_str())).collect();
    assert_eq!(functions, [(TEXT, "start"), (TEXT + 0x10, "guest_kernel::main")]);
}

#[test]
fn every_byte_of_the_kernel_but_the_slot_is_loaded_as_before() {
    let before = Fixture::default().build();
    let after = image::build(&before, "x", Vec::new()).unwrap();
    let (before, after) = (Kernel::parse(&before).unwrap(), Kernel::parse(&after).unwrap());
    assert_eq!(before.pvh_entry().unwrap(), after.pvh_entry().unwrap());
    assert_eq!(before.notes, after.notes);
    assert_eq!(before.loads().count() + 1, after.loads().count());
    for (old, new) in before.loads().zip(after.loads()) {
        assert_eq!((old.p_paddr(LE), old.p_vaddr(LE)), (new.p_paddr(LE), new.p_vaddr(LE)));
        assert_eq!((old.p_filesz(LE), old.p_memsz(LE)), (new.p_filesz(LE), new.p_memsz(LE)));
        assert_eq!(new.p_offset(LE) % 4096, new.p_vaddr(LE) % 4096, "offset and address agree within a page");
        let mut old_bytes = old.data(LE, before.data).unwrap().to_vec();
        let mut new_bytes = new.data(LE, after.data).unwrap().to_vec();
        if old.p_paddr(LE) == DATA {
            old_bytes.drain(..size_of::<Slot>());
            new_bytes.drain(..size_of::<Slot>());
        }
        assert!(old_bytes == new_bytes, "segment at {:#x}", old.p_paddr(LE));
    }
}

#[test]
fn sections_keep_their_names_and_debug_information_is_left_out() {
    let before = Fixture::default().build();
    let after = image::build(&before, "x", Vec::new()).unwrap();
    let kernel = Kernel::parse(&after).unwrap();
    let names: Vec<_> = kernel.loaded_sections().unwrap().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [".text", ".ringside.bundle", ".bss"]);
    assert!(kernel.section_range(".debug_info").unwrap().is_none());
    let text = kernel.section_range(".text").unwrap().unwrap();
    assert_eq!(after[text], [0xf4; 64]);
}

#[test]
fn same_input_gives_the_same_bytes_and_another_command_line_others() {
    let kernel = Fixture::default().build();
    let build = |cmdline| image::build(&kernel, cmdline, vec![1, 2, 3]).unwrap();
    assert!(build("a") == build("a"));
    assert!(build("a") != build("b"));
}

#[test]
fn kernels_that_cannot_become_images_are_refused_by_name() {
    let refused = |fixture: Fixture| image::build(&fixture.build(), "", Vec::new()).unwrap_err();
    let fixture = Fixture::default;
    assert!(matches!(image::build(b"#!/bin/sh\n", "", vec![]), Err(Error::NotElf)));
    assert!(matches!(refused(Fixture { machine: elf::EM_AARCH64, ..fixture() }), Error::OtherMachine { .. }));
    assert!(matches!(refused(Fixture { with_note: false, ..fixture() }), Error::NoPvhNote));
    assert!(matches!(refused(Fixture { entry: 0x42, ..fixture() }), Error::EntryOutside { entry: 0x42 }));
    assert!(matches!(refused(Fixture { entry: DATA as u32, ..fixture() }), Error::EntryOutside { .. }));
    assert!(matches!(refused(Fixture { slot_section: ".other", ..fixture() }), Error::NoSlot));
    let slot = Slot { version: 77, ..Slot::EMPTY }.as_bytes().to_vec();
    assert!(refused(Fixture { slot, ..fixture() }).to_string().contains("version 77"));
    let slot = Slot { magic: [0; 16], ..Slot::EMPTY }.as_bytes().to_vec();
    assert!(matches!(refused(Fixture { slot, ..fixture() }), Error::BadSlot { .. }));
    assert!(matches!(refused(Fixture { slot: SLOT_MAGIC.to_vec(), ..fixture() }), Error::BadSlot { .. }));
    // A section that is not loaded would be missing from the image.
    let mut kernel = fixture().build();
    let headers = u64::from_le_bytes(kernel[40..48].try_into().unwrap()) as usize;
    let flags = headers + 2 * size_of::<elf::SectionHeader64<object::LittleEndian>>() + 8;
    assert_eq!(kernel[flags], 2, "the third section is the slot's, and is loaded");
    kernel[flags] = 0;
    let error = image::build(&kernel, "", Vec::new()).unwrap_err().to_string();
    assert!(error.contains("loaded"), "{error}");
}

#[test]
fn an_image_is_no_kernel_for_another_image() {
    let image = image::build(&Fixture::default().build(), "x", Vec::new()).unwrap();
    assert!(matches!(image::build(&image, "x", Vec::new()), Err(Error::AlreadyAnImage { .. })));
}

#[test]
fn a_kernel_cut_at_any_byte_is_an_error_never_a_panic() {
    let kernel = Fixture::default().build();
    for len in (0..kernel.len()).step_by(13) {
        assert!(image::build(&kernel[..len], "", Vec::new()).is_err(), "{len} of {} bytes passed", kernel.len());
    }
}

#[test]
fn a_kernel_with_any_header_byte_changed_never_panics() {
    let kernel = Fixture::default().build();
    for at in 0..64 + 3 * 56 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut spoilt = kernel.clone();
            spoilt[at] = value;
            // A huge but legal alignment would only make a huge file.
            let Ok(parsed) = Kernel::parse(&spoilt) else { continue };
            if parsed.loads().all(|load| load.p_align(LE) <= 1 << 20) {
                let _ = image::build(&spoilt, "", Vec::new());
            }
        }
    }
}

fn mkimage(args: &[&str], folder: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mkimage")).args(args).current_dir(folder).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_program_says_one_lower_case_line_and_leaves_no_output_when_the_input_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("kernel"), Fixture::default().build()).unwrap();
    fs::write(folder.join("text"), "hello").unwrap();
    fs::create_dir(folder.join("out")).unwrap();
    for (kernel, more, output, says) in [
        ("missing", [].as_slice(), "image", "cannot read missing: "),
        ("text", &[], "image", "text: kernel is no ELF file"),
        ("kernel", &["--initrd", "nowhere"], "image", "cannot read nowhere: "),
        ("kernel", &["--cmdline", "a\nb"], "image", "command line has the control character 0x0a at byte 1"),
        ("kernel", &[], "out", "cannot write out: it exists and is not a regular file"),
        ("kernel", &[], "kernel", "cannot write kernel: it is the input"),
        ("kernel", &[], "no/image", "cannot write no/image: "),
    ] {
        let mut args = vec!["--kernel", kernel, "--format", "elf", "-o", output];
        args.extend_from_slice(more);
        let (success, message) = mkimage(&args, folder);
        assert!(!success);
        assert!(message.starts_with(&format!("mkimage: {says}")), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["kernel", "out", "text"], "nothing was left behind");
}

#[test]
fn the_program_makes_an_image_and_inspect_reports_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("kernel"), Fixture::default().build()).unwrap();
    fs::create_dir(folder.join("root")).unwrap();
    fs::write(folder.join("root/hello"), "hello").unwrap();
    let args = ["--kernel", "kernel", "--cmdline", "tour", "--initrd", "root", "--format", "elf", "-o", "image"];
    assert_eq!(mkimage(&args, folder), (true, String::new()));
    let output = Command::new(env!("CARGO_BIN_EXE_mkimage"))
        .args(["inspect", "--json", "image"])
        .current_dir(folder)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["pvh_entry"], TEXT);
    assert_eq!(report["bundle"]["cmdline"], "tour");
    assert_eq!(report["bundle"]["symbols"], 2);
    assert!(report["bundle"]["initrd_bytes"].as_u64().unwrap() > 200);
    let text = mkimage::inspect::inspect(&folder.join("image")).unwrap().to_string();
    for line in ["note          Xen PHYS32_ENTRY: 0x100000\n", "note          Xen XEN_VERSION: \"xen-3.0\"\n"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("command line  \"tour\""), "{text}");
}
