//! The configuration space of the card, apart from the card: vCPUs read it while frames move.

use super::MTU;
use crate::config::Mac;
use crate::virtio::{Cable, ConfigSpace, read_config_bytes};
use shared_abi::virtio::net::{Config, STATUS_LINK_UP};
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes;

/// The configuration as the driver sees it.
pub(super) struct Shown(Mutex<Config>);

impl Shown {
    pub(super) fn new(mac: Mac, cable: Cable) -> Self {
        Self(Mutex::new(config(mac, cable)))
    }

    /// From now on it is this.
    pub(super) fn set(&self, mac: Mac, cable: Cable) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config(mac, cable);
    }
}

impl ConfigSpace for Shown {
    fn read(&self, offset: usize, data: &mut [u8]) {
        let config = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read_config_bytes(config.as_bytes(), offset, data);
    }
}

fn config(mac: Mac, cable: Cable) -> Config {
    let status = if cable == Cable::Up { STATUS_LINK_UP } else { 0 };
    Config { mac: mac.0, status, max_virtqueue_pairs: 1, mtu: MTU }
}
