//! Somebody outside of the machine who changes it while it runs, at the guest's wish.
//!
//! The harness says on the command line what it can do: `outside=balloon,disk`. The guest wishes with a report line, and
//! sees from its devices that the wish came true; there is no other answer:
//!
//! ```text
//! @want disk waiting sectors=4096
//! ```
//!
//! A wish that is not on the command line is not made: the check skips itself.

use crate::report::words;

/// The word of the command line.
pub const WORD: &str = "outside";

words! {
    /// What can be wished for: the name of the report line. The fields are in brackets.
    Wish {
        /// The balloon's target \[`pages`\].
        Balloon = "balloon",
        /// The capacity of the first disk \[`sectors` of 512 bytes\].
        Disk = "disk",
        /// The network cable \[`state`: `up` or `down`\].
        Link = "link",
        /// Statistics of the balloon.
        Statistics = "statistics",
        /// Input of the virtio console \[`text`\].
        Type = "type",
        /// Input of the virtio console, as soon as the same text was heard there \[`text`\].
        Echo = "echo",
    }
}

impl Wish {
    /// What a word of the command line says: a wish that is granted, and the pages of a step of the balloon's, which is 1
    /// unless it says otherwise (`balloon/256`).
    pub fn able(word: &str) -> Option<(Self, u32)> {
        match word.split_once('/') {
            None => Some((Self::from_word(word)?, 1)),
            Some((word, step)) => {
                let step = step.parse().ok().filter(|step| (1..=1 << 20).contains(step))?;
                Self::from_word(word).filter(|wish| *wish == Self::Balloon).map(|wish| (wish, step))
            }
        }
    }

    /// All of them.
    pub const ALL: [Self; 6] = [Self::Balloon, Self::Disk, Self::Link, Self::Statistics, Self::Type, Self::Echo];
}

/// The field of each wish that has one.
pub mod field {
    /// Of [`Wish::Balloon`](super::Wish::Balloon).
    pub const PAGES: &str = "pages";
    /// Of [`Wish::Disk`](super::Wish::Disk).
    pub const SECTORS: &str = "sectors";
    /// Of [`Wish::Link`](super::Wish::Link): [`UP`] or [`DOWN`].
    pub const STATE: &str = "state";
    /// Of [`Wish::Type`](super::Wish::Type) and [`Wish::Echo`](super::Wish::Echo).
    pub const TEXT: &str = "text";

    /// The cable is plugged in.
    pub const UP: &str = "up";
    /// The cable is pulled.
    pub const DOWN: &str = "down";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_is_its_word() {
        for wish in Wish::ALL {
            assert_eq!(Wish::from_word(wish.word()), Some(wish));
        }
        assert_eq!(Wish::from_word("moon"), None);
        assert_eq!(Wish::able("balloon/256"), Some((Wish::Balloon, 256)));
        assert_eq!(Wish::able("disk"), Some((Wish::Disk, 1)));
        for word in ["disk/2", "balloon/0", "balloon/", "balloon/x", "moon/1", ""] {
            assert_eq!(Wish::able(word), None, "{word}");
        }
    }
}
