//! Who this process is and what it sees: cgroup, namespaces, root directory, group and user, capabilities.

use super::Error;
use crate::config::sandbox::{Namespaces, Options};
use caps::{CapSet, Capability};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes this process, and what it starts from now on, a member of the cgroup with this folder.
///
/// # Errors
/// [`Error`].
pub fn join_cgroup(folder: &Path) -> Result<(), Error> {
    let file = folder.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).map_err(Error::at(format!("join cgroup {}", folder.display())))
}

/// Who this process is.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) chroot: Option<String>,
    /// Those of its own.
    pub(super) namespaces: Vec<&'static str>,
}

/// From the outside to the inside: each step may need a privilege that a later one gives up.
pub(super) fn enter(options: &Options) -> Result<Identity, Error> {
    drop_bounding_set()?;
    let namespaces = match options.namespaces {
        Namespaces::New => new_namespaces()?,
        Namespaces::Parents => Vec::new(),
    };
    if let Some(root) = &options.chroot {
        change_root(root)?;
    }
    become_user(options)?;
    // SAFETY: neither call can fail or touches memory.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let chroot = options.chroot.as_ref().map(|root| root.display().to_string());
    Ok(Identity { user, group, chroot, namespaces })
}

/// No program that is executed can have a capability again. That takes a capability itself; without it, no_new_privs is all.
pub(super) fn drop_bounding_set() -> Result<(), Error> {
    let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(cannot("read capabilities"))?;
    if !may {
        return Ok(());
    }
    for capability in caps::all() {
        match caps::drop(None, CapSet::Bounding, capability) {
            Ok(()) => {}
            // The system has fewer than the library knows.
            Err(_) if caps::has_cap(None, CapSet::Bounding, capability).is_err() => {}
            Err(error) => return Err(cannot("drop capabilities")(error)),
        }
    }
    Ok(())
}

/// Gives up all capabilities but these. The bounding set is another matter.
pub(super) fn keep_capabilities(kept: &[Capability]) -> Result<(), Error> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(cannot("read capabilities"))?;
    let kept = kept.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    // Effective ones before the permitted, among which they must be.
    caps::clear(None, CapSet::Ambient)
        .and_then(|()| caps::clear(None, CapSet::Inheritable))
        .and_then(|()| caps::set(None, CapSet::Effective, &kept))
        .and_then(|()| caps::set(None, CapSet::Permitted, &kept))
        .map_err(cannot("drop capabilities"))
}

/// No program that is executed can have more privileges than this process. Returns whether that is so now.
pub(super) fn no_new_privs() -> Result<bool, Error> {
    // SAFETY: neither call touches memory.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(Error::last("set no_new_privs"));
        }
        Ok(libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
    }
}

fn cannot(what: &'static str) -> impl FnOnce(caps::errors::CapsError) -> Error {
    move |error| Error { what: what.into(), source: io::Error::other(error.to_string()) }
}

/// Mounts, network, IPC, host name and cgroups of our own. Without root's capabilities a user namespace gives them.
fn new_namespaces() -> Result<Vec<&'static str>, Error> {
    const OURS: [(libc::c_int, &str); 5] = [
        (libc::CLONE_NEWNS, "mount"),
        (libc::CLONE_NEWNET, "network"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
    ];
    let mut names: Vec<_> = OURS.iter().map(|(_, name)| *name).collect();
    let mut flags = OURS.iter().fold(0, |flags, (flag, _)| flags | flag);
    // SAFETY: neither call can fail or touches memory.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).map_err(cannot("read capabilities"))?;
    if !may {
        flags |= libc::CLONE_NEWUSER;
        names.push("user");
    }
    // SAFETY: unshare touches no memory.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(Error::last("make namespaces"));
    }
    if !may {
        let map = |id: u32| format!("{id} {id} 1");
        let files = [("setgroups", "deny".into()), ("uid_map", map(user)), ("gid_map", map(group))];
        for (file, text) in files {
            fs::write(format!("/proc/self/{file}"), text).map_err(Error::at(format!("write {file}")))?;
        }
    }
    Ok(names)
}

fn change_root(root: &Path) -> Result<(), Error> {
    let what = || format!("change the root directory to {}", root.display());
    let name = CString::new(root.as_os_str().as_bytes()).map_err(|error| Error::at(what())(error.into()))?;
    // SAFETY: `name` is a string with its NUL.
    if unsafe { libc::chroot(name.as_ptr()) } != 0 {
        return Err(Error::last(what()));
    }
    std::env::set_current_dir("/").map_err(Error::at(what()))
}

fn become_user(options: &Options) -> Result<(), Error> {
    let (user, group) = (options.user, options.group);
    // SAFETY: no call touches memory; there is one thread yet, so that all of the process changes.
    unsafe {
        if (user.is_some() || group.is_some()) && libc::geteuid() == 0 && libc::setgroups(0, std::ptr::null()) != 0 {
            return Err(Error::last("leave all groups"));
        }
        if let Some(group) = group
            && libc::setresgid(group, group, group) != 0
        {
            return Err(Error::last(format!("become group {group}")));
        }
        if let Some(user) = user
            && libc::setresuid(user, user, user) != 0
        {
            return Err(Error::last(format!("become user {user}")));
        }
    }
    Ok(())
}
