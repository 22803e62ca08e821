//! Where a device's interrupts arrive, for its driver's tasks to wait for.

use super::irq;
use crate::task::{self, Event};
use core::task::Poll;
use frontends::InterruptSource;
use shared_abi::virtio::mmio::InterruptStatus;

/// How often a device is asked that cannot interrupt: one without MSI-X, because which line its pin leads to is only told
/// by ACPI's bytecode.
const POLL_INTERVAL: u64 = 5_000_000;

/// Where a device's interrupts arrive.
#[derive(Clone, Copy)]
pub struct Interrupts {
    queue: Option<&'static Event>,
    /// Apart for messages; a line is shared.
    config: Option<&'static Event>,
}

impl Interrupts {
    /// The device cannot interrupt: it is polled.
    pub const fn none() -> Self {
        Self { queue: None, config: None }
    }

    /// One line for everything.
    pub const fn line(event: &'static Event) -> Self {
        Self { queue: Some(event), config: None }
    }

    /// One message for queues, one for configuration changes.
    pub const fn messages(queue: &'static Event, config: &'static Event) -> Self {
        Self { queue: Some(queue), config: Some(config) }
    }

    /// Whether they are messages.
    pub const fn has_messages(&self) -> bool {
        self.config.is_some()
    }

    /// The event of queues, if the device can interrupt.
    pub const fn queue_event(&self) -> Option<&'static Event> {
        self.queue
    }

    /// The event of configuration changes, where they have one of their own.
    pub const fn config_event(&self) -> Option<&'static Event> {
        self.config
    }

    /// Has what arrived handled, and lets the line interrupt again. Returns whether there was anything.
    pub fn handle(&self, mut handle: impl FnMut(InterruptSource) -> InterruptStatus) -> bool {
        let any = self.take().map(&mut handle).fold(false, |any, what| any | !what.is_empty());
        self.acknowledged();
        any
    }

    /// What was taken has been handled: the device has let go of its line.
    pub fn acknowledged(&self) {
        if let Some(line) = self.queue.filter(|_| !self.has_messages()) {
            irq::acknowledged(line);
        }
    }

    /// Takes what arrived, to be [`acknowledged`](Self::acknowledged) when it is handled. A device that cannot interrupt is
    /// asked every time.
    pub fn take(&self) -> impl Iterator<Item = InterruptSource> + use<> {
        let queue = self.queue.is_none_or(Event::take);
        let config = self.config.is_some_and(Event::take);
        let source = if self.has_messages() { InterruptSource::Queue } else { InterruptSource::Shared };
        queue.then_some(source).into_iter().chain(config.then_some(InterruptSource::Config))
    }

    /// Waits until `done` gives something; asks it again after every interrupt, or from time to time
    /// where there are none.
    pub async fn until<R>(&self, done: impl FnMut() -> Option<R>) -> R {
        match self.until_deadline(u64::MAX, done).await {
            Some(result) => result,
            None => unreachable!("the end of time"),
        }
    }

    /// The same, until a time of `pvops::time::now`: then `None`.
    pub async fn until_deadline<R>(&self, deadline: u64, mut done: impl FnMut() -> Option<R>) -> Option<R> {
        core::future::poll_fn(|_| {
            for event in [self.queue, self.config].into_iter().flatten() {
                event.subscribe();
            }
            if !task::spend() {
                return Poll::Pending;
            }
            if let Some(result) = done() {
                return Poll::Ready(Some(result));
            }
            let now = pvops::time::now();
            if now >= deadline {
                return Poll::Ready(None);
            }
            let next = if self.queue.is_some() { deadline } else { deadline.min(now + POLL_INTERVAL) };
            task::wake_at(next);
            Poll::Pending
        })
        .await
    }
}
