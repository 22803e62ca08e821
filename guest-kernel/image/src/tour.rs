//! The tour: the steps of `shared_abi::tour`, shown one after the other, then power-off.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use balloon::State;
use guest_kernel::net::CHANGED;
use guest_kernel::platform::power::{self, Ending};
use guest_kernel::system::System;
use guest_kernel::{console, fs, task};
use pvops::patch::Kind as PatchKind;
use pvops::time;
use shared_abi::report::{Kind, Outcome};
use shared_abi::tour::{
    DEFLATE, FILE, INFLATE, INFLATE_PAGES, PATIENCE_SECONDS, POWER_OFF, PVOPS, SAMPLE_FILE, SECTORS, WEB, WEB_PORT,
    WORLD,
};

/// Sectors that the write step uses: the last ones of the disk, apart from those of a partition table.
const SECTOR_COUNT: u64 = 16;
const SECTOR_BYTES: usize = SECTOR_COUNT as usize * 512;
/// How often a step that waits looks again.
const LOOK_AGAIN: u64 = 20_000_000;
/// From the request for a balloon target until it is clear that the host sets none.
const NOBODY: u64 = 10_000_000_000;

/// How long a balloon stays as it is for the other side to look at.
const SETTLE: u64 = 300_000_000;

/// How a step went, if not well.
enum Ended {
    Skip(String),
    Failure(String),
}

impl From<guest_kernel::devices::disk::DiskError> for Ended {
    fn from(error: guest_kernel::devices::disk::DiskError) -> Self {
        Self::Failure(error.to_string())
    }
}

impl From<String> for Ended {
    fn from(error: String) -> Self {
        Self::Failure(error)
    }
}

/// Takes the tour and switches the machine off.
pub(crate) async fn run(system: Rc<System>) {
    let mut failed = u32::from(guest_kernel::checks::run() > 0);
    let mut settle = |name, ended| failed += u32::from(!settled(name, ended));
    settle(WORLD, world(&system));
    settle(PVOPS, pvops());
    settle(FILE, file(&system));
    settle(SECTORS, sectors(&system).await);
    settle(WEB, web(&system).await);
    settle(INFLATE, balloon(&system, INFLATE, INFLATE_PAGES).await);
    settle(DEFLATE, balloon(&system, DEFLATE, 0).await);
    let outcome = if failed == 0 { Outcome::Success } else { Outcome::Failure };
    console::report(Kind::Tour, POWER_OFF, outcome, |line| line.field("failed", failed));
    power::end(Ending::Off)
}

/// Reports a step that did not succeed; false if it failed.
fn settled(name: &str, ended: Result<(), Ended>) -> bool {
    let (outcome, why) = match ended {
        Ok(()) => return true,
        Err(Ended::Skip(why)) => (Outcome::Skip, why),
        Err(Ended::Failure(why)) => (Outcome::Failure, why),
    };
    console::report(Kind::Tour, name, outcome, |line| line.field("why", why));
    outcome == Outcome::Skip
}

fn world(system: &System) -> Result<(), Ended> {
    let memory: u64 = system.ram.iter().map(|range| range.len()).sum();
    console::report(Kind::Tour, WORLD, Outcome::Success, |line| {
        line.field("world", system.found.world.backend().name)?
            .field("hypervisor", system.found.hypervisor())?
            .field("memory_kib", memory / 1024)
    });
    Ok(())
}

fn pvops() -> Result<(), Ended> {
    let patches = guest_kernel::patching::patches();
    console::report(Kind::Tour, PVOPS, Outcome::Success, |line| {
        line.field("sites", patches.sites())?
            .field("inline", patches.count(Some(PatchKind::Inline)))?
            .field("direct", patches.count(Some(PatchKind::Direct)))?
            .field("nop", patches.count(Some(PatchKind::Nop)))?
            .field("indirect", patches.count(None))
    });
    Ok(())
}

fn file(system: &System) -> Result<(), Ended> {
    let disk = system.devices.disks.first().ok_or_else(|| Ended::Skip("there is no disk".to_string()))?;
    let bytes = fs::fat::read(disk, SAMPLE_FILE).map_err(|error| format!("{SAMPLE_FILE}: {error}"))?;
    console::report(Kind::Tour, FILE, Outcome::Success, |line| {
        line.field("path", SAMPLE_FILE)?
            .field("bytes", bytes.len())?
            .field("crc32", format_args!("{:08x}", fs::crc32(&bytes)))
    });
    Ok(())
}

async fn sectors(system: &System) -> Result<(), Ended> {
    let disk = system.devices.disks.first().ok_or_else(|| Ended::Skip("there is no disk".to_string()))?;
    if disk.read_only() {
        return Err(Ended::Skip("the disk is read-only".to_string()));
    }
    let first = fs::fat::end_of_data(disk)?
        .checked_sub(SECTOR_COUNT)
        .ok_or_else(|| Ended::Skip("the disk is too small".to_string()))?;
    let before = disk.read(first, SECTOR_BYTES).await?;
    // Different in every sector and every run.
    let seed = time::now();
    let pattern: alloc::vec::Vec<u8> =
        (0..SECTOR_BYTES).map(|index| (seed >> (index % 8 * 8)) as u8 ^ (index / 512) as u8 ^ index as u8).collect();
    disk.write(first, &pattern).await?;
    disk.flush().await?;
    let after = disk.read(first, SECTOR_BYTES).await?;
    disk.write(first, &before).await?;
    disk.flush().await?;
    if after != pattern {
        let at = after.iter().zip(&pattern).position(|(seen, wanted)| seen != wanted).unwrap_or(0);
        return Err(Ended::Failure(format!("byte {at} read back as {:#04x}, written {:#04x}", after[at], pattern[at])));
    }
    console::report(Kind::Tour, SECTORS, Outcome::Success, |line| {
        line.field("first", first)?
            .field("count", SECTOR_COUNT)?
            .field("crc32", format_args!("{:08x}", fs::crc32(&after)))
    });
    Ok(())
}

/// Waits until `done`, at most as long as the other side is given.
async fn patiently<R>(done: impl FnMut() -> Option<R>) -> Option<R> {
    within(PATIENCE_SECONDS * 1_000_000_000, done).await
}

/// Waits until `done`, for so many nanoseconds at most.
async fn within<R>(patience: u64, mut done: impl FnMut() -> Option<R>) -> Option<R> {
    let deadline = time::now() + patience;
    loop {
        if let Some(result) = done() {
            return Some(result);
        }
        if time::now() > deadline {
            return None;
        }
        CHANGED.wait_until(time::now() + LOOK_AGAIN).await;
    }
}

async fn web(system: &System) -> Result<(), Ended> {
    if system.devices.card.is_none() {
        return Err(Ended::Skip("there is no network card".to_string()));
    }
    let Some(address) = patiently(|| system.net.address.get()).await else {
        return Err(Ended::Failure("no address by DHCP".to_string()));
    };
    let before = system.net.served.get();
    console::report(Kind::Tour, WEB, Outcome::Waiting, |line| line.field("port", WEB_PORT)?.field("address", address));
    if patiently(|| (system.net.served.get() > before).then_some(())).await.is_none() {
        return Err(Ended::Failure("the page was not fetched".to_string()));
    }
    console::report(Kind::Tour, WEB, Outcome::Success, |line| {
        line.field("port", WEB_PORT)?.field("bytes", system.net.last_page.get())
    });
    Ok(())
}

async fn balloon(system: &System, name: &str, pages: u32) -> Result<(), Ended> {
    let balloon = system.devices.balloon.as_ref().ok_or_else(|| Ended::Skip("there is no balloon".to_string()))?;
    // The host sets the target, not the guest.
    if !balloon.set_target(pages) {
        console::report(Kind::Tour, name, Outcome::Waiting, |line| line.field("pages", pages));
        // A VMM that does not know of the tour never sets one.
        if within(NOBODY, || (balloon.target() == pages).then_some(())).await.is_none() {
            return Err(Ended::Skip("the host sets no balloon target".to_string()));
        }
    }
    let before = pvops::memory::reservation();
    let held = balloon.actual();
    let reached = patiently(|| match balloon.state() {
        State::Broken(why) => Some(Err(why.to_string())),
        _ if balloon.target() == pages && balloon.actual() == pages => Some(Ok(())),
        _ => None,
    });
    match reached.await {
        Some(Ok(())) => {}
        Some(Err(why)) => return Err(Ended::Failure(why)),
        None => {
            let (target, actual) = (balloon.target(), balloon.actual());
            return Err(Ended::Failure(format!("target {target}, actual {actual} pages, wanted {pages}")));
        }
    }
    if let (Some(before), Some(after)) = (before, pvops::memory::reservation())
        && before + u64::from(held) != after + u64::from(balloon.actual())
    {
        let moved = i64::from(balloon.actual()) - i64::from(held);
        return Err(Ended::Failure(format!("{moved} pages moved, but the hypervisor counted {before}, then {after}")));
    }
    let free = guest_kernel::mm::frames::FRAMES.lock().counts().free;
    console::report(Kind::Tour, name, Outcome::Success, |line| {
        line.field("pages", balloon.actual())?.field("free_kib", free * 4)
    });
    // The other side reads the host's number before the next step changes it.
    task::sleep(SETTLE).await;
    Ok(())
}
