//! The block driver and a disk that lies.

use crate::{Ending, Liar, PAGES, Script, check, ending, offer, refused, settle};
use frontends::block::{Block, Request, Settings, Unmap};
use frontends::device::{Driver, RESTARTS};
use frontends::fake::{Chain, FakeTransport, Memory};
use frontends::memory::DmaBuffer;
use shared_abi::virtio::blk::RequestStatus;
use shared_abi::virtio::{CommonFeatures, DeviceType};

const CAPACITY: u64 = 64;
/// Capacity, largest segment, most segments; the rest is 0.
const CONFIG_LEN: usize = 60;

pub(crate) fn run(memory: &'static Memory, script: &mut Script) -> Ending {
    let mut config = [0; CONFIG_LEN];
    config[..8].copy_from_slice(&CAPACITY.to_le_bytes());
    config[8..12].copy_from_slice(&1024_u32.to_le_bytes());
    config[12..16].copy_from_slice(&2_u32.to_le_bytes());
    let ring = CommonFeatures::EVENT_IDX | CommonFeatures::INDIRECT_DESC;
    // Largest segment, most segments, flush.
    let features = script.word() & ring.bits() | 1 << 1 | 1 << 2 | 1 << 9;
    let (transport, lied) = offer(script, DeviceType::BLOCK, features, 1, &config);
    let settings = Settings { queue_size: 8, segments: 4, ..Default::default() };
    let mut block = match Block::new(transport.clone(), memory, settings) {
        Ok(block) => block,
        Err(error) => return refused(&error, memory, &transport, lied),
    };
    block.set_restart_limit(script.below(RESTARTS + 1));
    let mut liar = Liar::new(memory, &transport, &[0], (script, lied), answer);
    let (mut taken, mut ended) = (0, 0);
    while !script.ended() {
        taken += usize::from(block.submit(request(script, memory)).is_ok());
        block.kick();
        let source = liar.act(script);
        block.interrupt(source);
        ended += drain(&mut block, taken - ended);
        assert_eq!(block.pending(), taken - ended);
        check(&block, &mut liar);
    }
    if !liar.lied {
        // Each round ends what waited for room.
        for _ in 0..taken * 16 {
            liar.serve_all(script);
            ended += drain(&mut block, taken - ended);
            block.kick();
        }
        check(&block, &mut liar);
        assert_eq!(block.pending(), 0, "an honest disk has served all");
    }
    let ending = ending(&liar);
    block.shut_down();
    ended += drain(&mut block, taken - ended);
    assert_eq!((ended, block.pending()), (taken, 0), "each request ends once");
    let leaked = settle(block, memory);
    assert!((leaked == 0 || distrusted(&transport)) && leaked <= PAGES);
    ending
}

/// Whether the device did not show that it was reset.
fn distrusted(transport: &FakeTransport) -> bool {
    transport.model().ignores_reset
}

/// Takes all completions; there cannot be more than `pending`.
fn drain(block: &mut Block<FakeTransport>, pending: usize) -> usize {
    let count = std::iter::from_fn(|| block.poll()).take(pending + 1).count();
    assert!(count <= pending, "more requests ended than were in flight");
    count
}

fn request(script: &mut Script, memory: &'static Memory) -> Request {
    let sector = u64::from(script.below(CAPACITY as u32 / 2));
    let len = (script.below(9) as usize + 1) * 512;
    let buffer = || DmaBuffer::allocate(memory, len);
    match script.below(6) {
        0 => Request::Flush,
        1 => Request::Id,
        2 => Request::WriteZeroes { sector, sectors: 3, unmap: Unmap::Allow },
        3 => buffer().map_or(Request::Id, |buffer| Request::Write { sector, buffer }),
        _ => buffer().map_or(Request::Id, |buffer| Request::Read { sector, buffer }),
    }
}

/// Any status, usually a good one.
fn answer(_: usize, chain: &Chain, memory: &Memory, script: &mut Script) -> u32 {
    let status = if script.one_in(8) { script.byte() } else { RequestStatus::OK.0 };
    let len = chain.writable();
    let mut bytes = vec![script.byte(); len as usize];
    if let Some(last) = bytes.last_mut() {
        *last = status;
    }
    chain.write(memory, &bytes)
}
