//! Decides for one device at each chance whether to lie; counts and logs the lies.

use super::later::Later;
use crate::config::hostile::Options;
use crate::config::lie::Lie;
use crate::devices::InterruptLine;
use crate::devices::output::Output;
use crate::virtio::balloon::BalloonHandle;
use crate::virtio::mmio::MmioTransport;
use serde_json::{Map, Value};
use shared_abi::virtio::DeviceType;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// The seed picks about one in so many kinds of lies, so that devices differ from each other, and some work for long.
const KINDS_ONE_IN: u32 = 4;

/// The liar of a device.
pub struct Liar {
    name: String,
    device_type: DeviceType,
    /// The seed and the device in one number.
    key: u64,
    rate: u32,
    active: [bool; Lie::COUNT],
    chances: [AtomicU64; Lie::COUNT],
    told: [AtomicU64; Lie::COUNT],
    log: Option<Arc<Output>>,
    /// Fields of the configuration that are not what the device says: offset and bytes.
    odd_fields: Mutex<Vec<(usize, Vec<u8>)>>,
    outside: Option<Outside>,
    transport: OnceLock<Weak<MmioTransport>>,
}

/// What a liar uses apart from its device.
struct Outside {
    line: Arc<dyn InterruptLine>,
    later: Arc<Later>,
    balloon: Option<BalloonHandle>,
}

impl Liar {
    /// That of the device with this name.
    pub fn new(options: &Options, name: &str, device_type: DeviceType, log: Option<Arc<Output>>) -> Self {
        let key = name.bytes().fold(mix(options.seed), |key, byte| mix(key ^ u64::from(byte)));
        let active = Lie::ALL.map(|lie| match &options.lies {
            _ if !lie.fits(device_type) => false,
            Some(named) => named.contains(&lie),
            None => Draw::new(key, lie, u64::MAX).one_in(KINDS_ONE_IN),
        });
        Self {
            name: name.into(),
            device_type,
            key,
            rate: options.rate,
            active,
            chances: [const { AtomicU64::new(0) }; Lie::COUNT],
            told: [const { AtomicU64::new(0) }; Lie::COUNT],
            log,
            odd_fields: Mutex::default(),
            outside: None,
            transport: OnceLock::new(),
        }
    }

    pub(super) fn with(self, line: Arc<dyn InterruptLine>, later: Arc<Later>, balloon: Option<BalloonHandle>) -> Self {
        Self { outside: Some(Outside { line, later, balloon }), ..self }
    }

    pub(super) fn attach(&self, transport: &Arc<MmioTransport>) {
        let _ = self.transport.set(Arc::downgrade(transport));
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn device_type(&self) -> DeviceType {
        self.device_type
    }

    /// A chance for a lie, taken or not.
    pub(super) fn chance(&self, lie: Lie) -> Option<Draw> {
        if !self.active[lie as usize] {
            return None;
        }
        let number = self.chances[lie as usize].fetch_add(1, Ordering::Relaxed);
        let mut draw = Draw::new(self.key, lie, number);
        draw.one_in(self.rate).then_some(draw)
    }

    /// Counts and logs a lie.
    pub(super) fn tell(&self, lie: Lie, what: impl Display) {
        let number = self.told[lie as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(log) = &self.log {
            log.write(format!("{}: {} {number}: {what}\n", self.name, lie.name()).as_bytes());
        }
    }

    /// How often each kind of lie was told, for kinds that were.
    pub fn told(&self) -> impl Iterator<Item = (Lie, u64)> + '_ {
        let count = |lie: Lie| self.told[lie as usize].load(Ordering::Relaxed);
        Lie::ALL.into_iter().map(move |lie| (lie, count(lie))).filter(|(_, count)| *count > 0)
    }

    /// The same for the statistics.
    pub fn counters(&self) -> Value {
        Value::Object(self.told().map(|(lie, count)| (lie.name().into(), count.into())).collect::<Map<_, _>>())
    }

    /// An interrupt without a cause.
    pub(super) fn interrupt(&self) {
        if let Some(outside) = &self.outside {
            outside.line.raise();
        }
    }

    /// An interrupt in so many milliseconds.
    pub(super) fn interrupt_in(&self, ms: u32) {
        if let Some(Outside { line, later, .. }) = &self.outside {
            let line = line.clone();
            later.put(ms, Box::new(move || line.raise()));
        }
    }

    /// Does something in so many milliseconds, and then has the device look at a queue.
    pub(super) fn look_in(&self, ms: u32, queue: usize, first: impl FnOnce() + Send + 'static) {
        let (Some(outside), Some(transport)) = (&self.outside, self.transport.get().cloned()) else { return };
        outside.later.put(
            ms,
            Box::new(move || {
                first();
                if let Some(transport) = transport.upgrade() {
                    transport.run_queue(queue);
                }
            }),
        );
    }

    pub(super) fn balloon(&self) -> Option<&BalloonHandle> {
        self.outside.as_ref().and_then(|outside| outside.balloon.as_ref())
    }

    pub(super) fn odd_fields(&self) -> MutexGuard<'_, Vec<(usize, Vec<u8>)>> {
        self.odd_fields.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a field of the configuration an odd value until the next reset.
    pub(super) fn set_field(&self, offset: usize, bytes: Vec<u8>) {
        let mut fields = self.odd_fields();
        fields.retain(|(other, _)| *other != offset);
        fields.push((offset, bytes));
    }
}

/// Numbers that follow from the seed, the device, the kind of lie and the number of its chance.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    fn new(key: u64, lie: Lie, number: u64) -> Self {
        // By its name: another lie in the list must leave the seeds as they are.
        let key = lie.name().bytes().fold(key, |key, byte| mix(key ^ u64::from(byte)));
        Self(mix(key ^ mix(number)))
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit.max(1))) as u32
    }

    /// True in one of so many cases.
    pub(super) fn one_in(&mut self, cases: u32) -> bool {
        self.below(cases) == 0
    }

    /// One of these.
    pub(super) fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.below(N as u32) as usize]
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The mixing function of SplitMix64.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
