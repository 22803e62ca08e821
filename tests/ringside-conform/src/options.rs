//! The options of a run of the suite.

use clap::Args;
use std::path::PathBuf;

/// What to run, and where its results go.
#[derive(Debug, Default, Args)]
pub struct SuiteOptions {
    /// Only on this testbed: a profile's name; may be given several times
    #[arg(long, value_name = "NAME")]
    pub on: Vec<String>,
    /// Only checks whose names match, as in 'block/*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// Take advice, where a rule that need not hold does not, for a failure
    #[arg(long)]
    pub strict: bool,
    /// On the hypervisor that this file describes (docs/conformance.md); alone, or in addition to those of --on
    #[arg(long, value_name = "FILE.toml")]
    pub profile: Vec<PathBuf>,
    /// Show each line of the guests' consoles as it comes, report lines and the hypervisor's own among them
    #[arg(short, long)]
    pub verbose: bool,
    /// A tap device for profiles that need one
    #[arg(long, value_name = "NAME")]
    pub tap: Option<String>,
    /// Write the results as a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
