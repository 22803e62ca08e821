//! The memory balloon.

use super::{Check, row};

const OPERATION: &str = "5.5.6 Device Operation";
const DEVICE: &str = "5.5.6.2 Device Requirements: Device Operation";
const REPORTING: &str = "5.5.6.7 Free Page Reporting";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    row(
        "balloon/target-is-readable",
        "num_pages is the size that the host wants",
        "5.5.4 Device configuration layout",
        "Read it twice",
        "The same twice",
    ),
    row(
        "balloon/actual-reads-back",
        "actual is the driver's to write",
        "5.5.4 Device configuration layout",
        "Write 3 and 0, read after each",
        "As written",
    ),
    row(
        "balloon/inflate-is-answered",
        "Pages that are given are consumed",
        OPERATION,
        "Give one page",
        "Used, with length 0",
    ),
    row(
        "balloon/deflate-is-answered",
        "Pages that are taken back are acknowledged",
        OPERATION,
        "Give one page, take it back",
        "Used, with length 0",
    ),
    row(
        "balloon/inflate-takes-256-pages",
        "A buffer may name many pages",
        OPERATION,
        "Give 256 pages in one buffer, take them back",
        "Used twice",
    ),
    row(
        "balloon/buffers-in-flight-are-all-answered",
        "Requests in flight are all served",
        OPERATION,
        "Give 8 pages in 8 buffers with one notification",
        "Eight used elements",
    ),
    row(
        "balloon/returned-page-is-zero-or-old",
        "A page that comes back has nobody else's content",
        DEVICE,
        "Write a pattern to a page, give it, take it back, read",
        "Zero or the pattern",
    )
    .should(),
    row(
        "balloon/returned-page-is-usable",
        "A page that comes back is memory",
        DEVICE,
        "Give a page, take it back, write, read",
        "As written",
    ),
    row(
        "balloon/neighbours-are-left-alone",
        "Only pages that were given lose their content",
        DEVICE,
        "Give the middle of three pages",
        "The others keep theirs",
    ),
    row(
        "balloon/reporting-is-answered",
        "A free range that is reported is acknowledged",
        REPORTING,
        "Report four pages, where offered",
        "Used",
    ),
    row(
        "balloon/reported-page-is-zero-or-old",
        "A reported page has its old content or none",
        REPORTING,
        "Write a pattern, report, read behind the acknowledgement",
        "Zero or the pattern",
    )
    .should(),
    row(
        "balloon/reported-page-is-usable",
        "A reported page is memory",
        REPORTING,
        "Report, then write and read",
        "As written",
    ),
    row(
        "balloon/reported-page-holds-the-poison",
        "With PAGE_POISON a reported page changes to nothing but poison_val",
        "5.5.6.7.2 Device Requirements: Free Page Reporting",
        "Where offered: write poison_val 0, then 0xa5a5a5a5, fill four pages with it, report them, read behind the acknowledgement",
        "poison_val in each word",
    ),
];
