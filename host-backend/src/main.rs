//! The program `ringside`: reads the command line, runs the VM, turns its end into an exit status.

mod cli;

use host_backend::{run, say, status, terminal};
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
                say!("{line}");
            }
            status::of(&outcome).into()
        }
        Err(error) => {
            say!("{error}");
            error.exit_status().into()
        }
    }
}
