//! ELF notes: how Xen recognizes a guest.

/// Types of ELF notes with the owner "Xen" (`elfnote.h`).
pub mod note {
    /// Virtual address of the entry.
    pub const ENTRY: u32 = 1;
    /// Virtual address of physical address 0.
    pub const VIRT_BASE: u32 = 3;
    /// What `p_paddr` of the ELF's segments counts from.
    pub const PADDR_OFFSET: u32 = 4;
    /// Interface version, [`INTERFACE`](crate::xen::INTERFACE).
    pub const XEN_VERSION: u32 = 5;
    /// Name of the guest.
    pub const GUEST_OS: u32 = 6;
    /// "generic".
    pub const LOADER: u32 = 8;
    /// Features by name.
    pub const FEATURES: u32 = 10;
    /// Features by bit; [`FEATURE_DOM0`](crate::xen::FEATURE_DOM0) is needed to be the initial domain.
    pub const SUPPORTED_FEATURES: u32 = 17;

    /// Names of all types, from 0 on, as the header has them behind `XEN_ELFNOTE_`.
    pub const NAMES: [&str; 20] = [
        "INFO",
        "ENTRY",
        "HYPERCALL_PAGE",
        "VIRT_BASE",
        "PADDR_OFFSET",
        "XEN_VERSION",
        "GUEST_OS",
        "GUEST_VERSION",
        "LOADER",
        "PAE_MODE",
        "FEATURES",
        "BSD_SYMTAB",
        "HV_START_LOW",
        "L1_MFN_VALID",
        "SUSPEND_CANCEL",
        "INIT_P2M",
        "MOD_START_PFN",
        "SUPPORTED_FEATURES",
        "PHYS32_ENTRY",
        "PHYS32_RELOC",
    ];
}

/// What [`note::XEN_VERSION`] says: the interface of Xen 3.0 and everything after.
pub const INTERFACE: &str = "xen-3.0";

/// `XENFEAT_dom0`: the guest can be the initial domain.
pub const FEATURE_DOM0: u32 = 1 << 11;
