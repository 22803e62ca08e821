//! The entropy driver against sources that give, give little, give nothing, and lie.

use frontends::device::Driver;
use frontends::entropy::{Entropy, REQUEST_MAX};
use frontends::fake::{DeviceQueue, FakeTransport, Memory};
use frontends::{InitError, Violation};
use virtio_abi::{CommonFeatures, DeviceType, Status};

const LATE: Violation = Violation::Timeout { milliseconds: 100 };

struct Source {
    memory: &'static Memory,
    transport: FakeTransport,
    queue: DeviceQueue,
    next: u8,
}

fn pair() -> (Entropy<FakeTransport>, Source) {
    let memory = Memory::leaked(8);
    let transport = FakeTransport::new(DeviceType::RNG, CommonFeatures::EVENT_IDX.bits(), 1, &[]);
    let entropy = Entropy::new(transport.clone(), memory).expect("the driver comes up");
    let queue = transport.queue(memory, 0);
    (entropy, Source { memory, transport, queue, next: 1 })
}

impl Source {
    /// Answers one request with at most so many bytes, which count up.
    fn give(&mut self, most: u32) -> bool {
        let Some(chain) = self.queue.next_chain() else { return false };
        let bytes: Vec<u8> = (0..chain.writable().min(most) as u8).map(|index| self.next + index).collect();
        self.next += bytes.len() as u8;
        let len = chain.write(self.memory, &bytes);
        self.queue.complete(&chain, len);
        self.queue.ask_for_notification();
        true
    }
}

#[test]
fn bytes_come_back_in_the_devices_order() {
    let (mut entropy, mut source) = pair();
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes, LATE, || source.give(64)).unwrap();
    assert_eq!((bytes, entropy.notifications()), ([1, 2, 3, 4, 5, 6, 7, 8], 1));
    entropy.fill(&mut bytes[..2], LATE, || source.give(64)).unwrap();
    assert_eq!(bytes[..3], [9, 10, 3]);
}

#[test]
fn source_that_gives_little_is_asked_again() {
    let (mut entropy, mut source) = pair();
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes, LATE, || source.give(3)).unwrap();
    assert_eq!((bytes, entropy.notifications()), ([1, 2, 3, 4, 5, 6, 7, 8], 3));
}

#[test]
fn silent_source_is_stopped_at_the_limit() {
    let (mut entropy, source) = pair();
    let mut looks = 0;
    let filled = entropy.fill(&mut [0; 8], LATE, || {
        looks += 1;
        looks < 50
    });
    assert_eq!((filled, looks, entropy.broken()), (Err(LATE), 50, Some(LATE)));
    assert_eq!(source.transport.model().status, Status::empty());
    assert_eq!(entropy.fill(&mut [0; 8], LATE, || true), Err(LATE), "a stopped device is not waited for");
    drop(entropy);
    assert_eq!(source.memory.allocated_pages(), 0);
}

#[test]
fn source_that_answers_without_bytes_is_stopped_at_the_limit() {
    let (mut entropy, mut source) = pair();
    let mut looks = 0;
    let filled = entropy.fill(&mut [0; 8], LATE, || {
        source.give(0);
        looks += 1;
        looks < 50
    });
    assert_eq!((filled, looks), (Err(LATE), 50));
}

#[test]
fn silent_source_that_confirms_no_reset_keeps_its_pages() {
    let (mut entropy, source) = pair();
    source.transport.model().ignores_reset = true;
    assert_eq!(entropy.fill(&mut [0; 8], LATE, || false), Err(LATE));
    assert_eq!(entropy.leaked_pages(), 2);
    drop(entropy);
    assert_eq!((source.memory.allocated_pages(), source.memory.leaked_pages()), (2, 2));
}

#[test]
fn lengths_and_ids_that_cannot_be_stop_the_source() {
    let (mut entropy, mut source) = pair();
    entropy.set_restart_limit(0);
    assert!(entropy.request(REQUEST_MAX * 2) && !entropy.request(1));
    let chain = source.queue.next_chain().unwrap();
    assert_eq!(chain.writable() as usize, REQUEST_MAX);
    source.queue.complete(&chain, REQUEST_MAX as u32 + 1);
    assert_eq!(entropy.take(&mut [0; 8]), None);
    let (len, writable) = (REQUEST_MAX as u32 + 1, REQUEST_MAX as u32);
    assert_eq!(entropy.broken(), Some(Violation::UsedLengthTooLong { queue: 0, id: 0, len, writable }));
    assert!(!entropy.request(1));
}

#[test]
fn refused_source_leaves_nothing_behind() {
    let memory = Memory::leaked(1);
    let transport = FakeTransport::new(DeviceType::RNG, 0, 1, &[]);
    let error = Entropy::new(transport, memory).err();
    assert_eq!(error, Some(InitError::NoMemory { what: "random bytes" }));
    assert_eq!(memory.allocated_pages(), 0);
}
