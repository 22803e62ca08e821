//! Many scripts, one after the other: what the tests on both sides of the ring do.

use std::env;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Scripts, unless `HOSTILE_SCRIPTS` asks for another number.
const SCRIPTS: u64 = 10_000;
/// A script takes microseconds; one that takes so long does not end.
const HANGS: Duration = Duration::from_secs(60);

/// Plays the scripts of all seeds from 0 on; what each ended in. `None` if `HOSTILE_SEED` asked for one of them alone,
/// whose ending is printed.
///
/// # Panics
/// When a script panics or does not end: with the seed that replays it.
pub fn play_all<S, E>(subject: S, play: impl Fn(S, u64) -> E + Send + 'static) -> Option<Vec<E>>
where
    S: Copy + Debug + Send + 'static,
    E: Debug + Send + 'static,
{
    let play = move |seed| {
        let ending = catch_unwind(AssertUnwindSafe(|| play(subject, seed)));
        ending.unwrap_or_else(|_| panic!("{subject:?}: HOSTILE_SEED={seed} replays what failed"))
    };
    if let Some(seed) = number("HOSTILE_SEED") {
        println!("{subject:?}: {:?}", play(seed));
        return None;
    }
    let scripts = number("HOSTILE_SCRIPTS").unwrap_or(SCRIPTS);
    let (ended, endings) = channel();
    let player = thread::spawn(move || (0..scripts).for_each(|seed| drop(ended.send(play(seed)))));
    let mut all = Vec::new();
    loop {
        match endings.recv_timeout(HANGS) {
            Ok(ending) => all.push(ending),
            Err(RecvTimeoutError::Timeout) => panic!("{subject:?}: HOSTILE_SEED={} hangs", all.len()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Some(all)
}

/// How often each ending occurs. Scripts that all end the same way try nothing.
///
/// # Panics
/// When one of them occurs in less than one of so many scripts.
pub fn check_variety<E: Copy + Debug + PartialEq, const N: usize>(endings: &[E], expected: [E; N], one_of: usize) {
    let counts = expected.map(|ending| (ending, endings.iter().filter(|other| **other == ending).count()));
    println!("{counts:?} of {}", endings.len());
    assert!(counts.iter().all(|(_, count)| *count > endings.len() / one_of), "{counts:?}");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}
