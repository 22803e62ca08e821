//! A line editor for a VT100: cursor keys, home and end, history, the usual control keys, Tab, and text in UTF-8.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use core::fmt::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Longest line in bytes.
const LINE_MAX: usize = 200;
/// Lines that are remembered.
const HISTORY_MAX: usize = 16;

/// A line being edited.
#[derive(Default)]
pub(super) struct Editor {
    line: String,
    /// Byte index of the character at the cursor.
    cursor: usize,
    history: VecDeque<String>,
    /// How far back in the history; 0 is the line itself.
    back: usize,
    escape: Escape,
    /// The bytes so far of a character that is not complete.
    partial: heapless::Vec<u8, 4>,
    last_was_return: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Sequence,
    /// A sequence with a number: `ESC [ 3 ~`.
    Number(u8),
}

/// What a byte did.
pub(super) enum Outcome {
    /// The line goes on.
    Editing,
    /// The line is to be completed at the cursor: [`Editor::complete`].
    Complete,
    /// The line is complete.
    Line(String),
}

enum Key {
    Character(char),
    Return,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Home,
    End,
    Up,
    Down,
    KillToEnd,
    KillLine,
    KillWord,
    Nothing,
}

impl Editor {
    /// Takes a byte; what the terminal is to show goes to `echo`.
    pub(super) fn input(&mut self, byte: u8, echo: &mut String) -> Outcome {
        let key = self.key(byte);
        let (before, old_width) = (self.column(), self.line.width());
        match key {
            Key::Return => {
                let line = core::mem::take(&mut self.line);
                self.cursor = 0;
                self.back = 0;
                if !line.trim().is_empty() && self.history.back() != Some(&line) {
                    self.history.push_back(line.clone());
                    if self.history.len() > HISTORY_MAX {
                        self.history.pop_front();
                    }
                }
                return Outcome::Line(line);
            }
            Key::Tab => return Outcome::Complete,
            Key::Character(character) if self.line.len() + character.len_utf8() <= LINE_MAX => {
                self.line.insert(self.cursor, character);
                self.cursor += character.len_utf8();
                if self.cursor == self.line.len() {
                    echo.push(character);
                    return Outcome::Editing;
                }
            }
            Key::Backspace if self.cursor > 0 => {
                self.cursor = self.previous();
                self.line.remove(self.cursor);
            }
            Key::Delete if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            Key::Left => self.cursor = self.previous(),
            Key::Right => self.cursor += self.line[self.cursor..].chars().next().map_or(0, char::len_utf8),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.line.len(),
            Key::KillToEnd => self.line.truncate(self.cursor),
            Key::KillLine => {
                self.line.clear();
                self.cursor = 0;
            }
            Key::KillWord => {
                let kept = self.line[..self.cursor].trim_end();
                let start = kept.rfind(' ').map_or(0, |space| space + 1);
                self.line.replace_range(start..self.cursor, "");
                self.cursor = start;
            }
            Key::Up => self.recall(self.back + 1),
            Key::Down => self.recall(self.back.saturating_sub(1)),
            _ => return Outcome::Editing,
        }
        self.redraw(before, old_width, echo);
        Outcome::Editing
    }

    /// What stands before the cursor.
    pub(super) fn before_cursor(&self) -> &str {
        &self.line[..self.cursor]
    }

    /// Completes the last `typed` bytes before the cursor by what all of `names` have in common, and a space after the only
    /// one that does not end in a slash. True if that added nothing, so that the names are worth showing.
    pub(super) fn complete(&mut self, typed: usize, names: &[String], echo: &mut String) -> bool {
        let Some(first) = names.first() else { return false };
        let common = names.iter().fold(first.as_str(), |common, name| {
            let end = common.char_indices().zip(name.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
            &common[..end.unwrap_or(common.len().min(name.len()))]
        });
        let mut added = common.get(typed..).unwrap_or("").to_string();
        if names.len() == 1 && !common.ends_with('/') {
            added.push(' ');
        }
        if added.is_empty() || self.line.len() + added.len() > LINE_MAX {
            return names.len() > 1;
        }
        let (before, old_width) = (self.column(), self.line.width());
        self.line.insert_str(self.cursor, &added);
        self.cursor += added.len();
        self.redraw(before, old_width, echo);
        false
    }

    /// The line as the terminal shows it, with the cursor where it is.
    pub(super) fn show(&self, echo: &mut String) {
        self.redraw(0, 0, echo);
    }

    fn previous(&self) -> usize {
        self.line[..self.cursor].char_indices().next_back().map_or(0, |(at, _)| at)
    }

    /// Columns before the cursor.
    fn column(&self) -> usize {
        self.line[..self.cursor].width()
    }

    fn recall(&mut self, back: usize) {
        if back > self.history.len() {
            return;
        }
        self.back = back;
        self.line = match back {
            0 => String::new(),
            back => self.history[self.history.len() - back].clone(),
        };
        self.cursor = self.line.len();
    }

    /// Writes the line anew: back to its start, the text, blanks over what was wider, back to the cursor.
    fn redraw(&self, before: usize, old_width: usize, echo: &mut String) {
        let width = self.line.width();
        let blanks = old_width.saturating_sub(width);
        // Writing to a string cannot fail.
        let _ = write!(echo, "{:\u{8}<before$}{}{:blanks$}", "", self.line, "");
        let back = width + blanks - self.column();
        let _ = write!(echo, "{:\u{8}<back$}", "");
    }

    fn key(&mut self, byte: u8) -> Key {
        let was_return = core::mem::replace(&mut self.last_was_return, byte == b'\r');
        if self.escape == Escape::None && !byte.is_ascii() {
            return self.part_of_a_character(byte);
        }
        self.partial.clear();
        match (core::mem::take(&mut self.escape), byte) {
            (_, 0x1b) => self.escape = Escape::Started,
            (Escape::Started, b'[' | b'O') => self.escape = Escape::Sequence,
            (Escape::Sequence, digit @ b'0'..=b'9') => self.escape = Escape::Number(digit),
            (Escape::Sequence, b'A') => return Key::Up,
            (Escape::Sequence, b'B') => return Key::Down,
            (Escape::Sequence, b'C') => return Key::Right,
            (Escape::Sequence, b'D') => return Key::Left,
            (Escape::Sequence, b'H') | (Escape::Number(b'1' | b'7'), b'~') => return Key::Home,
            (Escape::Sequence, b'F') | (Escape::Number(b'4' | b'8'), b'~') => return Key::End,
            (Escape::Number(b'3'), b'~') => return Key::Delete,
            // CR LF is one return.
            (Escape::None, b'\n') if was_return => {}
            (Escape::None, b'\r' | b'\n') => return Key::Return,
            (Escape::None, b'\t') => return Key::Tab,
            (Escape::None, 0x08 | 0x7f) => return Key::Backspace,
            (Escape::None, 0x01) => return Key::Home,
            (Escape::None, 0x04) => return Key::Delete,
            (Escape::None, 0x05) => return Key::End,
            (Escape::None, 0x0b) => return Key::KillToEnd,
            (Escape::None, 0x03 | 0x15) => return Key::KillLine,
            (Escape::None, 0x17) => return Key::KillWord,
            (Escape::None, 0x10) => return Key::Up,
            (Escape::None, 0x0e) => return Key::Down,
            (Escape::None, 0x02) => return Key::Left,
            (Escape::None, 0x06) => return Key::Right,
            (Escape::None, b' '..=b'~') => return Key::Character(byte.into()),
            _ => {}
        }
        Key::Nothing
    }

    /// Collects the bytes of a character. What is no UTF-8, or has no place of its own on the screen, is left out.
    fn part_of_a_character(&mut self, byte: u8) -> Key {
        // Cannot be full: four bytes are a character, or none.
        let _ = self.partial.push(byte);
        match core::str::from_utf8(&self.partial) {
            Ok(text) => {
                let character = text.chars().next().filter(|character| character.width().unwrap_or(0) > 0);
                self.partial.clear();
                character.map_or(Key::Nothing, Key::Character)
            }
            Err(error) => {
                if error.error_len().is_some() {
                    self.partial.clear();
                }
                Key::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests;
