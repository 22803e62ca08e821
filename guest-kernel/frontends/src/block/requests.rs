//! One block device for several tasks: the one owner of its completions.
//!
//! Made by the kernel for each disk. Whichever task looks first takes all completions off the ring and asks for the next
//! interrupt; from then on no interrupt announces the completions of the others. So this keeps a place for each request
//! and wakes the task that waits for it. Nothing else takes completions or asks for interrupts.

use super::{Block, Completion, Rejected, Request, Token};
use crate::device::{Driver, InterruptSource};
use crate::transport::Transport;
use alloc::vec::Vec;
use core::task::{Poll, Waker};

/// A block device and who waits for what.
pub struct Requests<T: Transport> {
    block: Block<T>,
    waiting: Vec<Waiting>,
    forgotten: u64,
}

/// A request that a task waits for.
struct Waiting {
    token: Token,
    waker: Option<Waker>,
    completion: Option<Completion>,
}

impl<T: Transport> Requests<T> {
    /// Takes a driver that is up.
    pub fn new(block: Block<T>) -> Self {
        Self { block, waiting: Vec::new(), forgotten: 0 }
    }

    /// The driver, to be asked; what it completes is taken here.
    pub fn block(&self) -> &Block<T> {
        &self.block
    }

    /// Sends a request. Its token is to be [polled](Self::poll) until it has ended, or [abandoned](Self::abandon).
    ///
    /// # Errors
    /// As [`Block::submit`].
    pub fn start(&mut self, request: Request) -> Result<Token, Rejected> {
        let token = self.block.submit(request)?;
        self.block.kick();
        self.waiting.push(Waiting { token, waker: None, completion: None });
        Ok(token)
    }

    /// Handles interrupts, takes all completions, wakes those who wait for them, restarts a device that has had a request
    /// for too long, and asks for the next interrupt. Returns when to be called again, in the nanoseconds of `now`, unless
    /// an interrupt comes before.
    pub fn service(&mut self, interrupts: impl IntoIterator<Item = InterruptSource>, now: u64) -> Option<u64> {
        for source in interrupts {
            self.block.interrupt(source);
        }
        loop {
            while let Some(completion) = self.block.poll() {
                self.deliver(completion);
            }
            let deadline = self.block.check_time(now);
            if !self.block.enable_interrupts() {
                return deadline;
            }
        }
    }

    /// How a request ended, once. Until then the waker is kept for it. A token that is no longer waited for stays
    /// pending.
    pub fn poll(&mut self, token: Token, waker: &Waker) -> Poll<Completion> {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.token == token) else { return Poll::Pending };
        let waiting = &mut self.waiting[index];
        if let Some(completion) = waiting.completion.take() {
            self.waiting.swap_remove(index);
            return Poll::Ready(completion);
        }
        match &mut waiting.waker {
            Some(kept) => kept.clone_from(waker),
            None => waiting.waker = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Gives up waiting for a request. The device may still answer it: until then the driver keeps its buffer, and then
    /// it is forgotten.
    pub fn abandon(&mut self, token: Token) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.token == token) {
            self.waiting.swap_remove(index);
        }
    }

    /// Answers that came after the request had been abandoned.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn deliver(&mut self, completion: Completion) {
        match self.waiting.iter_mut().find(|waiting| waiting.token == completion.token) {
            Some(waiting) => {
                waiting.completion = Some(completion);
                if let Some(waker) = waiting.waker.take() {
                    waker.wake();
                }
            }
            None => self.forgotten += 1,
        }
    }
}
