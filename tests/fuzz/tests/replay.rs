//! Every input of the corpora, one test for each target: `cargo test -p fuzz-targets block`.

use fuzz_targets::{TARGETS, target};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files and bytes of a corpus, at most: they are read in every test run.
const FILES_MAX: usize = 60;
const BYTES_MAX: usize = 100 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn replay(name: &str) {
    let run = target(name).unwrap_or_else(|| panic!("there is no target {name}")).run;
    let mut inputs: Vec<PathBuf> =
        fs::read_dir(folder().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!((1..=FILES_MAX).contains(&inputs.len()), "{} files", inputs.len());
    let mut bytes = 0;
    for input in inputs {
        // Of a panic nothing else says which input it was.
        println!("{}", input.display());
        let content = fs::read(&input).unwrap();
        bytes += content.len();
        run(&content);
    }
    assert!(bytes <= BYTES_MAX, "{bytes} bytes");
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        /// All targets that are tested.
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replays! { balloon block bundle config console container control disk drivers initrd kernel net rng }

#[test]
fn every_target_has_a_corpus_that_is_replayed_and_every_corpus_a_target() {
    let folders: BTreeSet<String> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, targets);
    assert!(targets.iter().eq(REPLAYED), "{targets:?}");
}
