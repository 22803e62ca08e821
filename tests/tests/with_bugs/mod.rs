//! The suite on a host program in which a test can break something.

use ringside_tests::conform::profile::Profile;
use ringside_tests::conform::start::{self, Progress, Setting};
use ringside_tests::inner::{Inner, Linux};
use ringside_tests::ready::{self, Files};
use std::env;
use std::path::{Path, PathBuf};

/// Our host on the machine's KVM, or on that of a stock Linux in QEMU.
const PROFILES: [&str; 2] = ["host-kvm", "host-kvm-in-tcg"];

/// The host with bugs on the first available testbed; `None`, reported, if there is none.
pub(crate) fn bench(test: &str) -> Option<(Profile, Setting, tempfile::TempDir)> {
    let (ringside, kernel) = ready::named(ready::WITH_BUGS, test).zip(ready::named(ready::KERNEL, test))?;
    let path = |name: &str| env::var_os(name).map(PathBuf::from);
    let inner = match (path(ready::INNER_LINUX).and_then(|folder| Linux::at(&folder)), path(ready::INNER_INIT)) {
        (Some(linux), Some(init)) => Ok(Inner { linux, init, ringside: ringside.clone() }),
        _ => Err(format!("{} and {} name no stock Linux", ready::INNER_LINUX, ready::INNER_INIT)),
    };
    let folder = tempfile::tempdir().unwrap();
    let Files { image, sample: disk, .. } = Files::write(&kernel, folder.path()).unwrap();
    let kvm = ready::kvm();
    let xen = Err("bugs are injected into our host".into());
    let loaders = Err("nothing here is booted by firmware".into());
    let setting = Setting {
        image,
        disk,
        ringside,
        base: folder.path().into(),
        kvm,
        tap: None,
        inner,
        xen,
        loaders,
        progress: Progress::default(),
    };

    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut absent = Vec::new();
    let found = PROFILES.iter().find_map(|name| {
        let profile = Profile::read(&profiles.join(format!("{name}.toml"))).unwrap();
        let available = start::available(&profile, &setting);
        available.map_err(|why| absent.push(format!("{name}: {why:#}"))).ok().map(|_| profile)
    });
    let Some(profile) = found else {
        eprintln!("SKIPPED {test}: {}", absent.join("; "));
        return None;
    };
    Some((profile, setting, folder))
}
