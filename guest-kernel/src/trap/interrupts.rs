//! Where a device's interrupts arrive, for its driver's tasks to wait for.

use super::irq;
use super::level::Masked;
use crate::task::{self, Event};
use core::task::Poll;
use frontends::InterruptSource;
use pvops::event::Trigger;
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

    /// A line, bound as it signals; none, with a warning, where it cannot be routed.
    pub fn of_line(name: &'static str, line: u32, trigger: Trigger) -> Self {
        match irq::bind_line(name, line, trigger) {
            Ok(event) => Self::line(event),
            Err(error) => {
                log::warn!("{name}: {error}; it is polled");
                Self::none()
            }
        }
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
        let taken = self.take();
        let any = taken.sources().map(&mut handle).fold(false, |any, what| any | !what.is_empty());
        taken.handled();
        any
    }

    /// Takes what arrived. A device that cannot interrupt is asked every time.
    pub fn take(&self) -> Taken {
        let (queue, line) = self.queue.map_or((true, None), irq::take);
        let config = self.config.is_some_and(Event::take);
        let source = if self.has_messages() { InterruptSource::Queue } else { InterruptSource::Shared };
        Taken { sources: [queue.then_some(source), config.then_some(InterruptSource::Config)], line }
    }

    /// For checks, which wait for no event: reads and acknowledges the device's status by `look`, and lets the line that was
    /// masked before that interrupt again; once more if it came up meanwhile. A device that holds its line up keeps it masked.
    pub fn look(&self, mut look: impl FnMut() -> u32) -> u32 {
        const ROUNDS: usize = 8;
        let mut status = 0;
        for _ in 0..ROUNDS {
            let line = self.queue.and_then(irq::take_line);
            status |= look();
            line.into_iter().for_each(irq::release);
            if !self.queue.is_some_and(irq::is_masked) {
                break;
            }
        }
        status
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

/// What arrived, and the line that is masked until it is [`handled`](Self::handled).
#[must_use = "its line interrupts no more"]
pub struct Taken {
    sources: [Option<InterruptSource>; 2],
    line: Option<Masked>,
}

impl Taken {
    /// What it was about.
    pub fn sources(&self) -> impl Iterator<Item = InterruptSource> + use<> {
        self.sources.into_iter().flatten()
    }

    /// The device has let go of its line.
    pub fn handled(self) {
        self.line.into_iter().for_each(irq::release);
    }
}
