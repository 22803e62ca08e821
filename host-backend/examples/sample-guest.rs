//! Writes the smallest guest to a file: it prints one byte (or the text given) on COM1 and powers off.

use host_backend::sample::{exit, print, pvh_elf};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), text) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: sample-guest FILE [TEXT]");
        std::process::exit(2);
    };
    let code = [print(text.as_deref().unwrap_or("!").as_bytes()), exit(0)].concat();
    std::fs::write(path, pvh_elf(&code))
}
