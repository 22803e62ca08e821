//! Documents that list what the sources also list, so that neither can be forgotten.

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
    let told: BTreeSet<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    assert!(named.len() > 20, "the manifest was understood: {named:?}");
    assert_eq!(named, told);
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
    assert!(cited > 100, "only {cited} clauses were looked at");
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
