//! The host's side of a balloon, and a kernel's page allocator, for tests.
#![allow(dead_code, reason = "each test file uses its part")]

use balloon::{Balloon, FreeBlock, PageSource, Pfn, Report, Settings, Statistics};
use frontends::fake::{Chain, DeviceQueue, FakeTransport, Memory};
use frontends::ring::Access;
use std::collections::BTreeSet;
use virtio_abi::DeviceType;
use virtio_abi::balloon::{Config, Features, queues};
use zerocopy::IntoBytes;

/// Pages with numbers from 1000 on; never gives the last `reserve`.
pub(crate) struct Kernel {
    pub(crate) free: BTreeSet<u32>,
    pub(crate) reserve: usize,
    pub(crate) total: usize,
    pub(crate) blocks: Vec<FreeBlock>,
    pub(crate) returned_blocks: Vec<(FreeBlock, Report)>,
    pub(crate) returned: usize,
}

pub(crate) fn kernel(pages: u32, reserve: usize) -> Kernel {
    Kernel {
        free: (1000..1000 + pages).collect(),
        reserve,
        total: pages as usize,
        blocks: Vec::new(),
        returned_blocks: Vec::new(),
        returned: 0,
    }
}

impl PageSource for Kernel {
    fn take_page(&mut self) -> Option<Pfn> {
        if self.free.len() <= self.reserve { None } else { self.free.pop_first().map(Pfn::new) }
    }

    fn return_page(&mut self, page: Pfn) {
        assert!(self.free.insert(page.number()), "a page came back twice");
        assert!((1000..1000 + self.total as u32).contains(&page.number()), "a page came back that never left");
        self.returned += 1;
    }

    fn spare_pages(&self) -> u32 {
        self.free.len().saturating_sub(self.reserve) as u32
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            total: Some(self.total as u64 * 4096),
            free: Some(self.free.len() as u64 * 4096),
            ..Statistics::default()
        }
    }

    fn take_free_block(&mut self) -> Option<FreeBlock> {
        self.blocks.pop()
    }

    fn return_free_block(&mut self, block: FreeBlock, outcome: Report) {
        self.returned_blocks.push((block, outcome));
    }
}

pub(crate) struct Host {
    pub(crate) memory: &'static Memory,
    pub(crate) transport: FakeTransport,
    pub(crate) inflate: DeviceQueue,
    pub(crate) deflate: DeviceQueue,
    pub(crate) statistics: Option<DeviceQueue>,
    pub(crate) reporting: Option<DeviceQueue>,
    /// Pages that the guest gave and did not take back.
    pub(crate) pages: BTreeSet<u32>,
    /// It returns what it did not look at, so its own accounts are worth nothing.
    pub(crate) lies: bool,
    /// Sizes of the requests, by queue.
    pub(crate) inflations: Vec<usize>,
    pub(crate) deflations: Vec<usize>,
}

pub(crate) fn pair(features: Features, settings: Settings) -> (Balloon<FakeTransport>, Host) {
    let memory = Memory::leaked(64);
    let transport = FakeTransport::new(DeviceType::BALLOON, features.bits(), 5, Config::default().as_bytes());
    let balloon = Balloon::new(transport.clone(), memory, settings).expect("the driver comes up");
    let numbers = queues(features);
    let host = Host {
        memory,
        inflate: transport.queue(memory, numbers.inflate),
        deflate: transport.queue(memory, numbers.deflate),
        statistics: numbers.stats.map(|number| transport.queue(memory, number)),
        reporting: numbers.reporting.map(|number| transport.queue(memory, number)),
        transport,
        pages: BTreeSet::new(),
        lies: false,
        inflations: Vec::new(),
        deflations: Vec::new(),
    };
    (balloon, host)
}

impl Host {
    /// Sets the target.
    pub(crate) fn want(&self, pages: u32) {
        self.transport.change_config(0, &pages.to_le_bytes());
    }

    /// What the guest says it has given.
    pub(crate) fn actual(&self) -> u32 {
        u32::from_le_bytes(self.transport.model().config[4..8].try_into().unwrap())
    }

    fn numbers(&self, chain: &Chain) -> Vec<u32> {
        let bytes = chain.read(self.memory);
        bytes.chunks_exact(4).map(|entry| u32::from_le_bytes(entry.try_into().unwrap())).collect()
    }

    /// Serves the inflate and the deflate queue. True if there was anything.
    pub(crate) fn serve(&mut self) -> bool {
        let mut served = false;
        while let Some(chain) = self.inflate.next_chain() {
            let numbers = self.numbers(&chain);
            self.inflations.push(numbers.len());
            numbers
                .into_iter()
                .for_each(|page| assert!(self.pages.insert(page) || self.lies, "a page was given twice"));
            self.inflate.complete(&chain, 0);
            served = true;
        }
        while let Some(chain) = self.deflate.next_chain() {
            let numbers = self.numbers(&chain);
            self.deflations.push(numbers.len());
            numbers.into_iter().for_each(|page| assert!(self.pages.remove(&page) || self.lies, "a page was not ours"));
            self.deflate.complete(&chain, 0);
            served = true;
        }
        served
    }

    /// The blocks of the next report.
    pub(crate) fn next_report(&mut self) -> Option<(Chain, Vec<(u64, u32)>)> {
        let chain = self.reporting.as_mut()?.next_chain()?;
        assert!(chain.segments.iter().all(|segment| segment.access == Access::DeviceWrites));
        let blocks = chain.segments.iter().map(|segment| (segment.address, segment.len)).collect();
        Some((chain, blocks))
    }
}
