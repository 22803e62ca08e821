//! Checks that both transports have, each under its own group: in the tables `MMIO` and `PCI` of each file.

pub(crate) mod config;
pub(crate) mod features;
pub(crate) mod notifications;
pub(crate) mod queues;
pub(crate) mod status;
