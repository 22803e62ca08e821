//! Counters of the exits of all vCPUs, by cause.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// Why KVM_RUN returned.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause { $($(#[$doc])* $variant),* }

        impl Cause {
            /// All causes, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the statistics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }

        const COUNT: usize = Cause::ALL.len();
    };
}

causes! {
    /// A port read.
    PortRead = "port_read",
    /// A port write.
    PortWrite = "port_write",
    /// A read of memory that is not RAM.
    MmioRead = "mmio_read",
    /// A write to memory that is not RAM.
    MmioWrite = "mmio_write",
    /// A port access where no device is.
    NoPort = "no_port",
    /// A memory access where neither RAM nor a device is.
    NoMmio = "no_mmio",
    /// A signal to the vCPU's thread.
    Interrupted = "interrupted",
    /// Anything else.
    Other = "other",
}

/// One counter per cause.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; COUNT]);

impl Counters {
    /// Counts one exit.
    pub fn count(&self, cause: Cause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The exits so far.
    pub fn get(&self, cause: Cause) -> u64 {
        self.0[cause as usize].load(Ordering::Relaxed)
    }

    /// Every cause with its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Cause::ALL.iter().map(|cause| (cause.name(), self.get(*cause)))
    }
}
