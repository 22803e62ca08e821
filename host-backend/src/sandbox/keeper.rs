//! The keeper's own sandbox: it may rename and make files where the logs are, and remove sockets where they are.

use super::{Kind, hooks, identity, landlock, seccomp::Filters};
use ::landlock::AccessFs;
use caps::Capability;
use std::path::{Path, PathBuf};

/// By these root uses the files of others; Landlock leaves it a few folders.
const FILES: [Capability; 2] = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER];

/// A folder, and what may be done there.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    rights: &'static [AccessFs],
}

impl Folder {
    /// The folder of a log.
    pub fn renames(file: &Path) -> Self {
        let rights = &[AccessFs::MakeReg, AccessFs::RemoveFile, AccessFs::WriteFile, AccessFs::Truncate];
        Self { path: folder(file), rights }
    }

    /// The folder of a socket.
    pub fn removals(file: &Path) -> Self {
        Self { path: folder(file), rights: &[AccessFs::RemoveFile] }
    }
}

fn folder(file: &Path) -> PathBuf {
    // A log's name may be a link: the file that it leads to is the one that is renamed by its own name.
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Puts it on. What cannot be put on is done without: a terminal that stays raw and sockets that stay help nobody.
pub fn enter(folders: &[Folder]) {
    let folders: Vec<_> = folders.iter().map(|folder| (folder.path.as_path(), folder.rights)).collect();
    hooks::prepare();
    let _ = identity::drop_bounding_set().and_then(|()| identity::keep_capabilities(&FILES));
    let _ = landlock::allow_only(&folders);
    if let Ok(filters) = Filters::new(Kind::KEEPER) {
        let _ = filters.put_on(Kind::KEEPER);
        hooks::filtered(Kind::KEEPER);
    }
}
