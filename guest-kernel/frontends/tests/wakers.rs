//! Async tasks that wait for completions: what wakes them, and how often.

mod card;
mod disk;

use frontends::block::{Request, Settings};
use frontends::net::Settings as NetSettings;
use frontends::{DmaBuffer, Driver, InterruptSource, Violation};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use virtio_abi::Status;
use virtio_abi::mmio::InterruptStatus;
use virtio_abi::net::Header;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn counting() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (count.clone(), Waker::from(count))
}

#[test]
fn interrupt_wakes_the_waiting_task_once() {
    let (mut net, mut card) = card::pair(0, card::config(), NetSettings::default());
    let (count, waker) = counting();
    let mut context = Context::from_waker(&waker);
    net.disable_interrupts();
    assert_eq!(net.poll_work(&mut context), Poll::Pending);
    card.deliver(Header { num_buffers: 1, ..Header::default() }, &[1; 60]);
    assert!(card.receive.interrupt_wanted(), "waiting asks for an interrupt");
    assert_eq!(count.get(), 0);
    card.transport.model().interrupt |= InterruptStatus::USED_BUFFER;
    net.interrupt(InterruptSource::Shared);
    net.interrupt(InterruptSource::Queue);
    assert_eq!(count.get(), 1, "the waker is used up");
    assert_eq!(net.poll_work(&mut context), Poll::Ready(()));
    assert!(net.receive().is_some());
    assert_eq!(net.poll_work(&mut context), Poll::Pending);
}

#[test]
fn work_that_is_there_already_needs_no_interrupt() {
    let (mut net, mut card) = card::pair(0, card::config(), NetSettings::default());
    card.deliver(Header { num_buffers: 1, ..Header::default() }, &[1; 60]);
    let (count, waker) = counting();
    assert_eq!(net.poll_work(&mut Context::from_waker(&waker)), Poll::Ready(()));
    assert_eq!(count.get(), 0);
}

#[test]
fn interrupt_of_another_device_wakes_nothing() {
    let (mut net, _card) = card::pair(0, card::config(), NetSettings::default());
    let (count, waker) = counting();
    assert!(net.poll_work(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(net.interrupt(InterruptSource::Shared), InterruptStatus::empty());
    assert_eq!(count.get(), 0, "on a shared line, with nothing pending");
}

#[test]
fn last_waker_replaces_the_one_before() {
    let (mut net, _card) = card::pair(0, card::config(), NetSettings::default());
    let ((first, old), (second, new)) = (counting(), counting());
    assert!(net.poll_work(&mut Context::from_waker(&old)).is_pending());
    assert!(net.poll_work(&mut Context::from_waker(&new)).is_pending());
    net.interrupt(InterruptSource::Queue);
    assert_eq!((first.get(), second.get()), (0, 1));
}

#[test]
fn stop_wakes_and_a_stopped_device_is_always_ready() {
    let (mut net, _card) = card::pair(0, card::config(), NetSettings::default());
    let (count, waker) = counting();
    let mut context = Context::from_waker(&waker);
    assert!(net.poll_work(&mut context).is_pending());
    net.stop(Violation::ShutDown);
    assert_eq!(count.get(), 1);
    assert_eq!(net.poll_work(&mut context), Poll::Ready(()), "nothing would ever wake the task");
}

#[test]
fn restart_outside_of_an_interrupt_wakes() {
    let settings = Settings { patience: 10, ..Settings::default() };
    let (mut block, disk) = disk::pair(0, disk::config(8), settings);
    let buffer = DmaBuffer::allocate(disk.memory, 512).unwrap();
    block.submit(Request::Read { sector: 0, buffer }).unwrap();
    let (count, waker) = counting();
    assert!(block.poll_work(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(block.check_time(0), Some(10));
    block.check_time(10);
    assert_eq!((block.restarts(), count.get()), (1, 1));
    assert!(disk.transport.model().status.contains(Status::DRIVER_OK));
}
