//! The shell's line editor: keys in, lines and screens out.

use crate::shell::editor::{Editor, Outcome};

/// A terminal of one line: what the editor's echo makes of it.
#[derive(Default)]
struct Screen {
    cells: Vec<u8>,
    cursor: usize,
}

impl Screen {
    fn show(&mut self, echo: &str) {
        for byte in echo.bytes() {
            match byte {
                8 => self.cursor -= 1,
                byte => {
                    if self.cursor == self.cells.len() {
                        self.cells.push(b' ');
                    }
                    self.cells[self.cursor] = byte;
                    self.cursor += 1;
                }
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.cells.clone()).unwrap().trim_end().to_string()
    }
}

/// Types keys; returns the lines that were entered and the screen of the one that was not.
fn type_keys(keys: &[u8]) -> (Vec<String>, Screen) {
    let (mut editor, mut screen, mut lines) = (Editor::default(), Screen::default(), Vec::new());
    for &key in keys {
        let mut echo = String::new();
        match editor.input(key, &mut echo) {
            Outcome::Editing => screen.show(&echo),
            Outcome::Line(line) => {
                lines.push(line);
                screen = Screen::default();
            }
        }
    }
    (lines, screen)
}

#[test]
fn a_typed_line_comes_out_whole_whatever_ends_it() {
    assert_eq!(type_keys(b"mem\rirq\r\ndev\n").0, ["mem", "irq", "dev"]);
}

#[test]
fn editing_in_the_middle_shows_and_gives_the_same_text() {
    // helo, left, l, home, x, delete the h, end, !
    let keys = b"helo\x1b[Dl\x1b[Hx\x1b[3~\x05!";
    let (_, screen) = type_keys(keys);
    assert_eq!((screen.text().as_str(), screen.cursor), ("xello!", 6));
    let (lines, _) = type_keys(&[keys, &b"\r"[..]].concat());
    assert_eq!(lines, ["xello!"]);
}

#[test]
fn backspace_and_kill_keys_take_away_what_they_say() {
    assert_eq!(type_keys(b"abc\x7f\x08d\r").0, ["ad"]);
    assert_eq!(type_keys(b"one two  \x17x\r").0, ["one x"]);
    assert_eq!(type_keys(b"abcdef\x02\x02\x0b\r").0, ["abcd"]);
    assert_eq!(type_keys(b"gone\x15kept\r").0, ["kept"]);
    let (_, screen) = type_keys(b"long line\x15");
    assert_eq!((screen.text().as_str(), screen.cursor), ("", 0));
}

#[test]
fn history_goes_back_and_forth_and_keeps_no_repetitions() {
    assert_eq!(type_keys(b"one\rtwo\rtwo\r\x1b[A\x1b[A\r").0, ["one", "two", "two", "one"]);
    let (_, screen) = type_keys(b"one\rtwo\r\x1b[A\x1b[A\x1b[B");
    assert_eq!(screen.text(), "two");
    let (_, screen) = type_keys(b"one\r\x1b[A\x1b[B");
    assert_eq!(screen.text(), "");
}

#[test]
fn rubbish_is_ignored_and_a_line_has_an_end() {
    assert_eq!(type_keys(b"a\x00\xff\xc3\x1b[99~\x1bOPb\r").0.len(), 1);
    let long = [vec![b'x'; 500], b"\r".to_vec()].concat();
    assert_eq!(type_keys(&long).0[0].len(), 200);
}

proptest::proptest! {
    /// Any keys: no panic, and the screen shows exactly the line.
    #[test]
    fn the_screen_always_shows_the_line(keys in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let keys: Vec<u8> = keys.into_iter().filter(|key| !matches!(key, b'\r' | b'\n')).collect();
        let (_, screen) = type_keys(&keys);
        let (lines, _) = type_keys(&[&keys[..], b"\x1b[C\r"].concat());
        let line = lines.last().cloned().unwrap_or_default();
        proptest::prop_assert_eq!(screen.text(), line.trim_end());
    }
}
