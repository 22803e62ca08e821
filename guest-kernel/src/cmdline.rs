//! The command line: words and `key=value` pairs, the image's first, then the VMM's. The last of several values wins.
//!
//! VMMs add words for Linux. Every word of ours may have the prefix `ringside.`; those that Linux has, too, must
//! ([`Cmdline::own_value`]).

const PREFIX: &str = "ringside.";

/// Both command lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cmdline {
    image: &'static str,
    vmm: &'static str,
}

impl Cmdline {
    /// From the image's and the VMM's.
    pub const fn new(image: &'static str, vmm: &'static str) -> Self {
        Self { image, vmm }
    }

    /// All words, the image's first.
    pub fn words(&self) -> impl DoubleEndedIterator<Item = &'static str> + use<> {
        self.image.split_ascii_whitespace().chain(self.vmm.split_ascii_whitespace())
    }

    /// Whether a word stands alone.
    pub fn has(&self, word: &str) -> bool {
        self.words().any(|found| found.strip_prefix(PREFIX).unwrap_or(found) == word)
    }

    /// The values of a key, in order.
    pub fn values(&self, key: &str) -> impl DoubleEndedIterator<Item = &'static str> {
        pairs(self.words().map(|word| word.strip_prefix(PREFIX).unwrap_or(word)), key)
    }

    /// The value of a key that stands with our prefix: for a key that means something else to Linux.
    pub fn own_value(&self, key: &str) -> Option<&'static str> {
        pairs(self.words().filter_map(|word| word.strip_prefix(PREFIX)), key).next_back()
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&'static str> {
        self.values(key).next_back()
    }
}

fn pairs(
    words: impl DoubleEndedIterator<Item = &'static str>,
    key: &str,
) -> impl DoubleEndedIterator<Item = &'static str> {
    words.filter_map(move |word| word.split_once('=').filter(|(found, _)| *found == key).map(|(_, value)| value))
}

#[cfg(test)]
mod tests;
