//! The guest's console as lines. A thread reads, so that the guest never waits for us; lines are bounded.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// A longer line is cut into pieces: a hostile guest must not fill our memory.
const LINE_MAX: usize = 16 << 10;
/// How Xen begins each of its own lines, on the console that it shares with its first domain.
const XEN: &str = "(XEN) ";
/// Lines that may wait for us; then the reader stops, and with it the guest.
const BACKLOG: usize = 4096;

/// What came from the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line, without its end and without control characters.
    Line(String),
    /// A chunk of time passed without one.
    Quiet,
    /// The other side has closed it.
    Closed,
}

/// The receiving end.
#[derive(Debug)]
pub struct Console {
    lines: Receiver<String>,
    last: Instant,
}

impl Console {
    /// Starts to read.
    pub fn new(source: impl Read + Send + 'static) -> Self {
        let (sender, lines) = sync_channel(BACKLOG);
        thread::spawn(move || pump(source, &sender));
        Self { lines, last: Instant::now() }
    }

    /// The next line, or that there was none for `patience`.
    pub fn next(&mut self, patience: Duration) -> Event {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.last = Instant::now();
                Event::Line(line)
            }
            Err(RecvTimeoutError::Timeout) => Event::Quiet,
            Err(RecvTimeoutError::Disconnected) => Event::Closed,
        }
    }

    /// How long nothing has come.
    pub fn silence(&self) -> Duration {
        self.last.elapsed()
    }

    /// Starts to count the silence anew: we were the ones to wait for.
    pub fn forgive(&mut self) {
        self.last = Instant::now();
    }
}

/// Takes Xen's lines out of the lines that they tore: what came before is joined with what comes after. It does no harm where
/// there is no Xen.
#[derive(Default)]
struct Mended {
    /// The torn line so far.
    torn: String,
}

impl Mended {
    /// What a line makes whole: at most a torn line and one of Xen's.
    fn take(&mut self, line: String) -> [Option<String>; 2] {
        match line.find(XEN) {
            Some(0) => [None, Some(line)],
            Some(at) if self.torn.len() + at < LINE_MAX => {
                self.torn.push_str(&line[..at]);
                [None, Some(line[at..].to_owned())]
            }
            _ if self.torn.is_empty() => [None, Some(line)],
            _ if self.torn.len() + line.len() > LINE_MAX => [self.rest(), Some(line)],
            _ => [None, self.rest().map(|torn| torn + &line)],
        }
    }

    fn rest(&mut self) -> Option<String> {
        (!self.torn.is_empty()).then(|| std::mem::take(&mut self.torn))
    }
}

fn pump(mut source: impl Read, lines: &SyncSender<String>) {
    let mut buffer = [0; 4096];
    let (mut line, mut mended) = (Vec::new(), Mended::default());
    loop {
        let len = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for byte in &buffer[..len] {
            let ended = *byte == b'\n';
            if !ended {
                line.push(*byte);
            }
            if ended || line.len() >= LINE_MAX {
                let whole = mended.take(printable(&line)).into_iter().flatten();
                if whole.map(|line| lines.send(line)).any(|sent| sent.is_err()) {
                    return;
                }
                line.clear();
            }
        }
    }
    let last = if line.is_empty() { [None, None] } else { mended.take(printable(&line)) };
    for line in last.into_iter().flatten().chain(mended.rest()) {
        // The receiver may be gone.
        let _ = lines.send(line);
    }
}

/// The text of a line without terminal control: escape sequences and control characters are dropped.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            // CSI: parameters up to a final byte. Anything else: one character.
            if chars.next() == Some('[') {
                while chars.next().is_some_and(|char| !('\u{40}'..='\u{7e}').contains(&char)) {}
            }
        } else if !char.is_control() || char == '\t' {
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn lines(bytes: &'static [u8]) -> Vec<String> {
        let mut console = Console::new(bytes);
        let mut lines = Vec::new();
        while let Event::Line(line) = console.next(SOON) {
            lines.push(line);
        }
        lines
    }

    #[test]
    fn lines_come_without_their_ends_and_the_last_may_have_none() {
        assert_eq!(lines(b"one\r\n\r\ntwo\nthree"), ["one", "", "two", "three"]);
    }

    #[test]
    fn lines_that_xen_tore_are_whole_again_and_its_own_come_at_once() {
        let torn = b"@check mm/x (XEN) d0v0 one\r\n(XEN) two\r\nok n=1\r\nnext\n";
        assert_eq!(lines(torn), ["(XEN) d0v0 one", "(XEN) two", "@check mm/x ok n=1", "next"]);
        assert_eq!(lines(b"a(XEN) b\nc(XEN) d\ne"), ["(XEN) b", "(XEN) d", "ace"]);
        assert_eq!(lines(b"prompt> (XEN) crashed\n"), ["(XEN) crashed", "prompt> "]);
        let long = [vec![b'x'; LINE_MAX - 10], b"(XEN) y\n".to_vec(), vec![b'z'; 100]].concat();
        let pieces = lines(Box::leak(long.into_boxed_slice()));
        assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [7, LINE_MAX - 10, 100]);
    }

    #[test]
    fn terminal_control_is_taken_out() {
        assert_eq!(lines(b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\x07 \x1b[1;31mred\n"), ["SeaBIOS red"]);
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let pieces = lines(Box::leak(vec![b'x'; 3 * LINE_MAX + 5].into_boxed_slice()));
        assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [LINE_MAX, LINE_MAX, LINE_MAX, 5]);
    }

    #[test]
    fn a_closed_console_is_distinguished_from_a_quiet_one() {
        let (reader, writer) = io::pipe().unwrap();
        let mut console = Console::new(reader);
        assert_eq!(console.next(Duration::from_millis(1)), Event::Quiet);
        drop(writer);
        assert_eq!(console.next(SOON), Event::Closed);
    }
}
