//! The shell: a line editor and its commands, on the serial port and on the virtio console.

mod commands;
mod editor;

use crate::{System, console};
use alloc::rc::Rc;
use core::fmt;
use editor::{Editor, Outcome};

pub use commands::Bytes;

const PROMPT: &str = "ringside> ";

/// Where a shell reads and writes.
enum Terminal {
    Serial,
    Virtio(Rc<crate::vconsole::VirtioConsole>),
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
            Self::Serial => console::print(format_args!("{text}")),
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
}

/// The shell on the serial port; runs for ever.
pub async fn on_serial(system: Rc<System>) {
    run(system, Terminal::Serial).await;
}

/// The shell on the virtio console; runs for ever.
pub async fn on_virtio(system: Rc<System>, console: Rc<crate::vconsole::VirtioConsole>) {
    run(system, Terminal::Virtio(console)).await;
}

async fn run(system: Rc<System>, terminal: Terminal) {
    let mut editor = Editor::default();
    terminal.write("type help for the commands\n").await;
    terminal.write(PROMPT).await;
    loop {
        let byte = terminal.read().await;
        let mut echo = alloc::string::String::new();
        match editor.input(byte, &mut echo) {
            Outcome::Editing => terminal.write(&echo).await,
            Outcome::Line(line) => {
                terminal.write("\n").await;
                let mut out = alloc::string::String::new();
                if let Err(error) = commands::run(&system, &line, &mut out).await {
                    // Writing to a string cannot fail.
                    let _ = fmt::Write::write_fmt(&mut out, format_args!("error: {error}\n"));
                }
                terminal.write(&out).await;
                terminal.write(PROMPT).await;
            }
        }
    }
}
