//! Runs the suite: chooses checks and testbeds, starts them, prints the matrix and every failure with its rule.

use crate::options::SuiteOptions;
use crate::ui;
use anyhow::{Context, Result, bail, ensure};
use ringside_tests::conform::catalogue::{self, Entry, Pattern};
use ringside_tests::conform::outcome::{State, Suite, TestbedResult};
use ringside_tests::conform::profile::{self, Named, Profile};
use ringside_tests::conform::start::{Progress, Setting, Step};
use ringside_tests::conform::{agree, html, junit, text};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Testbeds at a time.
const PARALLEL: usize = 2;

/// A column of the matrix: a profile, or the name of one that cannot be used, and why.
pub type Column = (String, std::result::Result<Profile, String>);

/// The checks that are asked for.
pub struct Chosen {
    catalogue: Vec<Entry>,
    patterns: Vec<Pattern>,
}

impl Chosen {
    /// By patterns; all without.
    ///
    /// # Errors
    /// When one is no pattern, or fits no check.
    pub fn new(only: &[String]) -> Result<Self> {
        let patterns: Vec<Pattern> =
            only.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>().context("--only")?;
        let chosen = Self { catalogue: catalogue::all(), patterns };
        ensure!(chosen.entries().next().is_some(), "no check matches {}; list shows them", only.join(", "));
        Ok(chosen)
    }

    /// They.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        let asked = |entry: &Entry| self.patterns.iter().any(|pattern| pattern.matches(&entry.name));
        self.catalogue.iter().filter(move |entry| self.patterns.is_empty() || asked(entry))
    }

    /// Prints them with their rules.
    pub fn list(&self) {
        let entries: Vec<&Entry> = self.entries().collect();
        ui::text(catalogue::list(&entries));
        ui::line(format_args!("\n{} checks", entries.len()));
    }
}

/// True once the user or the system wants us to end.
///
/// # Errors
/// When signals cannot be caught.
pub fn interruption() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot catch signals")?;
    }
    Ok(flag)
}

/// Runs the checks on the columns.
///
/// # Errors
/// When a result cannot be written, or after a signal.
pub fn run(
    options: &SuiteOptions,
    chosen: &Chosen,
    columns: &[Column],
    setting: Setting,
    outputs: Outputs,
    interrupted: &AtomicBool,
) -> Result<ExitCode> {
    let ready: Vec<&str> =
        columns.iter().filter(|(_, profile)| profile.is_ok()).map(|(name, _)| name.as_str()).collect();
    let on = if ready.is_empty() { "no testbed".into() } else { ready.join(", ") };
    ui::say(&format!("{} checks on {on}", chosen.entries().count()));
    let shown = Arc::new(ui::Checks::new(chosen.entries().count()));
    let (watched, verbose) = (shown.clone(), options.verbose);
    let progress = Progress::new(move |testbed, step| match step {
        Step::Check { done, last } => watched.at(testbed, done, last),
        Step::Line(line) if verbose => watched.say(&format!("{testbed}| {line}")),
        Step::Line(_) => {}
    });
    let setting = Setting { progress, ..setting };
    let mut testbeds = run_all(&shown, columns, &setting, &chosen.catalogue, &chosen.patterns, interrupted);
    if options.strict {
        testbeds.iter_mut().for_each(TestbedResult::make_strict);
    }
    let suite = Suite { catalogue: chosen.entries().cloned().collect(), testbeds };
    let written = outputs.write(&suite);
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    report(&suite);
    written?;
    Ok(if suite.succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The profiles that are asked for: those of `--profile`, and those of the known that `--on` names, or all.
///
/// # Errors
/// When a name is unknown, or there twice.
pub fn columns(known: Vec<Named>, options: &SuiteOptions) -> Result<Vec<Column>> {
    let told = |result: std::result::Result<Profile, profile::ProfileError>| result.map_err(|error| error.to_string());
    let named = |stem: String, result: std::result::Result<Profile, _>| {
        let result = told(result);
        (result.as_ref().map_or(stem, |profile| profile.name.clone()), result)
    };
    let mut columns: Vec<Column> = known.into_iter().map(|(stem, result)| named(stem, result)).collect();
    let mine = options.profile.iter().map(|path| named(profile::stem(path), Profile::read(path)));
    let mine: Vec<Column> = mine.collect();
    for name in &options.on {
        let known = columns.iter().chain(&mine).any(|(column, _)| column == name);
        let all: Vec<&str> = columns.iter().chain(&mine).map(|(column, _)| column.as_str()).collect();
        ensure!(known, "--on: there is no testbed {name:?}; there are {}", all.join(", "));
    }
    if !options.on.is_empty() || !mine.is_empty() {
        columns.retain(|(column, _)| options.on.contains(column));
    }
    columns.extend(mine);
    let mut seen = BTreeSet::new();
    for (name, _) in &columns {
        ensure!(seen.insert(name), "two profiles are called {name}");
    }
    Ok(columns)
}

fn run_all(
    shown: &ui::Checks,
    columns: &[Column],
    setting: &Setting,
    catalogue: &[Entry],
    patterns: &[Pattern],
    interrupted: &AtomicBool,
) -> Vec<TestbedResult> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((name, profile)) = columns.get(at) else { return };
            let broken = |why: String| TestbedResult::absent(name, "", State::Broken(why));
            let result = match profile {
                Ok(_) if interrupted.load(Ordering::Relaxed) => {
                    TestbedResult::absent(name, "", State::Skipped("interrupted".into()))
                }
                // A mistake of ours with one hypervisor does not lose the results of the others.
                Ok(profile) => catch_unwind(AssertUnwindSafe(|| {
                    agree::run(profile, setting, catalogue, patterns, interrupted)
                        .unwrap_or_else(|why| broken(why.to_string()))
                }))
                .unwrap_or_else(|_| broken("the suite itself has failed; what it said is above".into())),
                Err(why) => broken(why.clone()),
            };
            let word = match &result.state {
                State::Ran => format!("{} ({:.1} s)", text::cell(result.counts(None)), result.seconds),
                State::Skipped(why) => format!("skipped, because {why}"),
                State::Broken(why) => format!("BROKEN: {why}"),
            };
            shown.ended(name, &format!("    {name}: {}", ui::verdict(&word)));
            result
                .problems
                .iter()
                .for_each(|problem| shown.say(&ui::verdict(&format!("    {name}: PROBLEM: {problem}"))));
            done.lock().unwrap_or_else(|poison| poison.into_inner()).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poison| poison.into_inner());
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn report(suite: &Suite) {
    ui::line("");
    if suite.ran().next().is_some() {
        let coloured = |row: Vec<String>| row.iter().map(|cell| ui::verdict(cell)).collect();
        ui::table(&text::matrix(suite).into_iter().map(coloured).collect::<Vec<_>>());
        ui::line("");
    }
    text::versions(suite).iter().for_each(|line| ui::line(format_args!("  {line}")));
    text::absences(suite).iter().for_each(|line| ui::line(format_args!("  {line}")));
    text::failures(suite).lines().for_each(|line| ui::line(format_args!("  {}", ui::verdict(line))));
    let count = suite.ran().count();
    let word = match (count, suite.succeeded()) {
        (0, _) => "nothing ran",
        (_, true) => "nothing failed that is not listed as a known defect",
        (_, false) => "FAILED",
    };
    ui::line(format_args!("{count} of {} testbeds ran: {}", suite.testbeds.len(), ui::verdict(word)));
}

/// The files for the results, opened before anything takes time.
pub struct Outputs {
    html: Option<(PathBuf, File)>,
    junit: Option<(PathBuf, File)>,
    json: Option<(PathBuf, File)>,
}

impl Outputs {
    /// Opens those that are asked for.
    ///
    /// # Errors
    /// When one cannot be written, is another one as well, or is what we read.
    pub fn create(options: &SuiteOptions) -> Result<Self> {
        let outputs = [("--html", &options.html), ("--junit", &options.junit), ("--json", &options.json)];
        let outputs = outputs.iter().filter_map(|(option, path)| Some((*option, path.as_ref()?)));
        let inputs = options.profile.iter().map(|path| ("--profile", path));
        let mut taken: Vec<(&str, PathBuf)> =
            inputs.filter_map(|(option, path)| Some((option, path.canonicalize().ok()?))).collect();
        for (option, path) in outputs {
            let Some(place) = place_of(path) else { continue };
            if let Some((other, _)) = taken.iter().find(|(_, other)| *other == place) {
                bail!("{option} would overwrite {}, which is {other}", path.display());
            }
            taken.push((option, place));
        }
        let open = |path: &Option<PathBuf>| {
            let Some(path) = path else { return Ok(None) };
            // What an earlier run left is kept until there is something better.
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(Some((path.clone(), file)))
        };
        Ok(Self { html: open(&options.html)?, junit: open(&options.junit)?, json: open(&options.json)? })
    }

    fn write(self, suite: &Suite) -> Result<()> {
        let write = |output: Option<(PathBuf, File)>, text: &dyn Fn() -> Result<String>| {
            let Some((path, mut file)) = output else { return Ok(()) };
            let text = text()?;
            let emptied = if file.metadata().is_ok_and(|file| file.is_file()) { file.set_len(0) } else { Ok(()) };
            let written = emptied.and_then(|()| file.write_all(text.as_bytes()));
            written.with_context(|| format!("cannot write {}", path.display()))
        };
        // One that cannot be written does not lose the others.
        let html = write(self.html, &|| Ok(html::page(suite)));
        let junit = write(self.junit, &|| Ok(junit::xml(suite)?));
        let json = write(self.json, &|| Ok(suite.json()?));
        html.and(junit).and(json)
    }
}

/// Where a regular file is or will be; several may go to a device or a pipe.
fn place_of(path: &Path) -> Option<PathBuf> {
    match path.metadata() {
        Ok(there) => there.is_file().then(|| path.canonicalize().ok()).flatten(),
        Err(_) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(folder.canonicalize().ok()?.join(path.file_name()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        folder
    }

    fn profile(name: &str) -> String {
        format!("name='{name}'\ntitle='t'\nprogram='p'\nargs=['{{image}}','{{cmdline}}']\ntimeout_seconds=1\n")
    }

    fn names(columns: &[Column]) -> Vec<&str> {
        columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_profile_of_ones_own_runs_alone_or_beside_those_that_are_named() {
        let (theirs, ours) = (folder(&[("mine.toml", &profile("mine"))]), &[("a.toml", &*profile("a"))]);
        let folder = folder(&[ours[0], ("b.toml", &profile("b")), ("bad.toml", "wrong = 1")]);
        let mut options = SuiteOptions::default();
        let all = columns(profile::read_folder(folder.path()).unwrap(), &options).unwrap();
        assert_eq!(names(&all), ["a", "b", "bad"]);
        assert!(all[2].1.as_ref().unwrap_err().contains("unknown field `wrong`"), "{:?}", all[2].1);
        options.profile = vec![theirs.path().join("mine.toml")];
        assert_eq!(names(&columns(profile::read_folder(folder.path()).unwrap(), &options).unwrap()), ["mine"]);
        options.on = vec!["b".into()];
        assert_eq!(names(&columns(profile::read_folder(folder.path()).unwrap(), &options).unwrap()), ["b", "mine"]);
        options.on = vec!["c".into()];
        assert!(
            columns(profile::read_folder(folder.path()).unwrap(), &options)
                .unwrap_err()
                .to_string()
                .contains("there are a, b, bad, mine")
        );
        options.on = vec!["a".into()];
        options.profile = vec![folder.path().join("a.toml")];
        assert_eq!(
            columns(profile::read_folder(folder.path()).unwrap(), &options).unwrap_err().to_string(),
            "two profiles are called a"
        );
    }
}
