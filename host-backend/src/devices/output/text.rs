//! Kept output as text: its pieces begin and end between characters.

use std::collections::VecDeque;

/// Bytes of a character, at most.
const CHARACTER_MAX: usize = 4;

/// Takes all but an incomplete character at the end.
pub(super) fn take(kept: &mut VecDeque<u8>) -> String {
    let bytes = kept.make_contiguous();
    let whole = bytes.len() - incomplete(bytes);
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    kept.drain(..whole);
    text
}

/// How many bytes go from the front so that at most `most` are left and no character is split.
pub(super) fn boundary(kept: &VecDeque<u8>, most: usize) -> usize {
    let cut = kept.len().saturating_sub(most);
    let first = cut.saturating_sub(CHARACTER_MAX - 1);
    // All of a character that is split there.
    let around: Vec<u8> = kept.range(first..kept.len().min(cut + CHARACTER_MAX - 1)).copied().collect();
    let end = |start: usize| {
        let character = around[start..].utf8_chunks().next()?.valid().chars().next()?;
        Some(first + start + character.len_utf8())
    };
    (0..cut - first).filter_map(end).find(|end| *end > cut).unwrap_or(cut)
}

/// The length of a character at the end whose last bytes are missing.
fn incomplete(bytes: &[u8]) -> usize {
    let is_incomplete = |len: &usize| {
        let tail = std::str::from_utf8(&bytes[bytes.len() - len..]);
        tail.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..CHARACTER_MAX.min(bytes.len() + 1)).find(is_incomplete).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_text() {
        let text = "a\u{e9}\u{20ac}\u{1f388}\u{e9}z";
        for size in 1..=text.len() {
            let mut kept = VecDeque::new();
            let mut collected = String::new();
            for piece in text.as_bytes().chunks(size) {
                kept.extend(piece);
                collected += &take(&mut kept);
            }
            assert_eq!((collected.as_str(), kept.len()), (text, 0), "{size}");
        }
    }

    #[test]
    fn what_cannot_become_a_character_does_not_wait() {
        for (bytes, expected, left) in [
            (&b"a\xff"[..], "a\u{fffd}", 0),
            (b"\x82", "\u{fffd}", 0),
            (b"\xe2\x28", "\u{fffd}(", 0),
            (b"\xed\xa0", "\u{fffd}\u{fffd}", 0),
            (b"a\xf0\x9f\x8e", "a", 3),
            (b"\xc3", "", 1),
            (b"", "", 0),
        ] {
            let mut kept: VecDeque<u8> = bytes.iter().copied().collect();
            assert_eq!((take(&mut kept).as_str(), kept.len()), (expected, left), "{bytes:x?}");
        }
    }

    #[test]
    fn the_front_goes_up_to_the_end_of_a_character() {
        let goes = |bytes: &[u8], most| boundary(&bytes.iter().copied().collect(), most);
        let balloon = "\u{1f388}".as_bytes();
        let two = [balloon, balloon].concat();
        for (most, gone) in [(8, 0), (7, 4), (6, 4), (5, 4), (4, 4), (3, 8), (0, 8), (9, 0)] {
            assert_eq!(goes(&two, most), gone, "{most}");
        }
        // Bytes that are no characters have no boundaries.
        assert_eq!(goes(&[0x82; 10], 7), 3);
        assert_eq!(goes(b"\xf0\x9fabc", 4), 1);
    }
}
