//! Drivers against the host's device models in one process, over one guest memory: ours, and `virtio-drivers` as an
//! implementation that shares no code with them.

mod balloon;
mod block;
mod bridge;
mod console;
mod net;
mod reference;
