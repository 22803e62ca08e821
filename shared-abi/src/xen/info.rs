//! What Xen gives a guest at its start, and the page that both share.

use crate::assert_layout;
use crate::kvm::ClockPage;

/// `start_info`, at the entry in RSI (`xen.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StartInfo {
    /// `xen-<version>-<platform>`, ended by a NUL.
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of [`SharedInfo`].
    pub shared_info: u64,
    /// [`StartInfo::PRIVILEGED`] and others.
    pub flags: u32,
    /// Zero.
    pub pad0: u32,
    /// Machine frame of the store's ring.
    pub store_mfn: u64,
    /// Channel of the store.
    pub store_evtchn: u32,
    /// Zero.
    pub pad1: u32,
    /// Console ring of a guest, or console of the initial domain.
    pub console: [u64; 2],
    /// Virtual address of the level 4 table.
    pub pt_base: u64,
    /// Frames of the initial page tables, one after the other from `pt_base` on.
    pub nr_pt_frames: u64,
    /// Virtual address of the list that gives a machine frame for every physical one.
    pub mfn_list: u64,
    /// Virtual address of the initrd.
    pub mod_start: u64,
    /// Bytes of it.
    pub mod_len: u64,
    /// Command line, ended by a NUL.
    pub cmd_line: [u8; 1024],
    /// First frame of the list where it is not mapped.
    pub first_p2m_pfn: u64,
    /// Frames of it.
    pub nr_p2m_frames: u64,
}
assert_layout!(StartInfo, size 0x490, nr_pages at 0x20, shared_info at 0x28, flags at 0x30, pt_base at 0x58, mfn_list at 0x68, cmd_line at 0x80, first_p2m_pfn at 0x480);

impl StartInfo {
    /// What `magic` starts with.
    pub const MAGIC: &'static [u8] = b"xen-3.";
    /// Flag: may reach hardware.
    pub const PRIVILEGED: u32 = 1;
    /// Flag: is the initial domain.
    pub const INITIAL_DOMAIN: u32 = 2;
    /// Flag: `mod_start` is a physical frame number.
    pub const MODULE_IS_PFN: u32 = 8;
}

/// `vcpu_info`: what a CPU and Xen tell each other (`xen.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VcpuInfo {
    /// Some channel of this CPU is pending.
    pub upcall_pending: u8,
    /// 1: no upcalls.
    pub upcall_mask: u8,
    /// Zero.
    pub pad: [u8; 6],
    /// Words of [`SharedInfo::pending`] to look at, by bit.
    pub pending_sel: u64,
    /// CR2 of the last page fault.
    pub cr2: u64,
    /// Zero.
    pub pad1: u64,
    /// The clock. Its layout is KVM's.
    pub time: ClockPage,
}
assert_layout!(VcpuInfo, size 64, upcall_mask at 1, pending_sel at 8, cr2 at 0x10, time at 0x20);

/// `shared_info`: one page that a domain shares with Xen (`xen.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SharedInfo {
    /// One for each of the first 32 CPUs.
    pub vcpus: [VcpuInfo; 32],
    /// Bit by channel: an event is pending.
    pub pending: [u64; 64],
    /// Bit by channel: it is not delivered.
    pub mask: [u64; 64],
    /// Version, seconds, nanoseconds of the time of day at system time 0.
    pub wall_clock: [u32; 4],
    /// Machine-dependent, and unused.
    pub rest: [u8; 0x3f0],
}
assert_layout!(SharedInfo, size 0x1000, pending at 0x800, mask at 0xa00, wall_clock at 0xc00);
