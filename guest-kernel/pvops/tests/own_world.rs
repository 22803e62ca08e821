//! A world that this crate does not know, made with what is public: a hypervisor of user mode, whose interrupt flag is a
//! byte. The sites of this program are patched for it and executed, in memory that is never writable and executable at once.

use core::arch::naked_asm;
use pvops::patch::{self, Kind, PatchError, Text};
use pvops::table::op;
use pvops::template::Template;
use pvops::worlds::native;
use pvops::x86_64::PhysAddr;
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

macro_rules! answers {
    ($($name:ident() -> $ty:ty: $value:literal;)*) => {
        $(
            #[unsafe(naked)]
            unsafe extern "sysv64" fn $name() -> $ty {
                naked_asm!(concat!("mov eax, ", $value), "ret")
            }
        )*
    };
}

answers! {
    cr3_by_call() -> u64: 0x41000;
    now_by_call() -> u64: 41;
    cpu_by_call() -> u32: 43;
}

#[unsafe(naked)]
unsafe extern "sysv64" fn trap() {
    naked_asm!("ud2")
}

pvops::template!(
    /// The page table, for a call site.
    CR3,
    "mov eax, 0x42000",
);

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
    &[(op::mmu::read_cr3, CR3), (op::time::now, NOW), (op::mmu::lazy_begin, NOTHING), (op::mmu::lazy_end, NOTHING)];

fn world() -> Backend {
    // What is not named here is as on a machine.
    let mut ops: Ops = native::BACKEND.ops;
    ops.irq.disable = Some(disable);
    ops.irq.enable = Some(enable);
    ops.mmu.read_cr3 = Some(cr3_by_call);
    ops.mmu.lazy_begin = Some(trap);
    ops.mmu.lazy_end = Some(trap);
    ops.time.now = Some(now_by_call);
    ops.smp.cpu = Some(cpu_by_call);
    Backend { name: "own", ops, templates: TEMPLATES }
}

/// Replaces a page of text as a whole: a writable copy is changed, made executable, and moved over the original.
#[derive(Default)]
struct PageReplacer {
    /// Writes that no serializing instruction has followed yet.
    unsynchronized: usize,
    synchronized: usize,
}

impl Text for PageReplacer {
    unsafe fn write(&mut self, address: usize, new: &[u8]) {
        const PAGE: usize = 4096;
        let (first, last) = (address / PAGE * PAGE, (address + new.len() - 1) / PAGE * PAGE);
        let len = last + PAGE - first;
        // SAFETY: the copy is a new mapping; the original is text that other threads only execute, and the move is atomic.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let copy = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(copy, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(first as *const u8, copy.cast(), len);
            std::ptr::copy_nonoverlapping(new.as_ptr(), copy.cast::<u8>().add(address - first), new.len());
            assert_eq!(libc::mprotect(copy, len, libc::PROT_READ | libc::PROT_EXEC), 0);
            let moved =
                libc::mremap(copy, len, len, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, first as *mut libc::c_void);
            assert_eq!(moved as usize, first);
        }
        assert_nothing_is_writable_and_executable();
        self.unsynchronized += 1;
    }

    fn synchronize(&mut self) {
        pvops::cpu::serialize();
        self.synchronized += std::mem::take(&mut self.unsynchronized);
    }
}

fn assert_nothing_is_writable_and_executable() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let both = maps.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.contains("wx")));
    assert_eq!(both, None);
}

fn toggles() -> [u8; 2] {
    // SAFETY: there are no interrupts, only a byte.
    unsafe { pvops::irq::enable() };
    let on = FLAG.load(Ordering::Relaxed);
    pvops::irq::disable();
    [on, FLAG.load(Ordering::Relaxed)]
}

/// All that happens to real sites, in one test, because they belong to the whole process.
#[test]
fn sites_work_unpatched_and_patched_and_no_indirect_call_is_left() {
    let world = world();
    // SAFETY: in this process no other test calls an operation.
    unsafe { pvops::install(&world) };
    assert_eq!(pvops::mmu::read_cr3(), PhysAddr::new(0x41000), "through the table");
    assert_eq!((toggles(), pvops::time::now()), ([1, 0], 41), "through the table");

    // SAFETY: as above.
    let summary = unsafe { patch::apply_all(site::all(), &world, None) }.unwrap();
    assert_eq!(summary.count(None), summary.sites());
    assert_eq!(summary.sites() as usize, site::all().len());

    let mut text = PageReplacer::default();
    // SAFETY: as above.
    let summary = unsafe { patch::apply_all(site::all(), &world, Some(&mut text)) }.unwrap();
    assert_eq!(
        (text.unsynchronized, text.synchronized),
        (0, site::all().len()),
        "a serializing instruction stands between the writes and the first patched call"
    );
    assert_eq!(summary.count(None), 0, "no site is left as it was");
    for kind in [Kind::Inline, Kind::Direct, Kind::Nop] {
        assert!(summary.count(Some(kind)) > 0, "no site became {}", kind.name());
    }
    let kind = |wanted| summary.ops().find(|(op, _)| *op == wanted).and_then(|(_, summary)| summary.kind);
    assert_eq!(kind(op::irq::disable), Some(Kind::Direct));
    assert_eq!(kind(op::time::now), Some(Kind::Inline));
    assert_eq!(kind(op::mmu::lazy_end), Some(Kind::Nop));
    assert_eq!(pvops::mmu::read_cr3(), PhysAddr::new(0x42000), "inline");
    assert_eq!((toggles(), pvops::time::now()), ([1, 0], 42), "patched");
    assert_eq!(pvops::smp::cpu(), 43, "by a direct call");
    drop(pvops::mmu::batch()); // a nop where the table has a trap

    for site in site::all() {
        let op = site.op().unwrap();
        assert_eq!(patch::bytes(site), patch::plan(op, site.address(), &world).unwrap().bytes, "{}", op.name());
    }
    // SAFETY: as above.
    let again = unsafe { patch::apply_all(site::all(), &world, Some(&mut PageReplacer::default())) };
    assert!(
        matches!(again, Err(PatchError::NotACall { .. })),
        "a patched site is not patched twice: {:?}",
        again.err()
    );
}
