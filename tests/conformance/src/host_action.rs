//! Host actions: what the harness changes about the machine while it runs, at a check's request.
//!
//! The harness lists on the guest's command line what it supports: `host_actions=balloon,disk`. The guest requests an action
//! with a report line, and sees in its devices that it was done; there is no other answer:
//!
//! ```text
//! @request disk waiting sectors=4096
//! ```
//!
//! An action that is not on the command line is not requested: the check skips itself.

/// The word of the command line.
pub const WORD: &str = "host_actions";

/// What can be requested: the name of the report line, with its fields in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// The balloon's target \[`pages`\].
    Balloon,
    /// The capacity of the first disk \[`sectors` of 512 bytes\].
    Disk,
    /// The network cable \[`state`: `up` or `down`\].
    Link,
    /// Statistics of the balloon.
    Statistics,
    /// Input of the virtio console \[`text`\].
    Type,
    /// Input of the virtio console, as soon as the guest has printed the same text there \[`text`\].
    Echo,
    /// A request of the network card to announce its address.
    Announce,
}

impl HostAction {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Balloon, Self::Disk, Self::Link, Self::Statistics, Self::Type, Self::Echo, Self::Announce];

    /// The word on the line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Balloon => "balloon",
            Self::Disk => "disk",
            Self::Link => "link",
            Self::Statistics => "statistics",
            Self::Type => "type",
            Self::Echo => "echo",
            Self::Announce => "announce",
        }
    }

    /// The inverse of [`word`](Self::word).
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }

    /// Parses a word of the command line: an action, and the step of the balloon in pages, which is 1 unless given
    /// (`balloon/256`).
    pub fn able(word: &str) -> Option<(Self, u32)> {
        match word.split_once('/') {
            None => Some((Self::from_word(word)?, 1)),
            Some((word, step)) => {
                let step = step.parse().ok().filter(|step| (1..=1 << 20).contains(step))?;
                Self::from_word(word).filter(|action| *action == Self::Balloon).map(|action| (action, step))
            }
        }
    }
}

/// The field of each action that has one.
pub mod field {
    /// Of [`HostAction::Balloon`](super::HostAction::Balloon).
    pub const PAGES: &str = "pages";
    /// Of [`HostAction::Disk`](super::HostAction::Disk).
    pub const SECTORS: &str = "sectors";
    /// Of [`HostAction::Link`](super::HostAction::Link): [`UP`] or [`DOWN`].
    pub const STATE: &str = "state";
    /// Of [`HostAction::Type`](super::HostAction::Type) and [`HostAction::Echo`](super::HostAction::Echo).
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
    fn every_action_parses_from_its_word() {
        for action in HostAction::ALL {
            assert_eq!(HostAction::from_word(action.word()), Some(action));
        }
        assert_eq!(HostAction::from_word("moon"), None);
        assert_eq!(HostAction::able("balloon/256"), Some((HostAction::Balloon, 256)));
        assert_eq!(HostAction::able("disk"), Some((HostAction::Disk, 1)));
        for word in ["disk/2", "balloon/0", "balloon/", "balloon/x", "moon/1", ""] {
            assert_eq!(HostAction::able(word), None, "{word}");
        }
    }
}
