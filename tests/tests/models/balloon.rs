//! The balloon: our driver against the host's device, with the host's own count of what it gave back.

use crate::bridge::{FREE_FIRST, MEMORY, Rig, Slot, dma};
use balloon::{Balloon, FreeBlock, PageSource, Pfn, Report, Settings, State, Statistics};
use frontends::transport::MmioTransport;
use frontends::{Driver, InterruptSource};
use host_backend::virtio::balloon::{Balloon as Model, BalloonHandle};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

/// The pages of the DMA memory.
struct Kernel {
    free: Vec<u32>,
    reserve: usize,
    block: Option<FreeBlock>,
    reported: usize,
}

impl PageSource for Kernel {
    fn take_page(&mut self) -> Option<Pfn> {
        if self.free.len() > self.reserve { self.free.pop().map(Pfn::new) } else { None }
    }
    fn return_page(&mut self, page: Pfn) {
        self.free.push(page.number());
    }
    fn spare_pages(&self) -> u32 {
        self.free.len().saturating_sub(self.reserve) as u32
    }
    fn statistics(&self) -> Statistics {
        Statistics { free: Some(self.free.len() as u64 * 4096), total: Some(MEMORY), ..Statistics::default() }
    }
    fn take_free_block(&mut self) -> Option<FreeBlock> {
        self.block.take()
    }
    fn return_free_block(&mut self, _: FreeBlock, outcome: Report) {
        self.reported += usize::from(outcome == Report::Reported);
    }
}

struct Test {
    rig: Rig,
    handle: BalloonHandle,
    balloon: Balloon<MmioTransport<Slot>>,
    kernel: Kernel,
}

fn test() -> Test {
    let dma = dma();
    let model = Model::new(&dma.memory).unwrap();
    let handle = model.handle();
    let rig = Rig::new(dma, Box::new(model));
    let balloon = Balloon::new(rig.transport(), dma, Settings::default()).expect("the driver comes up");
    let free = (FREE_FIRST..(MEMORY / 4096) as u32).collect();
    Test { rig, handle, balloon, kernel: Kernel { free, reserve: 0, block: None, reported: 0 } }
}

impl Test {
    fn settle(&mut self) -> State {
        self.rig.model.process_event(EventSet::IN);
        self.balloon.interrupt(InterruptSource::Shared);
        for _ in 0..100 {
            let state = self.balloon.poll(&mut self.kernel);
            if !matches!(state, State::Inflating | State::Deflating) {
                return state;
            }
        }
        panic!("the balloon never rests");
    }
}

#[test]
fn both_sides_agree_on_every_page() {
    let mut test = test();
    let all = test.kernel.free.len();
    for target in [1000, 3000, 10, 0, 2048] {
        assert!(test.handle.set_target(target));
        assert_eq!(test.settle(), State::Steady);
        let numbers = test.handle.numbers();
        assert_eq!((numbers.actual_pages, numbers.returned_pages), (target, target.into()));
        assert_eq!((test.balloon.actual(), test.kernel.free.len()), (target, all - target as usize));
    }
    test.rig.assert_content();
    assert_eq!(test.rig.model.counters().errors.get(), 0);
}

#[test]
fn inflated_pages_are_given_back_to_the_system() {
    let mut test = test();
    let address = |page: u32| GuestAddress(u64::from(page) * 4096);
    let last = *test.kernel.free.last().unwrap();
    test.rig.dma.memory.write_obj(0x1234_u32, address(last)).unwrap();
    test.handle.set_target(1);
    test.settle();
    assert_eq!(test.rig.dma.memory.read_obj::<u32>(address(last)).unwrap(), 0);
}

#[test]
fn a_target_beyond_the_reserve_is_a_shortfall_on_both_sides() {
    let mut test = test();
    test.kernel.reserve = 500;
    let all = test.kernel.free.len() as u32;
    test.handle.set_target(test.handle.pages());
    let got = all - 500;
    assert_eq!(test.settle(), State::Shortfall { wanted: test.handle.pages(), got });
    assert_eq!(test.handle.numbers().actual_pages, got);
}

#[test]
fn out_of_memory_is_felt_by_the_host() {
    let mut test = test();
    test.handle.set_target(2000);
    test.settle();
    assert_eq!(test.balloon.release_on_oom(&mut test.kernel, 100), 100);
    let numbers = test.handle.numbers();
    assert_eq!((numbers.actual_pages, numbers.returned_pages), (1900, 1900));
}

#[test]
fn statistics_and_free_blocks_reach_the_host() {
    let mut test = test();
    test.kernel.block = Some(FreeBlock { first: Pfn::new(FREE_FIRST), pages: 512 });
    test.balloon.poll(&mut test.kernel);
    test.balloon.poll(&mut test.kernel);
    assert_eq!(test.kernel.reported, 1);
    let numbers = test.handle.numbers();
    assert_eq!(numbers.reported_total_pages, 512);
    assert_eq!(numbers.guest["free_memory"], test.kernel.free.len() as u64 * 4096);
    // The host asks again.
    test.kernel.free.truncate(100);
    test.handle.fresh_numbers(Duration::ZERO);
    test.rig.model.process_event(EventSet::IN);
    test.balloon.poll(&mut test.kernel);
    assert_eq!(test.handle.numbers().guest["free_memory"], 100 * 4096);
    test.rig.assert_content();
}
