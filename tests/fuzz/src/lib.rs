//! Fuzz targets: each is a plain function that takes bytes and panics when what it tests breaks a promise.
//!
//! `cargo xtask fuzz` calls them from libFuzzer (see `runner/`), and `tests/replay.rs` gives them the committed corpora, so
//! that an ordinary `cargo test` runs all inputs that were worth keeping. CONTRIBUTING.md says how to add one.

mod config;
mod control;
mod devices;
mod image;
mod seeds;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its folder in `corpus/`.
    pub name: &'static str,
    /// Tests with these bytes. Panics when something is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target { name: "balloon", run: devices::balloon },
    Target { name: "block", run: devices::block },
    Target { name: "bundle", run: image::bundle::run },
    Target { name: "config", run: config::run },
    Target { name: "console", run: devices::console },
    Target { name: "container", run: image::container::run },
    Target { name: "control", run: control::run },
    Target { name: "disk", run: image::disk::run },
    Target { name: "drivers", run: devices::drivers },
    Target { name: "initrd", run: image::initrd::run },
    Target { name: "kernel", run: image::kernel::run },
    Target { name: "net", run: devices::net },
    Target { name: "rng", run: devices::rng },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// An error that a user reads is one line.
fn assert_one_line(text: &str) {
    assert!(!text.is_empty() && text.lines().count() == 1, "an error of several lines: {text:?}");
}
