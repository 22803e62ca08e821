//! Sets the clock and the timer up.
//!
//! The TSC's frequency comes from the first of these that has it: KVM's timing leaf (CPUID 0x40000010), CPUID 0x15 (with 0x16),
//! the clock page of KVM or Xen, and then a measurement against the HPET, ACPI's timer or the PIT. The timer needs none where
//! the local APIC has the TSC-deadline mode; else its frequency comes from the timing leaf or the same measurement.

mod calibrate;
mod reference;

use calibrate::{Measured, Reference, Stamp};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::fmt;
use pvops::detect::Surroundings;
use pvops::scale::Scale;
use pvops::time;
use pvops::worlds::native::apic::{self, Counting};
use pvops::worlds::native::tsc;
use pvops::worlds::pvclock;
use reference::Found;
use shared_abi::kvm::Features;

/// Sleep of the second measurement in nanoseconds, and how often it is tried.
const REFINE_WINDOW: u64 = 40_000_000;
const REFINE_ATTEMPTS: u32 = 5;
/// Assumed where nothing can be measured; times are wrong then, but pass.
const FALLBACK_HZ: u64 = 1_000_000_000;

/// What was measured, and what against.
static MEASURED: crate::sync::Lock<Option<(Found, Measured)>> = crate::sync::Lock::new(None);

/// Where the time comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// The clock.
    clock: &'static str,
    /// Frequency of the TSC in Hz, and where it comes from.
    tsc: (u64, &'static str),
    timer: Timer,
}

/// What interrupts at a time.
#[derive(Clone, Copy, Debug)]
enum Timer {
    Hypervisor,
    TscDeadline,
    /// The local APIC's timer, its frequency in Hz, and where that comes from.
    Local(u64, &'static str),
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mhz = |hz: u64| (hz / 1_000_000, hz / 100_000 % 10);
        let (clock, (hz, from)) = (self.clock, self.tsc);
        write!(f, "{clock}, TSC at {}.{} MHz ({from}), ", mhz(hz).0, mhz(hz).1)?;
        match self.timer {
            Timer::Hypervisor => f.write_str("timer of the hypervisor"),
            Timer::TscDeadline => f.write_str("timer by TSC deadline"),
            Timer::Local(hz, from) => write!(f, "timer at {}.{} MHz ({from})", mhz(hz).0, mhz(hz).1),
        }
    }
}

static SOURCES: spin::Once<Sources> = spin::Once::new();

/// Where the time comes from.
pub fn sources() -> Sources {
    const NONE: Sources = Sources { clock: "none", tsc: (0, "not detected yet"), timer: Timer::Hypervisor };
    SOURCES.get().copied().unwrap_or(NONE)
}

const UNKNOWN: &str = "a guess: nothing to measure against";

/// Sets clock and timer up. The interrupt chips are ready.
pub fn init(found: &Surroundings) -> Sources {
    if let Some(scale) = pvclock::scale_in_use() {
        tsc::set_scale(scale);
        let tsc = (scale.hz_of_nanoseconds(), "from the hypervisor's clock");
        return *SOURCES.call_once(|| Sources { clock: "xen", tsc, timer: Timer::Hypervisor });
    }
    let clock_scale = found.kvm.contains(Features::CLOCKSOURCE2).then(|| {
        // SAFETY: the feature is there; pvops is part of the image, and this is the first CPU.
        unsafe { pvclock::start_clock(crate::mm::image::physical, found.kvm) }
    });
    let clock = if clock_scale.is_some() { "kvm-clock" } else { "tsc" };
    let clock_scale = clock_scale.filter(|scale| scale.mul != 0);
    let known = known_tsc(found, clock_scale);
    let has_deadline = has_tsc_deadline();
    let timer_known = found.apic_khz.map(|khz| (u64::from(khz) * 1000, "from CPUID 0x40000010"));
    let measured = match known {
        // Nothing is left to measure but the timer, and that against the TSC.
        Some((hz, _)) if !has_deadline && timer_known.is_none() => measure(core::iter::once(Found::Tsc(hz))),
        Some(_) => None,
        None => measure(reference::all(found.has_legacy_chips)),
    };
    let by = measured.map(|(_, by)| by);
    let tsc = known.or(measured.map(|(measured, by)| (measured.tsc, by))).unwrap_or((FALLBACK_HZ, UNKNOWN));
    let timer = timer_known.or(measured.map(|(measured, by)| (measured.timer, by))).unwrap_or((FALLBACK_HZ, UNKNOWN));
    tsc::set_scale(clock_scale.unwrap_or(Scale::new(tsc.0, 1_000_000_000)));
    if has_deadline {
        apic::use_tsc_deadline(tsc.0);
    } else {
        apic::set_timer_hz(timer.0);
    }
    if known.is_none() && by.is_none() {
        log::warn!("time: neither CPUID, HPET, ACPI nor a PIT gives the TSC's frequency: times are wrong, but pass");
    }
    let timer = if has_deadline { Timer::TscDeadline } else { Timer::Local(timer.0, timer.1) };
    *SOURCES.call_once(|| Sources { clock, tsc, timer })
}

/// The TSC's frequency in Hz as CPUID or the hypervisor reports it, and which of them does.
fn known_tsc(found: &Surroundings, clock_scale: Option<Scale>) -> Option<(u64, &'static str)> {
    let timing = found.tsc_khz.map(|khz| (u64::from(khz) * 1000, "from CPUID 0x40000010"));
    let cpuid = || calibrate::from_cpuid(leaf(0x15), leaf(0x16)).map(|hz| (hz, "from CPUID 0x15"));
    timing.or_else(cpuid).or(clock_scale.map(|scale| (scale.hz_of_nanoseconds(), "from kvm-clock")))
}

/// EAX, EBX and ECX of a leaf; zeroes if it does not exist.
fn leaf(number: u32) -> [u32; 3] {
    if __cpuid(0).eax < number {
        return [0; 3];
    }
    let leaf = __cpuid_count(number, 0);
    [leaf.eax, leaf.ebx, leaf.ecx]
}

/// Intel SDM volume 2, CPUID leaf 1, ECX.
fn has_tsc_deadline() -> bool {
    const TSC_DEADLINE: u32 = 1 << 24;
    __cpuid(1).ecx & TSC_DEADLINE != 0
}

/// Measures TSC and timer against the first reference that counts.
fn measure(references: impl Iterator<Item = Found>) -> Option<(Measured, &'static str)> {
    let counting = Counting::start();
    let stamp = || Stamp { tsc: time::tsc(), timer: counting.ticks().into() };
    for mut reference in references {
        if let Some(measured) = calibrate::measure(&mut reference, stamp) {
            let name = reference.name();
            *MEASURED.lock() = Some((reference, measured));
            return Some((measured, name));
        }
    }
    None
}

/// Measures once more while the kernel has better things to do, over a time that makes the error a hundredth of what it
/// was. For a task; ends at once where nothing was measured.
pub async fn refine() {
    let Some((mut reference, measured)) = MEASURED.lock().take() else { return };
    if matches!(reference, Found::Tsc(_)) {
        return;
    }
    for _ in 0..REFINE_ATTEMPTS {
        reference.restart();
        let first = (reference.read(), time::tsc());
        crate::task::sleep(REFINE_WINDOW).await;
        let last = (reference.read(), time::tsc());
        // Other tasks may have kept this one from looking in time.
        let Some(tsc) = calibrate::refine(&reference, measured.tsc, [first, last]) else { continue };
        tsc::set_scale(Scale::new(tsc.max(1), 1_000_000_000));
        if apic::uses_tsc_deadline() {
            apic::use_tsc_deadline(tsc);
        } else {
            // Both were measured in the same window, so their ratio was right.
            apic::set_timer_hz((u128::from(measured.timer) * u128::from(tsc) / u128::from(measured.tsc)) as u64);
        }
        return;
    }
}
