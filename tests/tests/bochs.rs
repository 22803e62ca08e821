//! Bochs with its own BIOS: another BIOS than SeaBIOS, another software CPU than QEMU's, and no virtio device at all. The image
//! is a disk and a CD, as in tests/profiles/bochs.toml. `cargo xtask test` names the kernel in `RINGSIDE_KERNEL` and the
//! folder of the loaders in `RINGSIDE_LOADERS`; Bochs itself is not installed by `cargo xtask setup` (docs/dependencies.md).

use mkimage::bootable::{Format, Image};
use mkimage::loaders::Loaders;
use mkimage::output::Existing;
use ringside_tests::conform::fill::{Quoting, fill};
use ringside_tests::conform::profile::Profile;
use ringside_tests::ready;
use ringside_tests::running::Running;
use ringside_tests::testbed::find_program;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Some seconds are enough on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How the profile attaches the image: its only disk.
const AS_DISK: [&str; 2] = ["type=disk, path=\"{boot_disk}\", mode=volatile", "boot: disk"];
/// The same image on a CD.
const AS_CD: [&str; 2] = ["type=cdrom, path=\"{boot_disk}\", status=inserted", "boot: cdrom"];
/// What the log has when the guest switches the machine off.
const POWER_OFF: &str = ">>PANIC<< ACPI control: soft power off";

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// The console and the log of a machine that boots the image and has ended by itself.
fn boot(profile: &Profile, folder: &Path, image: &Path, medium: [&str; 2]) -> (String, String) {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (serial, log) = (folder.join("serial"), folder.join("log"));
    let values = BTreeMap::from([
        ("boot_disk", path(image)),
        ("folder", path(folder)),
        ("serial", path(&serial)),
        ("log", path(&log)),
        ("memory_mib", profile.memory_mib.to_string()),
        ("cpus", profile.cpus.to_string()),
    ]);
    for file in &profile.files {
        let mut text = file.text.clone();
        if file.name == "bochsrc" {
            for (disk, wanted) in AS_DISK.iter().zip(medium) {
                assert_eq!(count(&text, disk), 1, "the profile has another line than {disk:?}");
                text = text.replace(disk, wanted);
            }
        }
        fs::write(folder.join(&file.name), fill(&text, &values, Quoting::Plain).unwrap()).unwrap();
    }
    let mut command = Command::new(&profile.program);
    command.args(profile.args.iter().map(|arg| fill(arg, &values, Quoting::Plain).unwrap()));
    let ended = Running::spawn(command).unwrap().wait(PATIENCE);
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let (serial, log) = (read(&serial), read(&log));
    // Its status is 1, as for a panic: the log distinguishes them.
    assert!(ended.is_ok(), "{ended:?}\n{serial}\n{log}");
    (serial, log)
}

#[test]
fn bochs_boots_a_disk_and_a_cd_once_and_is_switched_off() {
    let test = "bochs_boots_a_disk_and_a_cd_once_and_is_switched_off";
    let Some((kernel, loaders)) = ready::named(ready::KERNEL, test).zip(ready::named(ready::LOADERS, test)) else {
        return;
    };
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/bochs.toml");
    let profile = Profile::read(&profile).unwrap();
    let programs = profile.needs.iter().chain([&profile.program]);
    if let Some(missing) = programs.into_iter().find(|program| find_program(program).is_none()) {
        eprintln!(
            "SKIPPED {test}: {missing} is not installed; apt-get install bochs bochs-x bochsbios vgabios xvfb xauth"
        );
        return;
    }
    let mut image = Image::read(&kernel, "conform=mm/*", None).unwrap();
    image.loaders = Some(Loaders::read(&loaders).unwrap());
    for (format, medium) in [(Format::Disk, AS_DISK), (Format::Iso, AS_CD)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        image.write(format, &path, Existing::Keep, &mut |_, _| {}).unwrap();
        let (serial, log) = boot(&profile, folder.path(), &path, medium);
        // Firmware that starts the machine again, or a loader that fails halfway, would show the kernel twice or not at all.
        assert_eq!(count(&serial, ": world native, hypervisor none"), 1, "{medium:?}\n{serial}\n{log}");
        assert_eq!(count(&serial, "@boot conform ok ran=4 failed=0"), 1, "{medium:?}\n{serial}");
        assert_eq!([POWER_OFF, ">>PANIC<<"].map(|what| count(&log, what)), [1, 1], "{medium:?}\n{log}");
    }
}
