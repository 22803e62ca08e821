//! What is wrong with a description before anything that it names is opened.

use super::Error;
use crate::config::{Config, Console, Kernel, LogFile, Peer};
use crate::vmm::memory;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What one word of the command line cannot tell.
pub(super) fn check(config: &Config) -> Result<(), Error> {
    let usage = |why: &str| Err(Error::Usage(why.into()));
    if config.cpus == 0 || config.cpus > crate::config::CPUS_MAX {
        return usage(&format!("a VM has 1 to {} vCPUs, not {}", crate::config::CPUS_MAX, config.cpus));
    }
    if config.console == Console::Control {
        return usage("the serial port cannot go to the control socket; a virtio console can");
    }
    if config.virtio_console == Some(Console::Control) && config.control.is_none() {
        return usage("--virtio-console control needs --control");
    }
    if !config.publish.is_empty() && config.net.as_ref().map(|net| &net.peer) != Some(&Peer::Passt) {
        return usage("--publish needs --net passt");
    }
    for (index, publish) in config.publish.iter().enumerate() {
        if config.publish[..index].iter().any(|other| other.host == publish.host) {
            return usage(&format!("port {} is published twice", publish.host));
        }
    }
    let slots = shared_abi::board::VIRTIO_MMIO_SLOTS as usize;
    let wanted = config.disks.len()
        + usize::from(config.net.is_some())
        + usize::from(config.balloon)
        + usize::from(config.virtio_console.is_some())
        + usize::from(config.rng);
    if wanted > slots {
        return usage(&format!("{wanted} devices do not fit the board's {slots} slots"));
    }
    check_files(config)?;
    Ok(memory::check_size(config.memory)?)
}

/// A file whatever it is called: by its inode, or by its folder and name if it is not there.
#[derive(PartialEq, Eq)]
enum Identity {
    There(u64, u64),
    Absent(PathBuf, OsString),
}

fn identity(path: &Path) -> Option<Identity> {
    if let Ok(file) = fs::metadata(path) {
        return Some(Identity::There(file.dev(), file.ino()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(Identity::Absent(folder.canonicalize().ok()?, path.file_name()?.to_owned()))
}

/// A console's file is emptied, and so are those that it is renamed to: none of them may be anything else that is named.
fn check_files(config: &Config) -> Result<(), Error> {
    let mut others: Vec<(&str, &Path)> = config.disks.iter().map(|disk| ("a disk", disk.path.as_path())).collect();
    match &config.kernel {
        Kernel::Elf { path, initrd } => {
            others.push(("the kernel", path));
            others.extend(initrd.as_deref().map(|path| ("the initrd", path)));
        }
        Kernel::Disk(path) => others.push(("the image", path)),
    }
    others.extend(config.control.as_deref().map(|path| ("the control socket", path)));
    let serial = log_of(&config.console);
    let virtio = config.virtio_console.as_ref().and_then(log_of).filter(|log| Some(*log) != serial);
    for log in [serial, virtio].into_iter().flatten() {
        let kept = (1..=log.keep).map(|number| log.kept(number));
        for file in std::iter::once(log.path.clone()).chain(kept) {
            let is_log = |path: &Path| identity(path).is_some_and(|other| identity(&file) == Some(other));
            if let Some((what, _)) = others.iter().find(|(_, path)| is_log(path)) {
                let (log, file) = (log.path.display(), file.display());
                return Err(Error::Usage(format!("console output {log} would overwrite {what}, {file}")));
            }
        }
    }
    if let (Some(serial), Some(virtio)) = (serial, virtio)
        && identity(&serial.path) == identity(&virtio.path)
        && fs::metadata(&serial.path).map_or(true, |file| file.is_file())
    {
        let path = serial.path.display();
        return Err(Error::Usage(format!("both consoles write to {path}: give both the same words, or two files")));
    }
    Ok(())
}

fn log_of(console: &Console) -> Option<&LogFile> {
    match console {
        Console::File(log) => Some(log),
        Console::Stdio | Console::Control => None,
    }
}
