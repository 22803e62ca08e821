//! The smallest guests: PVH ELF files made of a few bytes of 32-bit code, for tests and the start benchmark.

use shared_abi::board::{COM1_PORT, EXIT_PORT};
use shared_abi::pvh::{NOTE_OWNER, NOTE_PHYS32_ENTRY};

/// Where the code of a sample guest is loaded, and its entry.
pub const LOAD_ADDRESS: u32 = 0x10_0000;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const NOTE: usize = HEADER + 2 * PROGRAM_HEADER;
const NOTE_LEN: usize = 20;

/// A PVH ELF file whose only segment is `code`, entered at its first byte in 32-bit protected mode.
pub fn pvh_elf(code: &[u8]) -> Vec<u8> {
    let code_offset = NOTE + NOTE_LEN;
    let mut elf = Vec::with_capacity(code_offset + code.len());
    elf.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend(u64::from(LOAD_ADDRESS).to_le_bytes());
    elf.extend((HEADER as u64).to_le_bytes());
    elf.extend([0; 12]);
    for half in [HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        elf.extend((half as u16).to_le_bytes());
    }
    program_header(&mut elf, 1, 5, code_offset, u64::from(LOAD_ADDRESS), code.len());
    program_header(&mut elf, 4, 4, NOTE, 0, NOTE_LEN);
    for word in [NOTE_OWNER.len() as u32, 4, NOTE_PHYS32_ENTRY] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(NOTE_OWNER);
    elf.extend(LOAD_ADDRESS.to_le_bytes());
    elf.extend(code);
    elf
}

fn program_header(elf: &mut Vec<u8>, kind: u32, flags: u32, offset: usize, address: u64, len: usize) {
    elf.extend(kind.to_le_bytes());
    elf.extend(flags.to_le_bytes());
    for word in [offset as u64, address, address, len as u64, len as u64, 1] {
        elf.extend(word.to_le_bytes());
    }
}

/// Code that prints `text` on COM1 with one `rep outsb`.
pub fn print(text: &[u8]) -> Vec<u8> {
    // call over the text; pop esi; mov ecx, len; mov edx, COM1; cld; rep outsb
    let mut code = vec![0xe8];
    code.extend((text.len() as u32).to_le_bytes());
    code.extend(text);
    code.extend([0x5e, 0xb9]);
    code.extend((text.len() as u32).to_le_bytes());
    code.push(0xba);
    code.extend(u32::from(COM1_PORT).to_le_bytes());
    code.extend([0xfc, 0xf3, 0x6e]);
    // The call needs a stack: mov esp, LOAD_ADDRESS first.
    let mut whole = vec![0xbc];
    whole.extend(LOAD_ADDRESS.to_le_bytes());
    whole.extend(code);
    whole
}

/// Code that ends the VM with `code`.
pub fn exit(code: u32) -> Vec<u8> {
    // mov edx, EXIT_PORT; mov eax, code; out dx, eax; then hlt forever
    let mut bytes = vec![0xba];
    bytes.extend(u32::from(EXIT_PORT).to_le_bytes());
    bytes.push(0xb8);
    bytes.extend(code.to_le_bytes());
    bytes.push(0xef);
    bytes.extend(halt());
    bytes
}

/// Code that stores `value` at a physical address.
pub fn store32(address: u32, value: u32) -> Vec<u8> {
    // mov dword ptr [address], value
    let mut bytes = vec![0xc7, 0x05];
    bytes.extend(address.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

/// Code that halts forever.
pub fn halt() -> Vec<u8> {
    // cli; hlt; jmp back to the hlt
    vec![0xfa, 0xf4, 0xeb, 0xfd]
}

/// Code that loops forever.
pub fn spin() -> Vec<u8> {
    vec![0xeb, 0xfe]
}
