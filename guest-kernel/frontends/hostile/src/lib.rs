//! A device that lies by a script, and the drivers that meet it. A script is bytes: those that follow from a seed, or
//! those of a fuzzer. It decides what the device offers, what the driver is asked to do, and what the device does in
//! between: play by the rules, or lie about ids, lengths, indices, configuration, order and timing.
//!
//! Whatever the script, [`run`] panics if the driver panics or breaks one of its promises: bounded work, each request
//! ended once, each page given back or counted as leaked, and either the driver works or it says why not. A driver that
//! gives up on a device that told no lie has broken a promise too.

mod balloon;
pub mod batch;
mod block;
mod console;
mod entropy;
mod liar;
mod net;
mod script;

pub use script::Script;

use frontends::InitError;
use frontends::device::{Driver, RESTARTS};
use frontends::fake::{FakeTransport, Memory};
use liar::Liar;
use shared_abi::virtio::DeviceType;
use std::cell::OnceCell;

/// Pages of DMA memory that a script has.
const PAGES: usize = 128;

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `frontends::block`.
    Block,
    /// `frontends::net`.
    Net,
    /// `frontends::console`.
    Console,
    /// `frontends::entropy`.
    Entropy,
    /// `balloon`.
    Balloon,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Block, Self::Net, Self::Console, Self::Balloon, Self::Entropy];
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The driver did not take the device.
    Refused,
    /// The driver stopped the device for good, with a reason.
    Stopped,
    /// The driver worked to the end, for the lies did not matter or there were none.
    Worked {
        /// Whether there were any.
        lied: bool,
    },
}

/// Plays a script to a driver.
///
/// # Panics
/// When the driver panics or breaks a promise.
pub fn run(subject: Subject, script: &mut Script) -> Ending {
    let memory = arena();
    let ending = match subject {
        Subject::Block => block::run(memory, script),
        Subject::Net => net::run(memory, script),
        Subject::Console => console::run(memory, script),
        Subject::Entropy => entropy::run(memory, script),
        Subject::Balloon => balloon::run(memory, script),
    };
    // SAFETY: the driver and its buffers are gone, and what it leaked it has forgotten.
    unsafe { memory.reclaim() };
    ending
}

/// The arena of this thread, for one script after the other.
fn arena() -> &'static Memory {
    thread_local! {
        static ARENA: OnceCell<&'static Memory> = const { OnceCell::new() };
    }
    ARENA.with(|arena| *arena.get_or_init(|| Memory::leaked(PAGES)))
}

/// A device before it is reset for the first time, as the script has it; whether it lies already.
fn offer(
    script: &mut Script,
    device_type: DeviceType,
    features: u64,
    queues: usize,
    config: &[u8],
) -> (FakeTransport, bool) {
    let transport = FakeTransport::new(device_type, features, queues, config);
    let mut model = transport.model();
    let lie = script.below(20);
    // Whatever else it does, it may not let go of what it was shown.
    model.ignores_reset = lie < 7 && script.one_in(4);
    match lie {
        0 => model.config.fill_with(|| script.byte()),
        1 => model.config.truncate(script.below(config.len() as u32 + 1) as usize),
        2 => model.queue_sizes.fill_with(|| [0, 1, 2, 3, 4, 7, 32768, 65536, u32::MAX][script.below(9) as usize]),
        3 => model.refuses_features = true,
        4 => model.unstable_config = true,
        5 => model.ignores_reset = true,
        6 => model.offered = script.word(),
        _ => {}
    }
    drop(model);
    (transport, lie < 7)
}

/// A driver that did not take its device keeps nothing but what a device that was not reset may still use.
fn refused(error: &InitError, memory: &Memory, transport: &FakeTransport, lied: bool) -> Ending {
    assert!(lied, "refused an honest device: {error}");
    let (kept, leaked) = (memory.allocated_pages(), memory.leaked_pages());
    assert_eq!(kept, leaked, "each page is given back or counted: {error}");
    assert!(leaked == 0 || transport.model().ignores_reset, "memory is lost though the device was reset: {error}");
    Ending::Refused
}

/// What holds for every driver between two steps: the first reason stays, and there is none without a lie, nor a restart.
fn check(driver: &impl Driver, liar: &mut Liar<'_>) {
    let broken = driver.broken();
    assert!(driver.restarts() <= RESTARTS, "a device is restarted {} times", driver.restarts());
    assert!(liar.lied || driver.restarts() == 0, "restarted an honest device");
    if let Some(first) = liar.reason {
        assert_eq!(broken, Some(first), "the first reason stays");
    } else if let Some(reason) = broken {
        assert!(liar.lied, "stopped an honest device: {reason}");
        assert!(!reason.to_string().is_empty());
        liar.reason = Some(reason);
    }
}

/// Ends a driver that was shut down; each of its pages is given back or counted as leaked. Returns how many leaked.
fn settle(driver: impl Driver, memory: &Memory) -> usize {
    assert!(driver.broken().is_some());
    let leaked = driver.leaked_pages();
    drop(driver);
    assert_eq!(memory.allocated_pages(), leaked, "each page is given back or counted");
    leaked
}

fn ending(liar: &Liar<'_>) -> Ending {
    if liar.reason.is_some() { Ending::Stopped } else { Ending::Worked { lied: liar.lied } }
}
