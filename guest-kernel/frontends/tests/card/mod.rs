//! A network card for tests: the device's side of its queues.
#![allow(dead_code, reason = "each test file uses its part")]

use frontends::DmaPages;
use frontends::fake::{DeviceQueue, FakeTransport, Memory};
use frontends::net::{Net, Settings};
use virtio_abi::DeviceType;
use virtio_abi::net::{Config, Header};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

pub(crate) struct Card {
    pub(crate) memory: &'static Memory,
    pub(crate) transport: FakeTransport,
    pub(crate) receive: DeviceQueue,
    pub(crate) transmit: DeviceQueue,
}

pub(crate) fn config() -> Config {
    Config { mac: MAC, status: 1, max_virtqueue_pairs: 1, mtu: 1400 }
}

pub(crate) fn transport(features: u64, config: Config) -> FakeTransport {
    FakeTransport::new(DeviceType::NET, features, 2, config.as_bytes())
}

pub(crate) fn pair(features: u64, config: Config, settings: Settings) -> (Net<FakeTransport>, Card) {
    let memory = Memory::leaked(180);
    pair_with(memory, memory, features, config, settings)
}

/// With an allocator whose devices reach `memory`.
pub(crate) fn pair_with(
    dma: &'static dyn DmaPages,
    memory: &'static Memory,
    features: u64,
    config: Config,
    settings: Settings,
) -> (Net<FakeTransport>, Card) {
    let transport = transport(features, config);
    let net = Net::new(transport.clone(), dma, settings).expect("the driver comes up");
    let (receive, transmit) = (transport.queue(memory, 0), transport.queue(memory, 1));
    (net, Card { memory, transport, receive, transmit })
}

impl Card {
    /// Puts a frame into one receive buffer.
    pub(crate) fn deliver(&mut self, header: Header, frame: &[u8]) {
        self.deliver_raw(&[header.as_bytes(), frame].concat());
    }

    /// Puts bytes into one receive buffer.
    pub(crate) fn deliver_raw(&mut self, bytes: &[u8]) {
        let chain = self.receive.next_chain().expect("a receive buffer is posted");
        let len = chain.write(self.memory, bytes);
        assert_eq!(len as usize, bytes.len(), "the buffer is large enough");
        self.receive.complete(&chain, len);
    }

    /// Puts a frame into receive buffers, so many bytes into each.
    pub(crate) fn deliver_spanning(&mut self, frame: &[u8], each: usize) {
        let num_buffers = frame.len().div_ceil(each) as u16;
        let header = Header { num_buffers, ..Header::default() };
        let (first, rest) = frame.split_at(each.min(frame.len()));
        self.deliver(header, first);
        rest.chunks(each).for_each(|part| self.deliver_raw(part));
    }

    /// Sends what the driver queued.
    pub(crate) fn take_sent(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(chain) = self.transmit.next_chain() {
            let bytes = chain.read(self.memory);
            let (header, frame) = Header::read_from_prefix(&bytes).unwrap();
            sent.push((header, frame.to_vec()));
            self.transmit.complete(&chain, 0);
        }
        sent
    }
}

/// An Ethernet frame with IPv4 and UDP: with the pseudo header's sum only, and with the whole checksum.
pub(crate) fn udp_frame(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let udp_len = (8 + payload.len()) as u16;
    let mut frame = vec![0; 34];
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&(20 + udp_len).to_be_bytes());
    frame[23] = 17;
    frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    frame.extend_from_slice(&[0x12, 0x34, 0, 80]);
    frame.extend_from_slice(&udp_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);

    let fold = |bytes: &[u8], start: u32| {
        bytes.chunks(2).fold(start, |sum, pair| {
            let sum = sum + (u32::from(pair[0]) << 8) + u32::from(*pair.get(1).unwrap_or(&0));
            (sum & 0xffff) + (sum >> 16)
        })
    };
    let pseudo = fold(&frame[26..34], 17 + u32::from(udp_len));
    let whole = !fold(&frame[34..], pseudo) as u16;
    let mut partial = frame.clone();
    partial[40..42].copy_from_slice(&(pseudo as u16).to_be_bytes());
    frame[40..42].copy_from_slice(&whole.to_be_bytes());
    (partial, frame)
}
