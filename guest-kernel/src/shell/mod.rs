//! The shell: a line editor and its commands, on the serial port and on the virtio console.

mod commands;
mod complete;
mod editor;
mod show;

use crate::console;
use crate::system::System;
use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use editor::{Editor, Outcome};

const PROMPT: &str = "ringside> ";

/// Where a shell reads and writes.
enum Terminal {
    Serial,
    Virtio(Rc<crate::devices::console::VirtioConsole>),
}

impl Terminal {
    async fn read(&self) -> u8 {
        match self {
            Self::Serial => loop {
                if let Some(byte) = console::read() {
                    return byte;
                }
                match console::INPUT.get() {
                    Some(event) => event.wait().await,
                    None => crate::task::sleep(10_000_000).await,
                }
            },
            Self::Virtio(console) => {
                let mut byte = [0];
                while console.read(&mut byte).await == 0 {}
                byte[0]
            }
        }
    }

    async fn write(&self, text: &str) {
        match self {
            Self::Serial => console::print_in_place(text),
            Self::Virtio(console) => {
                for (index, line) in text.split('\n').enumerate() {
                    if index > 0 {
                        console.write(b"\r\n").await;
                    }
                    console.write(line.as_bytes()).await;
                }
            }
        }
    }

    /// Notes what stands on the last line, where messages of the kernel arrive on the same terminal.
    fn keep(&self, editor: Option<&Editor>) {
        if let Self::Serial = self {
            let mut line = String::new();
            if let Some(editor) = editor {
                line.push_str(PROMPT);
                editor.show(&mut line);
            }
            console::set_prompt(&line);
        }
    }
}

/// The shell on the serial port; never returns.
pub async fn on_serial(system: Rc<System>) {
    run(system, Terminal::Serial).await;
}

/// The shell on the virtio console; never returns.
pub async fn on_virtio(system: Rc<System>, console: Rc<crate::devices::console::VirtioConsole>) {
    run(system, Terminal::Virtio(console)).await;
}

async fn run(system: Rc<System>, terminal: Terminal) {
    let mut editor = Editor::default();
    terminal.write("type help for the commands\n").await;
    terminal.write(PROMPT).await;
    terminal.keep(Some(&editor));
    loop {
        let byte = terminal.read().await;
        let mut out = String::new();
        match editor.input(byte, &mut out) {
            Outcome::Editing => {}
            Outcome::Complete => complete(&system, &mut editor, &mut out),
            Outcome::Line(line) => {
                terminal.keep(None);
                terminal.write("\n").await;
                if let Err(error) = commands::run(&system, &line, &mut out).await {
                    // Writing to a string cannot fail.
                    let _ = fmt::Write::write_fmt(&mut out, format_args!("error: {error}\n"));
                }
                out.push_str(PROMPT);
            }
        }
        terminal.write(&out).await;
        terminal.keep(Some(&editor));
    }
}

/// Completes the word at the cursor, or shows what it could become.
fn complete(system: &System, editor: &mut Editor, out: &mut String) {
    let (typed, names) = complete::names(system, editor.before_cursor());
    if editor.complete(typed, &names, out) {
        out.push('\n');
        for name in names {
            out.push_str(&name);
            out.push_str("  ");
        }
        out.push('\n');
        out.push_str(PROMPT);
        editor.show(out);
    }
}
