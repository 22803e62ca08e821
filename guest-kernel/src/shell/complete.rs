//! What a word at the cursor could become.

use super::commands::COMMANDS;
use crate::fs::files;
use crate::system::System;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Bytes of the word before the cursor, and what begins with it.
pub(super) fn names(system: &System, line: &str) -> (usize, Vec<String>) {
    let commands = || COMMANDS.iter().map(|command| command.name.to_string());
    let Some((command, rest)) = line.trim_start().split_once(' ') else {
        return matching(line.trim_start(), commands());
    };
    let word = rest.trim_start();
    match command {
        "ls" | "cat" | "sum" => return paths(system, word),
        _ if word.contains(' ') => {}
        "help" => return matching(word, commands()),
        "pvops" => return matching(word, pvops::Op::all().map(|op| op.name().to_string())),
        _ => {
            let known = COMMANDS.iter().find(|known| known.name == command);
            return matching(word, known.into_iter().flat_map(|command| command.words).map(ToString::to_string));
        }
    }
    (0, Vec::new())
}

fn matching(word: &str, names: impl Iterator<Item = String>) -> (usize, Vec<String>) {
    (word.len(), names.filter(|name| name.starts_with(word)).collect())
}

/// Names in the directory that a path is in; those of directories end in a slash.
fn paths(system: &System, path: &str) -> (usize, Vec<String>) {
    let (directory, name) = path.rsplit_once('/').map_or(("", path), |(directory, name)| (directory, name));
    let entries = files::list(system.files(), if directory.is_empty() { "/" } else { directory }).unwrap_or_default();
    let names = entries.into_iter().map(|entry| match entry.what {
        files::What::Directory => entry.name + "/",
        _ => entry.name,
    });
    matching(name, names)
}
