//! What libFuzzer says of its progress, and the table at the end.

use crate::{ui, workspace};
use std::fmt::{self, Display};
use std::path::Path;

/// The last line of status, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Inputs tried.
    executions: u64,
    /// Per second.
    rate: u64,
    /// Edges reached.
    edges: u64,
    /// Edges by how often, and comparisons.
    features: u64,
    /// Inputs in the corpus.
    corpus: u64,
    /// The file that libFuzzer wrote of an input that failed.
    pub(super) artifact: Option<String>,
}

impl Progress {
    /// Takes note of a line such as `#2048 NEW cov: 31 ft: 40 corp: 5/12b lim: 4 exec/s: 1024 rss: 30Mb L: 4/4 MS: 1 …`.
    pub(super) fn read(&mut self, line: &str) {
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.artifact = Some(path.trim().to_owned());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(executions) = words.first().and_then(|word| word.strip_prefix('#')) else { return };
        let Ok(executions) = executions.parse() else { return };
        self.executions = executions;
        for pair in words.windows(2) {
            let number = pair[1].split('/').next().unwrap_or_default().parse();
            let field = match pair[0] {
                "cov:" => &mut self.edges,
                "ft:" => &mut self.features,
                "corp:" => &mut self.corpus,
                "exec/s:" => &mut self.rate,
                _ => continue,
            };
            *field = number.unwrap_or(*field);
        }
    }
}

impl Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, rate, edges, features, corpus, .. } = self;
        write!(f, "{executions} executions, {rate}/s, {edges} edges, {features} features, {corpus} inputs")
    }
}

/// How a target's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Interrupted,
    Crashed,
}

/// A target's run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) target: String,
    pub(super) progress: Progress,
    pub(super) verdict: Verdict,
}

/// A line for each target.
pub(super) fn table(runs: &[Run]) {
    let header = ["target", "executions", "exec/s", "edges", "features", "corpus", "crashes"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for Run { target, progress, verdict } in runs {
        let Progress { executions, rate, edges, features, corpus, .. } = progress;
        let numbers = [*executions, *rate, *edges, *features, *corpus, u64::from(*verdict == Verdict::Crashed)];
        rows.push([target.clone()].into_iter().chain(numbers.map(|number| number.to_string())).collect());
    }
    println!();
    ui::table(&rows);
}

/// Names each input that failed with the command that tries it again; whether there is one.
pub(super) fn crashes(runs: &[Run]) -> bool {
    let mut any = false;
    for Run { target, progress, .. } in runs {
        let Some(path) = progress.artifact.as_deref().map(Path::new) else { continue };
        let shown = path.strip_prefix(workspace::root()).unwrap_or(path).display();
        println!("  CRASH {shown}\n    again: cargo xtask fuzz {target} --input {shown}");
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libfuzzer_are_taken_apart() {
        let mut progress = Progress::default();
        progress.read("INFO: seed corpus: files: 42 min: 2b max: 22b total: 804b rss: 37Mb");
        progress.read("Done 43 runs in 0 second(s)");
        assert_eq!(progress, Progress::default());
        progress.read("#1477163\tREDUCE cov: 5126 ft: 11382 corp: 991/80Kb lim: 2048 exec/s: 2913 rss: 38Mb L: 61/2045 MS: 2 Cross-");
        let expected =
            Progress { executions: 1_477_163, rate: 2913, edges: 5126, features: 11382, corpus: 991, artifact: None };
        assert_eq!(progress, expected);
        progress.read("artifact_prefix='x/'; Test unit written to x/crash-4d0e");
        assert_eq!(progress.artifact.as_deref(), Some("x/crash-4d0e"));
    }
}
