//! The memory balloon.

use super::device::Dev;
use super::raw::{Buf, Dir, Queue, link};
use super::{Context, End, Row, Verdict, equal, holds, skip};
use alloc::format;
use core::mem::offset_of;
use shared_abi::virtio::DeviceType;
use shared_abi::virtio::balloon::{Config, Features, PAGE_SIZE, queues};

pub const ROWS: &[Row] = &[
    ("balloon/target-is-readable", |cx| {
        let balloon = Balloon::start(cx)?;
        let target = balloon.dev.regs().config_read(0, 4);
        equal("num_pages, read again", target, balloon.dev.regs().config_read(0, 4))
    }),
    ("balloon/actual-reads-back", |cx| {
        let balloon = Balloon::start(cx)?;
        [3, 0].into_iter().try_for_each(|value| {
            balloon.dev.regs().config_write(4, 4, value);
            equal("actual", value, balloon.dev.regs().config_read(4, 4))
        })
    }),
    ("balloon/inflate-is-answered", |cx| Balloon::start(cx)?.give(1).map(drop)),
    ("balloon/deflate-is-answered", |cx| round_trip(cx, 1)),
    ("balloon/inflate-takes-256-pages", |cx| round_trip(cx, 256)),
    ("balloon/buffers-in-flight-are-all-answered", in_flight),
    ("balloon/returned-page-is-zero-or-old", |cx| returned(cx, zero_or_old)),
    ("balloon/returned-page-is-usable", |cx| returned(cx, usable)),
    ("balloon/neighbours-are-left-alone", neighbours),
    ("balloon/reporting-is-answered", |cx| reported(cx, |_| Ok(()))),
    ("balloon/reported-page-is-zero-or-old", |cx| reported(cx, zero_or_old)),
    ("balloon/reported-page-is-usable", |cx| reported(cx, usable)),
    ("balloon/reported-page-holds-the-poison", reported_page_holds_the_poison),
];

const SEED: u8 = 0x3c;

struct Balloon<'a> {
    dev: Dev<'a>,
    inflate: Queue,
    deflate: Queue,
    reporting: Option<Queue>,
}

impl<'a> Balloon<'a> {
    fn start(cx: &'a Context) -> Result<Self, End> {
        Self::start_with(cx, Features::empty(), |_| Ok(()))
    }

    /// The same with more features, and something to do before DRIVER_OK.
    fn start_with(cx: &'a Context, more: Features, set_up: impl FnOnce(&Dev<'_>) -> Verdict) -> Result<Self, End> {
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
    fn names(&self, pages: &Buf) -> Result<Buf, End> {
        let count = pages.len() / PAGE_SIZE;
        let names = self.dev.buffer(4 * count)?;
        let first = (pages.address() / PAGE_SIZE as u64) as u32;
        (0..count).for_each(|n| names.write32(4 * n, first + n as u32));
        Ok(names)
    }

    fn inflate(&mut self, pages: &Buf) -> Verdict {
        let names = self.names(pages)?;
        send(&mut self.inflate, &self.dev, &names)
    }

    fn deflate(&mut self, pages: &Buf) -> Verdict {
        let names = self.names(pages)?;
        send(&mut self.deflate, &self.dev, &names)
    }

    /// Gives fresh pages.
    fn give(&mut self, count: usize) -> Result<Buf, End> {
        let pages = self.dev.buffer(count * PAGE_SIZE)?;
        self.inflate(&pages)?;
        Ok(pages)
    }
}

fn send(queue: &mut Queue, dev: &Dev<'_>, names: &Buf) -> Verdict {
    let head = queue.chain(0, &[link(names, Dir::Out)]);
    queue.send(dev, head);
    equal("used length", 0, queue.wait()?.len)?;
    dev.healthy()
}

fn round_trip(cx: &Context, count: usize) -> Verdict {
    let mut balloon = Balloon::start(cx)?;
    let pages = balloon.give(count)?;
    balloon.deflate(&pages)
}

fn in_flight(cx: &Context) -> Verdict {
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
}

fn returned(cx: &Context, check: fn(&Buf) -> Verdict) -> Verdict {
    let mut balloon = Balloon::start(cx)?;
    let page = balloon.dev.buffer(PAGE_SIZE)?;
    page.pattern(SEED);
    balloon.inflate(&page)?;
    balloon.deflate(&page)?;
    check(&page)
}

fn neighbours(cx: &Context) -> Verdict {
    let mut balloon = Balloon::start(cx)?;
    let pages = balloon.dev.buffer(3 * PAGE_SIZE)?;
    pages.fill(SEED);
    let middle = pages.part(PAGE_SIZE, PAGE_SIZE);
    balloon.inflate(&middle)?;
    balloon.deflate(&middle)?;
    equal("first byte changed before it", None, pages.part(0, PAGE_SIZE).first_not(SEED))?;
    equal("first byte changed behind it", None, pages.part(2 * PAGE_SIZE, PAGE_SIZE).first_not(SEED))
}

fn reported(cx: &Context, check: fn(&Buf) -> Verdict) -> Verdict {
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

fn reported_page_holds_the_poison(cx: &Context) -> Verdict {
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
}

fn zero_or_old(page: &Buf) -> Verdict {
    let (zero, old) = (page.first_not(0).is_none(), page.differs(SEED).is_none());
    holds(zero || old, "content of the page", "zero or what it was", "something else")
}

fn usable(page: &Buf) -> Verdict {
    page.pattern(SEED ^ 0xff);
    equal("first byte that is not as written", None, page.differs(SEED ^ 0xff))
}
