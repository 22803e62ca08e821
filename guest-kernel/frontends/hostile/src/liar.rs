//! The device between two calls of its driver: an honest act or a lie, as the script says.

use crate::Script;
use frontends::Violation;
use frontends::device::InterruptSource;
use frontends::fake::{Chain, DeviceQueue, FakeTransport, Memory};
use shared_abi::virtio::Status;
use shared_abi::virtio::mmio::InterruptStatus;
use shared_abi::virtio::ring::USED_NO_NOTIFY;

/// What an honest device of the type does with a chain of a queue; returns the bytes that it wrote.
pub(crate) type Answer<'a> = dyn FnMut(usize, &Chain, &Memory, &mut Script) -> u32 + 'a;

/// A device that may lie.
pub(crate) struct Liar<'a> {
    pub(crate) memory: &'static Memory,
    pub(crate) transport: FakeTransport,
    queues: Vec<DeviceQueue>,
    numbers: Vec<u16>,
    /// The driver's set-ups of queues that it knows of.
    set_ups: u32,
    answer: Box<Answer<'a>>,
    /// Chains that were returned: to be returned again, or written to although they are not ours any more.
    returned: Vec<(usize, Chain)>,
    /// What the driver wrote was written over: there are no chains to be found any more.
    blind: bool,
    /// It lies in one of so many acts; 0: never.
    lies_one_in: u32,
    /// Whether any rule was broken.
    pub(crate) lied: bool,
    /// Why the driver stopped.
    pub(crate) reason: Option<Violation>,
}

impl<'a> Liar<'a> {
    /// Over the queues with these numbers.
    pub(crate) fn new(
        memory: &'static Memory,
        transport: &FakeTransport,
        queues: &[u16],
        (script, lied): (&mut Script, bool),
        answer: impl FnMut(usize, &Chain, &Memory, &mut Script) -> u32 + 'a,
    ) -> Self {
        let (numbers, set_ups) = (queues.to_vec(), transport.model().set_ups);
        let queues = queues.iter().map(|number| transport.queue(memory, *number)).collect();
        let (transport, answer) = (transport.clone(), Box::new(answer));
        // Most devices are honest for a while, so that the lie meets a driver at work.
        let lies_one_in = script.below(32);
        Self {
            memory,
            transport,
            queues,
            numbers,
            set_ups,
            answer,
            returned: Vec::new(),
            blind: false,
            lies_one_in,
            lied,
            reason: None,
        }
    }

    /// Does what is next in the script, and says how it interrupts.
    pub(crate) fn act(&mut self, script: &mut Script) -> InterruptSource {
        self.follow_restart();
        // A device that was reset forgets its queues; one that does not reset writes on.
        let has_queues = self.reason.is_none() || self.transport.model().ignores_reset;
        if self.lies_one_in == 0 || !script.one_in(self.lies_one_in) {
            if has_queues {
                self.play_by_the_rules(script);
            }
        } else {
            self.lied = true;
            match script.below(7) {
                choice @ 0..5 if has_queues => self.lie_on_a_ring(script, choice),
                5 => self.lie_in_the_configuration(script),
                _ => self.lie_in_a_register(script),
            }
        }
        [InterruptSource::Shared, InterruptSource::Queue, InterruptSource::Config][script.below(3) as usize]
    }

    /// A driver that restarted the device has set the queues up again; what the device knew of them is void.
    fn follow_restart(&mut self) {
        let before = self.set_ups;
        let mut queues: Vec<_> = self.numbers.iter().copied().zip(&mut self.queues).collect();
        self.transport.follow(self.memory, &mut self.set_ups, &mut queues);
        if self.set_ups != before {
            self.returned.clear();
            self.blind = false;
        }
    }

    /// Serves all that is there.
    pub(crate) fn serve_all(&mut self, script: &mut Script) {
        self.follow_restart();
        for queue in 0..self.queues.len() {
            while let Some(chain) = self.take(queue) {
                self.complete(queue, chain, script);
            }
            self.queues[queue].ask_for_notification();
        }
    }

    fn play_by_the_rules(&mut self, script: &mut Script) {
        let queue = script.below(self.queues.len() as u32) as usize;
        match script.below(6) {
            0..=2 => {
                if let Some(chain) = self.take(queue) {
                    self.complete(queue, chain, script);
                }
            }
            3 => {
                let count = script.below(8) as usize;
                let mut chains: Vec<_> = (0..count).map_while(|_| self.take(queue)).collect();
                chains.reverse();
                chains.into_iter().for_each(|chain| self.complete(queue, chain, script));
            }
            4 => self.queues[queue].ask_for_notification_at(script.below(65536) as u16),
            _ => self.queues[queue].set_no_notify(if script.one_in(2) { USED_NO_NOTIFY } else { 0 }),
        }
    }

    fn lie_on_a_ring(&mut self, script: &mut Script, choice: u32) {
        let at = script.below(self.queues.len() as u32) as usize;
        let odd = odd_number(script, self.queues[at].size().into());
        let used_index = self.queues[at].used_index;
        match choice {
            // A length.
            0 => {
                if let Some(chain) = self.take(at) {
                    let len = if script.one_in(2) { chain.writable().wrapping_add(script.below(4)) } else { odd };
                    self.queues[at].complete(&chain, len);
                }
            }
            // An id.
            1 => {
                self.queues[at].write_used(used_index, odd, script.below(2048));
                self.queues[at].set_used_index(used_index.wrapping_add(1));
            }
            // An index: ahead of what was written, behind, or far away.
            2 => {
                let step = [2, 3, self.queues[at].size() + 1, 0x8000, 0xffff, odd as u16][script.below(6) as usize];
                self.queues[at].set_used_index(used_index.wrapping_add(step));
            }
            // Timing: a chain that was returned before is returned again, or written to.
            3 => {
                if !self.returned.is_empty() {
                    let (queue, chain) = self.returned.swap_remove(script.below(self.returned.len() as u32) as usize);
                    if script.one_in(2) {
                        self.queues[queue].complete(&chain, script.below(2048));
                    } else if chain.segments.iter().all(|s| self.memory.try_read(s.address, s.len as usize).is_some()) {
                        self.blind = true;
                        chain.write(self.memory, &[script.byte(); 64]);
                    }
                }
            }
            // The driver's own parts of the ring.
            _ => {
                self.blind = true;
                self.queues[at].scribble(script.below(65536) as usize, script.byte());
            }
        }
    }

    fn lie_in_the_configuration(&mut self, script: &mut Script) {
        let len = self.transport.model().config.len();
        let count = script.below(9).min(len as u32) as usize;
        let offset = script.below((len - count + 1) as u32) as usize;
        let bytes: Vec<u8> = (0..count).map(|_| script.byte()).collect();
        self.transport.change_config(offset, &bytes);
        let mut model = self.transport.model();
        match script.below(4) {
            0 => model.generation -= 1,
            1 => model.unstable_config = !model.unstable_config,
            2 => model.interrupt = InterruptStatus::empty(),
            _ => {}
        }
    }

    fn lie_in_a_register(&mut self, script: &mut Script) {
        let mut model = self.transport.model();
        match script.below(5) {
            0 => model.status |= Status::DEVICE_NEEDS_RESET,
            1 => model.ignores_reset = true,
            2 => model.interrupt = InterruptStatus::from_bits_retain(script.word() as u32),
            3 => model.offered = script.word(),
            _ => model.status = Status::from_bits_retain(script.word() as _),
        }
    }

    fn take(&mut self, queue: usize) -> Option<Chain> {
        // A driver that has stopped has taken its memory back: there are no chains, only places where they were.
        if self.blind || self.reason.is_some() { None } else { self.queues[queue].next_chain() }
    }

    fn complete(&mut self, queue: usize, chain: Chain, script: &mut Script) {
        let len = (self.answer)(queue, &chain, self.memory, script);
        self.queues[queue].complete(&chain, len);
        if self.returned.len() < 16 {
            self.returned.push((queue, chain));
        }
    }
}

/// A number near a border.
fn odd_number(script: &mut Script, size: u32) -> u32 {
    [script.below(65536), size, size - 1, size + 1, 0x1_0000, 0x8000_0000, u32::MAX, 0][script.below(8) as usize]
}
