//! Ten thousand scripts for each driver. A failing seed is printed, and `HOSTILE_SEED` replays it alone;
//! `HOSTILE_SCRIPTS` asks for another number of them.

use hostile_device::{Ending, Script, Subject, run};
use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const SCRIPTS: u64 = 10_000;
/// A script takes microseconds; one that takes so long does not end.
const HANGS: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

fn play(subject: Subject, seed: u64) -> Ending {
    let play = AssertUnwindSafe(|| run(subject, &mut Script::from_seed(seed)));
    catch_unwind(play).unwrap_or_else(|_| panic!("{subject:?}: HOSTILE_SEED={seed} replays what failed"))
}

/// Plays every script of the driver; what they ended in, by how often.
fn play_all(subject: Subject) {
    if let Some(seed) = number("HOSTILE_SEED") {
        return println!("{subject:?}: {:?}", play(subject, seed));
    }
    let scripts = number("HOSTILE_SCRIPTS").unwrap_or(SCRIPTS);
    static NOW: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    let now = &NOW[subject as usize];
    let (done, played) = channel();
    let player = thread::spawn(move || {
        let mut endings = BTreeMap::<String, u64>::new();
        for seed in 0..scripts {
            now.store(seed, Ordering::Relaxed);
            *endings.entry(format!("{:?}", play(subject, seed))).or_default() += 1;
            let _ = done.send(());
        }
        endings
    });
    loop {
        match played.recv_timeout(HANGS) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!("{subject:?}: HOSTILE_SEED={} hangs", now.load(Ordering::Relaxed)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let endings = player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    println!("{subject:?}: {endings:?}");
    // Scripts that all end the same way try nothing.
    let of = |ending: Ending| endings.get(&format!("{ending:?}")).copied().unwrap_or(0);
    let all = [Ending::Refused, Ending::Stopped, Ending::Worked { lied: true }, Ending::Worked { lied: false }].map(of);
    assert_eq!(all.iter().sum::<u64>(), scripts);
    assert!(all.iter().all(|count| *count > scripts / 1000), "{all:?}");
}

#[test]
fn block_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Block);
}

#[test]
fn net_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Net);
}

#[test]
fn console_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Console);
}

#[test]
fn balloon_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Balloon);
}
