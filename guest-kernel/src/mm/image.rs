//! Where the linker put the kernel.

use shared_abi::bundle::KERNEL_VIRTUAL_BASE;

/// Physical address of the text.
pub const TEXT: u64 = 0x20_0000;

macro_rules! linker_symbols {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {
        $(
            $(#[$doc])*
            #[cfg(target_os = "none")]
            pub fn $name() -> usize {
                unsafe extern "C" {
                    static $symbol: u8;
                }
                (&raw const $symbol).addr()
            }

            /// A program of a host is linked without the kernel's script.
            #[cfg(not(target_os = "none"))]
            pub fn $name() -> usize {
                0
            }
        )*
    };
}

linker_symbols! {
    /// First byte of text.
    text_start = __text_start;
    /// End of the text, exclusive.
    text_end = __text_end;
    /// First byte of rodata.
    rodata_start = __rodata_start;
    /// End of rodata, exclusive.
    rodata_end = __rodata_end;
    /// First byte of data.
    data_start = __data_start;
    /// End of the data that becomes read-only, exclusive.
    ro_after_init_end = __ro_after_init_end;
    /// End of bss, exclusive.
    data_end = __data_end;
}

/// Physical address of a byte of the image.
pub const fn physical(address: usize) -> u64 {
    address as u64 - KERNEL_VIRTUAL_BASE
}

/// Physical end address of the image, exclusive.
pub fn end() -> u64 {
    physical(data_end())
}

/// The parts of the image, physical: what is to be kept from the frame allocator.
pub fn parts() -> [(u64, u64); 3] {
    [(text_start(), text_end()), (rodata_start(), rodata_end()), (data_start(), data_end())]
        .map(|(start, end)| (physical(start), physical(end)))
}
