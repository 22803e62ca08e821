//! Event channels.

/// Commands of [`hypercall::EVENT_CHANNEL_OP`](crate::xen::hypercall::EVENT_CHANNEL_OP) and virtual interrupts.
pub mod event {
    /// Takes a [`BindVirq`](crate::xen::BindVirq).
    pub const BIND_VIRQ: u32 = 1;
    /// Takes a [`BindPirq`](crate::xen::BindPirq).
    pub const BIND_PIRQ: u32 = 2;
    /// Closes a channel; takes its number.
    pub const CLOSE: u32 = 3;
    /// Sends an event; takes the channel.
    pub const SEND: u32 = 4;
    /// A channel from this CPU to itself; takes a [`BindIpi`](crate::xen::BindIpi).
    pub const BIND_IPI: u32 = 7;
    /// Unmasks a channel and delivers what is pending; takes its number.
    pub const UNMASK: u32 = 9;
    /// The timer's virtual interrupt.
    pub const VIRQ_TIMER: u32 = 0;
    /// Input on the emergency console; for the initial domain.
    pub const VIRQ_CONSOLE: u32 = 2;
    /// Channels of the 2-level interface on 64 bits.
    pub const CHANNELS: usize = 4096;
}

/// `evtchn_bind_virq`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindVirq {
    /// Which.
    pub virq: u32,
    /// CPU.
    pub cpu: u32,
    /// Filled in: the channel.
    pub channel: u32,
}

/// `evtchn_bind_pirq`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindPirq {
    /// Interrupt.
    pub pirq: u32,
    /// 1: others may share it.
    pub flags: u32,
    /// Filled in: the channel.
    pub channel: u32,
}

/// `evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindIpi {
    /// CPU.
    pub cpu: u32,
    /// Filled in: the channel.
    pub channel: u32,
}
