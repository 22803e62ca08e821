//! The patcher: rewrites every call site once, after the world is known.
//!
//! [`plan`] decides what a site becomes and is pure; [`apply_all`] checks the bytes there and writes through a
//! [`Text`], which knows how to write to code without ever having it writable and executable at once.

use crate::live_table;
use crate::site::{Code, INDIRECT_CALL_LEN, SITE_LEN, SITE_MAX, Site, len_of};
use crate::table::{Backend, Op};
use core::fmt;

/// Bytes of `call rel32`.
pub const DIRECT_CALL_LEN: usize = 5;
/// Its first byte.
const CALL: u8 = 0xe8;

/// How a site was patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The operation's own instructions.
    Inline,
    /// `call rel32`.
    Direct,
    /// Nothing: the operation does nothing in this world.
    Nop,
}

impl Kind {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Direct => "direct",
            Self::Nop => "nop",
        }
    }
}

/// Why a site cannot be patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatchError {
    /// The record's operation number is not in the table.
    UnknownOp {
        /// The site.
        site: usize,
        /// The number.
        number: u16,
    },
    /// The world has no function for the operation.
    MissingOp {
        /// The site.
        site: usize,
        /// The operation.
        op: Op,
    },
    /// The inline code is longer than the site.
    TemplateTooLong {
        /// The site.
        site: usize,
        /// The operation.
        op: Op,
        /// Bytes of the code.
        template: usize,
        /// Bytes of the site.
        room: usize,
    },
    /// The function is more than 2 GiB away.
    OutOfRange {
        /// The site.
        site: usize,
        /// The operation.
        op: Op,
        /// Address of the function.
        target: usize,
    },
    /// The bytes are not the call through the table.
    NotACall {
        /// The site.
        site: usize,
        /// The operation.
        op: Op,
        /// The bytes.
        found: [u8; INDIRECT_CALL_LEN],
    },
    /// No site has the record's length.
    BadLength {
        /// The site.
        site: usize,
        /// The length.
        len: usize,
    },
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOp { site, number } => write!(f, "site {site:#x}: operation {number} is not in the table"),
            Self::MissingOp { site, op } => write!(f, "site {site:#x}: this world has no {}", op.name()),
            Self::TemplateTooLong { site, op, template, room } => {
                write!(f, "site {site:#x}: {template} bytes of {} do not fit into {room}", op.name())
            }
            Self::OutOfRange { site, op, target } => {
                write!(f, "site {site:#x}: {} at {target:#x} is out of range of a call", op.name())
            }
            Self::NotACall { site, op, found } => {
                write!(f, "site {site:#x}: expected a call of {} through the table, found {found:02x?}", op.name())
            }
            Self::BadLength { site, len } => write!(f, "site {site:#x}: impossible length {len}"),
        }
    }
}

impl core::error::Error for PatchError {}

/// What a site becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How.
    pub kind: Kind,
    /// The bytes; as many as the site has.
    pub bytes: Code,
}

/// What the sites of one operation become, as far as it does not depend on where they are.
#[derive(Clone, Copy, Debug)]
enum Recipe {
    /// The same bytes everywhere.
    Same(Plan),
    /// A call of this function: padded, its distance left out.
    Call(usize, Code),
}

/// Decides what the site of `op` at an address becomes.
///
/// # Errors
/// See [`PatchError`].
pub fn plan(op: Op, site: usize, backend: &Backend) -> Result<Plan, PatchError> {
    recipe(op, site, backend)?.at(op, site)
}

/// What the sites of `op` become; `site` is the one to name in errors.
fn recipe(op: Op, site: usize, backend: &Backend) -> Result<Recipe, PatchError> {
    let target = backend.target(op).ok_or(PatchError::MissingOp { site, op })?;
    let Some(template) = backend.template(op) else {
        let mut bytes = Code::zeroed(len_of(op));
        bytes[0] = CALL;
        fill_with_nops(&mut bytes[DIRECT_CALL_LEN..]);
        return Ok(Recipe::Call(target, bytes));
    };
    let code = template.bytes();
    let mut bytes = Code::zeroed(len_of(op));
    let too_long = PatchError::TemplateTooLong { site, op, template: code.len(), room: len_of(op) };
    bytes.get_mut(..code.len()).ok_or(too_long)?.copy_from_slice(code);
    fill_with_nops(&mut bytes[code.len()..]);
    Ok(Recipe::Same(Plan { kind: if code.is_empty() { Kind::Nop } else { Kind::Inline }, bytes }))
}

impl Recipe {
    fn at(self, op: Op, site: usize) -> Result<Plan, PatchError> {
        let (target, mut bytes) = match self {
            Self::Same(plan) => return Ok(plan),
            Self::Call(target, bytes) => (target, bytes),
        };
        let distance = target.wrapping_sub(site + DIRECT_CALL_LEN) as isize;
        let distance = i32::try_from(distance).map_err(|_| PatchError::OutOfRange { site, op, target })?;
        bytes[1..DIRECT_CALL_LEN].copy_from_slice(&distance.to_le_bytes());
        Ok(Plan { kind: Kind::Direct, bytes })
    }
}

/// The recommended no-operation of each length (Intel SDM volume 2, NOP). One instruction instead of several: where an
/// emulator executes ring 0, each costs.
const NOPS: [&[u8]; 10] = [
    &[],
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Bytes of the longest of them.
pub const NOP_MAX: usize = NOPS.len() - 1;

fn fill_with_nops(mut room: &mut [u8]) {
    while !room.is_empty() {
        let (nop, rest) = room.split_at_mut(room.len().min(NOP_MAX));
        nop.copy_from_slice(NOPS[nop.len()]);
        room = rest;
    }
}

/// Whether the bytes are nothing but no-operations that the patcher writes.
pub fn is_nops(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match NOPS.iter().skip(1).rev().find(|nop| bytes.starts_with(nop)) {
            Some(nop) => bytes = &bytes[nop.len()..],
            None => return false,
        }
    }
    true
}

/// Writes to code.
pub trait Text {
    /// Replaces the bytes at an address. They may be executed after [`synchronize`](Self::synchronize).
    ///
    /// # Safety
    /// `address` is that of a call site with so many bytes, and no CPU is executing it.
    unsafe fn write(&mut self, address: usize, bytes: &[u8]);

    /// Called after the last write and before any patched site runs: makes this CPU fetch what was written. Code that was
    /// written through another linear address needs a serializing instruction (Intel SDM volume 3, "Handling Self- and
    /// Cross-Modifying Code"): [`cpu::serialize`](crate::ops::cpu::serialize).
    fn synchronize(&mut self);
}

/// What became of the sites of one operation.
#[derive(Clone, Copy, Debug)]
pub struct OpSummary {
    /// How many there are.
    pub sites: u32,
    /// How they were patched; `None` when they were not.
    pub kind: Option<Kind>,
    /// The first one's bytes before.
    pub before: Code,
    /// The first one's bytes now.
    pub after: Code,
}

/// What became of all sites, by operation.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    ops: [Option<OpSummary>; Op::COUNT],
}

impl Summary {
    /// No sites.
    pub const EMPTY: Self = Self { ops: [None; Op::COUNT] };

    /// Operations with sites.
    pub fn ops(&self) -> impl Iterator<Item = (Op, &OpSummary)> {
        Op::all().filter_map(|op| self.ops[op.index()].as_ref().map(|summary| (op, summary)))
    }

    /// Sites patched in a way; `None` counts the indirect calls that are left.
    pub fn count(&self, kind: Option<Kind>) -> u32 {
        self.ops().filter(|(_, summary)| summary.kind == kind).map(|(_, summary)| summary.sites).sum()
    }

    /// All sites.
    pub fn sites(&self) -> u32 {
        self.ops().map(|(_, summary)| summary.sites).sum()
    }

    /// Counts a site. What stands at the first one of an operation is kept, and what it becomes.
    fn add(&mut self, op: Op, kind: Option<Kind>, site: &Site, after: Option<Code>) {
        let first = || {
            let before = bytes(site);
            OpSummary { sites: 0, kind, before, after: after.unwrap_or(before) }
        };
        self.ops[op.index()].get_or_insert_with(first).sites += 1;
    }
}

/// Checks every site and, with a `text` to write to, patches it. Nothing is written unless all sites can be patched.
///
/// # Errors
/// The first [`PatchError`].
///
/// # Safety
/// The sites are this program's, the backend is that of the world, and no CPU but this one runs.
pub unsafe fn apply_all(sites: &[Site], backend: &Backend, text: Option<&mut dyn Text>) -> Result<Summary, PatchError> {
    let mut summary = Summary::EMPTY;
    let Some(text) = text else {
        for site in sites {
            let op = check(site)?;
            summary.add(op, None, site, None);
        }
        return Ok(summary);
    };
    // A kernel has hundreds of sites and some thirty operations: what can be decided once is.
    let mut recipes = [None; Op::COUNT];
    for site in sites {
        let op = check(site)?;
        let recipe = match recipes[op.index()] {
            Some(recipe) => recipe,
            None => *recipes[op.index()].insert(recipe(op, site.address(), backend)?),
        };
        recipe.at(op, site.address())?;
    }
    for site in sites {
        let Some((op, recipe)) = site.op().and_then(|op| Some((op, recipes[op.index()]?))) else { continue };
        let plan = recipe.at(op, site.address())?;
        summary.add(op, Some(plan.kind), site, Some(plan.bytes));
        // SAFETY: `check` saw a whole site there; this CPU is here and not in it.
        unsafe { text.write(site.address(), &plan.bytes) };
    }
    text.synchronize();
    Ok(summary)
}

/// The bytes of a site as they are now.
pub fn bytes(site: &Site) -> Code {
    let mut code = Code::zeroed(site.len().min(SITE_MAX));
    for (index, byte) in code.iter_mut().enumerate() {
        // SAFETY: code is readable, and the records come from the linker.
        *byte = unsafe { (site.address() as *const u8).add(index).read_volatile() };
    }
    code
}

/// Makes sure that the record is sane and that the call which it names is there.
fn check(site: &Site) -> Result<Op, PatchError> {
    let address = site.address();
    let op = site.op().ok_or(PatchError::UnknownOp { site: address, number: site.op_number() })?;
    if site.len() != len_of(op) {
        return Err(PatchError::BadLength { site: address, len: site.len() });
    }
    // SAFETY: code is readable, and every site has so many bytes.
    let found = unsafe { (address as *const [u8; SITE_LEN]).read_volatile() };
    if !is_call_of(&found, address, op) {
        let mut head = [0; INDIRECT_CALL_LEN];
        head.copy_from_slice(&found[..INDIRECT_CALL_LEN]);
        return Err(PatchError::NotACall { site: address, op, found: head });
    }
    Ok(op)
}

/// Whether the bytes are the call through the live table's slot of `op`.
pub fn is_call_of(bytes: &[u8], address: usize, op: Op) -> bool {
    let slot = live_table() + op.index() * size_of::<usize>();
    let displacement = slot.wrapping_sub(address + INDIRECT_CALL_LEN) as u32;
    // Call [rip + disp32].
    bytes.strip_prefix(&[0xff, 0x15]).is_some_and(|rest| rest.starts_with(&displacement.to_le_bytes()))
}
