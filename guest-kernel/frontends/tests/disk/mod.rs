//! A disk for tests of the block driver: the device's side of its queue, over a vector of bytes.
#![allow(dead_code, reason = "each test file uses its part")]

use frontends::DmaPages;
use frontends::block::{Block, Settings};
use frontends::fake::{Chain, DeviceQueue, FakeTransport, Memory};
use virtio_abi::DeviceType;
use virtio_abi::blk::{Config, RequestHeader, RequestStatus, RequestType, Segment};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const PAGES: usize = 128;

pub(crate) struct Disk {
    pub(crate) memory: &'static Memory,
    pub(crate) transport: FakeTransport,
    pub(crate) queue: DeviceQueue,
    pub(crate) data: Vec<u8>,
    /// Every chain that was served.
    pub(crate) chains: Vec<Chain>,
    /// Every range of a discard or write-zeroes.
    pub(crate) ranges: Vec<(u64, u32, u32)>,
    /// Answer this request, counted from the start, with an error.
    pub(crate) fail_at: Option<usize>,
    pub(crate) newest_first: bool,
}

pub(crate) fn config(capacity: u64) -> Config {
    Config { capacity, seg_max: 126, ..Config::default() }
}

pub(crate) fn transport(features: u64, config: Config) -> FakeTransport {
    FakeTransport::new(DeviceType::BLOCK, features, 1, config.as_bytes())
}

pub(crate) fn pair(features: u64, config: Config, settings: Settings) -> (Block<FakeTransport>, Disk) {
    let memory = Memory::leaked(PAGES);
    pair_with(memory, memory, features, config, settings)
}

/// With an allocator whose devices reach `memory`.
pub(crate) fn pair_with(
    dma: &'static dyn DmaPages,
    memory: &'static Memory,
    features: u64,
    config: Config,
    settings: Settings,
) -> (Block<FakeTransport>, Disk) {
    let transport = transport(features, config);
    let block = Block::new(transport.clone(), dma, settings).expect("the driver comes up");
    let queue = transport.queue(memory, 0);
    let data = vec![0; config.capacity as usize * 512];
    let (chains, ranges) = (Vec::new(), Vec::new());
    (block, Disk { memory, transport, queue, data, chains, ranges, fail_at: None, newest_first: false })
}

impl Disk {
    /// Serves what is available.
    pub(crate) fn serve(&mut self) {
        let mut chains: Vec<_> = std::iter::from_fn(|| self.queue.next_chain()).collect();
        if self.newest_first {
            chains.reverse();
        }
        for chain in chains {
            let len = self.execute(&chain);
            self.queue.complete(&chain, len);
            self.chains.push(chain);
        }
        self.queue.ask_for_notification();
    }

    /// Executes a request and writes its status; returns the bytes written.
    pub(crate) fn execute(&mut self, chain: &Chain) -> u32 {
        let input = chain.read(self.memory);
        let (header, payload) = RequestHeader::read_from_prefix(&input).unwrap();
        let start = header.sector as usize * 512;
        let room = chain.writable() as usize - 1;
        let mut answer = Vec::new();
        match header.request_type {
            RequestType::IN => answer.extend_from_slice(&self.data[start..start + room]),
            RequestType::OUT => self.data[start..start + payload.len()].copy_from_slice(payload),
            RequestType::FLUSH => assert!(payload.is_empty()),
            RequestType::GET_ID => {
                answer.extend_from_slice(b"fake-disk");
                answer.resize(20, 0);
            }
            RequestType::DISCARD | RequestType::WRITE_ZEROES => {
                let range = Segment::read_from_bytes(payload).unwrap();
                self.ranges.push((range.sector, range.num_sectors, range.flags));
                let start = range.sector as usize * 512;
                self.data[start..start + range.num_sectors as usize * 512].fill(0);
            }
            other => panic!("the driver sent {other:?}"),
        }
        let failed = self.fail_at == Some(self.chains.len());
        answer.resize(room, 0);
        answer.push(if failed { RequestStatus::IOERR.0 } else { RequestStatus::OK.0 });
        chain.write(self.memory, &answer)
    }
}

pub(crate) fn request_types(disk: &Disk) -> Vec<u32> {
    let first = |chain: &Chain| disk.memory.read(chain.segments[0].address, 4);
    disk.chains.iter().map(|chain| u32::from_le_bytes(first(chain).try_into().unwrap())).collect()
}
