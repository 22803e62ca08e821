//! A world that this crate does not know, made with what is public: a hypervisor of user mode, whose interrupt flag is a
//! byte. Its sites are patched and executed.

use core::arch::naked_asm;
use pvops::patch::{self, Kind, Text};
use pvops::table::op;
use pvops::template::Template;
use pvops::worlds::native;
use pvops::{Backend, Op, Ops, site};
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether interrupts are on.
static FLAG: AtomicU8 = AtomicU8::new(0);

#[unsafe(naked)]
unsafe extern "sysv64" fn disable() {
    naked_asm!("mov byte ptr [rip + {flag}], 0", "ret", flag = sym FLAG)
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enable() {
    naked_asm!("mov byte ptr [rip + {flag}], 1", "ret", flag = sym FLAG)
}

#[unsafe(naked)]
unsafe extern "sysv64" fn now() -> u64 {
    naked_asm!("mov eax, 41", "ret")
}

pvops::template!(
    /// The time, for a call site.
    NOW,
    "mov eax, 42",
);

pvops::template!(
    /// For an operation that does nothing.
    NOTHING,
);

const TEMPLATES: &[(Op, Template)] =
    &[(op::time::now, NOW), (op::mmu::lazy_begin, NOTHING), (op::mmu::lazy_end, NOTHING)];

fn world() -> Backend {
    // What is not named here is as on a machine.
    let mut ops: Ops = native::BACKEND.ops;
    ops.irq.disable = Some(disable);
    ops.irq.enable = Some(enable);
    ops.time.now = Some(now);
    Backend { name: "own", ops, templates: TEMPLATES }
}

/// Replaces pages of text by changed copies: they are never writable and executable at once.
struct Pages;

impl Text for Pages {
    unsafe fn write(&mut self, address: usize, new: &[u8]) {
        const PAGE: usize = 4096;
        let first = address / PAGE * PAGE;
        let len = (address + new.len()).next_multiple_of(PAGE) - first;
        // SAFETY: the copy is a new mapping; the original is text, and the move is atomic.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let copy = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(copy, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(first as *const u8, copy.cast(), len);
            std::ptr::copy_nonoverlapping(new.as_ptr(), copy.cast::<u8>().add(address - first), new.len());
            assert_eq!(libc::mprotect(copy, len, libc::PROT_READ | libc::PROT_EXEC), 0);
            let to = first as *mut libc::c_void;
            let moved = libc::mremap(copy, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to);
            assert_eq!(moved, to);
        }
    }

    fn synchronize(&mut self) {
        pvops::cpu::serialize();
    }
}

fn toggles() -> [u8; 2] {
    // SAFETY: there are no interrupts, only a byte.
    unsafe { pvops::irq::enable() };
    let on = FLAG.load(Ordering::Relaxed);
    pvops::irq::disable();
    [on, FLAG.load(Ordering::Relaxed)]
}

#[test]
fn a_world_from_outside_is_installed_patched_and_executed() {
    let world = world();
    // SAFETY: this process has no other thread that calls an operation.
    unsafe { pvops::install(&world) };
    assert_eq!((toggles(), pvops::time::now()), ([1, 0], 41), "through the table");

    // SAFETY: as above; the sites are this program's.
    let summary = unsafe { patch::apply_all(site::all(), &world, Some(&mut Pages)) }.unwrap();
    assert_eq!((toggles(), pvops::time::now()), ([1, 0], 42), "patched");
    drop(pvops::mmu::batch());
    assert_eq!(summary.count(None), 0, "no site is left as it was");
    let kind = |wanted| summary.ops().find(|(op, _)| *op == wanted).and_then(|(_, summary)| summary.kind);
    assert_eq!(kind(op::irq::disable), Some(Kind::Direct));
    assert_eq!(kind(op::time::now), Some(Kind::Inline));
    assert_eq!(kind(op::mmu::lazy_end), Some(Kind::Nop));
}
