//! Placeholders in profiles: `{image}` and the like, in arguments and files.
//!
//! A brace that does not enclose a word of lower-case letters is left alone, so that JSON needs no quoting.

use std::collections::BTreeMap;
use thiserror::Error;

/// All placeholders and what they stand for; docs/conformance.md has the same list.
pub const PLACEHOLDERS: [(&str, &str); 18] = [
    ("image", "the guest: an ELF file with a PVH entry"),
    ("bzimage", "the same for the Linux boot protocol"),
    ("boot_disk", "the same as a raw disk for BIOS and UEFI, with the words for the guest in it"),
    ("boot_iso", "the same as an ISO image"),
    ("cmdline", "words for the guest, which it needs to run the checks"),
    ("disk", "a raw disk that the guest may write to, made for this run"),
    ("second_disk", "a small raw disk of its own, for a device that is read-only"),
    ("memory_mib", "the guest's memory"),
    ("cpus", "the guest's processors"),
    ("tap", "the tap device of --tap"),
    ("port", "a free TCP port on the loopback"),
    ("echo_peer", "the path of a socket with the echo peer, which sends frames back, in QEMU's stream framing"),
    ("folder", "an empty folder that is removed after the run"),
    ("control", "the path of a socket in it"),
    ("log", "the path of a file for the program's own log, which is kept"),
    ("serial", "the path of the file or pipe that the serial line is written to"),
    ("ringside", "our host program"),
    ("xen", "the newest Xen that the system's sources have, as a multiboot ELF file"),
];

/// Why a text cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FillError {
    /// A typing error, most likely.
    #[error("there is no placeholder {{{0}}}; there are {1}")]
    Unknown(String, String),
    /// Known, but without a value.
    #[error("nothing is known for {{{0}}}")]
    Missing(String),
}

/// How values are quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// As they are.
    Plain,
    /// For the inside of a JSON string.
    Json,
}

/// A piece of a text.
enum Piece<'a> {
    Text(&'a str),
    /// The name, and whether commas are to be doubled.
    Placeholder(&'a str, bool),
}

fn pieces(mut text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let start = text.find('{').unwrap_or(text.len());
        let (before, rest) = text.split_at(start);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let Some(inner) = rest.strip_prefix('{') else { break };
        let word = inner.split_once('}').map(|(word, _)| word).filter(|word| is_name(word.trim_end_matches(",,")));
        match word {
            Some(word) => {
                pieces.push(Piece::Placeholder(word.trim_end_matches(",,"), word.ends_with(",,")));
                text = &inner[word.len() + 1..];
            }
            None => {
                pieces.push(Piece::Text("{"));
                text = inner;
            }
        }
    }
    pieces
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The placeholders of a text.
///
/// # Errors
/// When one of them does not exist.
pub fn names(text: &str) -> Result<Vec<&str>, FillError> {
    let used = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Placeholder(name, _) => Some(name),
        Piece::Text(_) => None,
    });
    used.map(|name| {
        if PLACEHOLDERS.iter().any(|(known, _)| *known == name) {
            Ok(name)
        } else {
            let all = PLACEHOLDERS.map(|(name, _)| format!("{{{name}}}")).join(" ");
            Err(FillError::Unknown(name.into(), all))
        }
    })
    .collect()
}

/// Puts values in.
///
/// # Errors
/// When a placeholder has no value.
pub fn fill(text: &str, values: &BTreeMap<&str, String>, quoting: Quoting) -> Result<String, FillError> {
    let mut out = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Placeholder(name, doubled) => {
                let value = values.get(name).ok_or_else(|| FillError::Missing(name.into()))?;
                let value = if doubled { value.replace(',', ",,") } else { value.clone() };
                match quoting {
                    Quoting::Plain => out.push_str(&value),
                    Quoting::Json => {
                        let quoted = serde_json::Value::String(value).to_string();
                        out.push_str(&quoted[1..quoted.len() - 1]);
                    }
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<&'static str, String> {
        BTreeMap::from([("image", "/a,b/\"c\"".to_owned()), ("cpus", "2".to_owned())])
    }

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        let fill = |text| fill(text, &values(), Quoting::Plain).unwrap();
        assert_eq!(fill("-smp {cpus} {image}"), "-smp 2 /a,b/\"c\"");
        assert_eq!(fill("file={image,,},x"), "file=/a,,b/\"c\",x");
        assert_eq!(fill(r#"{"a": {"b": 1}} {} { }{"#), r#"{"a": {"b": 1}} {} { }{"#);
    }

    #[test]
    fn values_in_json_are_quoted_for_it() {
        let text = fill(r#"{"path": "{image}"}"#, &values(), Quoting::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/a,b/\"c\"");
    }

    #[test]
    fn an_unknown_placeholder_is_named_and_so_is_one_without_a_value() {
        assert!(names("{imgae}").unwrap_err().to_string().contains("no placeholder {imgae}; there are {image}"));
        assert_eq!(names("{image} {disk,,}").unwrap(), ["image", "disk"]);
        assert_eq!(fill("{tap}", &values(), Quoting::Plain), Err(FillError::Missing("tap".into())));
    }
}
