//! Documents that list what the sources also list, so that neither can be forgotten.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use pvops::patch::{self, Kind};
use pvops::worlds::{kvm, native};
use pvops::{Backend, Op};
use ringside_tests::generated;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

#[test]
fn every_dependency_has_its_line_in_the_table_and_every_line_its_dependency() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("\n[").find_map(|part| part.strip_prefix("workspace.dependencies]")).unwrap();
    let named: BTreeSet<&str> = section
        .lines()
        .filter(|line| !line.contains("path =") && !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    let document = read("docs/dependencies.md");
    let listed: BTreeSet<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    assert!(named.len() > 20, "the manifest was understood: {named:?}");
    assert_eq!(named, listed);
}

#[test]
fn every_clause_with_a_number_is_a_section_of_virtio_1_4() {
    let sections: BTreeSet<&str> =
        include_str!("virtio-1.4-sections.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert!(sections.len() > 300, "{} sections", sections.len());
    let mut cited = 0;
    for check in conformance::iter() {
        for clause in check.clause.split("; ").filter(|clause| clause.starts_with(|c: char| c.is_ascii_digit())) {
            // The data sheet of the 82093AA is no section.
            if clause.split(' ').next().is_some_and(|number| number.contains('.')) {
                assert!(sections.contains(clause), "{}: {clause:?} is no section", check.name);
                cited += 1;
            }
        }
    }
    assert!(cited > 100, "only {cited} clauses were found");
}

/// Documents with links, by their paths in the repository.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_document = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_document);
    files(root.clone()).chain(files(root.join("docs"))).collect()
}

/// The name that a heading has in links: lower case, without punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_in_a_document_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.with_file_name("").join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            if !place.is_empty() {
                let headings = fs::read_to_string(&target).unwrap();
                let found = headings
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line.trim_start_matches('#')) == place);
                assert!(found, "{}: {link} names no heading", document.display());
            }
            links += 1;
        }
    }
    assert!(links > 60, "only {links} links were found");
}

/// Parts of the project, for README: name and folders.
const PARTS: [(&str, &[&str]); 8] = [
    ("the kernel, without the suite and the crates below", &["guest-kernel/src", "guest-kernel/image/src"]),
    ("`pvops`", &["guest-kernel/pvops"]),
    ("`frontends`", &["guest-kernel/frontends"]),
    ("`balloon`", &["guest-kernel/balloon"]),
    ("loaders for BIOS, UEFI and the Linux boot protocol", &["guest-kernel/loader"]),
    ("what both sides agree on", &["shared-abi"]),
    ("the host", &["host-backend"]),
    ("the conformance suite and the tests", &["tests"]),
];

/// Lines of Rust below a folder: of the product, and of tests (files and folders that are called so, and `mod tests`).
fn lines_below(folder: &Path, in_tests: bool, count: &mut [usize; 3]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let in_tests = in_tests
            || ["tests", "fuzz", "hostile", "models", "sequences"].contains(&name.as_str())
            || name.ends_with("tests.rs");
        if path.is_dir() && name != "target" {
            lines_below(&path, in_tests, count);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
            let all = text.lines().count();
            count[0] += usize::from(!in_tests);
            count[1] += if in_tests { 0 } else { product };
            count[2] += if in_tests { all } else { all - product };
        }
    }
}

#[test]
fn lines_of_code_in_readme_are_those_of_the_sources() {
    let rounded = |lines: usize| format!("{:.1} k", lines as f64 / 1000.0);
    let mut block = "\n| part | files | lines | lines of tests |\n|---|---|---|---|\n".to_owned();
    for (name, folders) in PARTS {
        let mut count = [0; 3];
        for folder in folders {
            lines_below(&generated::path(folder), false, &mut count);
        }
        let [files, product, tests] = count;
        block += &format!("| {name} | {files} | {} | {} |\n", rounded(product), rounded(tests));
    }
    block.push('\n');
    // Close enough: a table that every commit makes stale would only be in the way.
    let numbers = |text: &str| -> Vec<f64> { text.split(' ').filter_map(|word| word.parse().ok()).collect() };
    generated::check_with("README.md", "lines", &block, |old, new| {
        let (old, new) = (numbers(old), numbers(new));
        old.len() == new.len() && old.iter().zip(&new).all(|(old, new)| (old - new).abs() <= (0.1 * new).max(2.0))
    });
}

/// What stands at a patched site, as docs/worlds.md says it. Xen's inline code is in the kernel's image only: it has an
/// address of the kernel in it.
fn cost(op: Op, backend: &Backend) -> String {
    let site = backend.target(op).or_else(|| native::BACKEND.target(op)).unwrap();
    let plan = patch::plan(op, site, backend).unwrap();
    match plan.kind {
        Kind::Direct => "call".into(),
        _ => {
            let instructions = Decoder::new(64, &plan.bytes, DecoderOptions::NONE).into_iter();
            format!("{} inline", instructions.filter(|instruction| instruction.mnemonic() != Mnemonic::Nop).count())
        }
    }
}

#[test]
fn costs_of_operations_in_docs_are_those_of_the_worlds() {
    let document = read("docs/worlds.md");
    let mut rows = 0;
    for line in document.lines().skip_while(|line| *line != "## What each operation costs") {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, names, native_cost, kvm_cost, ..] = cells[..] else { continue };
        for name in names.split(", ").filter_map(|name| name.strip_prefix('`')?.strip_suffix('`')) {
            let Some(op) = Op::all().find(|op| op.name() == name) else { continue };
            let costs = [&native::BACKEND, &kvm::BACKEND].map(|backend| cost(op, backend));
            assert_eq!([native_cost, kvm_cost], costs, "{name}");
            rows += 1;
        }
    }
    assert!(rows > 15, "{rows} operations were found");
}
