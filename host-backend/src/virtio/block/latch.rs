//! What a failed flush means: the system may have dropped what it could not write, and a second flush would succeed without
//! it. So the first failure is remembered, and the disk takes no more writes.

use crate::virtio::Flush;
use std::io;
use std::sync::{Arc, OnceLock};

/// A flush that keeps failing once it has failed.
pub(super) struct Latched {
    inner: Arc<dyn Flush>,
    failure: OnceLock<String>,
}

impl Latched {
    pub(super) fn new(inner: Arc<dyn Flush>) -> Self {
        Self { inner, failure: OnceLock::new() }
    }

    /// Whether a flush has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }
}

impl Flush for Latched {
    fn flush(&self) -> io::Result<()> {
        if let Some(failure) = self.failure.get() {
            return Err(io::Error::other(format!("an earlier flush failed: {failure}")));
        }
        self.inner.flush().inspect_err(|error| {
            self.failure.get_or_init(|| error.to_string());
        })
    }
}
