//! Register offsets of virtio over MMIO (section 4.2 "Virtio Over MMIO"), version 2. Registers are 32 bits wide; the
//! configuration space takes accesses of 1, 2 and 4 bytes.

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// The only version that we speak; 1 is legacy.
pub const VERSION: u32 = 2;
/// Bytes of the fixed registers; the device's configuration follows.
pub const CONFIG: u64 = 0x100;

macro_rules! registers {
    ($($(#[$doc:meta])* $variant:ident = $offset:literal),* $(,)?) => {
        /// A register, by its offset.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Register { $($(#[$doc])* $variant = $offset),* }

        impl Register {
            /// Offset from the start of the block.
            pub const fn offset(self) -> u64 {
                self as u64
            }

            /// The register at an offset, if one is defined there.
            pub const fn at(offset: u64) -> Option<Self> {
                match offset { $($offset => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

registers! {
    /// R: [`MAGIC`].
    MagicValue = 0x000,
    /// R: [`VERSION`].
    Version = 0x004,
    /// R: device type, 0 for an empty slot.
    DeviceId = 0x008,
    /// R: vendor.
    VendorId = 0x00c,
    /// R: 32 bits of the device's features.
    DeviceFeatures = 0x010,
    /// W: which 32 bits.
    DeviceFeaturesSel = 0x014,
    /// W: 32 bits of the driver's features.
    DriverFeatures = 0x020,
    /// W: which 32 bits.
    DriverFeaturesSel = 0x024,
    /// W: which queue the following registers mean.
    QueueSel = 0x030,
    /// R: largest size, 0 if the queue is not there.
    QueueSizeMax = 0x034,
    /// W: size chosen.
    QueueSize = 0x038,
    /// RW: 1 when the queue is live.
    QueueReady = 0x044,
    /// W: number of the queue that has new buffers.
    QueueNotify = 0x050,
    /// R: [`InterruptStatus`].
    InterruptStatus = 0x060,
    /// W: bits of the interrupt status that were handled.
    InterruptAck = 0x064,
    /// RW: device status; 0 resets.
    Status = 0x070,
    /// W: descriptor table, low 32 bits.
    QueueDescLow = 0x080,
    /// W: descriptor table, high 32 bits.
    QueueDescHigh = 0x084,
    /// W: available ring, low 32 bits.
    QueueDriverLow = 0x090,
    /// W: available ring, high 32 bits.
    QueueDriverHigh = 0x094,
    /// W: used ring, low 32 bits.
    QueueDeviceLow = 0x0a0,
    /// W: used ring, high 32 bits.
    QueueDeviceHigh = 0x0a4,
    /// W: shared memory region that the following registers mean.
    ShmSel = 0x0ac,
    /// R: its length; all ones if it is not there.
    ShmLenLow = 0x0b0,
    /// R: its length, high 32 bits.
    ShmLenHigh = 0x0b4,
    /// R: its base.
    ShmBaseLow = 0x0b8,
    /// R: its base, high 32 bits.
    ShmBaseHigh = 0x0bc,
    /// RW: 1 resets the queue (with RING_RESET).
    QueueReset = 0x0c0,
    /// R: changes whenever the configuration does.
    ConfigGeneration = 0x0fc,
}

bitflags::bitflags! {
    /// Why the device interrupted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InterruptStatus: u32 {
        /// A used buffer in some queue.
        const USED_BUFFER = 1;
        /// The configuration changed, or the device needs a reset.
        const CONFIG_CHANGE = 2;
    }
}
