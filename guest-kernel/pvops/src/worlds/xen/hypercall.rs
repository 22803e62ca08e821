//! Hypercalls: the instruction, how often each was made, and what a refusal says.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use shared_abi::xen::{Call, DOMID_SELF, MmuExtended, MmuUpdate, hypercall as number};

/// How often each hypercall was made. Entry code counts its own here, too.
pub(super) static COUNTS: [AtomicU64; number::COUNT] = [const { AtomicU64::new(0) }; number::COUNT];

/// Hypercalls since the start by number, those that were made.
pub fn counts() -> impl Iterator<Item = (u32, u64)> {
    (0..number::COUNT as u32)
        .map(|number| (number, COUNTS[number as usize].load(Relaxed)))
        .filter(|&(_, count)| count > 0)
}

/// Hypercalls since the start.
pub fn total() -> u64 {
    COUNTS.iter().map(|count| count.load(Relaxed)).sum()
}

/// A hypercall that Xen did not carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was asked for.
    pub what: &'static str,
    /// Xen's error, negative (`errno.h`).
    pub error: i64,
    /// Commands of a list that were carried out before.
    pub done: u32,
}

impl Refused {
    /// Makes a result of what a hypercall returned.
    ///
    /// # Errors
    /// Itself, for a negative number.
    pub fn check(what: &'static str, result: i64) -> Result<u64, Self> {
        u64::try_from(result).map_err(|_| Self { what, error: result, done: 0 })
    }

    /// For calls that the kernel cannot go on without.
    #[cold]
    pub fn end(self) -> ! {
        panic!("{self}")
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.error {
            -1 => "not permitted",
            -2 => "no such entry",
            -12 => "out of memory",
            -14 => "bad address",
            -16 => "busy",
            -22 => "invalid",
            -28 => "no space",
            -38 => "no such hypercall",
            _ => "refused",
        };
        write!(f, "hypercall {}: {name} (error {}), {} commands done before", self.what, self.error, self.done)
    }
}

impl core::error::Error for Refused {}

/// Enters Xen by an instruction, with up to four arguments; the result is in RAX. Nothing is left in the argument registers
/// that the caller could rely on: Xen advances them when it interrupts a long hypercall and has the guest repeat it (Xen guest
/// guide, "Hypercall ABI", "Parameters"). RCX and R11 are SYSCALL's.
macro_rules! transfer {
    ($instruction:literal, $number:expr, $first:expr, $second:expr, $third:expr, $fourth:expr) => {{
        let result: i64;
        asm!(
            $instruction,
            inlateout("rax") u64::from($number) => result,
            inlateout("rdi") $first => _,
            inlateout("rsi") $second => _,
            inlateout("rdx") $third => _,
            inlateout("r10") $fourth => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
        result
    }};
}

/// # Safety
/// What the number and the arguments ask for does not break memory safety.
pub unsafe fn call2(number: u32, first: u64, second: u64) -> i64 {
    // SAFETY: per the contract.
    unsafe { call4(number, first, second, 0, 0) }
}

/// # Safety
/// As [`call2`].
pub unsafe fn call3(number: u32, first: u64, second: u64, third: u64) -> i64 {
    // SAFETY: per the contract.
    unsafe { call4(number, first, second, third, 0) }
}

/// # Safety
/// As [`call2`].
pub unsafe fn call4(number: u32, first: u64, second: u64, third: u64, fourth: u64) -> i64 {
    COUNTS[number as usize % number::COUNT].fetch_add(1, Relaxed);
    // SAFETY: per the contract.
    unsafe { transfer!("syscall", number, first, second, third, fourth) }
}

/// Changes page-table entries, all in one hypercall.
///
/// # Errors
/// [`Refused`], with how many were changed before the one that Xen refuses.
///
/// # Safety
/// As for `pvops::mmu::set_pte`.
pub unsafe fn mmu_update(updates: &[MmuUpdate]) -> Result<(), Refused> {
    let mut done = 0_u32;
    let (list, count) = (updates.as_ptr().addr() as u64, updates.len() as u64);
    // SAFETY: per the contract.
    let result = unsafe { call4(number::MMU_UPDATE, list, count, (&raw mut done).addr() as u64, DOMID_SELF.into()) };
    Refused::check("mmu_update", result).map(drop).map_err(|refused| Refused { done, ..refused })
}

/// Carries out extended commands of the memory management unit, all in one hypercall.
///
/// # Errors
/// [`Refused`].
///
/// # Safety
/// As for the operations in `pvops::mmu`.
pub unsafe fn mmuext(commands: &[MmuExtended]) -> Result<(), Refused> {
    let mut done = 0_u32;
    let (list, count) = (commands.as_ptr().addr() as u64, commands.len() as u64);
    // SAFETY: per the contract.
    let result = unsafe { call4(number::MMUEXT_OP, list, count, (&raw mut done).addr() as u64, DOMID_SELF.into()) };
    Refused::check("mmuext_op", result).map(drop).map_err(|refused| Refused { done, ..refused })
}

/// Maps one page of the live tables.
///
/// # Errors
/// [`Refused`].
///
/// # Safety
/// As for `pvops::mmu::set_pte`.
pub unsafe fn update_va_mapping(address: usize, entry: u64, flags: u64) -> Result<(), Refused> {
    // SAFETY: per the contract.
    let result = unsafe { call3(number::UPDATE_VA_MAPPING, address as u64, entry, flags) };
    Refused::check("update_va_mapping", result).map(drop)
}

/// Makes several hypercalls with one. Each has its own result; one that fails does not keep the rest from being made.
///
/// # Errors
/// [`Refused`], when the list itself is refused.
///
/// # Safety
/// As the calls themselves.
pub unsafe fn multicall(calls: &mut [Call]) -> Result<(), Refused> {
    // SAFETY: per the contract.
    let result = unsafe { call2(number::MULTICALL, calls.as_mut_ptr().addr() as u64, calls.len() as u64) };
    Refused::check("multicall", result).map(drop)
}

/// Makes a call whose argument is a structure in memory.
///
/// # Errors
/// [`Refused`].
///
/// # Safety
/// `T` is the structure of that command, and what it asks for does not break memory safety.
pub unsafe fn command<T>(number: u32, command: u32, what: &'static str, argument: &mut T) -> Result<u64, Refused> {
    // SAFETY: per the contract.
    Refused::check(what, unsafe { call2(number, command.into(), (&raw mut *argument).addr() as u64) })
}

/// Hypercalls that were made: number, name, how often. Worlds without hypercalls have none.
pub fn named_counts() -> impl Iterator<Item = (u32, &'static str, u64)> {
    counts().map(|(number, count)| (number, number::name(number), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands for Xen: returns the sum of the arguments, and leaves other values in every register that it may change.
    #[inline(always)]
    fn changes_its_arguments(first: u64, second: u64, third: u64, fourth: u64) -> i64 {
        // SAFETY: changes registers only, those that are named.
        unsafe {
            transfer!(
                "lea rax, [rdi + rsi]
                 add rax, rdx
                 add rax, r10
                 mov rdi, -1
                 mov rsi, -1
                 mov rdx, -1
                 mov r10, -1
                 mov rcx, -1
                 mov r11, -1",
                0_u32,
                first,
                second,
                third,
                fourth
            )
        }
    }

    #[inline(never)]
    fn twice(first: u64, second: u64, third: u64, fourth: u64) -> [i64; 2] {
        [changes_its_arguments(first, second, third, fourth), changes_its_arguments(first, second, third, fourth)]
    }

    #[test]
    fn a_hypercall_may_change_its_argument_registers() {
        assert_eq!(twice(1, 20, 300, 4000), [4321; 2]);
    }
}
