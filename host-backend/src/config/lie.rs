//! The kinds of lies.

use shared_abi::virtio::DeviceType;

macro_rules! lies {
    ($($variant:ident $name:literal $what:literal),* $(,)?) => {
        /// A kind of lie.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Lie { $(#[doc = $what] $variant),* }

        impl Lie {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name on the command line and in the statistics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it is, for people.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what),* }
            }
        }
    };
}

lies! {
    Identity "identity" "magic value, version or device id are wrong",
    Features "features" "a read of the offered features has other bits than the one before; what was not offered does not work",
    FeaturesRefused "features-refused" "FEATURES_OK does not stay set",
    Status "status" "the status has unknown bits, or others than the driver wrote",
    Reset "reset" "a reset is not confirmed for a while, or never",
    NeedsReset "needs-reset" "the device asks for a reset without a reason",
    QueueSize "queue-size" "a queue's largest size is 0, odd or huge",
    QueueReady "queue-ready" "QueueReady and QueueReset read the opposite",
    ConfigValue "config-value" "a configuration field has an odd value from now on, without a new generation",
    ConfigChange "config-change" "the same with a new generation and an interrupt",
    ConfigInterrupt "config-interrupt" "an interrupt for a configuration change that there was not",
    Generation "generation" "the configuration's generation is another one without a change",
    UsedId "used-id" "a used element has an id that is out of range, not outstanding, or the same twice",
    UsedLength "used-length" "a used length is 0, larger than the buffer or huge",
    UsedIndex "used-index" "the used index jumps ahead or back, also by more than the queue's size",
    Late "late" "a chain is returned up to 200 ms late",
    Lost "lost" "a chain is never returned",
    Order "order" "a chain is returned after the next one",
    InterruptLost "interrupt-lost" "an interrupt does not arrive",
    InterruptLate "interrupt-late" "an interrupt arrives up to 200 ms late",
    InterruptStorm "interrupt-storm" "an interrupt arrives up to 64 times, a millisecond apart",
    InterruptSpurious "interrupt-spurious" "an interrupt without a cause, after an access to a register",
    InterruptStatus "interrupt-status" "the interrupt status is 0 or has unknown bits",
    Header "header" "net: the header of a received frame is random (num_buffers, GSO type, sizes, checksum offsets)",
    Frame "frame" "net: a received frame is shorter than its headers, or as long as its buffer",
    RequestStatus "request-status" "block: the status byte of a request is an error or an unknown value",
    Statistics "statistics" "balloon: statistics are asked for at odd times",
}

impl Lie {
    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lie| lie.name() == name)
    }

    /// Whether a device of this type can tell it.
    pub fn fits(self, device_type: DeviceType) -> bool {
        match self {
            Self::Header | Self::Frame => device_type == DeviceType::NET,
            Self::RequestStatus => device_type == DeviceType::BLOCK,
            Self::Statistics => device_type == DeviceType::BALLOON,
            // It has no configuration.
            Self::ConfigValue | Self::ConfigChange => device_type != DeviceType::RNG,
            _ => true,
        }
    }
}
