//! A driver that breaks the rules by a script, and the host's device models that meet it over the registers of
//! virtio-mmio. A script is bytes: those that follow from a seed, or those of a fuzzer. It decides what is written to
//! registers and rings, when a queue is notified, and what the device's back end does in between.
//!
//! Whatever the script, [`run`] panics if a device panics or breaks one of its promises: it touches no memory that no
//! descriptor names, stays inside of its storage, handles no more requests than were published, and serves a well-formed
//! request behind a reset.

mod backends;
mod driver;
mod machine;

pub use hostile_device::Script;

use backends::{Disk, Steps, Wire};
use driver::Driver;
use host_backend::config::{DiskAccess, RateLimit};
use host_backend::devices::InputSink;
use host_backend::devices::output::Output;
use host_backend::virtio::Device;
use host_backend::virtio::balloon::Balloon;
use host_backend::virtio::block::Block;
use host_backend::virtio::console::Console;
use host_backend::virtio::net::Net;
use host_backend::virtio::rng::Rng;
use machine::{Machine, memory};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// A device model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `virtio::block`.
    Block,
    /// `virtio::net`.
    Net,
    /// `virtio::balloon`.
    Balloon,
    /// `virtio::console`.
    Console,
    /// `virtio::rng`.
    Rng,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Block, Self::Net, Self::Balloon, Self::Console, Self::Rng];
}

/// How a script ended; behind each the device serves on from a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The device was never given anything that it could do.
    Idle,
    /// It served requests and never asked for a reset.
    Served,
    /// It asked for a reset.
    Faulted,
}

/// Every other device has a rate limit, which a script reaches.
fn limit(script: &mut Script) -> RateLimit {
    if script.one_in(2) {
        return RateLimit::default();
    }
    RateLimit { bytes: Some(1 << 30), operations: Some(100), burst: Duration::from_millis(50) }
}

/// Plays a script to a device model.
///
/// # Panics
/// When the device panics or breaks a promise.
pub fn run(subject: Subject, script: &mut Script) -> Ending {
    let memory = memory();
    match subject {
        Subject::Block => {
            let access = if script.one_in(4) { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite };
            let disk = Disk::new();
            let block = Block::new(Box::new(disk.clone()), access, "hostile");
            let block = block.with_limit(&limit(script), Steps::shared());
            play(script, Machine::new(block, memory), subject, &mut |script| disk.fail_next(script.below(4)))
        }
        Subject::Net => {
            let wire = Wire::new(script.below(8));
            let net = Net::new(Box::new(wire.clone()), None).with_limit(&limit(script), &Steps::shared());
            play(script, Machine::new(net, memory), subject, &mut |script| wire.change(script))
        }
        Subject::Balloon => {
            let balloon = ready(Balloon::new(&memory));
            let handle = balloon.handle();
            play(script, Machine::new(balloon, memory), subject, &mut |script| {
                handle.set_target(script.below(2048));
            })
        }
        Subject::Console => {
            let nowhere = ready(File::options().write(true).open("/dev/null"));
            let console = ready(Console::new(Arc::new(Output::new(nowhere))));
            let input = console.input();
            play(script, Machine::new(console, memory), subject, &mut |script| {
                input.input(&vec![b'x'; script.below(6000) as usize]);
            })
        }
        Subject::Rng => play(script, Machine::new(Rng::new(), memory), subject, &mut |_| {}),
    }
}

fn play(script: &mut Script, machine: Machine, subject: Subject, outside: &mut dyn FnMut(&mut Script)) -> Ending {
    let mut driver = Driver::new(machine, subject);
    driver.play(script, outside);
    driver.conclude(subject)
}

fn ready<T>(made: std::io::Result<T>) -> T {
    made.unwrap_or_else(|error| panic!("the system gives no file descriptor: {error}"))
}

/// A device that panics by name, for the proof that scripts notice.
///
/// # Panics
/// When the device does.
pub fn run_on(device: impl Device + 'static, subject: Subject, script: &mut Script) -> Ending {
    play(script, Machine::new(device, memory()), subject, &mut |_| {})
}
