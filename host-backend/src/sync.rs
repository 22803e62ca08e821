//! Locks, atomics, threads and time, for everything that several threads share. In the program they are those of std.
//!
//! With the feature `models` they are the model checker's: it runs the same code once for each order of the threads' steps
//! that it tries, and time passes only by waiting. The [`crate::event`]s and the interrupting signal ([`crate::threads`]) are
//! modelled too. See `docs/model-checks.md`.

#[cfg(not(feature = "models"))]
pub use std::sync::{Condvar, Mutex, MutexGuard, RwLock, atomic};
#[cfg(not(feature = "models"))]
pub use std::thread;
#[cfg(not(feature = "models"))]
pub use std::time::Instant;

#[cfg(feature = "models")]
mod modelled;
#[cfg(feature = "models")]
pub use modelled::{Condvar, Instant, thread};
#[cfg(feature = "models")]
pub(crate) use modelled::{in_turn, look_again, now_changed};
#[cfg(feature = "models")]
pub use shuttle::sync::{Mutex, MutexGuard, RwLock, atomic};
