//! The balloon: its target, and the statistics that the host asks for.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::host_action::HostAction,
    crate::support::changes::{PATIENCE, balloon, both, set_target},
    crate::support::device::{Dev, Target},
    crate::support::raw::{Dir, link, wait_until},
    crate::support::registers::Regs,
    crate::support::{Context, End, Verdict, equal, fail, holds, skip},
    alloc::boxed::Box,
    alloc::format,
    alloc::string::ToString,
    balloon::{Balloon, Settings, State},
    code::*,
    frontends::Driver,
    frontends::transport::{MmioTransport, PciTransport},
    guest_kernel::devices::balloon::Source,
    guest_kernel::devices::place::AnyTransport,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::balloon::{Features, queues, stat_tag},
};

const BALLOON: &str = "5.5.6 Device Operation";
const STATISTICS: &str = "5.5.6.3 Memory Statistics";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "outside/balloon-target-is-told",
        rule: "num_pages is the size that the host wants",
        clause: BALLOON,
        method: "Have the target set to 3, 700 and 0 pages",
        expectation: "num_pages reads so",
        run: |cx| {
            let dev = balloon(cx)?;
            [3, 700, 0].into_iter().try_for_each(|pages| set_target(cx, dev.target, pages))
        },
    },
    Check {
        name: "outside/balloon-target-moves-while-busy",
        rule: "The target may change at any time",
        clause: BALLOON,
        method: "Let our driver inflate; have the target moved up, down and up before it is there, and to 0 at the \
            end",
        expectation: "It ends with what was last wanted, and actual says so",
        run: |cx| {
            cx.can_request(HostAction::Balloon)?;
            let target = cx.device(DeviceType::BALLOON)?;
            // A reset, so that what an earlier check left is gone.
            drop(Dev::new(target)?);
            let mut driver = driver(target)?;
            let mut checked = Ok(());
            for (pages, until) in moves(cx) {
                // Nothing polls meanwhile: requests that are in flight stay there.
                checked = set_target(cx, target, pages).and_then(|()| {
                    driver.config_changed();
                    let before = driver.actual();
                    let there = |actual: u32| if before < until { actual >= until } else { actual <= until };
                    let came = wait_until(PATIENCE, || {
                        let state = driver.poll(&mut Source);
                        there(driver.actual()) && (until != pages || state == State::Steady)
                    });
                    let saw = format!("{} and {:?}", driver.actual(), driver.state());
                    holds(came, &format!("pages in the balloon within 5 s, target {pages}"), until, saw)
                });
                if checked.is_err() {
                    break;
                }
                if until == pages {
                    checked = equal("actual", pages, target.regs.config_read(4, 4));
                }
            }
            let left = set_target(cx, target, 0);
            // Whatever happened, the kernel gets its pages back.
            driver.stop(frontends::error::Violation::ShutDown);
            let empty = wait_until(PATIENCE, || {
                driver.poll(&mut Source);
                driver.actual() == 0
            });
            drop(driver);
            both(checked, left)?;
            holds(empty, "pages given back by our driver", "all", "not all")
        },
    },
    Check {
        name: "outside/statistics-wait-for-a-request",
        rule: "A used statistics buffer is a request for new ones, so without a request it stays",
        clause: STATISTICS,
        method: "Give statistics without a request, wait 50 ms",
        expectation: "The buffer is not used",
        run: |cx| with_statistics(cx, &KNOWN, Asking::Never),
    },
    Check {
        name: "outside/statistics-buffer-comes-back",
        rule: "The device uses the statistics buffer to ask for new ones",
        clause: STATISTICS,
        method: "Give statistics, have them asked for, twice",
        expectation: "The buffer is used, with length 0",
        run: |cx| with_statistics(cx, &KNOWN, Asking::Twice),
    },
    Check {
        name: "outside/statistics-unknown-and-unordered-are-taken",
        rule: "The device ignores tags that it does not know, and takes those that it does in any order",
        clause: "5.5.6.3.2 Device Requirements: Memory Statistics",
        method: "Give statistics with the tag 0x7a7a first and the others in descending order, have them asked for, \
            twice",
        expectation: "The buffer is used, with length 0; no DEVICE_NEEDS_RESET",
        run: |cx| with_statistics(cx, &[UNKNOWN, stat_tag::TOTAL_MEMORY, stat_tag::FREE_MEMORY], Asking::Twice),
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    /// Our balloon driver on a device that the checks have mapped. It is polled, not interrupted.
    pub fn driver(target: &Target) -> Result<Balloon<AnyTransport>, End> {
        let transport: Result<AnyTransport, _> = match &target.regs {
            Regs::Mmio(window) => MmioTransport::new(*window).map(|transport| Box::new(transport) as AnyTransport),
            Regs::Pci(windows, vectors) => PciTransport::new(windows.clone(), target.device_type, *vectors)
                .map(|transport| Box::new(transport) as AnyTransport),
        };
        let transport = transport.map_err(|error| crate::support::error(error.to_string()))?;
        let settings = Settings { batch: 32, ..Settings::default() };
        let driver = Balloon::new(transport, &guest_kernel::mm::dma::DMA, settings);
        driver.map_err(|error| fail("our driver", "up", error.to_string()))
    }

    /// Where the target goes, and where the balloon is when it moves on.
    pub fn moves(cx: &Context) -> [(u32, u32); 5] {
        [(900, 200), (40, 150), (600, 300), (80, 80), (0, 0)].map(|(pages, until)| {
            let most = cx.pages(pages);
            // On its way down the target stays below.
            let least = if most > pages && pages < until { most - cx.pages(1) } else { most };
            (least, if pages == until { most } else { until })
        })
    }

    /// Whether statistics are asked for.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Asking {
        Never,
        Twice,
    }

    /// What is given: as many as make the buffer a multiple of 6 bytes, which 5.5.6.3.1 asks for.
    pub const KNOWN: [u16; 3] = [stat_tag::FREE_MEMORY, stat_tag::TOTAL_MEMORY, stat_tag::AVAILABLE_MEMORY];

    /// An undefined tag.
    pub const UNKNOWN: u16 = 0x7a7a;

    pub fn with_statistics(cx: &Context, tags: &[u16], asking: Asking) -> Verdict {
        const STAT: usize = 10;
        const VALUE: u64 = 64 << 20;
        let wanted = Features::STATS_VQ | Features::FREE_PAGE_HINT | Features::REPORTING;
        let dev = Dev::with_features(cx.device(DeviceType::BALLOON)?, wanted.bits())?;
        let Some(number) = queues(Features::from_bits_truncate(dev.features)).stats else {
            return Err(skip("the balloon does not offer STATS_VQ"));
        };
        for queue in 0..2 {
            dev.queue(queue, 16)?;
        }
        let mut queue = dev.queue(number, 16)?;
        dev.start()?;
        let buf = dev.buffer(tags.len() * STAT)?;
        for (at, tag) in tags.iter().enumerate() {
            buf.part(at * STAT, 2).put(&tag.to_le_bytes());
            buf.part(at * STAT + 2, 8).put(&VALUE.to_le_bytes());
        }
        let mut give = |asked: bool| {
            let head = queue.chain(0, &[link(&buf, Dir::Out)]);
            queue.send(&dev, head);
            if !asked {
                wait_until(50_000_000, || false);
                return equal("used index of the statistics queue", 0, queue.used_index());
            }
            cx.request(HostAction::Statistics, None)?;
            equal("used length", 0, queue.wait()?.len)?;
            dev.healthy()
        };
        match asking {
            Asking::Never => give(false),
            Asking::Twice => give(true).and_then(|()| give(true)),
        }
    }
}
