//! A guest that keeps writing numbers to two disks and prints on COM1 which of them are flushed.
//!
//! Number n goes to disk n % 2, sector (n / 2) % [`SECTORS`], which it fills. When the flush after it is answered, the guest
//! prints n as eight hexadecimal digits and a line feed. An answer that is an error prints a `!` and ends that.

use shared_abi::board::{COM1_PORT, VIRTIO_MMIO_BASE};
use shared_abi::virtio::Status;
use shared_abi::virtio::blk::Features;
use shared_abi::virtio::mmio::Register;

/// Sectors of each disk that are written.
pub(crate) const SECTORS: u32 = 64;

const BASE: u64 = VIRTIO_MMIO_BASE;
const NEGOTIATED: u8 = Status::ACKNOWLEDGE.bits() | Status::DRIVER.bits() | Status::FEATURES_OK.bits();

// 32-bit code that uses no address of its own. Registers: ebx the number, esi the disk's registers, edi its memory, of which
// 0 is the descriptor table, 0x1000 the available ring, 0x2000 the used ring, 0x3000 the request's header, 0x3010 its status
// and 0x4000 its data.
std::arch::global_asm!(
    ".pushsection .rodata.writer_guest, \"a\"",
    ".code32",
    "writer_guest_start:",
    "mov esp, 0x100000",
    "xor ebp, ebp",
    "20:",
    "call 70f",
    "mov dword ptr [esi + {status}], 0",
    "21:",
    "cmp dword ptr [esi + {status}], 0",
    "jne 21b",
    "mov dword ptr [esi + {status}], 1",
    "mov dword ptr [esi + {status}], 3",
    "mov dword ptr [esi + {features_sel}], 0",
    "mov dword ptr [esi + {features}], {flush}",
    "mov dword ptr [esi + {features_sel}], 1",
    "mov dword ptr [esi + {features}], 1",
    "mov dword ptr [esi + {status}], {negotiated}",
    "mov dword ptr [esi + {queue_sel}], 0",
    "mov dword ptr [esi + {queue_size}], 8",
    "mov dword ptr [esi + {table}], edi",
    "mov dword ptr [esi + {table} + 4], 0",
    "lea eax, [edi + 0x1000]",
    "mov dword ptr [esi + {driver}], eax",
    "mov dword ptr [esi + {driver} + 4], 0",
    "lea eax, [edi + 0x2000]",
    "mov dword ptr [esi + {device}], eax",
    "mov dword ptr [esi + {device} + 4], 0",
    "mov dword ptr [esi + {ready}], 1",
    "mov dword ptr [esi + {status}], {negotiated} + 4",
    "inc ebp",
    "cmp ebp, 2",
    "jb 20b",
    "xor ebx, ebx",
    // The next number: its sector's data, the header, and the chain of header, data and status.
    "30:",
    "inc ebx",
    "mov ebp, ebx",
    "and ebp, 1",
    "call 70f",
    "push edi",
    "add edi, 0x4000",
    "mov eax, ebx",
    "mov ecx, 128",
    "cld",
    "rep stosd",
    "pop edi",
    "mov dword ptr [edi + 0x3000], 1",
    "mov dword ptr [edi + 0x3004], 0",
    "mov eax, ebx",
    "shr eax, 1",
    "and eax, {sectors} - 1",
    "mov dword ptr [edi + 0x3008], eax",
    "mov dword ptr [edi + 0x300c], 0",
    "lea eax, [edi + 0x3000]",
    "mov dword ptr [edi], eax",
    "mov dword ptr [edi + 4], 0",
    "mov dword ptr [edi + 8], 16",
    "mov dword ptr [edi + 12], 0x10001",
    "lea eax, [edi + 0x4000]",
    "mov dword ptr [edi + 16], eax",
    "mov dword ptr [edi + 20], 0",
    "mov dword ptr [edi + 24], 512",
    "mov dword ptr [edi + 28], 0x20001",
    "lea eax, [edi + 0x3010]",
    "mov dword ptr [edi + 32], eax",
    "mov dword ptr [edi + 36], 0",
    "mov dword ptr [edi + 40], 1",
    "mov dword ptr [edi + 44], 2",
    "call 60f",
    // A flush has no data.
    "mov dword ptr [edi + 0x3000], 4",
    "mov dword ptr [edi + 0x3008], 0",
    "mov dword ptr [edi + 12], 0x20001",
    "call 60f",
    "mov ecx, 8",
    "mov edx, {com1}",
    "40:",
    "rol ebx, 4",
    "mov eax, ebx",
    "and eax, 15",
    "cmp eax, 10",
    "jb 41f",
    "add eax, 39",
    "41:",
    "add eax, 48",
    "out dx, al",
    "dec ecx",
    "jnz 40b",
    "mov al, 10",
    "out dx, al",
    "jmp 30b",
    // Offers the chain at descriptor 0 and waits for its answer.
    "60:",
    "mov byte ptr [edi + 0x3010], 0xff",
    "movzx eax, word ptr [edi + 0x1002]",
    "mov ecx, eax",
    "and ecx, 7",
    "mov word ptr [edi + ecx * 2 + 0x1004], 0",
    "inc eax",
    "mov word ptr [edi + 0x1002], ax",
    "mov dword ptr [esi + {notify}], 0",
    "61:",
    "cmp word ptr [edi + 0x2002], ax",
    "jne 61b",
    "cmp byte ptr [edi + 0x3010], 0",
    "jne 62f",
    "ret",
    "62:",
    "mov edx, {com1}",
    "mov al, 33",
    "out dx, al",
    "63:",
    "hlt",
    "jmp 63b",
    // Registers and memory of disk ebp.
    "70:",
    "mov esi, ebp",
    "shl esi, 12",
    "add esi, {base}",
    "mov edi, ebp",
    "shl edi, 16",
    "add edi, 0x200000",
    "ret",
    "writer_guest_end:",
    ".code64",
    ".popsection",
    base = const BASE,
    com1 = const COM1_PORT,
    sectors = const SECTORS,
    flush = const Features::FLUSH.bits(),
    negotiated = const NEGOTIATED,
    status = const Register::Status.offset(),
    features_sel = const Register::DriverFeaturesSel.offset(),
    features = const Register::DriverFeatures.offset(),
    queue_sel = const Register::QueueSel.offset(),
    queue_size = const Register::QueueSize.offset(),
    ready = const Register::QueueReady.offset(),
    notify = const Register::QueueNotify.offset(),
    table = const Register::QueueDescLow.offset(),
    driver = const Register::QueueDriverLow.offset(),
    device = const Register::QueueDeviceLow.offset(),
);

unsafe extern "C" {
    static writer_guest_start: u8;
    static writer_guest_end: u8;
}

/// The guest's code.
pub(crate) fn code() -> Vec<u8> {
    let (start, end) = (&raw const writer_guest_start, &raw const writer_guest_end);
    // SAFETY: the two labels enclose bytes of one section that is only read.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)).to_vec() }
}
