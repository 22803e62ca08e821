//! Report lines: how the guest reports checks, measurements and tour steps over any serial line.
//!
//! ```text
//! @tour file ok path=README.TXT bytes=1234 crc32=cbf43926
//! @<kind> <name> <outcome> <key>=<value> ...
//! ```
//!
//! One line each. In a value every byte that is not printable ASCII, the space and `%` are written `%XX`. A line that
//! does not start with `@` is ordinary console output.

use core::fmt::{self, Display, Write};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// The word on the line.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The inverse of [`word`](Self::word).
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words! {
    /// What a line is about.
    Kind {
        /// Progress and counters of the boot.
        Boot = "@boot",
        /// A step of the tour.
        Tour = "@tour",
        /// A conformance check.
        Check = "@check",
        /// A measurement.
        Bench = "@bench",
        /// A request for a host action.
        Request = "@request",
    }
}

words! {
    /// How it went, worst last.
    Outcome {
        /// As expected.
        Success = "ok",
        /// The guest waits for the other side.
        Waiting = "waiting",
        /// Does not apply here; the field `why` says why.
        Skip = "skip",
        /// Not as a rule recommends that need not hold; the field `why` says what was seen.
        Advice = "advice",
        /// Could not be tried; the field `why` says why.
        Error = "error",
        /// Not as expected; the field `why` says what was seen.
        Failure = "fail",
    }
}

words! {
    /// What a machine has made of a driver that breaks the rules, worst last: the field `verdict` of a check of the group
    /// `hostile`. The guest tells the first three; a guest that is gone tells nothing, so the last is the harness's to say.
    Handling {
        /// The device served on, without a reset.
        Handled = "handled",
        /// It said no, by a status or by asking for a reset or by falling silent, and served on, after a reset at the latest.
        Rejected = "rejected",
        /// It, or another device, answers no well-formed request any more.
        Wedged = "wedged",
        /// The virtual machine or its hypervisor has ended, or says nothing any more.
        Crashed = "crashed",
    }
}

impl Handling {
    /// The field's name.
    pub const FIELD: &'static str = "verdict";
}

/// Starts a report line on `out`. Finish it with [`LineWriter::end`].
///
/// # Errors
/// Those of `out`.
pub fn begin<W: Write>(out: W, kind: Kind, name: &str, outcome: Outcome) -> Result<LineWriter<W>, fmt::Error> {
    let mut line = LineWriter { out };
    write!(line.out, "{} ", kind.word())?;
    line.escaped(name)?;
    write!(line.out, " {}", outcome.word())?;
    Ok(line)
}

/// A report line being written.
#[derive(Debug)]
pub struct LineWriter<W: Write> {
    out: W,
}

impl<W: Write> LineWriter<W> {
    /// Adds a field.
    ///
    /// # Errors
    /// Those of the output.
    pub fn field(mut self, key: &str, value: impl Display) -> Result<Self, fmt::Error> {
        write!(self.out, " {key}=")?;
        self.escaped(value)?;
        Ok(self)
    }

    /// Ends the line.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(mut self) -> fmt::Result {
        self.out.write_char('\n')
    }

    fn escaped(&mut self, value: impl Display) -> fmt::Result {
        write!(Escape(&mut self.out), "{value}")
    }
}

struct Escape<'a, W: Write>(&'a mut W);

impl<W: Write> Write for Escape<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte.is_ascii_graphic() && byte != b'%' {
                self.0.write_char(byte.into())?;
            } else {
                write!(self.0, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// A report line taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What it is about.
    pub kind: Kind,
    /// Which check, step or measurement, as written (escaped).
    pub name: &'a str,
    /// How it went.
    pub outcome: Outcome,
    fields: &'a str,
}

/// Why a line that starts with `@` is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The first word is no [`Kind`].
    UnknownKind,
    /// There is no name.
    MissingName,
    /// The third word is no [`Outcome`].
    UnknownOutcome,
    /// A word after the outcome has no `=`.
    FieldWithoutValue,
}

impl Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind => "unknown kind of report",
            Self::MissingName => "report without a name",
            Self::UnknownOutcome => "report without a known outcome",
            Self::FieldWithoutValue => "report field without a value",
        })
    }
}

impl core::error::Error for ParseError {}

/// Takes a console line apart; `None` if it is ordinary output.
///
/// # Errors
/// [`ParseError`] when the line starts with `@` and is no report.
pub fn parse(line: &str) -> Result<Option<Report<'_>>, ParseError> {
    let line = line.trim_end_matches(['\r', '\n']);
    if !line.starts_with('@') {
        return Ok(None);
    }
    let mut words = line.splitn(4, ' ');
    let kind = words.next().and_then(Kind::from_word).ok_or(ParseError::UnknownKind)?;
    let name = words.next().filter(|name| !name.is_empty()).ok_or(ParseError::MissingName)?;
    let outcome = words.next().and_then(Outcome::from_word).ok_or(ParseError::UnknownOutcome)?;
    let fields = words.next().unwrap_or("");
    if fields.split_ascii_whitespace().any(|field| !field.contains('=')) {
        return Err(ParseError::FieldWithoutValue);
    }
    Ok(Some(Report { kind, name, outcome, fields }))
}

impl<'a> Report<'a> {
    /// The fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        self.fields
            .split_ascii_whitespace()
            .filter_map(|field| field.split_once('='))
            .map(|(key, raw)| (key, Value { raw }))
    }

    /// The first field of that name.
    pub fn field(&self, key: &str) -> Option<Value<'a>> {
        self.fields().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// A value as it stands on the line; displays itself decoded.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    raw: &'a str,
}

impl<'a> Value<'a> {
    /// The text as written. Equal to the decoded one for numbers and plain words.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The value as a decimal number.
    pub fn number(&self) -> Option<u64> {
        self.raw.parse().ok()
    }

    /// The decoded bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + use<'a> {
        let mut rest = self.raw.as_bytes();
        core::iter::from_fn(move || match rest {
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = tail;
                let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
                Some(digit(*high) << 4 | digit(*low))
            }
            [byte, tail @ ..] => {
                rest = tail;
                Some(*byte)
            }
            [] => None,
        })
    }
}

impl Display for Value<'_> {
    /// Decodes; bytes that are no ASCII stay escaped, so that a hostile guest cannot send control sequences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.bytes() {
            if byte.is_ascii_graphic() || byte == b' ' {
                f.write_char(byte.into())?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn line(value: &str) -> String {
        let mut out = String::new();
        begin(&mut out, Kind::Check, "net/mac", Outcome::Failure)
            .unwrap()
            .field("why", value)
            .unwrap()
            .field("n", 7)
            .unwrap()
            .end()
            .unwrap();
        out
    }

    #[test]
    fn a_written_line_parses_back_with_every_byte_of_its_values() {
        let every_ascii: String = (0u8..128).map(char::from).collect();
        for value in ["", "plain", "two words", "100%", "a=b", "%41", "é\n\t", every_ascii.as_str()] {
            let text = line(value);
            assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
            let report = parse(&text).unwrap().unwrap();
            assert_eq!((report.kind, report.name, report.outcome), (Kind::Check, "net/mac", Outcome::Failure));
            assert_eq!(report.field("why").unwrap().bytes().collect::<Vec<_>>(), value.as_bytes());
            assert_eq!(report.field("n").unwrap().number(), Some(7));
        }
    }

    #[test]
    fn ordinary_output_is_no_report_and_broken_reports_say_why() {
        assert!(parse("hello @tour").unwrap().is_none());
        assert_eq!(parse("@nonsense x ok").unwrap_err(), ParseError::UnknownKind);
        assert_eq!(parse("@tour").unwrap_err(), ParseError::MissingName);
        assert_eq!(parse("@tour file perhaps").unwrap_err(), ParseError::UnknownOutcome);
        assert_eq!(parse("@tour file ok size").unwrap_err(), ParseError::FieldWithoutValue);
    }

    #[test]
    fn displayed_values_carry_no_control_characters() {
        let text = line("\u{1b}[2Jx y");
        assert_eq!(parse(&text).unwrap().unwrap().field("why").unwrap().to_string(), "%1B[2Jx y");
    }
}
