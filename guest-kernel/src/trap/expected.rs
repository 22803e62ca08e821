//! Faults on purpose: an instruction that may fault, and where to go on then. For checks.

use super::TrapFrame;
use crate::sync::Lock;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use x86_64::structures::idt::ExceptionVector;

/// The instruction that may fault, and where to go on then.
static EXPECTED_AT: AtomicUsize = AtomicUsize::new(0);
static RESUME_AT: AtomicUsize = AtomicUsize::new(0);
static FAULTED: AtomicUsize = AtomicUsize::new(0);

/// The frame of the exception that was expected.
static CAUGHT: Lock<Option<TrapFrame>> = Lock::new(None);

/// Called for every exception: an expected one is resumed after the instruction that raised it.
pub(super) fn fault(vector: u8, frame: &mut TrapFrame) -> bool {
    if frame.rip as usize != EXPECTED_AT.load(SeqCst) {
        return false;
    }
    EXPECTED_AT.store(0, SeqCst);
    *CAUGHT.lock() = Some(*frame);
    if vector == ExceptionVector::Page as u8 {
        FAULTED.store(pvops::cpu::read_cr2().as_u64() as usize, SeqCst);
    }
    frame.rip = RESUME_AT.load(SeqCst) as u64;
    true
}

/// An exception at `at`, if one comes, goes on at `resume`. For assembly that faults on purpose.
pub fn expect_fault(at: usize, resume: usize) {
    *CAUGHT.lock() = None;
    RESUME_AT.store(resume, SeqCst);
    EXPECTED_AT.store(at, SeqCst);
}

/// The frame of the exception that [`expect_fault`] announced, if it came. Nothing is expected any more.
pub fn caught_fault() -> Option<TrapFrame> {
    EXPECTED_AT.store(0, SeqCst);
    CAUGHT.lock().take()
}

/// Whether a write to an address faults. What is there stays as it is.
pub fn write_faults(address: usize) -> bool {
    FAULTED.store(0, SeqCst);
    // SAFETY: the byte is written with the value that it has; a fault goes on at label 3 (see [`fault`]).
    unsafe {
        core::arch::asm!(
            "lea {at}, [rip + 2f]",
            "mov [rip + {expected}], {at}",
            "lea {at}, [rip + 3f]",
            "mov [rip + {resume}], {at}",
            "mov {value}, byte ptr [{address}]",
            "2: mov byte ptr [{address}], {value}",
            "3:",
            at = out(reg) _,
            value = out(reg_byte) _,
            address = in(reg) address,
            expected = sym EXPECTED_AT,
            resume = sym RESUME_AT,
        );
    }
    EXPECTED_AT.store(0, SeqCst);
    FAULTED.load(SeqCst) == address
}
