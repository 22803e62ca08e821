//! The memory balloon.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::raw::{Buf, Dir, Queue, link},
    crate::support::{Context, End, Verdict, equal, holds, skip},
    alloc::format,
    code::*,
    core::mem::offset_of,
    shared_abi::virtio::DeviceType,
    shared_abi::virtio::balloon::{Config, Features, PAGE_SIZE, queues},
};

const OPERATION: &str = "5.5.6 Device Operation";
const DEVICE: &str = "5.5.6.2 Device Requirements: Device Operation";
const REPORTING: &str = "5.5.6.7 Free Page Reporting";

/// The checks.
pub(crate) const CHECKS: &[Check] = checks![
    Check {
        name: "balloon/target-is-readable",
        rule: "num_pages is the size that the host wants",
        clause: "5.5.4 Device configuration layout",
        method: "Read it twice",
        expectation: "The same twice",
        run: |cx| {
            let balloon = Balloon::start(cx)?;
            let target = balloon.dev.regs().config_read(0, 4);
            equal("num_pages, read again", target, balloon.dev.regs().config_read(0, 4))
        },
    },
    Check {
        name: "balloon/actual-reads-back",
        rule: "actual is the driver's to write",
        clause: "5.5.4 Device configuration layout",
        method: "Write 3 and 0, read after each",
        expectation: "As written",
        run: |cx| {
            let balloon = Balloon::start(cx)?;
            [3, 0].into_iter().try_for_each(|value| {
                balloon.dev.regs().config_write(4, 4, value);
                equal("actual", value, balloon.dev.regs().config_read(4, 4))
            })
        },
    },
    Check {
        name: "balloon/inflate-is-answered",
        rule: "Pages that are given are consumed",
        clause: OPERATION,
        method: "Give one page",
        expectation: "Used, with length 0",
        run: |cx| Balloon::start(cx)?.give(1).map(drop),
    },
    Check {
        name: "balloon/deflate-is-answered",
        rule: "Pages that are taken back are acknowledged",
        clause: OPERATION,
        method: "Give one page, take it back",
        expectation: "Used, with length 0",
        run: |cx| round_trip(cx, 1),
    },
    Check {
        name: "balloon/inflate-takes-256-pages",
        rule: "A buffer may name many pages",
        clause: OPERATION,
        method: "Give 256 pages in one buffer, take them back",
        expectation: "Used twice",
        run: |cx| round_trip(cx, 256),
    },
    Check {
        name: "balloon/buffers-in-flight-are-all-answered",
        rule: "Requests in flight are all served",
        clause: OPERATION,
        method: "Give 8 pages in 8 buffers with one notification",
        expectation: "Eight used elements",
        run: |cx| {
            let mut balloon = Balloon::start(cx)?;
            let pages = balloon.dev.buffer(8 * PAGE_SIZE)?;
            let names = balloon.names(&pages)?;
            for n in 0..8 {
                let head = balloon.inflate.chain(n, &[link(&names.part(4 * usize::from(n), 4), Dir::Out)]);
                balloon.inflate.offer(head);
            }
            balloon.inflate.publish();
            balloon.inflate.notify(&balloon.dev);
            balloon.inflate.skip(8)?;
            equal("used index", 8, balloon.inflate.used_index())?;
            balloon.deflate(&pages)
        },
    },
    Check {
        name: "balloon/returned-page-is-zero-or-old",
        rule: "A page that comes back has no other guest's content",
        clause: DEVICE,
        method: "Write a pattern to a page, give it, take it back, read",
        expectation: "Zero or the pattern",
        level: Should,
        run: |cx| returned(cx, zero_or_old),
    },
    Check {
        name: "balloon/returned-page-is-usable",
        rule: "A page that comes back is memory",
        clause: DEVICE,
        method: "Give a page, take it back, write, read",
        expectation: "As written",
        run: |cx| returned(cx, usable),
    },
    Check {
        name: "balloon/neighbours-are-left-alone",
        rule: "Only pages that were given lose their content",
        clause: DEVICE,
        method: "Give the middle of three pages",
        expectation: "The others keep theirs",
        run: neighbours,
    },
    Check {
        name: "balloon/reporting-is-answered",
        rule: "A free range that is reported is acknowledged",
        clause: REPORTING,
        method: "Report four pages, where offered",
        expectation: "Used",
        run: |cx| reported(cx, |_| Ok(())),
    },
    Check {
        name: "balloon/reported-page-is-zero-or-old",
        rule: "A reported page has its old content or none",
        clause: REPORTING,
        method: "Write a pattern, report, read after the acknowledgement",
        expectation: "Zero or the pattern",
        level: Should,
        run: |cx| reported(cx, zero_or_old),
    },
    Check {
        name: "balloon/reported-page-is-usable",
        rule: "A reported page is memory",
        clause: REPORTING,
        method: "Report, then write and read",
        expectation: "As written",
        run: |cx| reported(cx, usable),
    },
    Check {
        name: "balloon/reported-page-holds-the-poison",
        rule: "With PAGE_POISON a reported page changes to nothing but poison_val",
        clause: "5.5.6.7.2 Device Requirements: Free Page Reporting",
        method: "Where offered: write poison_val 0, then 0xa5a5a5a5, fill four pages with it, report them, read \
            after the acknowledgement",
        expectation: "poison_val in each word",
        run: |cx| {
            for poison in [0, 0xa5] {
                let mut balloon = Balloon::start_with(cx, Features::PAGE_POISON, |dev| {
                    dev.needs(Features::PAGE_POISON | Features::REPORTING)?;
                    dev.regs().config_write(offset_of!(Config, poison_val), 4, u32::from_le_bytes([poison; 4]));
                    Ok(())
                })?;
                let Some(queue) = &mut balloon.reporting else {
                    return Err(skip("the balloon does not offer reporting"));
                };
                let pages = balloon.dev.buffer(4 * PAGE_SIZE)?;
                pages.fill(poison);
                let head = queue.chain(0, &[link(&pages, Dir::In)]);
                queue.send(&balloon.dev, head);
                queue.wait()?;
                balloon.dev.healthy()?;
                equal(&format!("first byte that is not {poison:#x}"), None, pages.first_not(poison))?;
            }
            Ok(())
        },
    },
];

#[cfg(feature = "guest")]
mod code {
    use super::*;

    pub const SEED: u8 = 0x3c;

    pub struct Balloon<'a> {
        pub dev: Dev<'a>,
        pub inflate: Queue,
        pub deflate: Queue,
        pub reporting: Option<Queue>,
    }

    impl<'a> Balloon<'a> {
        pub fn start(cx: &'a Context) -> Result<Self, End> {
            Self::start_with(cx, Features::empty(), |_| Ok(()))
        }

        /// The same with more features, and something to do before DRIVER_OK.
        pub fn start_with(
            cx: &'a Context,
            more: Features,
            set_up: impl FnOnce(&Dev<'_>) -> Verdict,
        ) -> Result<Self, End> {
            let wanted = Features::STATS_VQ | Features::FREE_PAGE_HINT | Features::REPORTING | more;
            let dev = Dev::with_features(cx.device(DeviceType::BALLOON)?, wanted.bits())?;
            set_up(&dev)?;
            let numbers = queues(Features::from_bits_truncate(dev.features));
            let (inflate, deflate) = (dev.queue(numbers.inflate, 16)?, dev.queue(numbers.deflate, 16)?);
            let reporting = numbers.reporting.map(|number| dev.queue(number, 16)).transpose()?;
            dev.start()?;
            Ok(Self { dev, inflate, deflate, reporting })
        }

        /// A buffer that names the pages of another.
        pub fn names(&self, pages: &Buf) -> Result<Buf, End> {
            let count = pages.len() / PAGE_SIZE;
            let names = self.dev.buffer(4 * count)?;
            let first = (pages.address() / PAGE_SIZE as u64) as u32;
            (0..count).for_each(|n| names.write32(4 * n, first + n as u32));
            Ok(names)
        }

        pub fn inflate(&mut self, pages: &Buf) -> Verdict {
            let names = self.names(pages)?;
            send(&mut self.inflate, &self.dev, &names)
        }

        pub fn deflate(&mut self, pages: &Buf) -> Verdict {
            let names = self.names(pages)?;
            send(&mut self.deflate, &self.dev, &names)
        }

        /// Gives fresh pages.
        pub fn give(&mut self, count: usize) -> Result<Buf, End> {
            let pages = self.dev.buffer(count * PAGE_SIZE)?;
            self.inflate(&pages)?;
            Ok(pages)
        }
    }

    pub fn send(queue: &mut Queue, dev: &Dev<'_>, names: &Buf) -> Verdict {
        let head = queue.chain(0, &[link(names, Dir::Out)]);
        queue.send(dev, head);
        equal("used length", 0, queue.wait()?.len)?;
        dev.healthy()
    }

    pub fn round_trip(cx: &Context, count: usize) -> Verdict {
        let mut balloon = Balloon::start(cx)?;
        let pages = balloon.give(count)?;
        balloon.deflate(&pages)
    }

    pub fn returned(cx: &Context, check: fn(&Buf) -> Verdict) -> Verdict {
        let mut balloon = Balloon::start(cx)?;
        let page = balloon.dev.buffer(PAGE_SIZE)?;
        page.pattern(SEED);
        balloon.inflate(&page)?;
        balloon.deflate(&page)?;
        check(&page)
    }

    pub fn neighbours(cx: &Context) -> Verdict {
        let mut balloon = Balloon::start(cx)?;
        let pages = balloon.dev.buffer(3 * PAGE_SIZE)?;
        pages.fill(SEED);
        let middle = pages.part(PAGE_SIZE, PAGE_SIZE);
        balloon.inflate(&middle)?;
        balloon.deflate(&middle)?;
        equal("first byte changed before it", None, pages.part(0, PAGE_SIZE).first_not(SEED))?;
        equal("first byte changed after it", None, pages.part(2 * PAGE_SIZE, PAGE_SIZE).first_not(SEED))
    }

    pub fn reported(cx: &Context, check: fn(&Buf) -> Verdict) -> Verdict {
        let mut balloon = Balloon::start(cx)?;
        let Some(queue) = &mut balloon.reporting else {
            return Err(skip("the balloon does not offer reporting"));
        };
        let pages = balloon.dev.buffer(4 * PAGE_SIZE)?;
        let page = pages.part(0, PAGE_SIZE);
        page.pattern(SEED);
        let head = queue.chain(0, &[link(&pages, Dir::In)]);
        queue.send(&balloon.dev, head);
        queue.wait()?;
        balloon.dev.healthy()?;
        check(&page)
    }

    pub fn zero_or_old(page: &Buf) -> Verdict {
        let (zero, old) = (page.first_not(0).is_none(), page.differs(SEED).is_none());
        holds(zero || old, "content of the page", "zero or what it was", "something else")
    }

    pub fn usable(page: &Buf) -> Verdict {
        page.pattern(SEED ^ 0xff);
        equal("first byte that is not as written", None, page.differs(SEED ^ 0xff))
    }
}
