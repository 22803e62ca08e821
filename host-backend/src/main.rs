//! The program `ringside`: reads the command line, runs the VM, turns its end into an exit status.

use host_backend::{cli, log, run, say, terminal};
use std::process::ExitCode;

fn main() -> ExitCode {
    let config = match cli::parse() {
        Ok(config) => config,
        Err(code) => return code,
    };
    log::report_panics();
    let result = run::run(&config);
    terminal::restore();
    match result {
        Ok(ended) => {
            if let Some(line) = run::farewell(&ended.outcome) {
                say!("{line}");
            }
            if let Some(line) = ended.loss() {
                say!("{line}");
            }
            ended.status().into()
        }
        Err(error) => {
            say!("{error}");
            error.exit_status().into()
        }
    }
}
