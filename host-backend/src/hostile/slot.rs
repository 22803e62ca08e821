//! The registers of a lying device.

use super::config::{odd_field, overlay};
use super::liar::{Draw, Liar};
use crate::config::lie::Lie;
use crate::wrap::{Registers, SlotWrapper};
use shared_abi::virtio::mmio::Register;
use shared_abi::virtio::{CommonFeatures, DeviceType, Status, balloon, blk, console, net};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Reads of the status for which a reset is not confirmed, at most, unless it never is.
const PATIENCE_MAX: u32 = 1000;

/// Lies in registers.
pub(super) struct LyingSlot {
    liar: Arc<Liar>,
    written: Mutex<Written>,
}

/// What the driver wrote.
#[derive(Default)]
struct Written {
    device_features_sel: u32,
    driver_features_sel: u32,
    /// Features that were shown and that the device does not have.
    invented: u64,
    /// A reset that is not confirmed.
    ignored: Option<IgnoredReset>,
}

/// The device was reset: it only claims that it was not.
struct IgnoredReset {
    /// What it shows as its status.
    status: u32,
    /// For so many reads; `None` is for good.
    left: Option<u32>,
}

impl LyingSlot {
    /// Around a slot that has no driver yet.
    pub(super) fn new(liar: Arc<Liar>) -> Self {
        Self { liar, written: Mutex::default() }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says `lie`, if its chance is taken, instead of `value`.
    fn instead(&self, lie: Lie, register: Register, value: u32, odd: impl FnOnce(&mut Draw) -> u32) -> u32 {
        let Some(mut draw) = self.liar.chance(lie) else { return value };
        let odd = odd(&mut draw);
        if odd != value {
            self.liar.tell(lie, format_args!("{register:?} reads {odd:#x}, not {value:#x}"));
        }
        odd
    }

    fn status(&self, value: u32) -> u32 {
        let mut written = self.written();
        if let Some(ignored) = &mut written.ignored {
            let status = ignored.status;
            match &mut ignored.left {
                Some(0) => written.ignored = None,
                Some(left) => {
                    *left -= 1;
                    return status;
                }
                None => return status,
            }
        }
        drop(written);
        self.instead(Lie::Status, Register::Status, value, |draw| match draw.below(4) {
            0 => value | 1 << draw.pick([4, 5, 6, 7]),
            1 => value & !(1 << draw.pick([0, 1, 2, 3])),
            2 => value | (draw.next() as u32) << 8,
            _ => draw.next() as u32,
        })
    }

    fn write_status(&self, inner: &Registers, mut value: u32) {
        let before = inner.get(Register::Status);
        if value == 0 {
            let chance = self.liar.chance(Lie::Reset);
            inner.put(Register::Status, 0);
            let mut written = self.written();
            let ignored = written.ignored.take().or_else(|| self.ignore(chance?, before));
            *written = Written { ignored, ..Written::default() };
            return;
        }
        if self.written().ignored.is_some() {
            return;
        }
        let features_ok = u32::from(Status::FEATURES_OK.bits());
        if value & !before & features_ok != 0 && self.liar.chance(Lie::FeaturesRefused).is_some() {
            self.liar.tell(Lie::FeaturesRefused, "FEATURES_OK is refused");
            value &= !features_ok;
        }
        inner.put(Register::Status, value);
    }

    fn ignore(&self, mut draw: Draw, status: u32) -> Option<IgnoredReset> {
        // A device that has no status has nothing to forget.
        let status = Some(status).filter(|status| *status != 0)?;
        let left = if draw.one_in(3) { None } else { Some(draw.below(PATIENCE_MAX)) };
        match left {
            Some(reads) => self.liar.tell(Lie::Reset, format_args!("a reset is not confirmed for {reads} reads")),
            None => self.liar.tell(Lie::Reset, "a reset is never confirmed"),
        }
        Some(IgnoredReset { status, left })
    }
}

/// Bits that a device of a type may have, in half `half`.
fn features(device_type: DeviceType, half: u32) -> u32 {
    let own = match device_type {
        DeviceType::BLOCK => blk::Features::all().bits(),
        DeviceType::NET => net::Features::all().bits(),
        DeviceType::BALLOON => balloon::Features::all().bits(),
        DeviceType::CONSOLE => console::Features::all().bits(),
        _ => 0,
    };
    // With packed rings the driver would leave other memory to the device than it uses.
    let all = own | (CommonFeatures::all() - CommonFeatures::RING_PACKED).bits();
    (all >> (32 * half.min(1))) as u32
}

/// Flips some of the features.
fn flip(device_type: DeviceType, half: u32, value: u32, draw: &mut Draw) -> u32 {
    let likely = features(device_type, half);
    let mut value = value;
    for _ in 0..=draw.below(3) {
        let from = if draw.one_in(4) || likely == 0 { u32::MAX } else { likely };
        let bits = (0..32).map(|bit| 1_u32 << bit).filter(|bit| from & bit != 0);
        value ^= bits.clone().nth(draw.below(from.count_ones()) as usize).unwrap_or(0);
    }
    if half == 1 { value & !((CommonFeatures::RING_PACKED.bits() >> 32) as u32) } else { value }
}

impl SlotWrapper for LyingSlot {
    fn read(&self, register: Register, value: u32) -> u32 {
        let instead = |lie, odd: &dyn Fn(&mut Draw) -> u32| self.instead(lie, register, value, odd);
        match register {
            Register::MagicValue | Register::Version | Register::DeviceId => {
                instead(Lie::Identity, &|draw| draw.pick([0, 1, value ^ 1, value + 1, u32::MAX]))
            }
            Register::DeviceFeatures => {
                let half = self.written().device_features_sel;
                let shown = instead(Lie::Features, &|draw| flip(self.liar.device_type(), half, value, draw));
                if half < 2 {
                    self.written().invented |= u64::from(shown & !value) << (32 * half);
                }
                shown
            }
            Register::QueueSizeMax => instead(Lie::QueueSize, &|draw| {
                draw.pick([0, 1, 3, value.wrapping_sub(1), value * 2, 65535, 65536, u32::MAX])
            }),
            Register::QueueReady | Register::QueueReset => instead(Lie::QueueReady, &|_| value ^ 1),
            Register::InterruptStatus => instead(Lie::InterruptStatus, &|draw| match draw.below(5) {
                0 => 0,
                1 => value ^ 3,
                2 => value | 4,
                3 => u32::MAX,
                _ => draw.next() as u32,
            }),
            Register::ConfigGeneration => instead(Lie::Generation, &|draw| draw.next() as u32),
            Register::Status => self.status(value),
            _ => value,
        }
    }

    fn write(&self, inner: &Registers, register: Register, value: u32) {
        if register == Register::Status {
            return self.write_status(inner, value);
        }
        let mut written = self.written();
        if written.ignored.is_some() {
            return;
        }
        let mut value = value;
        match register {
            Register::DeviceFeaturesSel => written.device_features_sel = value,
            Register::DriverFeaturesSel => written.driver_features_sel = value,
            // What the device does not have is accepted, and does not work.
            Register::DriverFeatures => {
                value &= match written.driver_features_sel {
                    0 => !written.invented as u32,
                    _ => (!written.invented >> 32) as u32,
                };
            }
            _ => {}
        }
        drop(written);
        inner.put(register, value);
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        if let Some(mut draw) = self.liar.chance(Lie::ConfigValue)
            && let Some(field) = odd_field(self.liar.device_type(), &mut draw)
        {
            self.liar.tell(Lie::ConfigValue, format_args!("{} reads {:02x?}", field.name, field.bytes));
            self.liar.set_field(field.offset, field.bytes);
        }
        overlay(&self.liar.odd_fields(), offset, data);
    }

    fn after_access(&self) {
        if self.liar.chance(Lie::InterruptSpurious).is_some() {
            self.liar.tell(Lie::InterruptSpurious, "an interrupt without a cause");
            self.liar.interrupt();
        }
    }
}
