//! Which inputs are committed: few and small ones that reach most of what all of them reach.

use super::{Fuzzer, committed};
use crate::ui;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

/// Files and bytes of a committed corpus, at most: the tests read them in every run.
const FILES_MAX: usize = 56;
const BYTES_MAX: usize = 60 << 10;
/// Inputs with a name of their own stay: each was a crash.
const NAMED: &str = "was-";

/// An input of the merge.
#[derive(Debug, Default)]
struct Input {
    path: PathBuf,
    bytes: usize,
    features: BTreeSet<u64>,
}

impl Fuzzer {
    /// Replaces the committed corpus of a target by the best of all inputs.
    pub(super) fn keep(&self, target: &str) -> Result<()> {
        let (corpus, merged) = (self.folder("corpus", target)?, self.folder("merged", target)?);
        let control = self.folder("log", "")?.join(format!("{target}.merge"));
        // What an earlier merge left would be taken for done.
        let _ = fs::remove_file(&control);
        let mut command = self.runner(target);
        // This kind of merge notes all that an input reaches, not only what none before it did.
        command.arg("-set_cover_merge=1").arg(format!("-merge_control_file={}", control.display()));
        command.arg(merged).arg(corpus).arg(committed(target)).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().context("cannot start the fuzz runner")?;
        if !status.success() {
            bail!("merging the corpus of {target} ended with {status}");
        }
        let text = fs::read_to_string(&control).with_context(|| format!("cannot read {}", control.display()))?;
        let chosen = choose(parse(&text));
        let folder = committed(target);
        let contents: Vec<(String, Vec<u8>)> = chosen
            .iter()
            .map(|path| Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), fs::read(path)?)))
            .collect::<std::io::Result<_>>()
            .context("cannot read a chosen input")?;
        for entry in fs::read_dir(&folder)?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(NAMED) {
                fs::remove_file(entry.path())?;
            }
        }
        for (name, bytes) in &contents {
            fs::write(folder.join(name), bytes).with_context(|| format!("cannot write {}", folder.display()))?;
        }
        ui::say(&format!("{}: {} inputs kept", folder.display(), contents.len()));
        Ok(())
    }
}

/// Reads libFuzzer's merge control file: how many files, how many of them are old, their names, then what each reaches.
fn parse(text: &str) -> Vec<Input> {
    let mut lines = text.lines();
    let count = lines.next().and_then(|count| count.parse().ok()).unwrap_or(0);
    lines.next();
    let path = |line: &str| Input { path: line.into(), ..Input::default() };
    let mut inputs: Vec<Input> = lines.by_ref().take(count).map(path).collect();
    for line in lines {
        let mut words = line.split(' ');
        let kind = words.next();
        let Some(input) = words.next().and_then(|index| inputs.get_mut(index.parse::<usize>().ok()?)) else { continue };
        match kind {
            Some("STARTED") => input.bytes = words.next().and_then(|size| size.parse().ok()).unwrap_or(0),
            Some("FT") => input.features = words.filter_map(|feature| feature.parse().ok()).collect(),
            _ => {}
        }
    }
    inputs
}

/// The input with the most new features, again and again; of equals the smallest.
fn choose(mut inputs: Vec<Input>) -> Vec<PathBuf> {
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    while chosen.len() < FILES_MAX {
        inputs.retain(|input| bytes + input.bytes <= BYTES_MAX);
        let best =
            (0..inputs.len()).max_by_key(|&index| (inputs[index].features.len(), usize::MAX - inputs[index].bytes));
        let Some(best) = best.map(|index| inputs.swap_remove(index)).filter(|best| !best.features.is_empty()) else {
            break;
        };
        bytes += best.bytes;
        inputs.iter_mut().for_each(|input| input.features.retain(|feature| !best.features.contains(feature)));
        chosen.push(best.path);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_that_reach_most_are_chosen_and_the_smaller_of_equals() {
        let text = "4\n0\na\nb\nc\nd\nSTARTED 0 9\nFT 0 1 2 3\nCOV 0 7\nSTARTED 1 5\nFT 1 1 2 3\nCOV 1\nSTARTED 2 1\n\
            FT 2 3 4\nSTARTED 3 1\nFT 3 2\n";
        assert_eq!(choose(parse(text)), ["b", "c"].map(PathBuf::from));
        let huge = Input { path: "huge".into(), bytes: BYTES_MAX + 1, features: [1].into() };
        assert!(choose(vec![huge]).is_empty());
    }
}
