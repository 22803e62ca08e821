//! How a check ends, and the comparisons that it ends with.

use crate::level::Level;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::{Debug, Display};

/// How a check ended, if not well.
pub(crate) enum End {
    /// It does not apply here.
    Skip(String),
    /// It could not be tried.
    Error(String),
    /// Something is not as the rule says; with [`Level::Should`] it is advice.
    Fail { level: Level, what: String, expected: String, saw: String },
}

impl End {
    /// The same, with the name of what it is about.
    pub fn of(self, name: impl Display) -> Self {
        match self {
            Self::Fail { level, what, expected, saw } => {
                Self::Fail { level, what: format!("{name}: {what}"), expected, saw }
            }
            other => other,
        }
    }
}

/// How a check ended.
pub(crate) type Verdict = Result<(), End>;

/// Not applicable.
pub(crate) fn skip(why: impl ToString) -> End {
    End::Skip(why.to_string())
}

/// Could not be tried.
pub(crate) fn error(why: impl ToString) -> End {
    End::Error(why.to_string())
}

/// Not as the rule says.
pub(crate) fn fail(what: &str, expected: impl Display, saw: impl Display) -> End {
    End::Fail { level: Level::Must, what: what.to_string(), expected: expected.to_string(), saw: saw.to_string() }
}

/// The first of two verdicts that is more than advice, else the first that is advice.
pub(crate) fn worst(first: Verdict, second: Verdict) -> Verdict {
    match (&first, &second) {
        (Ok(()), _) | (Err(End::Fail { level: Level::Should, .. }), Err(_)) => second,
        _ => first,
    }
}

/// A part of a check that the clause only recommends: what is wrong there is advice.
pub(crate) fn advice(verdict: Verdict) -> Verdict {
    verdict.map_err(|end| match end {
        End::Fail { what, expected, saw, .. } => End::Fail { level: Level::Should, what, expected, saw },
        other => other,
    })
}

/// The opposite of [`advice`], where a check has shown that the device does what is only recommended.
pub(crate) fn binding(verdict: Verdict) -> Verdict {
    verdict.map_err(|end| match end {
        End::Fail { what, expected, saw, .. } => End::Fail { level: Level::Must, what, expected, saw },
        other => other,
    })
}

/// Fails unless the two are equal.
pub(crate) fn equal<T: PartialEq + Debug>(what: &str, expected: T, saw: T) -> Verdict {
    if expected == saw { Ok(()) } else { Err(fail(what, on_a_line(&expected), on_a_line(&saw))) }
}

/// A value with its numbers in hexadecimal: `{:#x?}` without its line breaks.
fn on_a_line(value: &impl Debug) -> String {
    let text = format!("{value:#x?}");
    let mut line = String::new();
    for part in text.lines().map(str::trim) {
        if line.ends_with(',') {
            if part.starts_with([')', ']', '}']) {
                line.pop();
            } else {
                line.push(' ');
            }
        }
        line.push_str(part);
    }
    line
}

/// Fails unless it holds.
pub(crate) fn holds(holds: bool, what: &str, expected: impl Display, saw: impl Display) -> Verdict {
    if holds { Ok(()) } else { Err(fail(what, expected, saw)) }
}
