//! Which thread may make which system call, with which arguments, and why: the source of all filters and of what
//! `--show-sandbox` prints. A test takes each row away from each kind of thread, and a run of a VM must fail without it.
//!
//! What is in no row: opening, making, renaming and removing files; sockets that are not there yet; processes, threads,
//! programs; executable memory; signals to others; further filters.

use kvm_bindings::{kvm_cpuid2, kvm_ioeventfd, kvm_irqfd, kvm_regs, kvm_sregs, kvm_userspace_memory_region};

bitflags::bitflags! {
    /// Kinds of threads, and the keeper's only one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Kind: u16 {
        /// The main thread.
        const MAIN = 1;
        /// A vCPU's thread.
        const VCPU = 1 << 1;
        /// A disk's thread.
        const BLOCK = 1 << 2;
        /// A network card's thread.
        const NET = 1 << 3;
        /// The balloon's thread.
        const BALLOON = 1 << 4;
        /// The virtio console's thread.
        const CONSOLE = 1 << 5;
        /// The entropy device's thread.
        const RNG = 1 << 6;
        /// The thread of the control sockets.
        const CONTROL = 1 << 7;
        /// A thread that flushes one disk at the end.
        const FLUSH = 1 << 8;
        /// The thread of delayed lies.
        const HOSTILE = 1 << 9;
        /// The keeper.
        const KEEPER = 1 << 10;
    }
}

impl Kind {
    /// The name of one kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::MAIN => "main",
            Self::VCPU => "vcpu",
            Self::BLOCK => "block",
            Self::NET => "net",
            Self::BALLOON => "balloon",
            Self::CONSOLE => "console",
            Self::RNG => "rng",
            Self::CONTROL => "control",
            Self::FLUSH => "flush",
            Self::HOSTILE => "hostile",
            Self::KEEPER => "keeper",
            _ => "several",
        }
    }
}

const DEVICES: Kind = Kind::BLOCK.union(Kind::NET).union(Kind::BALLOON).union(Kind::CONSOLE).union(Kind::RNG);
/// All of ringside's own.
const ALL: Kind =
    DEVICES.union(Kind::MAIN).union(Kind::VCPU).union(Kind::CONTROL).union(Kind::FLUSH).union(Kind::HOSTILE);
/// Those with an event loop.
const LOOPS: Kind = DEVICES.union(Kind::MAIN).union(Kind::CONTROL);

/// Those that may be the ones to find a log full: lies are logged by the thread that tells them.
const LOGS: Kind = ALL.difference(Kind::FLUSH);

/// A call that some threads may make.
#[derive(Debug)]
pub struct Row {
    /// Its number.
    pub number: i64,
    /// Its name.
    pub name: &'static str,
    /// What its arguments must be, all of them.
    pub args: &'static [Arg],
    /// The same for people.
    pub shown: &'static str,
    /// Who may make it.
    pub threads: Kind,
    /// What for.
    pub why: &'static str,
}

impl Row {
    /// The call with its arguments.
    pub fn call(&self) -> String {
        if self.shown.is_empty() { self.name.into() } else { format!("{}({})", self.name, self.shown) }
    }
}

/// What one argument must be. Its lower 32 bits are looked at: the kernel takes no more of those that are checked here.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Which one, from 0 on.
    pub index: u8,
    /// What it must be.
    pub is: Is,
}

/// What an argument must be.
#[derive(Clone, Copy, Debug)]
pub enum Is {
    /// This.
    Equal(u64),
    /// The id of this process.
    OurProcess,
}

const fn arg(index: u8, value: u64) -> Arg {
    Arg { index, is: Is::Equal(value) }
}

/// A KVM call that takes no structure.
const fn kvm(number: u64) -> u64 {
    0xae00 | number
}

const READ: u64 = 2;
const WRITE: u64 = 1;

/// One that takes a structure.
const fn kvm_with(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | kvm(number)
}

macro_rules! row {
    ($call:ident, $threads:expr, $why:literal) => {
        row!($call, [], "", $threads, $why)
    };
    ($call:ident, [$($arg:expr),*], $shown:literal, $threads:expr, $why:literal) => {
        Row { number: libc::$call, name: name(stringify!($call)), args: &[$($arg),*], shown: $shown, threads: $threads, why: $why }
    };
}

/// The name without its prefix `SYS_`.
const fn name(symbol: &'static str) -> &'static str {
    symbol.split_at(4).1
}

macro_rules! ioctl {
    ($request:expr, $shown:literal, $threads:expr, $why:literal) => {
        row!(SYS_ioctl, [arg(1, $request)], $shown, $threads, $why)
    };
}

const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const DATA: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
/// glibc's SIGRTMIN.
const INTERRUPT: u64 = 34;

/// Which thread may make which call, and why.
pub const TABLE: &[Row] = &[
    // Waiting.
    row!(SYS_futex, ALL, "locks and channels"),
    row!(SYS_epoll_wait, LOOPS, "waits for events"),
    row!(SYS_epoll_ctl, LOOPS, "changes what is waited for"),
    row!(SYS_clock_nanosleep, ALL, "waits for a rate, a busy device, the end"),
    row!(SYS_sched_yield, ALL, "a device that is about to be done, a channel that another thread is in"),
    row!(SYS_poll, ALL, "waits for the reader of a message or a console"),
    row!(SYS_rt_sigreturn, DEVICES.union(Kind::VCPU), "comes back from the interrupting signal"),
    row!(SYS_restart_syscall, ALL, "goes on waiting after a stop by job control"),
    row!(SYS_getpid, Kind::MAIN.union(Kind::CONTROL), "pthread_kill asks for it"),
    row!(
        SYS_tgkill,
        [Arg { index: 0, is: Is::OurProcess }, arg(2, INTERRUPT)],
        "us, SIGRTMIN",
        Kind::MAIN.union(Kind::CONTROL),
        "interrupts a thread of ours"
    ),
    // Data.
    row!(SYS_read, LOOPS, "events, typed input, frames"),
    row!(SYS_write, ALL, "events, messages, output, frames, answers"),
    row!(SYS_writev, Kind::NET, "a frame after its length"),
    row!(SYS_preadv, Kind::BLOCK, "reads sectors"),
    row!(SYS_pwritev, Kind::BLOCK, "writes sectors"),
    row!(SYS_timerfd_settime, DEVICES, "goes on when a limit allows it"),
    row!(SYS_fallocate, Kind::BLOCK, "discards and zeroes sectors"),
    row!(SYS_fdatasync, Kind::BLOCK.union(Kind::FLUSH), "makes writes durable"),
    row!(SYS_getrandom, Kind::RNG, "entropy for the guest"),
    row!(SYS_lseek, LOGS, "reads the kernel again; the size of a disk; empties a full log"),
    row!(SYS_statx, Kind::CONTROL, "whether a disk can grow"),
    row!(SYS_ftruncate, LOGS, "grows a disk; empties a full log"),
    row!(SYS_recvmsg, LOGS, "the next log's descriptor, from the keeper"),
    row!(SYS_close, ALL.difference(Kind::FLUSH).union(Kind::KEEPER), "a full log, a client, an old VM"),
    #[cfg(debug_assertions)]
    row!(
        SYS_fcntl,
        [arg(1, libc::F_GETFD as u64)],
        "F_GETFD",
        ALL.union(Kind::KEEPER),
        "a debug build checks what it closes"
    ),
    // Sockets.
    row!(SYS_recvfrom, Kind::CONTROL.union(Kind::NET).union(Kind::KEEPER), "requests, frames"),
    row!(SYS_sendto, LOGS, "answers, frames; what the keeper is asked for"),
    row!(SYS_accept4, Kind::CONTROL, "a client"),
    row!(SYS_getsockopt, Kind::CONTROL, "whose process a client is"),
    row!(
        SYS_fcntl,
        [arg(1, libc::F_DUPFD_CLOEXEC as u64)],
        "F_DUPFD_CLOEXEC",
        Kind::CONTROL,
        "keeps a descriptor for a client that is turned away"
    ),
    ioctl!(libc::FIONBIO, "FIONBIO", Kind::CONTROL, "a client is never waited for"),
    // KVM.
    ioctl!(kvm(0x80), "KVM_RUN", Kind::VCPU, "runs the guest"),
    ioctl!(kvm_with(READ, 0x81, size_of::<kvm_regs>()), "KVM_GET_REGS", Kind::VCPU, "reports where the guest failed"),
    ioctl!(
        kvm_with(READ, 0x83, size_of::<kvm_sregs>()),
        "KVM_GET_SREGS",
        Kind::VCPU.union(Kind::MAIN),
        "the same; a reset"
    ),
    ioctl!(kvm(0xad), "KVM_KVMCLOCK_CTRL", Kind::VCPU, "the guest sees that it was paused"),
    ioctl!(kvm(0x01), "KVM_CREATE_VM", Kind::MAIN, "a reset makes a new VM"),
    ioctl!(kvm(0x03), "KVM_CHECK_EXTENSION", Kind::MAIN, "a reset"),
    ioctl!(kvm(0x04), "KVM_GET_VCPU_MMAP_SIZE", Kind::MAIN, "a reset"),
    ioctl!(kvm_with(READ | WRITE, 0x05, size_of::<kvm_cpuid2>()), "KVM_GET_SUPPORTED_CPUID", Kind::MAIN, "a reset"),
    ioctl!(kvm(0x41), "KVM_CREATE_VCPU", Kind::MAIN, "a reset"),
    ioctl!(
        kvm_with(WRITE, 0x46, size_of::<kvm_userspace_memory_region>()),
        "KVM_SET_USER_MEMORY_REGION",
        Kind::MAIN,
        "a reset"
    ),
    ioctl!(kvm(0x47), "KVM_SET_TSS_ADDR", Kind::MAIN, "a reset"),
    ioctl!(kvm(0x60), "KVM_CREATE_IRQCHIP", Kind::MAIN, "a reset"),
    ioctl!(kvm_with(WRITE, 0x76, size_of::<kvm_irqfd>()), "KVM_IRQFD", Kind::MAIN, "a reset"),
    ioctl!(kvm_with(WRITE, 0x79, size_of::<kvm_ioeventfd>()), "KVM_IOEVENTFD", Kind::MAIN, "a reset"),
    ioctl!(kvm_with(WRITE, 0x82, size_of::<kvm_regs>()), "KVM_SET_REGS", Kind::MAIN, "a reset"),
    ioctl!(kvm_with(WRITE, 0x84, size_of::<kvm_sregs>()), "KVM_SET_SREGS", Kind::MAIN, "a reset"),
    ioctl!(kvm_with(WRITE, 0x90, size_of::<kvm_cpuid2>()), "KVM_SET_CPUID2", Kind::MAIN, "a reset"),
    ioctl!(kvm(0xa3), "KVM_GET_TSC_KHZ", Kind::MAIN, "a reset"),
    row!(
        SYS_mmap,
        [arg(2, DATA), arg(3, libc::MAP_SHARED as u64)],
        "READ | WRITE, SHARED",
        Kind::MAIN,
        "the page of a new vCPU"
    ),
    // Devices.
    ioctl!(
        libc::TUNSETOFFLOAD,
        "TUNSETOFFLOAD",
        Kind::NET.union(Kind::VCPU).union(Kind::CONTROL),
        "the checksums that a driver accepts"
    ),
    // The terminal.
    ioctl!(libc::TCGETS, "TCGETS", Kind::MAIN.union(Kind::KEEPER), "whether it is as we made it"),
    ioctl!(libc::TCSETS, "TCSETS", Kind::MAIN.union(Kind::KEEPER), "gives it back"),
    ioctl!(libc::TIOCGPGRP, "TIOCGPGRP", Kind::MAIN.union(Kind::KEEPER), "whether our job has it"),
    row!(SYS_getpgrp, Kind::MAIN.union(Kind::KEEPER), "the same"),
    // Memory.
    row!(SYS_brk, ALL.union(Kind::KEEPER), "the heap"),
    row!(SYS_mmap, [arg(2, DATA), arg(3, PRIVATE)], "READ | WRITE, PRIVATE | ANONYMOUS", ALL, "a large allocation"),
    row!(SYS_munmap, ALL.union(Kind::KEEPER), "gives it back; the signal stack of a thread that ends"),
    row!(SYS_mremap, ALL, "lets it grow"),
    row!(
        SYS_madvise,
        [arg(2, libc::MADV_DONTNEED as u64)],
        "MADV_DONTNEED",
        ALL,
        "the balloon's pages; a reset's clear memory; the stack of a thread that ends"
    ),
    // The end.
    row!(SYS_wait4, Kind::MAIN, "helpers that ended"),
    row!(SYS_shutdown, Kind::MAIN, "ends passt"),
    row!(SYS_sigaltstack, ALL.union(Kind::KEEPER), "the signal stack of a thread that ends"),
    row!(SYS_rt_sigprocmask, ALL, "a thread that ends or signals another one"),
    row!(SYS_exit, ALL.difference(Kind::MAIN), "ends a thread"),
    row!(SYS_exit_group, Kind::MAIN.union(Kind::KEEPER), "ends the program"),
    row!(SYS_clock_gettime, ALL, "the time, where the vDSO cannot tell it"),
    // The keeper's.
    row!(SYS_rename, Kind::KEEPER, "makes room for a log"),
    row!(
        SYS_openat,
        [Arg { index: 2, is: Is::Equal((libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as u64) }],
        "WRONLY | CREAT | TRUNC | CLOEXEC",
        Kind::KEEPER,
        "makes the next log"
    ),
    row!(SYS_sendmsg, Kind::KEEPER, "hands it over"),
    row!(SYS_statx, Kind::KEEPER, "whether a socket is still ours"),
    row!(SYS_unlink, Kind::KEEPER, "removes it"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        assert_eq!(kvm(0x80), 0xae80);
        assert_eq!(kvm_with(READ, 0x81, size_of::<kvm_regs>()), 0x8090_ae81);
        assert_eq!(kvm_with(READ | WRITE, 0x05, size_of::<kvm_cpuid2>()), 0xc008_ae05);
        assert_eq!(kvm_with(WRITE, 0x79, size_of::<kvm_ioeventfd>()), 0x4040_ae79);
        assert_eq!(libc::SIGRTMIN() as u64, INTERRUPT);
    }

    #[test]
    fn every_row_is_for_somebody_and_no_call_is_allowed_twice() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(!row.threads.is_empty() && !row.why.is_empty(), "{}", row.name);
            for other in &TABLE[index + 1..] {
                let same = row.number == other.number && (row.args.is_empty() || other.args.is_empty());
                assert!(!same || !row.threads.intersects(other.threads), "{} stands there twice", row.name);
            }
        }
    }
}
