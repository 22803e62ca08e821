//! The shell's line editor: keys in, lines and screens out.

use crate::shell::editor::{Editor, Outcome};
use unicode_width::UnicodeWidthChar;

/// A terminal of one line: what the editor's echo makes of it.
#[derive(Default)]
struct Screen {
    /// A wide character has a second cell, without one.
    cells: Vec<Option<char>>,
    cursor: usize,
}

impl Screen {
    fn show(&mut self, echo: &str) {
        for character in echo.chars() {
            if character == '\u{8}' {
                self.cursor -= 1;
                continue;
            }
            for cell in [Some(character), None].into_iter().take(character.width().unwrap_or(0)) {
                if self.cursor == self.cells.len() {
                    self.cells.push(None);
                }
                self.cells[self.cursor] = cell;
                self.cursor += 1;
            }
        }
    }

    fn text(&self) -> String {
        self.cells.iter().flatten().collect::<String>().trim_end().to_string()
    }
}

/// Types keys; returns the lines that were entered and the screen of the one that was not. Tab finds two names.
fn type_keys(keys: &[u8]) -> (Vec<String>, Screen) {
    let (mut editor, mut screen, mut lines) = (Editor::default(), Screen::default(), Vec::new());
    for &key in keys {
        let mut echo = String::new();
        match editor.input(key, &mut echo) {
            Outcome::Editing => screen.show(&echo),
            Outcome::Complete => {
                let word = editor.before_cursor().to_string();
                let names = ["uptime", "uproot"].map(String::from).into_iter().filter(|name| name.starts_with(&word));
                editor.complete(word.len(), &names.collect::<Vec<_>>(), &mut echo);
                screen.show(&echo);
            }
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
fn text_in_utf_8_is_edited_by_characters() {
    let (_, screen) = type_keys("grüße 世界".as_bytes());
    assert_eq!((screen.text().as_str(), screen.cursor), ("grüße 世界", 10));
    // Two to the left of the end, delete one, and the kana takes the place of the umlaut.
    assert_eq!(type_keys("grüße\x1b[D\x1b[D\x7fか\r".as_bytes()).0, ["grかße"]);
    assert_eq!(type_keys("世界\x02\x04\r".as_bytes()).0, ["世"]);
    // Half a character, an invalid byte, a control character of Latin-1, a combining accent.
    assert_eq!(type_keys(b"a\xc3b\xffc\xc2\x85\xcc\x81d\r").0, ["abcd"]);
    let long = type_keys(&["ü".repeat(150).into_bytes(), b"\r".to_vec()].concat()).0;
    assert_eq!(long[0].len(), 200);
}

#[test]
fn tab_adds_what_all_names_have_in_common_and_a_space_after_the_only_one() {
    assert_eq!(type_keys(b"u\t\r").0, ["up"]);
    assert_eq!(type_keys(b"upt\tx\r").0, ["uptime x"]);
    assert_eq!(type_keys(b"other\t\r").0, ["other"]);
    let mut editor = Editor::default();
    let names = ["über", "üben"].map(String::from);
    "\u{fc}".bytes().for_each(|byte| drop(editor.input(byte, &mut String::new())));
    assert!(!editor.complete(2, &names, &mut String::new()), "it added something");
    assert_eq!(editor.before_cursor(), "übe");
    assert!(editor.complete(4, &names, &mut String::new()), "nothing to add: worth showing");
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
