//! Several tasks on one disk: each gets the answer to its own request, whatever the order, and none sleeps through it.

mod disk;

use disk::{Disk, config};
use frontends::block::{Completion, Output, Request, Requests, Settings, Token};
use frontends::fake::{Chain, FakeTransport};
use frontends::{DmaBuffer, InterruptSource};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Poll, Wake, Waker};
use virtio_abi::CommonFeatures;

fn pair() -> (Requests<FakeTransport>, Disk) {
    let features = CommonFeatures::EVENT_IDX.bits();
    let (block, mut disk) = disk::pair(features, config(64), Settings { queue_size: 8, ..Settings::default() });
    for (index, sector) in disk.data.chunks_mut(512).enumerate() {
        sector.fill(index as u8);
    }
    (Requests::new(block), disk)
}

fn read(requests: &mut Requests<FakeTransport>, disk: &Disk, sector: u64) -> Token {
    let buffer = DmaBuffer::allocate(disk.memory, 512).unwrap();
    requests.start(Request::Read { sector, buffer }).unwrap()
}

fn first_byte(completion: Completion) -> u8 {
    assert_eq!(completion.result, Ok(Output::Done));
    completion.buffer.unwrap().to_vec()[0]
}

fn answer(disk: &mut Disk, chain: &Chain) {
    let len = disk.execute(chain);
    disk.queue.complete(chain, len);
}

#[test]
fn late_answer_to_abandoned_read_reaches_no_later_request() {
    let (mut requests, mut disk) = pair();
    let held = read(&mut requests, &disk, 1);
    let chain = disk.queue.next_chain().unwrap();
    assert!(requests.poll(held, Waker::noop()).is_pending());
    requests.abandon(held);
    let pages = disk.memory.allocated_pages();
    requests.service([], 0);
    assert_eq!(disk.memory.allocated_pages(), pages, "the device may still write to the buffer");

    // The next ones while it is held, and after it was answered.
    for (sector, answer_held) in [(2, false), (3, true), (4, false), (5, false)] {
        let token = read(&mut requests, &disk, sector);
        if answer_held {
            answer(&mut disk, &chain);
            requests.service([InterruptSource::Queue], 0);
            assert!(requests.poll(token, Waker::noop()).is_pending(), "the held read's answer is not this one's");
        }
        disk.serve();
        requests.service([InterruptSource::Queue], 0);
        let Poll::Ready(completion) = requests.poll(token, Waker::noop()) else { panic!("sector {sector} was read") };
        assert_eq!(first_byte(completion), sector as u8);
    }
    assert_eq!((requests.forgotten(), requests.block().pending()), (1, 0));
    assert!(disk.memory.allocated_pages() < pages, "the abandoned buffer is free");
}

#[test]
fn tokens_are_never_used_twice() {
    let (mut requests, mut disk) = pair();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let token = read(&mut requests, &disk, 0);
        assert!(seen.insert(token));
        disk.serve();
        requests.service([], 0);
        assert!(requests.poll(token, Waker::noop()).is_ready());
        assert!(requests.poll(token, Waker::noop()).is_pending(), "an answer is given once");
    }
}

#[test]
fn completion_that_came_before_it_was_abandoned_is_dropped() {
    let (mut requests, mut disk) = pair();
    let pages = disk.memory.allocated_pages();
    let token = read(&mut requests, &disk, 1);
    disk.serve();
    requests.service([], 0);
    requests.abandon(token);
    assert_eq!(disk.memory.allocated_pages(), pages);
    assert!(requests.poll(token, Waker::noop()).is_pending());
}

/// A task as the kernel's executor sees it: it runs when it is ready, and reads its sectors one after the other.
struct Task {
    ready: Arc<Ready>,
    /// It has waited, so interrupts make it ready.
    subscribed: bool,
    sectors: Vec<u64>,
    token: Option<Token>,
}

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Task {
    fn new(sectors: &[u64]) -> Self {
        let ready = Arc::new(Ready(AtomicBool::new(true)));
        Self { ready, subscribed: false, sectors: sectors.to_vec(), token: None }
    }

    /// One turn, if it is ready: until it has to wait.
    fn run(&mut self, requests: &mut Requests<FakeTransport>, disk: &Disk, raised: &mut bool) {
        if !self.ready.0.swap(false, SeqCst) {
            return;
        }
        let waker = Waker::from(self.ready.clone());
        while let Some(&sector) = self.sectors.first() {
            let token = *self.token.get_or_insert_with(|| read(requests, disk, sector));
            self.subscribed = true;
            requests.service(std::mem::take(raised).then_some(InterruptSource::Queue), 0);
            let Poll::Ready(completion) = requests.poll(token, &waker) else { return };
            assert_eq!(first_byte(completion), sector as u8);
            self.token = None;
            self.sectors.remove(0);
        }
    }
}

/// The disk answers the oldest or the newest request.
fn work(disk: &mut Disk, held: &mut Vec<Chain>, newest: bool) {
    held.extend(std::iter::from_fn(|| disk.queue.next_chain()));
    if !held.is_empty() {
        let chain = held.remove(if newest { held.len() - 1 } else { 0 });
        answer(disk, &chain);
    }
}

/// The disk interrupts if it is asked to: some time after it has answered, as a disk does that runs beside us.
fn interrupt(disk: &mut Disk, tasks: &[Task; 2], raised: &mut bool) {
    if disk.queue.interrupt_wanted() {
        *raised = true;
        tasks.iter().filter(|task| task.subscribed).for_each(|task| task.ready.0.store(true, SeqCst));
    }
}

#[test]
fn two_tasks_on_one_disk_miss_no_answer_in_any_order() {
    const STEPS: u32 = 7;
    const CHOICES: u32 = 5;
    for schedule in 0..CHOICES.pow(STEPS) {
        let (mut requests, mut disk) = SCENE.with(|scene| scene.take()).unwrap_or_else(pair);
        let mut tasks = [Task::new(&[1, 2]), Task::new(&[3])];
        let (mut held, mut raised) = (Vec::new(), false);
        for step in 0..STEPS {
            match schedule / CHOICES.pow(step) % CHOICES {
                task @ 0..2 => tasks[task as usize].run(&mut requests, &disk, &mut raised),
                2 => interrupt(&mut disk, &tasks, &mut raised),
                choice => work(&mut disk, &mut held, choice == 3),
            }
        }
        // From here on the disk answers all it has, and only tasks that are ready run.
        for _ in 0..8 {
            work(&mut disk, &mut held, false);
            interrupt(&mut disk, &tasks, &mut raised);
            tasks.iter_mut().for_each(|task| task.run(&mut requests, &disk, &mut raised));
        }
        let left: usize = tasks.iter().map(|task| task.sectors.len()).sum();
        assert_eq!(left, 0, "schedule {schedule}: a task sleeps though its answer is there");
        SCENE.with(|scene| scene.set(Some((requests, disk))));
    }
}

thread_local! {
    /// Used for one schedule after the other: an arena is leaked for each that is made.
    static SCENE: std::cell::Cell<Option<(Requests<FakeTransport>, Disk)>> = const { std::cell::Cell::new(None) };
}
