//! Where tests take a part of the sandbox away, or take over a thread: nothing in the program that is shipped.

#[cfg(feature = "test-faults")]
pub(super) use super::compromised::{filtered, lacks, lacks_row, prepare};

#[cfg(not(feature = "test-faults"))]
mod nothing {
    use crate::sandbox::{Kind, Layer, Row};

    pub(in crate::sandbox) fn prepare() {}

    pub(in crate::sandbox) fn filtered(_kind: Kind) {}

    pub(in crate::sandbox) fn lacks(_layer: Layer) -> bool {
        false
    }

    pub(in crate::sandbox) fn lacks_row(_kind: Kind, _row: &Row) -> bool {
        false
    }
}

#[cfg(not(feature = "test-faults"))]
pub(super) use nothing::{filtered, lacks, lacks_row, prepare};
