//! Blocks of documents that are generated: `<!-- generated: NAME -->` to `<!-- end -->`. `cargo xtask docs` has them
//! written, by setting [`WRITE`]; otherwise a stale one fails a test.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set where documents are to be written rather than compared.
pub const WRITE: &str = "RINGSIDE_WRITE_DOCS";

/// Whether documents are to be written.
pub fn is_written() -> bool {
    env::var_os(WRITE).is_some()
}

/// A file of the repository.
pub fn path(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document)
}

/// Compares a block with what it should be, in the eyes of `is_current` (of the old and the new text), or writes it.
///
/// # Panics
/// When the document cannot be read, has no such block, or has a stale one.
pub fn check_with(document: &str, name: &str, block: &str, is_current: impl FnOnce(&str, &str) -> bool) {
    let path = path(document);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {document}: {error}"));
    let start = format!("<!-- generated: {name} -->\n");
    let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("{document} has no block {name}"));
    let (old, after) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("block {name} has no end"));
    if is_written() {
        fs::write(&path, format!("{before}{start}{block}<!-- end -->{after}"))
            .unwrap_or_else(|error| panic!("cannot write {document}: {error}"));
    } else {
        assert!(
            is_current(old, block),
            "{document} is stale: run cargo xtask docs\n--- it has{old}--- it should have{block}"
        );
    }
}

/// [`check_with`] for a block that must be the same.
///
/// # Panics
/// The same.
pub fn check(document: &str, name: &str, block: &str) {
    check_with(document, name, block, |old, new| old == new);
}
