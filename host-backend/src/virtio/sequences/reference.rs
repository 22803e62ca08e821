//! What the registers of a virtio-mmio slot are for a driver, written from the specification (virtio 1.2, sections 2.1
//! "Device Status Field", 2.6 "Virtqueues", 3.1 "Device Initialization" and 4.2.2 "MMIO Device Register Layout"), not from our
//! transport. What a device does between its requests is not in it: it happens in turns ([`Reference::turn`]).
//!
//! Where the specification leaves open what happens to a driver that breaks a rule, the strictest answer is taken: the write
//! has no effect.

use crate::virtio::queue::Placement;
use std::ops::Range;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
pub(super) const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
pub(super) const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;
const VERSION_1: u64 = 1 << 32;
const RING_RESET: u64 = 1 << 40;
const QUEUE_SIZE_MAX: u32 = 256;

#[derive(Clone, Copy, Default)]
struct Queue {
    /// What the driver has written.
    written: Placement,
    /// Where it is live.
    live: Option<Placement>,
}

pub(super) struct Reference {
    device_id: u32,
    offered: u64,
    ram: Vec<Range<u64>>,
    status: u32,
    interrupts: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    features: u64,
    queue_sel: u32,
    queues: Vec<Queue>,
}

impl Reference {
    pub(super) fn new(device_id: u32, offered: u64, queues: usize, ram: Vec<Range<u64>>) -> Self {
        Self {
            device_id,
            offered,
            ram,
            status: 0,
            interrupts: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            features: 0,
            queue_sel: 0,
            queues: vec![Queue::default(); queues],
        }
    }

    /// 2.1.2: whether the device may use its queues.
    pub(super) fn is_live(&self) -> bool {
        self.has(DRIVER_OK) && !self.has(NEEDS_RESET)
    }

    pub(super) fn has(&self, status: u32) -> bool {
        self.status & status != 0
    }

    pub(super) fn live(&self) -> impl Iterator<Item = Option<Placement>> + '_ {
        self.queues.iter().map(|queue| queue.live)
    }

    /// Whether the selected queue is live.
    pub(super) fn selects_live(&self) -> bool {
        self.queues.get(self.queue_sel as usize).is_some_and(|queue| queue.live.is_some())
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.queue_sel as usize)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        // 4.2.2.2: "The driver MUST only use 32 bit wide and aligned reads and writes".
        let Ok(bytes) = data.try_into() else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            0x014 => self.device_features_sel = value,
            // 3.1.1 step 6: "The driver MUST NOT accept new feature bits after this step."
            0x020 if !self.has(FEATURES_OK) => {
                let shift = match self.driver_features_sel {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                self.features = self.features & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
            }
            0x024 => self.driver_features_sel = value,
            0x030 => self.queue_sel = value,
            0x038 => self.place(|place| place.size = value),
            0x044 => self.write_ready(value & 1 == 1),
            0x064 => self.interrupts &= !value,
            0x070 => self.write_status(value),
            0x080 => self.place(|place| low(&mut place.descriptors, value)),
            0x084 => self.place(|place| high(&mut place.descriptors, value)),
            0x090 => self.place(|place| low(&mut place.driver, value)),
            0x094 => self.place(|place| high(&mut place.driver, value)),
            0x0a0 => self.place(|place| low(&mut place.device, value)),
            0x0a4 => self.place(|place| high(&mut place.device, value)),
            // 2.6.1: only if VIRTIO_F_RING_RESET was negotiated.
            0x0c0 if value & 1 == 1 && self.has(FEATURES_OK) && self.features & RING_RESET != 0 => {
                if let Some(queue) = self.selected() {
                    *queue = Queue::default();
                }
            }
            _ => {}
        }
    }

    /// 4.2.2.2: the places of a queue are written while QueueReady is 0.
    fn place(&mut self, change: impl FnOnce(&mut Placement)) {
        if let Some(queue) = self.selected().filter(|queue| queue.live.is_none()) {
            change(&mut queue.written);
        }
    }

    /// 3.1.1 step 7: queues are set up once the features are agreed on.
    fn write_ready(&mut self, ready: bool) {
        let agreed = self.has(FEATURES_OK);
        let ram = self.ram.clone();
        let Some(queue) = self.selected() else { return };
        match (ready, queue.live) {
            (false, _) => queue.live = None,
            (true, None) if agreed => {
                let place = queue.written;
                if is_usable(place, &ram) {
                    queue.live = Some(place);
                } else {
                    self.fault();
                }
            }
            (true, _) => {}
        }
    }

    /// 2.1: bits are set one after the other, only a reset clears them, and DEVICE_NEEDS_RESET is the device's.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            *self = Self::new(self.device_id, self.offered, self.queues.len(), self.ram.clone());
            return;
        }
        let acceptable = self.features & !self.offered == 0 && self.features & VERSION_1 != 0;
        let was_ok = self.has(DRIVER_OK);
        self.status |= value & (ACKNOWLEDGE | DRIVER | FAILED);
        if value & FEATURES_OK != 0 && acceptable {
            self.status |= FEATURES_OK;
        }
        if value & DRIVER_OK != 0 && self.has(FEATURES_OK) {
            self.status |= DRIVER_OK;
        }
        if self.has(DRIVER_OK) && !was_ok && self.has(NEEDS_RESET) {
            self.interrupts |= CONFIG_CHANGE;
        }
    }

    /// 2.1.2: "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a device configuration change
    /// notification to the driver."
    fn fault(&mut self) {
        self.status |= NEEDS_RESET;
        if self.has(DRIVER_OK) {
            self.interrupts |= CONFIG_CHANGE;
        }
    }

    /// The device had a turn, after which the driver reads this. What it may have done is taken over.
    pub(super) fn turn(&mut self, status: u32, interrupts: u32) {
        if self.is_live() {
            if status & NEEDS_RESET != 0 {
                self.fault();
            }
            self.interrupts |= interrupts & USED_BUFFER;
        }
    }

    /// What a register reads as.
    pub(super) fn read(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.queue_sel as usize);
        match offset {
            0x000 => u32::from_le_bytes(*b"virt"),
            0x004 => 2,
            0x008 => self.device_id,
            0x00c => u32::from_le_bytes(*b"RNGS"),
            0x010 => match self.device_features_sel {
                0 => self.offered as u32,
                1 => (self.offered >> 32) as u32,
                _ => 0,
            },
            0x034 => queue.map_or(0, |_| QUEUE_SIZE_MAX),
            0x044 => queue.map_or(0, |queue| queue.live.is_some().into()),
            0x060 => self.interrupts,
            0x070 => self.status,
            // No such region: 4.2.2 "SHMLenLow".
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => u32::MAX,
            _ => 0,
        }
    }
}

/// 2.7: "Queue Size value is always a power of 2", the alignments, and "a device must be able to access" all of it.
fn is_usable(place: Placement, ram: &[Range<u64>]) -> bool {
    let size = u64::from(place.size);
    let parts = [(place.descriptors, 16, 16 * size), (place.driver, 2, 6 + 2 * size), (place.device, 4, 6 + 8 * size)];
    let is_memory = |(start, align, len): (u64, u64, u64)| {
        let Some(end) = start.checked_add(len) else { return false };
        start % align == 0 && ram.iter().any(|range| range.start <= start && end <= range.end)
    };
    (1..=u64::from(QUEUE_SIZE_MAX)).contains(&size) && size.is_power_of_two() && parts.into_iter().all(is_memory)
}

fn low(value: &mut u64, bits: u32) {
    *value = *value >> 32 << 32 | u64::from(bits);
}

fn high(value: &mut u64, bits: u32) {
    *value = u64::from(bits) << 32 | u64::from(*value as u32);
}
