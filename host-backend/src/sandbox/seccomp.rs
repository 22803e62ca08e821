//! Filters for threads, made from the [table](super::table) by seccompiler: what is not in it kills the process.

use super::table::{Is, Kind, Row, TABLE};
use super::{Error, hooks};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// Has all threads use one heap. glibc gives each its own otherwise, and opens a file of /proc when it makes one smaller.
pub(super) fn prepare_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The filters that this process needs.
pub(super) struct Filters(Vec<(Kind, usize, BpfProgram)>);

impl Filters {
    /// Makes the filters of these kinds.
    pub(super) fn new(kinds: Kind) -> Result<Self, Error> {
        let filters = kinds.iter().map(|kind| {
            let rows: Vec<_> =
                TABLE.iter().filter(|row| row.threads.contains(kind) && !hooks::lacks_row(kind, row)).collect();
            let program = compile(&rows).map_err(|error| Error {
                what: format!("make the filter of {}", kind.name()),
                source: io::Error::other(error),
            })?;
            Ok((kind, rows.len(), program))
        });
        Ok(Self(filters.collect::<Result<_, _>>()?))
    }

    /// Kinds, rows and instructions.
    pub(super) fn sizes(&self) -> Vec<(Kind, usize, usize)> {
        self.0.iter().map(|(kind, rows, program)| (*kind, *rows, program.len())).collect()
    }

    /// Puts the filter of that kind on the calling thread.
    pub(super) fn put_on(&self, kind: Kind) -> Result<(), Error> {
        let what = || format!("put on the filter of {}", kind.name());
        let found = self.0.iter().find(|(of, ..)| *of == kind);
        let (.., program) = found.ok_or_else(|| Error { what: what(), source: io::ErrorKind::NotFound.into() })?;
        seccompiler::apply_filter(program)
            .map_err(|error| Error { what: what(), source: io::Error::other(error.to_string()) })
    }
}

fn compile(rows: &[&Row]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for row in rows {
        let of_call = rules.entry(row.number).or_default();
        if !row.args.is_empty() {
            of_call.push(SeccompRule::new(conditions(row)?)?);
        }
    }
    let kill = SeccompAction::KillProcess;
    SeccompFilter::new(rules, kill, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

fn conditions(row: &Row) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let condition = |arg: &super::table::Arg| {
        let (operator, value) = match arg.is {
            Is::Equal(value) => (SeccompCmpOp::Eq, value),
            Is::OurProcess => (SeccompCmpOp::Eq, std::process::id().into()),
        };
        SeccompCondition::new(arg.index, SeccompCmpArgLen::Dword, operator, value)
    };
    row.args.iter().map(condition).collect()
}
