//! The storage of a disk with bugs in what it keeps.

use super::Bug;
use crate::config::DiskAccess;
use crate::virtio::Flush;
use crate::virtio::block::{Engine, Space};
use crate::virtio::queue::Slice;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Storage with a bug. Its clones are the same storage.
#[derive(Clone)]
pub struct FaultyEngine(Bug, Arc<Mutex<Storage>>);

struct Storage {
    engine: Box<dyn Engine>,
    /// With [`Bug::FlushIgnored`], what was where something was written since the last loss.
    unflushed: Vec<(u64, Vec<u8>)>,
}

/// A flush that does nothing.
struct Ignored;

impl Flush for Ignored {
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl FaultyEngine {
    /// This storage with a bug.
    pub fn new(bug: Bug, engine: Box<dyn Engine>) -> Self {
        Self(bug, Arc::new(Mutex::new(Storage { engine, unflushed: Vec::new() })))
    }

    /// Loses what was not flushed, as a cache does that loses its content. Only [`Bug::FlushIgnored`] leaves anything.
    pub fn lose(&self) {
        let mut storage = self.lock();
        for (offset, mut before) in std::mem::take(&mut storage.unflushed).into_iter().rev() {
            // A bug may fail.
            let _ = storage.engine.write_at(&[Slice::from(before.as_mut_slice())], offset);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Storage> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for FaultyEngine {
    fn len(&self) -> u64 {
        self.lock().engine.len()
    }

    fn resize(&mut self, len: u64, access: DiskAccess) -> io::Result<()> {
        self.lock().engine.resize(len, access)
    }

    fn read_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()> {
        self.lock().engine.read_at(buffers, offset)
    }

    fn write_at(&mut self, buffers: &[Slice<'_>], offset: u64) -> io::Result<()> {
        let mut storage = self.lock();
        if self.0 == Bug::FlushIgnored {
            let mut before = vec![0; buffers.iter().map(Slice::len).sum()];
            storage.engine.read_at(&[Slice::from(before.as_mut_slice())], offset)?;
            storage.unflushed.push((offset, before));
        }
        storage.engine.write_at(buffers, offset)
    }

    fn flusher(&self) -> Arc<dyn Flush> {
        if self.0 == Bug::FlushIgnored { Arc::new(Ignored) } else { self.lock().engine.flusher() }
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.lock().engine.discard(offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, space: Space) -> io::Result<()> {
        if self.0 == Bug::WriteZeroesIgnored { Ok(()) } else { self.lock().engine.write_zeroes(offset, len, space) }
    }
}
