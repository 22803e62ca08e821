//! The balloon driver and a host that lies.

use crate::{Ending, Liar, Script, check, ending, offer, refused};
use balloon::{Balloon, FreeBlock, PageSource, Pfn, Report, Settings, State, Statistics};
use frontends::device::{Driver, RESTARTS};
use frontends::fake::{Chain, Memory};
use shared_abi::virtio::balloon::{Features, queues};
use shared_abi::virtio::{CommonFeatures, DeviceType};
use std::collections::BTreeSet;

const KERNEL_PAGES: u32 = 1500;
const FIRST_PAGE: u32 = 1000;
const RESERVE: usize = 200;
const CONFIG_LEN: usize = 16;

/// A kernel's page allocator that knows where each page is.
struct Kernel {
    free: BTreeSet<u32>,
    lent_blocks: usize,
}

impl PageSource for Kernel {
    fn take_page(&mut self) -> Option<Pfn> {
        if self.free.len() <= RESERVE { None } else { self.free.pop_first().map(Pfn::new) }
    }

    fn return_page(&mut self, page: Pfn) {
        assert!((FIRST_PAGE..FIRST_PAGE + KERNEL_PAGES).contains(&page.number()), "a page came back that never left");
        assert!(self.free.insert(page.number()), "a page came back twice");
    }

    fn spare_pages(&self) -> u32 {
        self.free.len().saturating_sub(RESERVE) as u32
    }

    fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    fn take_free_block(&mut self) -> Option<FreeBlock> {
        (self.lent_blocks < 3).then(|| {
            self.lent_blocks += 1;
            FreeBlock { first: Pfn::new(0x9000), pages: 4 }
        })
    }

    fn return_free_block(&mut self, _: FreeBlock, _: Report) {
        self.lent_blocks = self.lent_blocks.checked_sub(1).expect("a block came back that was never lent");
    }
}

pub(crate) fn run(memory: &'static Memory, script: &mut Script) -> Ending {
    let features = Features::from_bits_truncate(script.byte().into());
    let ring = CommonFeatures::EVENT_IDX | CommonFeatures::INDIRECT_DESC;
    let all = features.bits() | script.word() & ring.bits();
    let (transport, lied) = offer(script, DeviceType::BALLOON, all, 5, &[0; CONFIG_LEN]);
    let settings = Settings { batch: 64, report_blocks: 3, ..Default::default() };
    let mut balloon = match Balloon::new(transport.clone(), memory, settings) {
        Ok(balloon) => balloon,
        Err(error) => return refused(&error, memory, &transport, lied),
    };
    let offered = Features::from_bits_truncate(transport.model().offered);
    let numbers = queues(offered);
    let present = [Some(numbers.inflate), Some(numbers.deflate), numbers.stats, numbers.reporting];
    balloon.set_restart_limit(script.below(RESTARTS + 1));
    let mut liar =
        Liar::new(memory, &transport, &present.into_iter().flatten().collect::<Vec<_>>(), (script, lied), answer);
    let mut kernel = Kernel { free: (FIRST_PAGE..FIRST_PAGE + KERNEL_PAGES).collect(), lent_blocks: 0 };
    while !script.ended() {
        if script.one_in(3) {
            let wanted = script.below(2000);
            let fits = transport.model().config.len().min(4);
            transport.change_config(0, &wanted.to_le_bytes()[..fits]);
        }
        if script.one_in(4) {
            let (before, count) = (kernel.free.len(), script.below(500));
            let released = balloon.release_on_oom(&mut kernel, count);
            assert!(kernel.free.len() >= before + released as usize);
        }
        let source = liar.act(script);
        balloon.interrupt(source);
        balloon.poll(&mut kernel);
        assert!(kernel.free.len() >= RESERVE, "the reserve stays");
        check(&balloon, &mut liar);
    }
    if !liar.lied {
        transport.change_config(0, &100_u32.to_le_bytes());
        balloon.interrupt(frontends::InterruptSource::Config);
        // A batch a round, of 1500 pages at most, and those for want of memory beside it.
        for _ in 0..100 {
            liar.serve_all(script);
            balloon.poll(&mut kernel);
        }
        check(&balloon, &mut liar);
        assert!(matches!(balloon.state(), State::Steady | State::Shortfall { .. }), "{:?}", balloon.state());
    }
    let ending = ending(&liar);
    balloon.shut_down();
    for _ in 0..40 {
        balloon.poll(&mut kernel);
    }
    assert!(matches!(balloon.state(), State::Broken(_)));
    let lost = balloon.lost_pages();
    assert_eq!(kernel.free.len() as u32 + lost, KERNEL_PAGES, "each page came back or is counted as lost");
    let leaked = balloon.leaked_pages();
    drop(balloon);
    // Blocks that are lent to a device that does not reset are counted too, and are no DMA memory.
    assert_eq!(memory.allocated_pages() + 4 * kernel.lent_blocks, leaked, "each page is given back or counted");
    assert!((lost == 0 && leaked == 0) || transport.model().ignores_reset);
    ending
}

fn answer(_: usize, _: &Chain, _: &Memory, _: &mut Script) -> u32 {
    0
}
