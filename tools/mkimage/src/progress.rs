//! How far long work is.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The image is put together in memory.
    Composing,
    /// It is written.
    Writing,
    /// qemu-img makes its format of it.
    Converting,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0: not known.
    pub total: u64,
}

impl Bytes {
    /// For what is not counted.
    pub const UNKNOWN: Self = Self { done: 0, total: 0 };
}

/// Called with what is being done and how far it is.
pub type Progress<'a> = &'a mut dyn FnMut(Step, Bytes);
