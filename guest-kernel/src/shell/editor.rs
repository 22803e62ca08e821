//! A line editor for a VT100: cursor keys, home and end, history, the usual control keys.

use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::Write;

/// Longest line in bytes.
const LINE_MAX: usize = 200;
/// Lines that are remembered.
const HISTORY_MAX: usize = 16;

/// A line being edited. Only printable ASCII gets in, so bytes are columns.
#[derive(Default)]
pub struct Editor {
    line: String,
    cursor: usize,
    history: VecDeque<String>,
    /// How far back in the history; 0 is the line itself.
    back: usize,
    escape: Escape,
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
pub enum Outcome {
    /// The line goes on.
    Editing,
    /// The line is complete.
    Line(String),
}

enum Key {
    Character(char),
    Return,
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
    pub fn input(&mut self, byte: u8, echo: &mut String) -> Outcome {
        let key = self.key(byte);
        let (before, old_len) = (self.cursor, self.line.len());
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
            Key::Character(character) if self.line.len() < LINE_MAX => {
                self.line.insert(self.cursor, character);
                self.cursor += 1;
                if self.cursor == self.line.len() {
                    echo.push(character);
                    return Outcome::Editing;
                }
            }
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            Key::Delete if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.line.len()),
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
        self.redraw(before, old_len, echo);
        Outcome::Editing
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

    /// Writes the line anew: back to its start, the text, blanks over what was longer, back to the cursor.
    fn redraw(&self, before: usize, old_len: usize, echo: &mut String) {
        let blanks = old_len.saturating_sub(self.line.len());
        // Writing to a string cannot fail.
        let _ = write!(echo, "{:\u{8}<before$}{}{:blanks$}", "", self.line, "");
        let back = self.line.len() + blanks - self.cursor;
        let _ = write!(echo, "{:\u{8}<back$}", "");
    }

    fn key(&mut self, byte: u8) -> Key {
        let was_return = core::mem::replace(&mut self.last_was_return, byte == b'\r');
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
}
