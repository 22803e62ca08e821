//! Messages: on the screen through the BIOS, and on the first serial port, which is not in use yet.

use crate::real_mode::Registers;
use crate::volume::call;
use core::arch::asm;
use core::fmt::{self, Write};

const COM1: u16 = shared_abi::board::COM1_PORT;
const LINE_STATUS: u16 = COM1 + 5;
const CAN_SEND: u8 = 1 << 5;
/// Looks at a port that may not be there.
const PATIENCE: u32 = 100_000;

/// Takes text.
pub(crate) struct Screen;

impl Write for Screen {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    let registers = Registers { eax: 0x0e00 | u32::from(byte), ebx: 7, ..Registers::default() };
    // SAFETY: teletype output writes nothing of ours; no other BIOS call is running.
    unsafe { call(0x10, registers) };
    // SAFETY: the serial port's registers; without a port the reads are 0xff and the write does nothing.
    unsafe {
        for _ in 0..PATIENCE {
            let status: u8;
            asm!("in al, dx", out("al") status, in("dx") LINE_STATUS, options(nomem, nostack));
            if status & CAN_SEND != 0 {
                break;
            }
        }
        asm!("out dx, al", in("al") byte, in("dx") COM1, options(nomem, nostack));
    }
}
