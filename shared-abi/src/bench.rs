//! What the guest measures of itself: the words of the command line. Results are `@bench` lines.

/// The key on the command line.
pub const WORD: &str = "bench";
/// Its value for page-table updates alone and in a batch.
pub const PTE: &str = "pte";
/// Its value for the cost of each operation; with `:NAME` after it, of one.
pub const OPS: &str = "ops";
/// Page-table updates that [`PTE`] makes each way.
pub const UPDATES: u64 = 512;
