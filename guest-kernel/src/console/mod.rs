//! The console: the 16550, the `log` facade, and output while the kernel fails.

mod uart;

use crate::sync::Lock;
use crate::task::Event;
use core::fmt::{self, Write};
use shared_abi::report::{self, Kind, LineWriter, Outcome};
use uart::Uart;

/// The serial port.
static SERIAL: Lock<Uart> = Lock::new(Uart::new(shared_abi::board::COM1_PORT));

/// Collects a line, so that it goes out in few port accesses and is not torn by another task's.
struct Line(heapless::Vec<u8, 256>);

impl Line {
    fn flush(&mut self) {
        SERIAL.lock().write(&self.0);
        self.0.clear();
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(128) {
            if self.0.extend_from_slice(chunk).is_err() {
                self.flush();
                let _ = self.0.extend_from_slice(chunk);
            }
        }
        Ok(())
    }
}

/// Prints.
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut line = Line(heapless::Vec::new());
    let _ = line.write_fmt(arguments);
    line.flush();
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($argument)*))) };
}

/// Prints a report line; `fields` adds to it.
pub fn report(
    kind: Kind,
    name: &str,
    outcome: Outcome,
    fields: impl FnOnce(LineWriter<&mut dyn Write>) -> Result<LineWriter<&mut dyn Write>, fmt::Error>,
) {
    let mut line = Line(heapless::Vec::new());
    let out: &mut dyn Write = &mut line;
    let _ = report::begin(out, kind, name, outcome).and_then(fields).and_then(LineWriter::end);
    line.flush();
}

/// Prints although the lock may be held: for code that never returns.
pub fn emergency(arguments: fmt::Arguments<'_>) {
    match SERIAL.try_lock() {
        Some(mut serial) => {
            let _ = serial.write_fmt(arguments);
        }
        None => {
            let _ = Uart::new(shared_abi::board::COM1_PORT).write_fmt(arguments);
        }
    }
}

/// Sets the serial port up. Output works before, input after.
pub fn init() {
    SERIAL.lock().init();
    // The only logger, set once.
    let _ = log::set_logger(&Logger);
    log::set_max_level(log::LevelFilter::Info);
}

/// Takes an input byte.
pub fn read() -> Option<u8> {
    SERIAL.lock().read()
}

/// The event of the serial port's interrupt, from the time it is bound.
pub static INPUT: spin::Once<&'static Event> = spin::Once::new();

/// Lets the serial port interrupt when input arrives.
pub fn enable_input(event: &'static Event) {
    INPUT.call_once(|| event);
    SERIAL.lock().enable_input();
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        print(format_args!("{level}{}\n", record.args()));
    }

    fn flush(&self) {}
}
