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
    }
}
