//! How often something is done on a machine of unknown speed.

use super::{Context, Verdict};
use pvops::time;

/// How often something is done: as often as is wanted, or until its time is over on a machine that is too slow for that,
/// but never less than is needed to say anything.
pub struct Quota {
    pub wanted: u32,
    pub needed: u32,
    /// Nanoseconds.
    pub time: u64,
}

impl Quota {
    /// Does it, and says in the evidence how often.
    ///
    /// # Errors
    /// The first one of `once`.
    pub fn fill(&self, cx: &Context, what: &str, mut once: impl FnMut() -> Verdict) -> Verdict {
        self.fill_dyn(cx, what, &mut once)
    }

    #[inline(never)]
    fn fill_dyn(&self, cx: &Context, what: &str, once: &mut dyn FnMut() -> Verdict) -> Verdict {
        // Looking at the clock may cost more than what is done.
        const BETWEEN_LOOKS: u32 = 64;
        // A run without patching is a second one, which only checks that it is the same.
        const UNPATCHED_SHARE: u64 = 5;
        let unpatched = guest_kernel::patching::patches().count(None) > 0;
        let time = if unpatched { self.time / UNPATCHED_SHARE } else { self.time };
        let start = time::now();
        let mut done = 0;
        while done < self.wanted {
            if done >= self.needed && done.is_multiple_of(BETWEEN_LOOKS) && time::now() - start > time {
                break;
            }
            once()?;
            done += 1;
        }
        cx.did(format_args!("{done} {what} in {} ms", (time::now() - start) / 1_000_000));
        Ok(())
    }
}
