//! What a person sees when the kernel has failed: registers, the reason, a backtrace with names. Then the machine ends.

use crate::console::emergency;
use crate::mm::image;
use crate::platform::power::{self, Ending};
use crate::symbols::Symbols;
use crate::trap::TrapFrame;
use spin::Once;
use x86_64::structures::idt::{ExceptionVector, PageFaultErrorCode};

static SYMBOLS: Once<Symbols> = Once::new();

/// The kernel's symbols, if the image has them.
pub fn symbols() -> Symbols {
    SYMBOLS.get().copied().unwrap_or_default()
}

/// Names the functions of reports from now on.
pub fn set_symbols(symbols: Symbols) {
    SYMBOLS.call_once(|| symbols);
}

/// The name of an exception, as the Intel SDM has it.
fn name(vector: u8) -> &'static str {
    use ExceptionVector as Vector;
    let Ok(vector) = Vector::try_from(vector) else { return "reserved" };
    match vector {
        Vector::Division => "divide error",
        Vector::Debug => "debug",
        Vector::NonMaskableInterrupt => "non-maskable interrupt",
        Vector::Breakpoint => "breakpoint",
        Vector::Overflow => "overflow",
        Vector::BoundRange => "bound range exceeded",
        Vector::InvalidOpcode => "invalid opcode",
        Vector::DeviceNotAvailable => "device not available",
        Vector::Double => "double fault",
        Vector::InvalidTss => "invalid TSS",
        Vector::SegmentNotPresent => "segment not present",
        Vector::Stack => "stack-segment fault",
        Vector::GeneralProtection => "general protection fault",
        Vector::Page => "page fault",
        Vector::X87FloatingPoint => "x87 floating-point error",
        Vector::AlignmentCheck => "alignment check",
        Vector::MachineCheck => "machine check",
        Vector::SimdFloatingPoint => "SIMD floating-point error",
        Vector::Virtualization => "virtualization exception",
        Vector::ControlProtection => "control protection exception",
        _ => "exception",
    }
}

/// Reports an exception and ends the machine.
pub fn exception(vector: u8, frame: &mut TrapFrame) {
    emergency(format_args!("\nexception {vector} ({}), error code {:#x}\n", name(vector), frame.error));
    if vector == ExceptionVector::Page as u8 {
        let code = PageFaultErrorCode::from_bits_retain(frame.error);
        let way = if code.contains(PageFaultErrorCode::INSTRUCTION_FETCH) {
            "execute"
        } else if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
            "write"
        } else {
            "read"
        };
        let why = if code.contains(PageFaultErrorCode::PROTECTION_VIOLATION) { "not allowed" } else { "not mapped" };
        emergency(format_args!("{way} of {:#018x}: {why}\n", pvops::cpu::read_cr2()));
    }
    let f = &*frame;
    emergency(format_args!(
        "rip {:#018x} rsp {:#018x} rflags {:#010x} cs {:#x} ss {:#x}\n\
         rax {:#018x} rbx {:#018x} rcx {:#018x} rdx {:#018x}\n\
         rsi {:#018x} rdi {:#018x} rbp {:#018x} r8  {:#018x}\n\
         r9  {:#018x} r10 {:#018x} r11 {:#018x} r12 {:#018x}\n\
         r13 {:#018x} r14 {:#018x} r15 {:#018x} cr3 {:#018x}\n",
        f.rip,
        f.rsp,
        f.rflags,
        f.cs,
        f.ss,
        f.rax,
        f.rbx,
        f.rcx,
        f.rdx,
        f.rsi,
        f.rdi,
        f.rbp,
        f.r8,
        f.r9,
        f.r10,
        f.r11,
        f.r12,
        f.r13,
        f.r14,
        f.r15,
        pvops::mmu::read_cr3(),
    ));
    line(0, f.rip as usize);
    backtrace(f.rbp as usize, 1);
    power::end(Ending::Panic)
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    pvops::irq::disable();
    emergency(format_args!("\nkernel {info}\n"));
    let frame_pointer: usize;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
    backtrace(frame_pointer, 0);
    power::end(Ending::Panic)
}

/// Prints the return addresses along the chain of frame pointers.
pub fn backtrace(mut frame_pointer: usize, first: usize) {
    let data = image::data_start()..image::data_end() - 16;
    for number in first..32 {
        if !data.contains(&frame_pointer) || !frame_pointer.is_multiple_of(8) {
            break;
        }
        // SAFETY: inside the kernel's data, which is mapped but for the stack's guard page, where no frame can be.
        let [next, address] = unsafe { (frame_pointer as *const [usize; 2]).read() };
        if address < image::text_start() || address >= image::text_end() {
            break;
        }
        line(number, address - 1);
        if next <= frame_pointer {
            break;
        }
        frame_pointer = next;
    }
}

fn line(number: usize, address: usize) {
    match symbols().find(address) {
        Some((name, offset)) => emergency(format_args!("  #{number:<2} {address:#018x} {name} + {offset:#x}\n")),
        None => emergency(format_args!("  #{number:<2} {address:#018x}\n")),
    }
}
