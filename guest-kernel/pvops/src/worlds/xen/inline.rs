//! Inline code of this world. It names the shared page by its address, which only a program that is linked where it runs can do.

use super::entry;
use crate::table::{Op, op};
use crate::template::Template;
use crate::worlds::native;

pub(super) const TEMPLATES: &[(Op, Template)] =
    &[(op::irq::save, SAVE), (op::irq::disable, DISABLE), (op::irq::enable, ENABLE), (op::smp::relax, native::RELAX)];

crate::template!(
    /// The upcall mask of CPU 0 as it was, then set.
    SAVE,
    "mov al, 1",
    "xchg al, byte ptr [XEN_SHARED_INFO + 1]",
    "movzx eax, al",
);

crate::template!(
    /// The upcall mask of CPU 0.
    DISABLE,
    "mov byte ptr [XEN_SHARED_INFO + 1], 1",
);

crate::template!(
    /// Unmasks, and only then looks: an event that arrives in between is seen by one or the other.
    ENABLE,
    "mov byte ptr [XEN_SHARED_INFO + 1], 0",
    "cmp byte ptr [XEN_SHARED_INFO], 0",
    "je 2f",
    "call [XEN_DELIVER]",
    "2:",
);

/// What [`ENABLE`] calls: inline code can only name an address.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.ro_after_init")]
static XEN_DELIVER: unsafe extern "sysv64" fn() = entry::deliver;
