//! Call sites: an indirect call through the table, padded so that inline code fits, and a record of where it is.
//!
//! Two kinds. A *hot* site clobbers RAX and the arithmetic flags and nothing else, whatever its code is: an indirect
//! call, a direct call or inline code. A *calling* site clobbers what any function does. Arguments are in RDI, RSI and RDX,
//! the result in RAX.

use crate::table::Op;

/// The record of a site, in the section `pvops_sites`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Site {
    /// Address of the site, counted from this field.
    offset: i32,
    /// Number of the operation.
    op: u16,
    /// Bytes of the site.
    len: u8,
    /// A [`Clobbers`].
    clobbers: u8,
}

/// What a site may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Clobbers {
    /// RAX and the flags.
    Rax = 0,
    /// All that the System V ABI lets a function change.
    Call = 1,
}

impl Site {
    /// Address of the first byte.
    pub fn address(&self) -> usize {
        (&raw const self.offset).addr().wrapping_add_signed(self.offset as isize)
    }

    /// Bytes of the site.
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// A site is never empty; here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The operation; `None` if the record is corrupt.
    pub fn op(&self) -> Option<Op> {
        Op::from_number(self.op)
    }

    /// The operation's number as recorded.
    pub fn op_number(&self) -> u16 {
        self.op
    }

    /// What the site may change; `None` if the record is corrupt.
    pub fn clobbers(&self) -> Option<Clobbers> {
        match self.clobbers {
            0 => Some(Clobbers::Rax),
            1 => Some(Clobbers::Call),
            _ => None,
        }
    }
}

/// All sites of this program.
pub fn all() -> &'static [Site] {
    unsafe extern "C" {
        #[link_name = "__start_pvops_sites"]
        static START: Site;
        #[link_name = "__stop_pvops_sites"]
        static STOP: Site;
    }
    let (start, stop) = (&raw const START, &raw const STOP);
    // SAFETY: the linker puts the two symbols around the section, which holds nothing but records.
    unsafe { core::slice::from_raw_parts(start, (stop.addr() - start.addr()) / size_of::<Site>()) }
}

/// Bytes of `call [rip + disp32]`.
pub const INDIRECT_CALL_LEN: usize = 6;
/// Bytes of a site: room for Xen's 8-byte mask store.
pub const SITE_LEN: usize = 8;
/// Bytes of the longest site.
pub const SITE_MAX: usize = 25;

/// Bytes of an operation's sites, for the world that needs most. Turning interrupts on takes Xen a store, a look, and a
/// call if something is pending; saving their state takes it an exchange. Restoring it could be inlined, too, but would
/// leave some 20 bytes of padding at hundreds of sites in the other worlds.
pub const fn len_of(op: Op) -> usize {
    use crate::table::op::irq;
    const ENABLE: usize = irq::enable.index();
    const SAVE: usize = irq::save.index();
    match op.index() {
        ENABLE => SITE_MAX,
        SAVE => 12,
        _ => SITE_LEN,
    }
}

/// The bytes of a site.
#[derive(Clone, Copy)]
pub struct Code {
    bytes: [u8; SITE_MAX],
    len: u8,
}

impl Code {
    /// So many zeroes, at most [`SITE_MAX`].
    pub(crate) const fn zeroed(len: usize) -> Self {
        assert!(len <= SITE_MAX);
        Self { bytes: [0; SITE_MAX], len: len as u8 }
    }
}

impl core::ops::Deref for Code {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl core::ops::DerefMut for Code {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

impl core::fmt::Debug for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x?}", &**self)
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Code {}

/// The call and its record, as `asm!` or `naked_asm!`; the caller adds lines after them, operands and clobbers.
macro_rules! site {
    ($asm:ident, $group:ident.$op:ident, $clobbers:expr, [$($line:literal)*], $($operands:tt)*) => {
        core::arch::$asm!(
            "771: call qword ptr [rip + {table} + {slot}]",
            ".skip {pad}, 0x90",
            ".pushsection pvops_sites, \"aR\"",
            ".balign 4",
            ".long 771b - .",
            ".short {op}",
            ".byte {len}, {clobbers}",
            ".popsection",
            $($line,)*
            table = sym $crate::LIVE,
            slot = const core::mem::offset_of!($crate::table::Ops, $group.$op),
            op = const $crate::table::op::$group::$op.index(),
            pad = const $crate::site::len_of($crate::table::op::$group::$op) - $crate::site::INDIRECT_CALL_LEN,
            len = const $crate::site::len_of($crate::table::op::$group::$op),
            clobbers = const $clobbers as u8,
            $($operands)*
        )
    };
}

/// A site within a function.
macro_rules! call {
    ($group:ident.$op:ident, $clobbers:expr, $($operands:tt)*) => {
        $crate::site::site!(asm, $group.$op, $clobbers, [], $($operands)*)
    };
}

/// The body of a naked function that is nothing but a site: for operations that do not return to it.
macro_rules! naked_call {
    ($group:ident.$op:ident) => {
        $crate::site::site!(naked_asm, $group.$op, $crate::site::Clobbers::Rax, ["ud2"],)
    };
}

/// A site that changes RAX and the flags only.
macro_rules! hot {
    ($group:ident.$op:ident $(, $reg:tt = $value:expr)*) => {
        $crate::site::call!($group.$op, $crate::site::Clobbers::Rax, $(in($reg) $value,)* lateout("rax") _)
    };
    ($group:ident.$op:ident $(, $reg:tt = $value:expr)* => $result:ident) => {
        $crate::site::call!($group.$op, $crate::site::Clobbers::Rax, $(in($reg) $value,)* lateout("rax") $result)
    };
}

/// A site that changes what a function call changes.
macro_rules! calling {
    ($group:ident.$op:ident $(, $reg:tt = $value:expr)*) => {
        $crate::site::call!($group.$op, $crate::site::Clobbers::Call, $(in($reg) $value,)* clobber_abi("sysv64"))
    };
    ($group:ident.$op:ident $(, $reg:tt = $value:expr)* => $result:ident) => {
        $crate::site::call!($group.$op, $crate::site::Clobbers::Call, $(in($reg) $value,)* lateout("rax") $result, clobber_abi("sysv64"))
    };
}
pub(crate) use {call, calling, hot, naked_call, site};
