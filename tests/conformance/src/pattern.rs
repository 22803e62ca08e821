//! Patterns over names of checks, as the guest understands them: `*` stands for any characters.

/// Whether a name fits, in time that grows with the product of both lengths.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut of) = (0, 0);
    // The place after the last star, and how far that star reaches: an earlier one never has to reach further.
    let mut star = None;
    while of < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, of));
            }
            Some(byte) if *byte == name[of] => (at, of) = (at + 1, of + 1),
            _ => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (at, of) = (after, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_takes_any_characters_and_the_rest_itself() {
        for (pattern, name, fits) in [
            ("rng/a", "rng/a", true),
            ("rng/a", "rng/ab", false),
            ("rng/*", "rng/", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*wraps*", "queue/index-wraps-at-65536", true),
            ("queue/*-at-*6", "queue/index-wraps-at-65536", true),
            ("queue/*-at-*7", "queue/index-wraps-at-65536", false),
            ("a*b*c", "a-bb-cc-c", true),
            ("a*b*c", "a-bb-cc-", false),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn many_stars_end() {
        let (pattern, name) = ("*".repeat(30) + "r", "a".repeat(80));
        assert!(!matches(&pattern, &name));
        assert!(!matches(&("*a".repeat(30) + "r"), &name));
    }
}
