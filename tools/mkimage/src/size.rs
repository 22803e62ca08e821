//! Sizes as users write them: `512`, `64K`, `64M`, `2G`, `1MiB`.

use crate::{Error, Result};

/// Parses a number of bytes with an optional binary suffix.
///
/// # Errors
/// [`Error::BadSize`] with the text as given.
pub fn parse(text: &str) -> Result<u64> {
    let bad = |why| Error::BadSize { text: text.into(), why };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(bad("use a number with K, M, G or T")),
    };
    if number.is_empty() {
        return Err(bad("use a number with K, M, G or T"));
    }
    let number: u64 = number.parse().map_err(|_| bad("larger than 64 bits"))?;
    number.checked_mul(1 << shift).ok_or_else(|| bad("larger than 64 bits"))
}

/// Prints a size with the largest suffix that needs no fraction.
pub fn display(bytes: u64) -> String {
    for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_every_suffix_and_print_back() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("64K", 64 << 10), ("64M", 64 << 20), ("2g", 2 << 30), ("1MiB", 1 << 20)]
        {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        assert_eq!(display(64 << 20), "64M");
        assert_eq!(display((64 << 20) + 1), "67108865");
    }

    #[test]
    fn nonsense_is_refused_with_the_text_as_given() {
        for text in ["", "M", "-1", "1.5M", "64X", "99999999999999999999", "99999999999999999T", "64 M"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
