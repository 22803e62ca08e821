//! Puts the profiles into the program, and the guest's image and its loaders where the two variables name them. A build
//! without them (`cargo check`, `cargo test`) makes a program that wants `--image`.
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The image.
const IMAGE: &str = "RINGSIDE_CONFORM_IMAGE";
/// The folder of its loaders.
const LOADERS: &str = "RINGSIDE_CONFORM_LOADERS";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut table =
        String::from("/// File name and content of each profile.\npub(crate) const PROFILES: &[(&str, &str)] = &[\n");
    for path in files(&here.join("../profiles")) {
        let _ = writeln!(table, "    ({:?}, include_str!({path:?})),", path.file_name().unwrap_or_default());
    }
    table.push_str("];\n");
    let mut embed = |name: &str, path: Option<PathBuf>| {
        let text = path.map_or("None".to_owned(), |path| {
            println!("cargo:rerun-if-changed={}", path.display());
            format!("Some(include_bytes!({path:?}))")
        });
        let _ = writeln!(table, "pub(crate) const {name}: Option<&[u8]> = {text};");
    };
    embed("IMAGE", named(IMAGE));
    let loaders = named(LOADERS);
    for (name, file) in [("BIOS", "loader-bios"), ("EFI", "loader-efi.efi"), ("LINUX", "loader-linux")] {
        embed(name, loaders.as_ref().map(|folder| folder.join(file)));
    }
    fs::write(out.join("parts.rs"), table).expect("the output folder can be written");
    println!("cargo:rerun-if-changed={}", here.join("../profiles").display());
}

fn named(variable: &str) -> Option<PathBuf> {
    println!("cargo:rerun-if-env-changed={variable}");
    env::var_os(variable).map(PathBuf::from)
}

/// The profiles, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.canonicalize().expect("the profiles are there");
    let entries = fs::read_dir(&folder).expect("the profiles are there").map(|entry| entry.expect("a name").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    files.sort();
    files
}
