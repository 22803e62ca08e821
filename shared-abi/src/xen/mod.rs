//! Xen's paravirtual interface for x86-64, as far as the guest uses it.
//!
//! Source: Xen's public headers, `xen/include/public`: `xen.h`, `arch-x86/xen.h`, `arch-x86/xen-x86_64.h`, `elfnote.h`,
//! `event_channel.h`, `memory.h`, `physdev.h`, `sched.h`, `vcpu.h`. Machine addresses and machine frames (mfn) are those of
//! the hardware, physical ones (pfn) those that the guest counts by.

mod devices;
mod elf_notes;
mod event_channels;
mod hypercalls;
mod info;
mod pages;

pub use devices::{AddDevice, IrqStatus, MapPirq, SetupGsi, physdev};
pub use elf_notes::{FEATURE_DOM0, INTERFACE, note};
pub use event_channels::{BindIpi, BindPirq, BindVirq, event};
pub use hypercalls::{
    CODE_SELECTOR, Call, CallbackRegister, DATA_SELECTOR, OLDEST_VERSION, PlatformOp, SingleShot, TrapInfo, callback,
    console, hypercall, sched, vcpu,
};
pub use info::{SharedInfo, StartInfo, VcpuInfo};
pub use pages::{DOMID_SELF, Exchange, MACHINE_TO_PHYSICAL, MmuExtended, MmuUpdate, Reservation, memory, mmuext, uvmf};
