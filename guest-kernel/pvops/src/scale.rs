//! The ratio of two clocks.

/// Ratio of two clocks: `out = (in << shift) * mul >> 32`, a negative shift to the right, as in KVM's clock page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Multiplier with 32 fractional bits.
    pub mul: u32,
    /// Shift before the multiplication.
    pub shift: i8,
}

impl Scale {
    /// From ticks of `from_hz` to ticks of `to_hz`; both at least 1 and below 2^60.
    pub const fn new(from_hz: u64, to_hz: u64) -> Self {
        let mut shift = 0i8;
        let (mut from, mut to) = (from_hz as u128, to_hz as u128);
        while to >= from {
            from <<= 1;
            shift += 1;
        }
        while to << 1 < from {
            to <<= 1;
            shift -= 1;
        }
        Self { mul: ((to << 32) / from) as u32, shift }
    }

    /// The frequency in Hz that a scale to nanoseconds stands for; 0 for none.
    pub const fn hz_of_nanoseconds(self) -> u64 {
        if self.mul == 0 {
            return 0;
        }
        // 10^9 * 2^32 / (mul * 2^shift)
        let scaled = (1_000_000_000_u128 << 32) / self.mul as u128;
        (if self.shift < 0 { scaled << -self.shift } else { scaled >> self.shift }) as u64
    }

    /// Converts.
    pub const fn apply(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((shifted as u128 * self.mul as u128) >> 32) as u64
    }
}
