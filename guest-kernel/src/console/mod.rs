//! The console: the 16550 or the hypervisor's, the `log` facade, and output while the kernel fails.

mod hypervisor;
mod uart;

use crate::sync::Lock;
use crate::task::Event;
use crate::trap::irq;
use core::fmt::{self, Write};
use pvops::detect::Console;
use shared_abi::report::{self, Kind, LineWriter, Outcome};
use uart::Uart;

/// What prints and reads.
enum Device {
    Serial(Uart),
    Hypervisor(hypervisor::Console),
}

impl Device {
    fn of(console: Console) -> Self {
        match console {
            Console::Serial => Self::Serial(Uart::new(shared_abi::board::COM1_PORT)),
            Console::Hypervisor { .. } => Self::Hypervisor(hypervisor::Console::new()),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Serial(uart) => uart.write(bytes),
            Self::Hypervisor(_) => hypervisor::write(bytes),
        }
    }
}

impl Write for Device {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

/// The console in use.
static DEVICE: Lock<Device> = Lock::new(Device::Serial(Uart::new(shared_abi::board::COM1_PORT)));
/// Which one it is, for those who cannot wait for the lock.
static CHOICE: spin::Once<Console> = spin::Once::new();

/// What a shell on this console has on its last line: messages appear above it. Empty while none waits for keys.
static PROMPT: Lock<heapless::String<PROMPT_MAX>> = Lock::new(heapless::String::new());
/// Bytes of a prompt, the line being typed, and the way back to the cursor. A longer one is not drawn again.
const PROMPT_MAX: usize = 640;
/// Back to the first column, and erase to the end of the line (ECMA-48, "CR" and "EL").
const ERASE_LINE: &[u8] = b"\r\x1b[K";

/// Notes what a shell has on the last line; nothing when it is empty.
pub fn set_prompt(text: &str) {
    let mut prompt = PROMPT.lock();
    prompt.clear();
    // One that is too long is not redrawn.
    let _ = prompt.push_str(text);
}

/// Collects a line, so that it goes out in few port accesses and is not torn by another task's.
struct Line(heapless::Vec<u8, 256>);

impl Line {
    fn flush(&mut self) {
        DEVICE.lock().write(&self.0);
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

/// Prints whole lines, above the line that a shell has.
pub fn print(arguments: fmt::Arguments<'_>) {
    above_the_prompt(|line| line.write_fmt(arguments));
}

/// Prints what a shell has to say, at the cursor.
pub fn print_in_place(text: &str) {
    let mut line = Line(heapless::Vec::new());
    let _ = line.write_str(text);
    line.flush();
}

fn above_the_prompt(write: impl FnOnce(&mut Line) -> fmt::Result) {
    let prompt = PROMPT.lock();
    let mut line = Line(heapless::Vec::new());
    if !prompt.is_empty() {
        let _ = line.0.extend_from_slice(ERASE_LINE);
    }
    // Writing to a line cannot fail.
    let _ = write(&mut line);
    let _ = line.write_str(&prompt);
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
    above_the_prompt(|line| {
        let out: &mut dyn Write = line;
        report::begin(out, kind, name, outcome).and_then(fields).and_then(LineWriter::end)
    });
}

/// Prints although the lock may be held: for code that never returns.
pub fn emergency(arguments: fmt::Arguments<'_>) {
    match DEVICE.try_lock() {
        Some(mut device) => {
            let _ = device.write_fmt(arguments);
        }
        None => {
            let _ = Device::of(CHOICE.get().copied().unwrap_or(Console::Serial)).write_fmt(arguments);
        }
    }
}

/// Waits until all output is out, without a lock: the machine is about to lose what is still in a FIFO.
pub fn drain() {
    if let Device::Serial(uart) = Device::of(CHOICE.get().copied().unwrap_or(Console::Serial)) {
        uart.drain();
    }
}

/// Sets the console up; input arrives after [`enable_input`].
pub fn init(console: Console) {
    CHOICE.call_once(|| console);
    let mut device = Device::of(console);
    if let Device::Serial(uart) = &mut device {
        uart.init();
    }
    *DEVICE.lock() = device;
    // The only logger, set once.
    let _ = log::set_logger(&Logger);
    log::set_max_level(log::LevelFilter::Info);
}

/// Takes an input byte.
pub fn read() -> Option<u8> {
    let read = || match &mut *DEVICE.lock() {
        Device::Serial(uart) => uart.read(),
        Device::Hypervisor(console) => console.read(),
    };
    read().or_else(|| {
        // With the last byte the device lets go of its line. A byte that came meanwhile has raised it again.
        let line = INPUT.get().and_then(|event| irq::take_line(event))?;
        let byte = read();
        irq::release(line);
        byte
    })
}

/// The event of the console's interrupt, from the time it is bound.
pub static INPUT: spin::Once<&'static Event> = spin::Once::new();

/// Lets the console interrupt when input arrives.
pub fn enable_input(event: &'static Event) {
    INPUT.call_once(|| event);
    if let Device::Serial(uart) = &mut *DEVICE.lock() {
        uart.enable_input();
    }
}

/// For tests of what a panic needs: holds the console's locks forever.
pub fn hold(what: fn() -> !) -> ! {
    let (_prompt, _device) = (PROMPT.lock(), DEVICE.lock());
    what()
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
