//! Sets the clock and the timer up: frequencies from the hypervisor where it tells them, else measured against the PIT.

use crate::boot::Page;
use core::fmt;
use pvops::detect::Surroundings;
use pvops::time::{self, Scale};
use pvops::{kvm, port};
use shared_abi::kvm::{ClockPage, Features};

/// Frequency of the PIT's input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// PIT ticks of one measurement: a quarter of a millisecond, so that the boot stays short.
const PIT_WINDOW: u16 = 300;
/// Reads of the PIT that are made at most: one that is not there does not stop the kernel.
const PIT_PATIENCE: u32 = 1_000_000;
/// Sleep of the second measurement in nanoseconds, and how often it is tried.
const REFINE_WINDOW: u64 = 40_000_000;
const REFINE_ATTEMPTS: u32 = 5;
/// Assumed where nothing can be measured; times are wrong then, but pass.
const FALLBACK_HZ: u64 = 1_000_000_000;

mod pit {
    pub(super) const CHANNEL_2: u16 = 0x42;
    pub(super) const COMMAND: u16 = 0x43;
    pub(super) const GATE: u16 = 0x61;
}

/// Frequencies of TSC and APIC timer as first measured.
static MEASURED: spin::Once<(u64, u64)> = spin::Once::new();
static CLOCK_PAGE: spin::Once<()> = spin::Once::new();
static mut KVM_CLOCK: Page<ClockPage> = Page(ClockPage {
    version: 0,
    pad0: 0,
    tsc_timestamp: 0,
    system_time: 0,
    tsc_to_system_mul: 0,
    tsc_shift: 0,
    flags: 0,
    pad: [0; 2],
});

/// Where the time comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// The clock.
    pub clock: &'static str,
    /// Who told the frequencies.
    pub frequencies: &'static str,
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, frequencies {}", self.clock, self.frequencies)
    }
}

static SOURCES: spin::Once<Sources> = spin::Once::new();

/// Where the time comes from.
pub fn sources() -> Sources {
    SOURCES.get().copied().unwrap_or(Sources { clock: "none", frequencies: "unknown" })
}

/// Sets clock and timer up. The interrupt chips are ready.
pub fn init(found: &Surroundings) -> Sources {
    if let Some(scale) = kvm::scale_in_use() {
        time::set_tsc_scale(scale);
        return *SOURCES.call_once(|| Sources { clock: "xen", frequencies: "from the hypervisor" });
    }
    let mut sources = Sources { clock: "tsc", frequencies: "from the hypervisor" };
    match (found.tsc_khz, found.apic_khz) {
        (Some(tsc), Some(apic)) => set(u64::from(tsc) * 1000, u64::from(apic) * 1000),
        (tsc, apic) => {
            let measured = measure();
            if measured.is_none() && (tsc.is_none() || apic.is_none()) {
                sources.frequencies = "unknown: no PIT to measure against";
            } else {
                sources.frequencies = "measured against the PIT";
            }
            let (tsc_hz, apic_hz) = measured.unwrap_or((FALLBACK_HZ, FALLBACK_HZ));
            set(tsc.map_or(tsc_hz, |khz| u64::from(khz) * 1000), apic.map_or(apic_hz, |khz| u64::from(khz) * 1000));
        }
    }
    if found.kvm.contains(Features::CLOCKSOURCE2) {
        CLOCK_PAGE.call_once(|| {
            let page = &raw mut KVM_CLOCK;
            // SAFETY: inside `call_once`, so this is the only reference; the feature is there.
            let scale = unsafe { kvm::start_clock(&mut (*page).0, crate::mm::image::physical(page.addr())) };
            if scale.mul != 0 {
                time::set_tsc_scale(scale);
            }
        });
        sources.clock = "kvm-clock";
    }
    *SOURCES.call_once(|| sources)
}

fn set(tsc_hz: u64, apic_hz: u64) {
    time::set_tsc_scale(Scale::new(tsc_hz.max(1), 1_000_000_000));
    time::set_timer_hz(apic_hz);
}

/// Frequencies of the TSC and of the local APIC's timer, within a percent; `None` without a PIT that counts.
fn measure() -> Option<(u64, u64)> {
    start_pit();
    time::start_counting();
    // Both ends right behind a tick, where the error is that of one read.
    let (first, tsc_start) = next_tick()?;
    let apic_start = time::timer_ticks();
    let mut patience = PIT_PATIENCE;
    while first.wrapping_sub(pit_count()) < PIT_WINDOW {
        patience = patience.checked_sub(1)?;
    }
    let (last, tsc_end) = next_tick()?;
    let apic = u64::from(time::timer_ticks() - apic_start);
    time::stop_counting();
    let ticks = u64::from(first.wrapping_sub(last));
    let hz = |count: u64| (count * PIT_HZ / ticks.max(1)).max(1);
    let measured = (hz(tsc_end - tsc_start), hz(apic));
    Some(*MEASURED.call_once(|| measured))
}

/// Measures once more while the kernel has better things to do, over a time that makes the error a hundredth of what it
/// was. For a task; ends at once where nothing was measured.
pub async fn refine() {
    let Some(&(tsc_hz, apic_hz)) = MEASURED.get() else { return };
    for _ in 0..REFINE_ATTEMPTS {
        start_pit();
        let Some((first, tsc_start)) = next_tick() else { return };
        crate::task::sleep(REFINE_WINDOW).await;
        let Some((last, tsc_end)) = next_tick() else { return };
        // The counter wraps after 55 ms: other tasks may have kept this one from looking in time.
        if tsc_end - tsc_start > tsc_hz / 1000 * 50 {
            continue;
        }
        let refined = (tsc_end - tsc_start) * PIT_HZ / u64::from(first.wrapping_sub(last)).max(1);
        // Both were measured in the same window, so their ratio was right.
        set(refined, (u128::from(apic_hz) * u128::from(refined) / u128::from(tsc_hz)) as u64);
        return;
    }
}

/// Lets channel 2 count down from its largest value.
fn start_pit() {
    // SAFETY: the PIT and its gate touch no memory. Gate on, speaker off; channel 2, both bytes, mode 0.
    unsafe {
        port::write_u8(pit::GATE, port::read_u8(pit::GATE) & !2 | 1);
        port::write_u8(pit::COMMAND, 0b1011_0000);
        port::write_u8(pit::CHANNEL_2, 0xff);
        port::write_u8(pit::CHANNEL_2, 0xff);
    }
}

fn pit_count() -> u16 {
    // SAFETY: as in `measure`; latches channel 2 and reads both bytes.
    unsafe {
        port::write_u8(pit::COMMAND, 0b1000_0000);
        u16::from(port::read_u8(pit::CHANNEL_2)) | u16::from(port::read_u8(pit::CHANNEL_2)) << 8
    }
}

/// Waits for the count to change; returns it with the TSC right behind.
fn next_tick() -> Option<(u16, u64)> {
    let before = pit_count();
    for _ in 0..PIT_PATIENCE {
        let count = pit_count();
        if count != before {
            return Some((count, time::tsc()));
        }
    }
    None
}
