//! Landlock without a single rule: no file can be opened, made, removed or renamed, no TCP port bound or connected to, no
//! process outside signalled or traced, no abstract Unix socket connected to. What is open stays usable. The kernel enforces
//! as much of it as its version knows.

use super::Error;
use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use serde_json::{Value, json};
use std::io;
use std::path::Path;

/// The newest version that we know; older kernels enforce what they know.
const NEWEST: ABI = ABI::V10;

/// Forbids everything to this thread and those that it starts, and sets no_new_privs. Returns what the kernel makes of it.
pub(super) fn forbid_everything() -> Result<Value, Error> {
    restrict(&[]).map(|status| describe(&status)).map_err(failed)
}

/// The same with exceptions: what may be done to the files of a folder.
pub(super) fn allow_only(folders: &[(&Path, &[AccessFs])]) -> Result<(), Error> {
    restrict(folders).map(drop).map_err(failed)
}

fn restrict(folders: &[(&Path, &[AccessFs])]) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (folder, rights) in folders {
        let Ok(folder) = PathFd::new(folder) else { continue };
        let rights = rights.iter().fold(::landlock::BitFlags::EMPTY, |all, right| all | *right);
        ruleset = ruleset.add_rule(PathBeneath::new(folder, rights))?;
    }
    ruleset.restrict_self()
}

fn failed(error: RulesetError) -> Error {
    Error { what: "Landlock".into(), source: io::Error::other(error.to_string()) }
}

fn describe(status: &RestrictionStatus) -> Value {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        _ => 0,
    };
    let enforced = match status.ruleset {
        RulesetStatus::FullyEnforced => "all",
        RulesetStatus::PartiallyEnforced => "what this kernel knows",
        RulesetStatus::NotEnforced => "nothing: this kernel has no Landlock",
    };
    json!({"abi": abi, "enforced": enforced, "rules": 0})
}
