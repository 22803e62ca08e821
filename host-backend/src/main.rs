//! The program `ringside`: reads the command line, runs the VM, turns its end into an exit status.

mod cli;

use host_backend::{run, status, terminal};
use std::process::ExitCode;

fn main() -> ExitCode {
    let config = match cli::parse() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let result = run::run(&config);
    terminal::restore();
    match result {
        Ok(outcome) => {
            if let Some(line) = run::farewell(&outcome) {
                eprintln!("ringside: {line}");
            }
            status::of(&outcome).into()
        }
        Err(error) => {
            eprintln!("ringside: {error}");
            error.exit_status().into()
        }
    }
}
