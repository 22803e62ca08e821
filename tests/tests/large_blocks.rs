//! A disk that takes whole blocks of 4 KiB only, on QEMU: the sample disk, whose partition table and file
//! system count in smaller sectors, and file systems whose sectors are as large, in a partition of either table.

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use ringside_tests::machine::SerialLine;
use ringside_tests::ready::Ready;
use ringside_tests::running::Running;
use ringside_tests::sample::crc32;
use ringside_tests::testbed::Testbed;
use ringside_tests::tour::State;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;
const DISK: usize = 64 << 20;
/// The partition's first block, and how many it has.
const PARTITION: (usize, usize) = (256, 12 << 10);

/// Starts it with a disk of large blocks.
fn start(ready: &Ready) -> Running {
    let usual = ready.machine.command(SerialLine::Captured);
    let mut command = Command::new(usual.get_program());
    for argument in usual.get_args() {
        let text = argument.to_string_lossy();
        match text.starts_with("virtio-blk") {
            true => command.arg(format!("{text},logical_block_size={BLOCK},physical_block_size={BLOCK}")),
            false => command.arg(argument),
        };
    }
    Running::spawn(command).unwrap()
}

#[test]
fn the_tour_succeeds_on_a_disk_of_large_blocks() {
    for cmdline in ["tour", "tour drivers=reference"] {
        let Some(ready) = Ready::new("a disk of large blocks", Testbed::Qemu, 128, cmdline).unwrap() else { return };
        let verdict = ready.follow(start(&ready));
        assert!(verdict.succeeded(), "{}\n{}\n{}", verdict.complaint(), verdict.tail.join("\n"), verdict.stderr);
        assert!(verdict.steps.iter().all(|step| step.state != State::Skipped), "{:?}", verdict.steps);
    }
}

/// A file system with sectors as large as the blocks, and a file on it.
fn file_system(name: &str, content: &[u8]) -> Vec<u8> {
    let mut volume = Cursor::new(vec![0; PARTITION.1 * BLOCK]);
    let options = FormatVolumeOptions::new().bytes_per_sector(BLOCK as u16);
    fatfs::format_volume(&mut volume, options).unwrap();
    let system = FileSystem::new(&mut volume, FsOptions::new()).unwrap();
    system.root_dir().create_file(name).unwrap().write_all(content).unwrap();
    system.unmount().unwrap();
    volume.into_inner()
}

fn write_with_guid_table(path: &Path, volume: &[u8]) {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(DISK as u64).unwrap();
    ProtectiveMBR::with_lb_size((DISK / BLOCK - 1) as u32).overwrite_lba0(&mut file).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb4096);
    let mut table = config.create_from_device(&mut file, None).unwrap();
    let (first, blocks) = (PARTITION.0 as u64, PARTITION.1 as u64);
    table.add_partition_at("files", 1, first, blocks, partition_types::BASIC, 0).unwrap();
    table.write().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[PARTITION.0 * BLOCK..][..volume.len()].copy_from_slice(volume);
    fs::write(path, bytes).unwrap();
}

fn write_with_old_table(path: &Path, volume: &[u8]) {
    let mut bytes = vec![0; DISK];
    let entry = &mut bytes[446..462];
    entry[4] = 0x0c;
    entry[8..12].copy_from_slice(&(PARTITION.0 as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(PARTITION.1 as u32).to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[PARTITION.0 * BLOCK..][..volume.len()].copy_from_slice(volume);
    fs::write(path, bytes).unwrap();
}

#[test]
fn file_systems_with_large_sectors_are_read_from_either_partition_table() {
    let content: Vec<u8> = (0..300_000_u32).map(|byte| (byte * 7) as u8).collect();
    let volume = file_system("LARGE.BIN", &content);
    for write in [write_with_guid_table, write_with_old_table] {
        for cmdline in ["", "drivers=reference"] {
            let Some(ready) = Ready::new("large sectors", Testbed::Qemu, 64, cmdline).unwrap() else { return };
            write(&ready.machine.disk.path, &volume);
            let mut running = start(&ready);
            running.expect("type help for the commands", PATIENCE).unwrap();
            running.type_line("blk").unwrap();
            running.expect("disk 0: 131072 sectors in blocks of 4096 bytes", PATIENCE).unwrap();
            running.type_line("blk 1").unwrap();
            running.expect("error: there is no disk 1", PATIENCE).unwrap();
            running.type_line("sum /disk0/LARGE.BIN").unwrap();
            let expected = format!("{:08x} {} /disk0/LARGE.BIN", crc32(&content), content.len());
            running.expect(&expected, PATIENCE).unwrap();
            // A sector within a block.
            let sector = PARTITION.0 * BLOCK / 512;
            running.type_line(&format!("blk read {sector}")).unwrap();
            running.expect("000 eb ", PATIENCE).unwrap();
            running.type_line(&format!("blk read {}", sector + 1)).unwrap();
            running.expect("1f0 ", PATIENCE).unwrap();
            running.type_line("poweroff").unwrap();
            running.wait(PATIENCE).unwrap();
        }
    }
}
