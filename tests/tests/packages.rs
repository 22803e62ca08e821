//! The packages that others can take: described as a registry wants it, and complete without the rest of the workspace.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Those that may be published; everything else is for this workspace.
const PUBLISHED: [&str; 5] =
    ["ringside-balloon", "ringside-frontends", "ringside-pvops", "ringside-shared-abi", "ringside-virtio-abi"];

/// The packages of the workspace, as cargo resolves their manifests.
fn packages() -> Vec<Value> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a package has a name")
}

/// Dependencies on packages of this workspace: name, kind and version.
fn own_dependencies(package: &Value) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
    let all = package["dependencies"].as_array().expect("a list of dependencies");
    all.iter()
        .filter(|dependency| dependency["path"].is_string())
        .map(|dependency| (name(dependency), dependency["kind"].as_str(), dependency["req"].as_str().unwrap_or("*")))
}

#[test]
fn only_the_packages_for_others_can_be_published() {
    let packages = packages();
    let can_be = packages.iter().filter(|package| package["publish"].is_null()).map(name);
    assert_eq!(can_be.collect::<BTreeSet<_>>(), BTreeSet::from(PUBLISHED));
}

#[test]
fn published_packages_are_described_for_a_registry() {
    let mut missing = Vec::new();
    for package in packages().iter().filter(|package| PUBLISHED.contains(&name(package))) {
        for field in ["description", "license", "readme", "rust_version"] {
            if package[field].as_str().is_none_or(str::is_empty) {
                missing.push(format!("{}: {field}", name(package)));
            }
        }
        let folder = Path::new(package["manifest_path"].as_str().expect("a path")).parent().expect("a folder");
        if !package["readme"].as_str().is_some_and(|readme| folder.join(readme).is_file()) {
            missing.push(format!("{}: the file of its readme", name(package)));
        }
        for list in ["keywords", "categories"] {
            if !package[list].as_array().is_some_and(|words| (1..=5).contains(&words.len())) {
                missing.push(format!("{}: one to five {list}", name(package)));
            }
        }
    }
    assert!(missing.is_empty(), "missing in manifests:\n{}", missing.join("\n"));
}

#[test]
fn published_packages_need_no_package_of_this_workspace_alone() {
    for package in packages().iter().filter(|package| PUBLISHED.contains(&name(package))) {
        for (on, kind, version) in own_dependencies(package) {
            // Cargo drops a dependency for tests that has no version.
            if kind == Some("dev") && version == "*" {
                continue;
            }
            assert!(PUBLISHED.contains(&on), "{} needs {on}, which is not published", name(package));
            assert_ne!(version, "*", "{} needs {on} in any version", name(package));
        }
    }
}

#[test]
fn drivers_need_the_layouts_of_virtio_and_nothing_else_of_ours() {
    let packages = packages();
    let needs = |of: &str| {
        let package = packages.iter().find(|package| name(package) == of).expect("a package of the workspace");
        own_dependencies(package).filter(|(_, kind, _)| kind.is_none()).map(|(on, ..)| on).collect::<BTreeSet<_>>()
    };
    assert_eq!(needs("ringside-virtio-abi"), BTreeSet::new());
    assert_eq!(needs("ringside-frontends"), BTreeSet::from(["ringside-virtio-abi"]));
    assert_eq!(needs("ringside-balloon"), BTreeSet::from(["ringside-frontends", "ringside-virtio-abi"]));
}
