//! An I/O APIC: an index register and a window to what it names (82093AA data sheet). The two accesses belong together, so
//! they are made under a lock.

use crate::types::Trigger;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use shared_abi::assert_layout;
use spin::mutex::SpinMutex;
use volatile::access::WriteOnly;
use volatile::{VolatileFieldAccess, VolatilePtr, VolatileRef};

const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
/// Redirection entry: level triggered, active low.
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
const VECTOR: u32 = 0xff;

/// The two registers.
pub(crate) trait Access {
    fn select(&mut self, index: u32);
    fn read(&mut self) -> u32;
    fn write(&mut self, value: u32);
}

/// The registers in memory.
#[derive(VolatileFieldAccess)]
#[repr(C)]
pub(crate) struct Block {
    #[access(WriteOnly)]
    index: u32,
    reserved: [u32; 3],
    window: u32,
}
assert_layout!(Block, size 0x14, index at 0, window at 0x10);

/// The same where they are mapped; before that, the value of an absent device.
pub(crate) struct Memory(Option<VolatileRef<'static, Block>>);

impl Memory {
    fn block(&mut self) -> Option<VolatilePtr<'_, Block>> {
        self.0.as_mut().map(VolatileRef::as_mut_ptr)
    }
}

impl Access for Memory {
    fn select(&mut self, index: u32) {
        if let Some(block) = self.block() {
            block.index().write(index);
        }
    }

    fn read(&mut self) -> u32 {
        self.block().map_or(u32::MAX, |block| block.window().read())
    }

    fn write(&mut self, value: u32) {
        if let Some(block) = self.block() {
            block.window().write(value);
        }
    }
}

/// An I/O APIC. Interrupt handlers use it too: callers have interrupts off.
pub(crate) struct Io<A = Memory> {
    registers: SpinMutex<A>,
    first_line: AtomicU32,
    /// 0 when it is not there.
    pins: AtomicU32,
}

impl Io {
    pub(crate) const fn none() -> Self {
        Self { registers: SpinMutex::new(Memory(None)), first_line: AtomicU32::new(0), pins: AtomicU32::new(0) }
    }

    /// Masks all pins of the one whose registers are mapped at `base`.
    ///
    /// # Safety
    /// The registers stay mapped, and nothing else uses them.
    pub(crate) unsafe fn take_over(&self, base: NonNull<Block>, first_line: u32) {
        // SAFETY: per the contract.
        self.registers.lock().0 = Some(unsafe { VolatileRef::new(base) });
        self.discover(first_line);
    }
}

impl<A: Access> Io<A> {
    #[cfg(test)]
    pub(crate) fn new(registers: A) -> Self {
        let io = Self { registers: SpinMutex::new(registers), first_line: AtomicU32::new(0), pins: AtomicU32::new(0) };
        io.discover(0);
        io
    }

    fn discover(&self, first_line: u32) {
        let version = self.update(VERSION, |_| None);
        if version == u32::MAX {
            return;
        }
        let pins = (version >> 16 & 0xff) + 1;
        (0..pins).for_each(|pin| self.set(low(pin), MASKED));
        self.first_line.store(first_line, Relaxed);
        self.pins.store(pins, Relaxed);
    }

    /// The pin of a line, if it is one of this chip's.
    pub(crate) fn pin(&self, line: u32) -> Option<u32> {
        line.checked_sub(self.first_line.load(Relaxed)).filter(|&pin| pin < self.pins.load(Relaxed))
    }

    /// Connects a pin to a vector of a CPU and leaves it masked.
    pub(crate) fn bind(&self, pin: u32, vector: u32, trigger: u32, cpu: u32) {
        let mode = [(Trigger::Level, LEVEL | ACTIVE_LOW), (Trigger::LevelHigh, LEVEL), (Trigger::EdgeLow, ACTIVE_LOW)]
            .into_iter()
            .find(|(named, _)| *named as u32 == trigger)
            .map_or(0, |(_, mode)| mode);
        self.set(low(pin), MASKED | vector | mode);
        self.set(low(pin) + 1, cpu << 24);
    }

    pub(crate) fn mask(&self, pin: u32) {
        self.update(low(pin), |entry| Some(entry | MASKED));
    }

    /// An unbound pin has vector 0: it stays masked.
    pub(crate) fn unmask(&self, pin: u32) {
        self.update(low(pin), |entry| (entry & VECTOR != 0).then_some(entry & !MASKED));
    }

    fn set(&self, register: u32, value: u32) {
        let mut registers = self.registers.lock();
        registers.select(register);
        registers.write(value);
    }

    /// Reads a register, and writes it if it is to change; all in one go. Returns what was read.
    fn update(&self, register: u32, change: impl FnOnce(u32) -> Option<u32>) -> u32 {
        let mut registers = self.registers.lock();
        registers.select(register);
        let value = registers.read();
        if let Some(new) = change(value) {
            registers.write(new);
        }
        value
    }
}

/// The lower half of a pin's redirection entry.
fn low(pin: u32) -> u32 {
    REDIRECTION + 2 * pin
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    /// A chip of 4 pins that lets others run between the two accesses, as an interrupt or another CPU would.
    struct Slow {
        chip: Arc<Chip>,
    }

    #[derive(Default)]
    struct Chip {
        index: AtomicUsize,
        registers: [AtomicU32; 0x18],
    }

    impl Access for Slow {
        fn select(&mut self, index: u32) {
            self.chip.index.store(index as usize, SeqCst);
            std::thread::sleep(Duration::from_micros(20));
        }

        fn read(&mut self) -> u32 {
            match self.chip.index.load(SeqCst) as u32 {
                VERSION => 3 << 16 | 0x11,
                index => self.chip.registers[index as usize].load(SeqCst),
            }
        }

        fn write(&mut self, value: u32) {
            self.chip.registers[self.chip.index.load(SeqCst)].store(value, SeqCst);
        }
    }

    #[test]
    fn accesses_of_two_cpus_do_not_mix() {
        let chip = Arc::new(Chip::default());
        let io = Io::new(Slow { chip: chip.clone() });
        (0..4).for_each(|pin| io.bind(pin, 0x30 + pin, Trigger::Edge as u32, 0));
        std::thread::scope(|scope| {
            for pin in 0..4 {
                let io = &io;
                scope.spawn(move || {
                    for _ in 0..50 {
                        io.unmask(pin);
                        io.mask(pin);
                    }
                });
            }
        });
        for pin in 0..4 {
            let entry = chip.registers[low(pin) as usize].load(SeqCst);
            assert_eq!(entry, MASKED | (0x30 + pin), "pin {pin} has another pin's entry");
        }
    }

    #[test]
    fn an_unbound_pin_stays_masked() {
        let chip = Arc::new(Chip::default());
        let io = Io::new(Slow { chip: chip.clone() });
        io.unmask(2);
        assert_eq!(chip.registers[low(2) as usize].load(SeqCst), MASKED);
        assert_eq!((io.pin(3), io.pin(4)), (Some(3), None));
    }
}
