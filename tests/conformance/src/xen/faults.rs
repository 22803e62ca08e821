//! Exceptions: what Xen leaves on the stack, and what is left when they return.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::xen::{event_sent, here, interrupts_on, with_channel},
    crate::support::{Verdict, equal, error, holds},
    code::*,
    core::arch::asm,
    core::sync::atomic::{AtomicU32, Ordering::SeqCst},
    guest_kernel::trap::expected::{caught_fault, expect_fault, write_faults},
    guest_kernel::trap::{TrapFrame, irq},
    x86_64::VirtAddr,
    x86_64::registers::rflags::RFlags,
    x86_64::structures::idt::{ExceptionVector, PageFaultErrorCode},
};

const VCPU_INFO: &str = "Xen public/xen.h, struct vcpu_info";
const TRAPS: &str = "Xen public/arch-x86/xen.h, struct trap_info";

/// Runs an instruction that faults; execution goes on after it.
#[cfg(feature = "guest")]
macro_rules! fault {
    ($instruction:literal $(, $($operands:tt)*)?) => {{
        let (at, stack): (u64, u64);
        // SAFETY: the instruction changes nothing but what it names; its exception goes on at label 3.
        unsafe {
            asm!(
                "lea rdi, [rip + 2f]",
                "lea rsi, [rip + 3f]",
                "mov r12, rdi",
                "mov r13, rsp",
                "call {expect}",
                concat!("2: ", $instruction),
                "3:",
                expect = sym expect_here,
                out("r12") at,
                out("r13") stack,
                clobber_abi("sysv64"),
                $($($operands)*)?
            );
        }
        caught_fault().map(|frame| Caught { frame, at, stack }).ok_or_else(|| error("there was no exception"))
    }};
}

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "xen/frame-comes-without-error-code",
        rule: "An exception without error code arrives at its instruction",
        clause: TRAPS,
        method: "Run ud2",
        expectation: "Vector 6, RIP and RSP of the instruction",
        run: |cx| {
            here(cx)?;
            as_expected(&fault!("ud2")?, ExceptionVector::InvalidOpcode, 0)
        },
    },
    Check {
        name: "xen/frame-comes-with-error-code",
        rule: "An exception with error code brings it",
        clause: TRAPS,
        method: "Load FS with selector 0xfff0",
        expectation: "Vector 13, error code 0xfff0, RIP and RSP of the instruction",
        run: |cx| {
            here(cx)?;
            // No descriptor is so far from the start of the table.
            as_expected(&fault!("mov fs, r14w", in("r14") 0xfff0_u64)?, ExceptionVector::GeneralProtection, 0xfff0)
        },
    },
    Check {
        name: "xen/page-fault-tells-address-and-way",
        rule: "A page fault brings its error code and CR2",
        clause: VCPU_INFO,
        method: "Read and write where nothing is mapped, write to what is read-only",
        expectation: "Error codes 0, 2 and 3, the address in CR2",
        run: |cx| {
            here(cx)?;
            const NOWHERE: usize = 0xffff_ca00_0000_1234;
            const WRITE: PageFaultErrorCode = PageFaultErrorCode::CAUSED_BY_WRITE;
            let address = |offset: usize| VirtAddr::new((NOWHERE + offset) as u64);
            let fault =
                |caught: &Caught, code: PageFaultErrorCode| as_expected(caught, ExceptionVector::Page, code.bits());
            fault(&fault!("mov al, byte ptr [r14]", in("r14") NOWHERE)?, PageFaultErrorCode::empty())?;
            equal("CR2", address(0), pvops::cpu::read_cr2())?;
            fault(&fault!("mov byte ptr [r14], 0", in("r14") NOWHERE + 1)?, WRITE)?;
            equal("CR2", address(1), pvops::cpu::read_cr2())?;
            let table = pvops::live_table();
            fault(&fault!("mov byte ptr [r14], 0", in("r14") table)?, WRITE | PageFaultErrorCode::PROTECTION_VIOLATION)
        },
    },
    Check {
        name: "xen/frame-shows-the-upcall-mask",
        rule: "RFLAGS.IF of a frame is the inverse of the upcall mask, which returns with it",
        clause: "Xen public/arch-x86/xen-x86_64.h, struct iret_context",
        method: "Fault with events on and off",
        expectation: "IF as the mask was, and the mask as before",
        run: |cx| {
            here(cx)?;
            let on = fault!("ud2")?;
            pvops::irq::disable();
            let off = fault!("ud2");
            let still_off = pvops::irq::save();
            interrupts_on();
            let off = off?;
            equal("IF with events on", INTERRUPT_FLAG, on.frame.rflags & INTERRUPT_FLAG)?;
            equal("IF with events off", RFlags::empty(), off.frame.rflags & INTERRUPT_FLAG)?;
            holds(still_off != 0, "mask after an exception with events off", 1, 0)?;
            let now_on = pvops::irq::save();
            interrupts_on();
            equal("mask after all of it", 0, now_on)
        },
    },
    Check {
        name: "xen/fault-inside-an-upcall-returns",
        rule: "Exceptions nest in upcalls",
        clause: TRAPS,
        method: "A handler that faults, 100 times",
        expectation: "100 faults, 100 returns",
        run: |cx| {
            with_channel(cx, |line| {
                FAULTS.store(0, SeqCst);
                irq::set_handler(line.event, Some(fault_inside));
                let sent = (0..100).try_for_each(|_| event_sent(line));
                irq::set_handler(line.event, None);
                sent?;
                equal("faults inside of 100 upcalls", 100, FAULTS.load(SeqCst))
            })
        },
    },
    Check {
        name: "xen/fault-keeps-registers",
        rule: "RCX and R11 come by Xen's frame, the others as they were",
        clause: TRAPS,
        method: "Fault with known registers",
        expectation: "The same in the frame and after it",
        run: |cx| {
            here(cx)?;
            let caught = fault!("ud2", in("r14") 0x1111_2222_3333_4444_u64, in("r15") 0x5555_6666_7777_8888_u64)?;
            equal("R14", 0x1111_2222_3333_4444, caught.frame.r14)?;
            equal("R15", 0x5555_6666_7777_8888, caught.frame.r15)?;
            // RCX and R11 come by Xen's frame, not by the registers.
            let (rcx, r11): (u64, u64);
            // SAFETY: as in `fault`; the registers are set after the call.
            unsafe {
                asm!(
                    "lea rdi, [rip + 2f]",
                    "lea rsi, [rip + 3f]",
                    "call {expect}",
                    "mov rcx, 0x1234567",
                    "mov r11, 0x7654321",
                    "2: ud2",
                    "3: mov r12, rcx",
                    "mov r13, r11",
                    expect = sym expect_here,
                    out("r12") rcx,
                    out("r13") r11,
                    clobber_abi("sysv64"),
                );
            }
            let frame = caught_fault().ok_or_else(|| error("there was no exception"))?;
            equal("RCX in the frame and after it", [0x123_4567; 2], [frame.rcx, rcx])?;
            equal("R11 in the frame and after it", [0x765_4321; 2], [frame.r11, r11])
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const INTERRUPT_FLAG: RFlags = RFlags::INTERRUPT_FLAG;

    /// What an instruction that faults on purpose leaves: the frame, and its address and stack pointer.
    pub struct Caught {
        pub frame: TrapFrame,
        pub at: u64,
        pub stack: u64,
    }

    pub extern "sysv64" fn expect_here(at: usize, resume: usize) {
        expect_fault(at, resume);
    }

    /// Vector, error code, instruction and stack of a frame are as they must be.
    pub fn as_expected(caught: &Caught, vector: ExceptionVector, code: u64) -> Verdict {
        equal("vector", vector as u64, caught.frame.vector)?;
        equal("error code", code, caught.frame.error)?;
        equal("RIP", caught.at, caught.frame.rip)?;
        equal("RSP", caught.stack, caught.frame.rsp)
    }

    pub static FAULTS: AtomicU32 = AtomicU32::new(0);

    /// Faults inside a handler.
    pub fn fault_inside() {
        if write_faults(pvops::live_table()) {
            FAULTS.fetch_add(1, SeqCst);
        }
    }
}
