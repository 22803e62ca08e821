//! Scripts: a seed decides the device, what its rings and registers hold, and when it is notified. After each script come
//! a reset and a well-formed request, after all of them one to another device.
//!
//! What a device may write to is memory of the script's own, its rings, or none; the balloon gets numbers of pages of the
//! script's own, or of none.

use crate::catalogue::Check;
#[cfg(feature = "guest")]
pub(crate) use code::play;
#[cfg(feature = "guest")]
use {
    crate::support::raw::Queue,
    crate::support::trial::{ARENA, Entry, INDIRECT, Judged, NEXT, SIZE, Trial, Unit, WRITE, announce, unjudged},
    crate::support::{Context, End, fail, skip},
    alloc::format,
    alloc::vec::Vec,
    shared_abi::report::Handling,
    shared_abi::virtio::ring,
    shared_abi::virtio::{CommonFeatures, DeviceType},
};

/// The check that plays scripts.
pub const SEEDED: &str = "hostile/seeded-scripts";

/// Scripts of the check.
#[cfg(feature = "guest")]
const SEEDS: u64 = 100;

/// The checks: this one plays on all devices.
pub(crate) const CHECKS: &[Check] = &[Check {
    name: SEEDED,
    rule: "A driver does not play dice",
    clause: "2.7 Split Virtqueues",
    method: "Scripts of seeds 0 to 99, each on one device: registers, rings and notifications by chance; a reset and a \
             well-formed request behind each",
    expectation: crate::catalogue::SURVIVES,
    level: crate::level::Level::Must,
    #[cfg(feature = "guest")]
    run: crate::catalogue::Run::Scripts(SEEDS),
}];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Half of the arena is for well-formed requests.
    const OWN: u32 = ARENA as u32 / 2;
    /// Pages that a script gives to a balloon.
    const PAGES: usize = 4;

    /// SplitMix64.
    struct Dice(u64);

    impl Dice {
        fn word(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        }

        fn below(&mut self, limit: u32) -> u32 {
            (self.word() >> 32) as u32 % limit
        }

        fn one_in(&mut self, cases: u32) -> bool {
            self.below(cases) == 0
        }
    }

    /// Plays the scripts of the seeds from `first` to before `end`.
    pub fn play(cx: &Context, first: u64, end: u64) -> Judged {
        let known = [DeviceType::BLOCK, DeviceType::NET, DeviceType::BALLOON, DeviceType::RNG, DeviceType::CONSOLE];
        let targets: Vec<_> = cx.targets.iter().filter(|target| known.contains(&target.device_type)).collect();
        if targets.is_empty() {
            return Err(unjudged(skip("there is no device")));
        }
        let mut refused = 0_u64;
        let mut announced = false;
        for (at, target) in targets.iter().enumerate() {
            let mut trial = Trial::on(cx, target).map_err(unjudged)?;
            if !announced {
                announce(SEEDED);
                announced = true;
            }
            for seed in (first..end).filter(|seed| *seed as usize % targets.len() == at) {
                let played = one(&mut trial, &mut Dice(seed)).and_then(|()| trial.revive());
                played.map_err(|end| match end {
                    End::Fail { what, expected, saw, .. } => {
                        trial.judge_failure(fail(&format!("seed {seed}: {what}"), expected, saw))
                    }
                    other => unjudged(other),
                })?;
            }
            refused += trial.refusals() as u64;
            trial.conclude()?;
        }
        let saw = format!(
            "{} scripts on {} devices; {refused} ended with DEVICE_NEEDS_RESET",
            end.saturating_sub(first),
            targets.len()
        );
        Ok((if refused == 0 { Handling::Handled } else { Handling::Rejected }, saw))
    }

    fn one(trial: &mut Trial<'_>, dice: &mut Dice) -> Result<(), End> {
        let features =
            if dice.one_in(3) { 0 } else { CommonFeatures::INDIRECT_DESC.bits() | CommonFeatures::EVENT_IDX.bits() };
        let mut unit = if dice.one_in(10) { Unit::prepare(trial.target, features)? } else { trial.unit(features)? };
        let is_balloon = trial.target.device_type == DeviceType::BALLOON;
        let pages = unit.dev.buffer(PAGES * 4096)?;
        let first = (pages.address() >> 12) as u32;
        for at in (0..OWN as usize).step_by(256) {
            // A balloon takes any word for the number of a page.
            let page = first + dice.below(PAGES as u32);
            let word = if is_balloon { u64::from(page) | 0xffff_ffff_0000_0000 } else { dice.word() };
            unit.arena.write64(at, word);
        }
        for _ in 0..2 + dice.below(10) {
            match dice.below(8) {
                0..=4 => rings(&mut unit, dice, is_balloon),
                5 => registers(&unit, dice),
                6 => {
                    let (at, width) = if dice.one_in(2) { (dice.below(64), 1) } else { (dice.below(16) * 4, 4) };
                    unit.dev.regs().config_write(at as usize, width, dice.word() as u32);
                }
                _ => {
                    let (at, queue) = (unit.queues[0].notify_at, dice.below(70));
                    (0..=dice.below(8)).for_each(|_| unit.dev.regs().notify(at, queue));
                }
            }
        }
        if unit.needs_reset() {
            trial.refused("DEVICE_NEEDS_RESET");
        }
        Ok(())
    }

    fn rings(unit: &mut Unit<'_>, dice: &mut Dice, is_balloon: bool) {
        let which = dice.below(unit.queues.len() as u32) as usize;
        // Mostly one chain that ends, so that devices get to see it; from time to time anything.
        let sane = !dice.one_in(4);
        for at in 0..SIZE {
            let entry = descriptor(unit, dice, is_balloon, sane.then_some(at));
            let queue = &unit.queues[which];
            let flags = ring_flags(entry.2);
            crate::support::raw::write_descriptor(&queue.table, at, entry.0, entry.1, flags, entry.3);
        }
        let count = dice.below(6);
        let queue: &mut Queue = &mut unit.queues[which];
        for _ in 0..count {
            let head = if dice.one_in(30) { dice.word() as u16 } else { dice.below(SIZE.into()) as u16 };
            queue.offer(head);
        }
        if dice.one_in(20) {
            queue.republish(dice.word() as u16);
        } else {
            queue.publish();
        }
        if dice.one_in(4) {
            queue.set_flags(dice.word() as u16);
            queue.available.write16(ring::used_event_offset(SIZE), dice.word() as u16);
        }
        if !dice.one_in(5) {
            queue.notify(&unit.dev);
        }
    }

    fn ring_flags(bits: u16) -> ring::DescriptorFlags {
        ring::DescriptorFlags::from_bits_retain(bits)
    }

    /// A descriptor; with `at`, one of short chains that end.
    fn descriptor(unit: &Unit<'_>, dice: &mut Dice, is_balloon: bool, at: Option<u16>) -> Entry {
        let offset = dice.below(OWN) & !7;
        let room = OWN - offset;
        let (address, len) = match dice.below(24) {
            0 => (1 << 45 | dice.word() >> 30, dice.word() as u32),
            1 => (u64::MAX - u64::from(dice.below(64)), dice.below(5000)),
            2 => (unit.at(offset as usize), 0),
            3 if !is_balloon => (unit.queues[0].table.address(), 16 * u32::from(SIZE)),
            4 if !is_balloon => (unit.queues[0].used.address(), ring::used_len(SIZE) as u32),
            5..=9 => (unit.at(offset as usize), room.min(16)),
            10..=12 => (unit.at(offset as usize), room.min(1)),
            _ => (unit.at(offset as usize), dice.below(room)),
        };
        // A balloon reads numbers of pages from where they are written: at multiples of 256, eight bytes of them.
        let in_arena = (unit.at(0)..unit.at(0) + u64::from(OWN)).contains(&address);
        let (address, len) =
            if is_balloon && in_arena { (unit.at((offset & !255) as usize), len.min(8) & !3) } else { (address, len) };
        match at {
            Some(at) => {
                let third = at % 3;
                let direction = if third == 2 || dice.one_in(3) && third == 1 { WRITE } else { 0 };
                let more = if third < 2 && at + 1 < SIZE { NEXT } else { 0 };
                (address, len, direction | more, at + 1)
            }
            None => {
                let bits = dice.word() as u16 & (NEXT | WRITE | INDIRECT);
                let flags = if dice.one_in(3) { bits } else { bits & !INDIRECT };
                (address, len, flags, dice.below(u32::from(SIZE) + 1) as u16)
            }
        }
    }

    /// Registers of queues only get addresses that no memory has.
    fn registers(unit: &Unit<'_>, dice: &mut Dice) {
        let regs = unit.dev.regs();
        match dice.below(5) {
            0 => regs.select_queue(dice.below(5)),
            1 => {
                let far = 1 << 45 | dice.word() >> 20;
                let size = [0, 1, 7, 16, 256, 1024, 0x8000, 0xffff][dice.below(8) as usize];
                regs.select_queue(dice.below(3));
                regs.place_queue(crate::support::registers::Layout {
                    size,
                    descriptors: far,
                    available: far,
                    used: far,
                });
                regs.set_queue_ready();
            }
            2 => regs.set_features(dice.word()),
            // Any status but 0, which would be a reset: whatever is sent then is sent to a device that has no queues.
            3 => regs.set_status(dice.word() as u8 | 1),
            _ => drop(unit.dev.take_interrupt()),
        }
    }
}
