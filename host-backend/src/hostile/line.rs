//! The interrupt line of a lying device: interrupts are lost, late, or come many times.

use super::liar::Liar;
use crate::config::lie::Lie;
use crate::devices::InterruptLine;
use std::sync::Arc;

/// Longest delay of an interrupt in milliseconds.
const DELAY_MAX: u32 = 200;
/// Most interrupts of a storm.
const STORM_MAX: u32 = 64;

/// An interrupt line with lies.
pub(super) struct LyingLine {
    liar: Arc<Liar>,
    inner: Arc<dyn InterruptLine>,
}

impl LyingLine {
    pub(super) fn new(liar: Arc<Liar>, inner: Arc<dyn InterruptLine>) -> Self {
        Self { liar, inner }
    }
}

impl InterruptLine for LyingLine {
    fn raise(&self) {
        let [lost, late, storm] =
            [Lie::InterruptLost, Lie::InterruptLate, Lie::InterruptStorm].map(|lie| self.liar.chance(lie));
        if let Some(mut draw) = storm {
            let count = 2 + draw.below(STORM_MAX - 1);
            self.liar.tell(Lie::InterruptStorm, format_args!("{count} interrupts"));
            (1..count).for_each(|number| self.liar.interrupt_in(number));
        }
        if lost.is_some() {
            self.liar.tell(Lie::InterruptLost, "no interrupt");
        } else if let Some(mut draw) = late {
            let ms = 1 + draw.below(DELAY_MAX);
            self.liar.tell(Lie::InterruptLate, format_args!("the interrupt comes in {ms} ms"));
            self.liar.interrupt_in(ms);
        } else {
            self.inner.raise();
        }
    }
}
