//! Entry stubs. Every vector ends in one path, with this frame on the stack:
//!
//! ```text
//! offset  field              pushed by
//! 0x00    r15 .. rax         common path (15 registers)
//! 0x78    vector             stub
//! 0x80    error code         CPU, or stub (0)
//! 0x88    rip, cs, rflags    CPU
//! 0xa0    rsp, ss            CPU
//! ```

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use x86_64::VirtAddr;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::idt::ExceptionVector;

/// The registers of the interrupted code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "registers have no other names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: RFlags,
    pub rsp: u64,
    pub ss: u64,
}
const _: () = assert!(offset_of!(TrapFrame, vector) == 0x78 && offset_of!(TrapFrame, ss) == 0xa8);

/// Distance between two stubs.
const STUB_SIZE: usize = 16;

/// Exceptions for which the CPU pushes an error code, as bits.
const WITH_ERROR_CODE: u32 = 1 << ExceptionVector::Double as u8
    | 1 << ExceptionVector::InvalidTss as u8
    | 1 << ExceptionVector::SegmentNotPresent as u8
    | 1 << ExceptionVector::Stack as u8
    | 1 << ExceptionVector::GeneralProtection as u8
    | 1 << ExceptionVector::Page as u8
    | 1 << ExceptionVector::AlignmentCheck as u8
    | 1 << ExceptionVector::ControlProtection as u8
    | 1 << ExceptionVector::VmmCommunication as u8
    | 1 << ExceptionVector::Security as u8;

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".balign {size}",
    ".globl trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign {size}",
    ".if vector >= 32 || !(({with_error_code} >> (vector & 31)) & 1)",
    "push 0",
    ".endif",
    "push vector",
    "jmp {common}",
    ".set vector, vector + 1",
    ".endr",
    ".popsection",
    size = const STUB_SIZE,
    common = sym common,
    with_error_code = const WITH_ERROR_CODE,
);

/// Address of a vector's stub.
pub(super) fn stub(vector: u8) -> VirtAddr {
    unsafe extern "C" {
        #[link_name = "trap_stubs"]
        static STUBS: u8;
    }
    VirtAddr::from_ptr((&raw const STUBS).wrapping_add(usize::from(vector) * STUB_SIZE))
}

/// Saves all registers, calls `dispatch` with the frame, restores them. The frame has 22 words, so RSP is 16-byte
/// aligned at the call: the CPU aligned it before it pushed 5, stub and this path pushed 17.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax", "push rcx", "push rdx", "push rbx", "push rbp", "push rsi", "push rdi",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "cld",
        "mov rdi, rsp",
        "call {dispatch}",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
        "pop rdi", "pop rsi", "pop rbp", "pop rbx", "pop rdx", "pop rcx", "pop rax",
        "add rsp, 16",
        "jmp {iret}",
        dispatch = sym super::dispatch,
        iret = sym pvops::cpu::iret,
    )
}
