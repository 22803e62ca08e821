//! libFuzzer's program for all targets: `RINGSIDE_FUZZ` names the one to run.
#![no_main]

use fuzz_targets::Target;
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

/// Code that the guest kernel has on its own target only. Nothing here calls what refers to it; but the instrumentation keeps all
/// functions.
#[unsafe(no_mangle)]
#[expect(non_upper_case_globals, reason = "a label in assembly")]
static cpu_trampoline: u8 = 0;
/// See [`cpu_trampoline`].
#[unsafe(no_mangle)]
#[expect(non_upper_case_globals, reason = "a label in assembly")]
static cpu_trampoline_end: u8 = 0;

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("RINGSIDE_FUZZ").unwrap_or_default();
    fuzz_targets::target(&name).unwrap_or_else(|| {
        let names = fuzz_targets::TARGETS.map(|target| target.name).join(", ");
        eprintln!("RINGSIDE_FUZZ={name:?} names no target; there are {names}");
        std::process::exit(2)
    })
}

fuzz_target!(|bytes: &[u8]| {
    (TARGET.get_or_init(chosen).run)(bytes);
});
