//! What the control socket controls here: a VM that is nothing but answers.

use host_backend::control::{ControlConsole, ControlCounts, Controlled};
use host_backend::devices::output::Output;
use host_backend::virtio::Change;
use host_backend::virtio::balloon::{Balloon, BalloonHandle};
use host_backend::virtio::console::Console;
use host_backend::vmm::GuestRam;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use vm_memory::GuestAddress;

/// Bytes of the guest, which bound the balloon.
const MEMORY: usize = 1 << 20;

pub(super) struct Fake {
    balloon: BalloonHandle,
    console: ControlConsole,
    paused: AtomicBool,
    changes: AtomicUsize,
    counts: ControlCounts,
}

impl Fake {
    pub(super) fn new() -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]);
        let memory = memory.unwrap_or_else(|error| panic!("the system gives no memory: {error}"));
        let balloon = Balloon::new(&memory).unwrap_or_else(|error| panic!("no balloon: {error}")).handle();
        let output = Arc::new(Output::kept());
        let device = Console::new(output.clone()).unwrap_or_else(|error| panic!("no console: {error}"));
        let console = ControlConsole { output, input: device.input() };
        Self {
            balloon,
            console,
            paused: AtomicBool::new(false),
            changes: AtomicUsize::new(0),
            counts: ControlCounts::default(),
        }
    }

    /// The guest prints.
    pub(super) fn print(&self, bytes: &[u8]) {
        self.console.output.write(bytes);
    }

    /// How often something was changed.
    pub(super) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// The answer to a change, which names it.
    pub(super) fn answer(device: &str, change: Change) -> String {
        format!("{device}: {change:?}")
    }

    fn set_paused(&self, paused: bool) -> Result<(), String> {
        let was = self.paused.swap(paused, Ordering::Relaxed);
        if was == paused { Err("it is so already".into()) } else { Ok(()) }
    }
}

impl Controlled for Fake {
    fn status(&self) -> Value {
        json!({"state": "running"})
    }

    fn stats(&self) -> Value {
        json!({"exits": {}, "text": "with\nan end of line"})
    }

    fn balloon(&self) -> Option<&BalloonHandle> {
        Some(&self.balloon)
    }

    fn console(&self) -> Option<&ControlConsole> {
        Some(&self.console)
    }

    fn control_counts(&self) -> &ControlCounts {
        &self.counts
    }

    fn pause(&self) -> Result<(), String> {
        self.set_paused(true)
    }

    fn resume(&self) -> Result<(), String> {
        self.set_paused(false)
    }

    fn change(&self, device: &str, change: Change) -> Result<(), String> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        Err(Self::answer(device, change))
    }
}
