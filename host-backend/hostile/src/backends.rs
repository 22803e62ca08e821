//! What is behind the devices: a disk in memory that fails when it is told to, and a wire that is full, empty, broken or cut.

use host_backend::config::DiskAccess;
use host_backend::rate::Clock;
use host_backend::virtio::Flush;
use host_backend::virtio::block::{Engine, Space};
use host_backend::virtio::net::{HEADER_LEN, Link, Sent};
use host_backend::virtio::queue::Slice;
use hostile_device::Script;
use shared_abi::virtio::net::{ETHERNET_HEADER, Features};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the disk.
const DISK: usize = 64 * 512;

/// A clock that goes on by a millisecond whenever it is looked at, so that a script always ends in the same way.
#[derive(Debug)]
pub(crate) struct Steps {
    start: Instant,
    steps: AtomicU32,
}

impl Steps {
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { start: Instant::now(), steps: AtomicU32::new(0) })
    }
}

impl Clock for Steps {
    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.steps.fetch_add(1, Ordering::Relaxed).into())
    }
}

/// A disk that the script has a hand on.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

struct Platter {
    bytes: Vec<u8>,
    failures: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Platter { bytes: vec![0; DISK], failures: 0 })))
    }

    /// So many of the next operations fail.
    pub(crate) fn fail_next(&self, count: u32) {
        lock(&self.0).failures = count;
    }

    /// The range as indices. A device that asks for another one than it has breaks its promise.
    fn operate(&self, offset: u64, len: u64) -> io::Result<(MutexGuard<'_, Platter>, usize)> {
        let end = offset.checked_add(len);
        let mut platter = lock(&self.0);
        let inside = end.is_some_and(|end| end <= platter.bytes.len() as u64);
        assert!(inside, "the device goes beyond its disk: {len} bytes at {offset}");
        if platter.failures > 0 {
            platter.failures -= 1;
            return Err(io::ErrorKind::Other.into());
        }
        Ok((platter, offset as usize))
    }
}

fn total(buffers: &[Slice<'_>]) -> u64 {
    buffers.iter().map(|slice| slice.len() as u64).sum()
}

impl Engine for Disk {
    fn len(&self) -> u64 {
        lock(&self.0).bytes.len() as u64
    }

    fn resize(&mut self, len: u64, _: DiskAccess) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        lock(&self.0).bytes.resize(len, 0);
        Ok(())
    }

    fn read_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()> {
        let (platter, mut at) = self.operate(offset, total(buffers))?;
        for slice in buffers {
            slice.copy_from(&platter.bytes[at..at + slice.len()]);
            at += slice.len();
        }
        Ok(())
    }

    fn write_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()> {
        let (mut platter, mut at) = self.operate(offset, total(buffers))?;
        for slice in buffers {
            slice.copy_to(&mut platter.bytes[at..at + slice.len()]);
            at += slice.len();
        }
        Ok(())
    }

    fn flusher(&self) -> Arc<dyn Flush> {
        Arc::new(self.clone())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.operate(offset, len).map(drop)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, _: Space) -> io::Result<()> {
        let (mut platter, at) = self.operate(offset, len)?;
        platter.bytes[at..at + len as usize].fill(0);
        Ok(())
    }
}

impl Flush for Disk {
    fn flush(&self) -> io::Result<()> {
        self.operate(0, 0).map(drop)
    }
}

/// A wire that the script has a hand on.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<State>>);

struct State {
    offloads: Features,
    /// Packets that wait for the guest, their length.
    waiting: u32,
    len: usize,
    failures: u32,
    busy: bool,
    up: bool,
}

impl Wire {
    /// A wire that offers offloads by chance.
    pub(crate) fn new(offloads: u32) -> Self {
        let all = [Features::CSUM, Features::GUEST_CSUM, Features::HOST_TSO4];
        let offloads = (0..3).filter(|bit| offloads & 1 << bit != 0).map(|bit| all[bit]).collect();
        let state = State { offloads, waiting: 0, len: HEADER_LEN + 60, failures: 0, busy: false, up: true };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn change(&self, script: &mut Script) {
        let mut state = lock(&self.0);
        match script.below(16) {
            0..8 => {
                state.waiting = script.below(40);
                state.len = HEADER_LEN + ETHERNET_HEADER + script.below(9000) as usize;
            }
            8..11 => state.busy = !state.busy,
            11..14 => state.failures = script.below(300),
            14 => state.up = true,
            _ => state.up = false,
        }
    }
}

impl Link for Wire {
    fn offloads(&self) -> Features {
        lock(&self.0).offloads
    }

    fn fd(&self) -> RawFd {
        -1
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<Sent> {
        assert!(packet.len() >= HEADER_LEN + ETHERNET_HEADER, "a packet of {} bytes", packet.len());
        let mut state = lock(&self.0);
        if state.failures > 0 {
            state.failures -= 1;
            return Err(io::ErrorKind::Other.into());
        }
        Ok(if state.busy { Sent::Busy } else { Sent::Yes })
    }

    fn receive(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = lock(&self.0);
        if state.failures > 0 {
            state.failures -= 1;
            return Err(io::ErrorKind::Other.into());
        }
        if state.waiting == 0 || !state.up {
            return Ok(None);
        }
        state.waiting -= 1;
        packet[..state.len].fill(0x42);
        Ok(Some(state.len))
    }

    fn flush(&mut self) -> bool {
        !lock(&self.0).busy
    }

    fn is_up(&self) -> bool {
        lock(&self.0).up
    }
}
