//! Checks that the kernel makes of itself.

use super::{Context, Verdict, fail, skip};
use guest_kernel::checks;

/// A check that `the kernel` has under the same name.
pub fn own(cx: &Context) -> Verdict {
    match checks::one(cx.name) {
        None => Err(skip("pvops=unpatched")),
        Some(result) => result.map_err(|saw| fail("the kernel's own check", "nothing to report", saw)),
    }
}
