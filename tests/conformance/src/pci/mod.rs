//! Virtio over PCI: what both transports have in common, configuration space and capabilities, MSI-X vectors.

mod structures;
mod vectors;

use crate::catalogue::Check;
use crate::transport::{config, features, notifications, queues, status};

/// The checks of the group.
pub(crate) const CHECKS: &[&[Check]] =
    &[status::PCI, features::PCI, queues::PCI, notifications::PCI, config::PCI, structures::CHECKS, vectors::CHECKS];
