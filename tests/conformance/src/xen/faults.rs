//! Exceptions: what Xen leaves on the stack, and what is left when they return.

use super::super::{Context, Verdict, equal, error, holds};
use super::{event_sent, here, interrupts_on, with_channel};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest_kernel::trap::expected::{caught_fault, expect_fault, write_faults};
use guest_kernel::trap::{TrapFrame, irq};
use x86_64::VirtAddr;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::idt::{ExceptionVector, PageFaultErrorCode};

const INTERRUPT_FLAG: RFlags = RFlags::INTERRUPT_FLAG;

/// What an instruction that faults on purpose leaves: the frame, and its address and stack pointer.
struct Caught {
    frame: TrapFrame,
    at: u64,
    stack: u64,
}

/// Runs an instruction that faults; going on behind it.
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

extern "sysv64" fn expect_here(at: usize, resume: usize) {
    expect_fault(at, resume);
}

/// Vector, error code, instruction and stack of a frame are as they must be.
fn as_expected(caught: &Caught, vector: ExceptionVector, code: u64) -> Verdict {
    equal("vector", vector as u64, caught.frame.vector)?;
    equal("error code", code, caught.frame.error)?;
    equal("RIP", caught.at, caught.frame.rip)?;
    equal("RSP", caught.stack, caught.frame.rsp)
}

pub fn without_error_code(cx: &Context) -> Verdict {
    here(cx)?;
    as_expected(&fault!("ud2")?, ExceptionVector::InvalidOpcode, 0)
}

pub fn with_error_code(cx: &Context) -> Verdict {
    here(cx)?;
    // No descriptor is so far behind the start of the table.
    as_expected(&fault!("mov fs, r14w", in("r14") 0xfff0_u64)?, ExceptionVector::GeneralProtection, 0xfff0)
}

pub fn page_fault(cx: &Context) -> Verdict {
    here(cx)?;
    const NOWHERE: usize = 0xffff_ca00_0000_1234;
    const WRITE: PageFaultErrorCode = PageFaultErrorCode::CAUSED_BY_WRITE;
    let address = |offset: usize| VirtAddr::new((NOWHERE + offset) as u64);
    let fault = |caught: &Caught, code: PageFaultErrorCode| as_expected(caught, ExceptionVector::Page, code.bits());
    fault(&fault!("mov al, byte ptr [r14]", in("r14") NOWHERE)?, PageFaultErrorCode::empty())?;
    equal("CR2", address(0), pvops::cpu::read_cr2())?;
    fault(&fault!("mov byte ptr [r14], 0", in("r14") NOWHERE + 1)?, WRITE)?;
    equal("CR2", address(1), pvops::cpu::read_cr2())?;
    let table = pvops::live_table();
    fault(&fault!("mov byte ptr [r14], 0", in("r14") table)?, WRITE | PageFaultErrorCode::PROTECTION_VIOLATION)
}

pub fn shows_the_mask(cx: &Context) -> Verdict {
    here(cx)?;
    let on = fault!("ud2")?;
    pvops::irq::disable();
    let off = fault!("ud2");
    let still_off = pvops::irq::save();
    interrupts_on();
    let off = off?;
    equal("IF with events on", INTERRUPT_FLAG, on.frame.rflags & INTERRUPT_FLAG)?;
    equal("IF with events off", RFlags::empty(), off.frame.rflags & INTERRUPT_FLAG)?;
    holds(still_off != 0, "mask behind an exception with events off", 1, 0)?;
    let now_on = pvops::irq::save();
    interrupts_on();
    equal("mask behind all of it", 0, now_on)
}

static FAULTS: AtomicU32 = AtomicU32::new(0);

/// Faults inside a handler.
fn fault_inside() {
    if write_faults(pvops::live_table()) {
        FAULTS.fetch_add(1, SeqCst);
    }
}

pub fn inside_an_upcall(cx: &Context) -> Verdict {
    with_channel(cx, |line| {
        FAULTS.store(0, SeqCst);
        irq::set_handler(line.event, Some(fault_inside));
        let sent = (0..100).try_for_each(|_| event_sent(line));
        irq::set_handler(line.event, None);
        sent?;
        equal("faults inside of 100 upcalls", 100, FAULTS.load(SeqCst))
    })
}

pub fn keeps_registers(cx: &Context) -> Verdict {
    here(cx)?;
    let caught = fault!("ud2", in("r14") 0x1111_2222_3333_4444_u64, in("r15") 0x5555_6666_7777_8888_u64)?;
    equal("R14", 0x1111_2222_3333_4444, caught.frame.r14)?;
    equal("R15", 0x5555_6666_7777_8888, caught.frame.r15)?;
    // RCX and R11 come by Xen's frame, not by the registers.
    let (rcx, r11): (u64, u64);
    // SAFETY: as in `fault`; the registers are set behind the call.
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
    equal("RCX in the frame and behind it", [0x123_4567; 2], [frame.rcx, rcx])?;
    equal("R11 in the frame and behind it", [0x765_4321; 2], [frame.r11, r11])
}
