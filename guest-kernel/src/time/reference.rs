//! The machine's counters of known frequency: HPET (IA-PC HPET Specification 1.0a, section 2.3), ACPI's power management
//! timer (ACPI 6.5, section 4.8.3.3), and the PIT.

use super::calibrate::Reference;
use crate::platform::acpi::{self, PmTimer};
use crate::platform::registers::Window;
use pvops::port;
use shared_abi::assert_layout;
use volatile::access::ReadOnly;
use volatile::{VolatileFieldAccess, VolatilePtr};
use zerocopy::FromBytes;

/// Frequency of ACPI's timer.
const PM_HZ: u64 = 3_579_545;

/// Those that the machine has, the best one first.
pub(super) fn all(has_legacy_chips: bool) -> impl Iterator<Item = Found> {
    let hpet = core::iter::once_with(|| Hpet::find().map(Found::Hpet));
    let pm = core::iter::once_with(|| acpi::pm_timer().map(Found::Pm));
    let pit = core::iter::once(has_legacy_chips.then(Pit::start).map(Found::Pit));
    hpet.chain(pm).chain(pit).flatten()
}

/// One of them.
#[derive(Debug)]
pub(super) enum Found {
    /// High precision event timer.
    Hpet(Hpet),
    /// ACPI's timer.
    Pm(PmTimer),
    /// Programmable interval timer.
    Pit(Pit),
    /// The TSC itself, for the timer alone.
    Tsc(u64),
}

impl Found {
    /// Lets it count anew, if it has an end.
    pub(super) fn restart(&mut self) {
        if let Self::Pit(pit) = self {
            *pit = Pit::start();
        }
    }
}

impl Reference for Found {
    fn name(&self) -> &'static str {
        match self {
            Self::Hpet(_) => "the HPET",
            Self::Pm(_) => "ACPI's timer",
            Self::Pit(_) => "the PIT",
            Self::Tsc(_) => "the TSC",
        }
    }

    fn hz(&self) -> u64 {
        match self {
            Self::Hpet(hpet) => hpet.hz,
            Self::Pm(_) => PM_HZ,
            Self::Pit(_) => Pit::HZ,
            Self::Tsc(hz) => *hz,
        }
    }

    fn mask(&self) -> u64 {
        match self {
            Self::Hpet(_) => u32::MAX.into(),
            Self::Pm(timer) => timer.mask.into(),
            Self::Pit(_) => u16::MAX.into(),
            Self::Tsc(_) => u64::MAX,
        }
    }

    fn read(&mut self) -> u64 {
        match self {
            Self::Hpet(hpet) => hpet.block().counter().read().into(),
            // SAFETY: the FADT names the port, and reading has no effect.
            Self::Pm(timer) => (unsafe { port::read_u32(timer.port) } & timer.mask).into(),
            // It counts down.
            Self::Pit(_) => (!Pit::count()).into(),
            Self::Tsc(_) => pvops::time::tsc(),
        }
    }
}

/// The registers of the HPET as words, up to the lower half of the main counter.
#[derive(Clone, Copy, FromBytes, VolatileFieldAccess)]
#[repr(C)]
struct HpetBlock {
    #[access(ReadOnly)]
    capabilities: u32,
    /// Femtoseconds of a tick.
    #[access(ReadOnly)]
    period: u32,
    reserved0: [u32; 2],
    configuration: u32,
    reserved1: [u32; 55],
    counter: u32,
}
assert_layout!(HpetBlock, size 0xf4, period at 4, configuration at 0x10, counter at 0xf0);

/// The HPET's main counter, of which the lower half is enough.
#[derive(Debug)]
pub(super) struct Hpet {
    registers: Window,
    hz: u64,
}

impl Hpet {
    const BLOCK: u64 = 1024;
    /// 100 ns.
    const PERIOD_MAX: u32 = 100_000_000;
    const ENABLE: u32 = 1;

    fn find() -> Option<Self> {
        const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
        let mut hpet = Self { registers: Window::map_words(acpi::hpet()?, Self::BLOCK)?, hz: 0 };
        let period = hpet.block().period().read();
        if period == 0 || period > Self::PERIOD_MAX {
            return None;
        }
        hpet.block().configuration().update(|configuration| configuration | Self::ENABLE);
        hpet.hz = FEMTOSECONDS / u64::from(period);
        Some(hpet)
    }

    fn block(&self) -> VolatilePtr<'static, HpetBlock> {
        self.registers.at(0)
    }
}

/// Channel 2 of the PIT, counting down from its largest value.
#[derive(Debug)]
pub(super) struct Pit(());

impl Pit {
    const HZ: u64 = 1_193_182;
    const CHANNEL_2: u16 = 0x42;
    const COMMAND: u16 = 0x43;
    const GATE: u16 = 0x61;

    fn start() -> Self {
        // SAFETY: the PIT and its gate touch no memory. Gate on, speaker off; channel 2, both bytes, mode 0.
        unsafe {
            port::write_u8(Self::GATE, port::read_u8(Self::GATE) & !2 | 1);
            port::write_u8(Self::COMMAND, 0b1011_0000);
            port::write_u8(Self::CHANNEL_2, 0xff);
            port::write_u8(Self::CHANNEL_2, 0xff);
        }
        Self(())
    }

    fn count() -> u16 {
        // SAFETY: as in `start`; latches channel 2 and reads both bytes.
        unsafe {
            port::write_u8(Self::COMMAND, 0b1000_0000);
            u16::from(port::read_u8(Self::CHANNEL_2)) | u16::from(port::read_u8(Self::CHANNEL_2)) << 8
        }
    }
}
