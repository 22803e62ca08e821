//! What is wrong with a description before anything that it names is opened.

use super::Error;
use crate::config::{Config, Console, Kernel, LogFile, Peer};
use crate::target::identity;
use crate::vmm::memory;
use shared_abi::virtio::DeviceType;
use std::fs;
use std::path::{Path, PathBuf};

/// Checks that involve more than one option. Names are looked up, and nothing is opened.
///
/// # Errors
/// [`Error::Usage`], [`Error::Memory`].
pub fn check(config: &Config) -> Result<(), Error> {
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
    check_hostile(config)?;
    check_files(config)?;
    Ok(memory::check_size(config.memory)?)
}

/// Whether there is something that can lie.
fn check_hostile(config: &Config) -> Result<(), Error> {
    let Some(hostile) = &config.hostile else { return Ok(()) };
    let has = |device_type: &DeviceType| match *device_type {
        DeviceType::BLOCK => !config.disks.is_empty(),
        DeviceType::NET => config.net.is_some(),
        DeviceType::BALLOON => config.balloon,
        DeviceType::CONSOLE => config.virtio_console.is_some(),
        _ => config.rng,
    };
    if !hostile.devices.iter().any(has) {
        return Err(Error::Usage("--hostile-device: the VM has no such device; add one, such as --rng".into()));
    }
    Ok(())
}

/// What logs are called.
const OUTPUT: &str = "console output";
const LIES: &str = "the log of lies";

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
    let sockets = [&config.control, &config.control_readonly];
    others.extend(sockets.into_iter().flatten().map(|path| ("a control socket", path.as_path())));
    if let Some(Peer::Stream(path)) = config.net.as_ref().map(|net| &net.peer) {
        others.push(("the socket of the network peer", path));
    }
    let serial = log_of(&config.console);
    let virtio = config.virtio_console.as_ref().and_then(log_of).filter(|log| Some(*log) != serial);
    let lies = config.hostile_log.as_ref();
    let named = [(OUTPUT, serial), (OUTPUT, virtio), (LIES, lies)];
    for (of, log) in named.into_iter().filter_map(|(of, log)| Some((of, log?))) {
        for file in names(log) {
            if let Some((what, _)) = others.iter().find(|(_, path)| same(&file, path)) {
                let (log, file) = (log.path.display(), file.display());
                return Err(Error::Usage(format!("{of} {log} would overwrite {what}, {file}")));
            }
        }
    }
    if let Some((serial, virtio)) = serial.zip(virtio) {
        check_consoles(serial, virtio)?;
    }
    let Some(lies) = lies else { return Ok(()) };
    [serial, virtio].into_iter().flatten().try_for_each(|console| check_pair((OUTPUT, console), (LIES, lies)))
}

/// Two consoles may share a device or a pipe, but no file, and neither what is kept of one.
fn check_consoles(serial: &LogFile, virtio: &LogFile) -> Result<(), Error> {
    if same(&serial.path, &virtio.path) {
        if !is_log(&serial.path) {
            return Ok(());
        }
        let path = serial.path.display();
        return Err(Error::Usage(format!("both consoles write to {path}: give both the same words, or two files")));
    }
    check_pair((OUTPUT, serial), (OUTPUT, virtio))
}

/// Two logs have no file in common, not even one that is kept.
fn check_pair((of, one): (&str, &LogFile), (of_other, other): (&str, &LogFile)) -> Result<(), Error> {
    let theirs = names(other);
    match names(one).iter().find(|file| is_log(file) && theirs.iter().any(|other| same(file, other))) {
        None => Ok(()),
        Some(file) => {
            let (one, other, file) = (one.path.display(), other.path.display(), file.display());
            let why = format!("{of} {one} and {of_other} {other} would both write or keep {file}");
            Err(Error::Usage(format!("{why}; choose other names")))
        }
    }
}

/// All names that a log writes to: its own, and those to which it is renamed.
fn names(log: &LogFile) -> Vec<PathBuf> {
    let keep = if is_log(&log.path) { log.keep } else { 0 };
    std::iter::once(log.path.clone()).chain((1..=keep).map(|number| log.kept(number))).collect()
}

/// Whether it is, or will be, a regular file; a device or a pipe is not renamed.
fn is_log(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |file| file.is_file())
}

fn same(one: &Path, other: &Path) -> bool {
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

fn log_of(console: &Console) -> Option<&LogFile> {
    match console {
        Console::File(log) => Some(log),
        Console::Stdio | Console::Control => None,
    }
}
