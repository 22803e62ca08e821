//! Model checks of what several threads share: each model runs the program's own code on the checker's threads
//! ([`crate::sync`]) once for each order of their steps that is tried, and asserts what holds in every order. A lost
//! wake-up shows as a deadlock. `docs/model-checks.md` lists the models.

mod balloon;
mod console;
mod control;
mod gate;
mod notifier;
mod queues;
mod resets;
mod stop;
mod transport;

use crate::mistake::{Mistake, making};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Orders tried by each scheduler, and how many times as many with `RINGSIDE_LONG`.
const ORDERS: usize = 1000;
const LONG: usize = 20;
/// Orders of a model of which all are tried, at most.
const ALL_MAX: usize = 400_000;
/// Orders in which a mistake must show.
const MISTAKE_ORDERS: usize = 5_000;
/// Changes of the priorities in an order, for the scheduler that works with them: most defects need few.
const DEPTH: usize = 3;
/// The same orders in every run.
const SEED: u64 = 12;

fn config(failure_persistence: FailurePersistence) -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.silence_warnings = true;
    config.failure_persistence = failure_persistence;
    config
}

fn run(
    scheduler: impl Scheduler + 'static,
    persistence: FailurePersistence,
    model: impl Fn() + Send + Sync + 'static,
) -> usize {
    Runner::new(scheduler, config(persistence)).run(model)
}

/// Tries all orders.
fn holds_always(model: fn()) {
    let orders = run(DfsScheduler::new(Some(ALL_MAX), false), FailurePersistence::Print, model);
    assert!(orders < ALL_MAX, "the model has too many orders to try them all");
    println!("all {orders} orders");
}

/// Tries many orders: random ones, and ones with few changes of priorities.
fn holds(model: fn()) {
    let long = std::env::var_os("RINGSIDE_LONG").is_some();
    let orders = if long { ORDERS * LONG } else { ORDERS };
    run(RandomScheduler::new_from_seed(SEED, orders), FailurePersistence::Print, model);
    run(PctScheduler::new_from_seed(SEED, DEPTH, orders), FailurePersistence::Print, model);
}

/// Whether an order shows the mistake, by a failed assertion or a deadlock.
fn finds(mistake: Mistake, model: fn()) {
    let found = |scheduler: Box<dyn Scheduler + Send>| {
        let checked = || making(mistake, || run(scheduler, FailurePersistence::None, model));
        catch_unwind(AssertUnwindSafe(checked)).is_err()
    };
    let found = found(Box::new(RandomScheduler::new_from_seed(SEED, MISTAKE_ORDERS)))
        || found(Box::new(PctScheduler::new_from_seed(SEED, DEPTH, MISTAKE_ORDERS)));
    assert!(found, "the model does not find {mistake:?}");
}
