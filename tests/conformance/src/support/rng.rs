//! A live entropy device, which answers whatever it is asked.

use super::device::{Dev, Target};
use super::raw::{Buf, Dir, Queue, link};
use super::{Context, End, equal, holds};
use alloc::vec::Vec;
use shared_abi::virtio::DeviceType;

/// A live entropy device.
pub struct Rng<'a> {
    pub dev: Dev<'a>,
    pub queue: Queue,
}

impl<'a> Rng<'a> {
    /// Starts the first one.
    ///
    /// # Errors
    /// Not applicable without one.
    pub fn start(cx: &'a Context, features: u64, size: u16) -> Result<Self, End> {
        Self::on(cx.device(DeviceType::RNG)?, features, size)
    }

    /// Starts one.
    ///
    /// # Errors
    /// A failure when it does not come up.
    pub fn on(target: &'a Target, features: u64, size: u16) -> Result<Self, End> {
        let dev = Dev::with_features(target, features)?;
        let queue = dev.queue(0, size)?;
        dev.start()?;
        Ok(Self { dev, queue })
    }

    /// Has a buffer filled; returns the used length, which fits.
    pub fn fill(&mut self, buf: &Buf) -> Result<usize, End> {
        let head = self.queue.chain(0, &[link(buf, Dir::In)]);
        self.queue.send(&self.dev, head);
        let used = self.queue.wait()?;
        equal("id of the used element", 0, used.id)?;
        let len = used.len as usize;
        holds((1..=buf.len()).contains(&len), "used length", format_args!("1 to {}", buf.len()), len)?;
        Ok(len)
    }

    /// Gathers bytes, however few come at a time.
    pub fn gather(&mut self, count: usize) -> Result<Vec<u8>, End> {
        let buf = self.dev.buffer(count)?;
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let len = self.fill(&buf.part(0, count - bytes.len()))?;
            bytes.extend(buf.part(0, len).bytes());
        }
        Ok(bytes)
    }
}
