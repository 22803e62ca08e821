//! Parts of the kernel that are plain logic, tested on the host: the sources themselves, with stand-ins for what is around
//! them. The modules have the names that they have in the kernel, so that their `crate::` paths resolve.

extern crate alloc;

mod acpi_tests;
mod aml_tests;
mod arena_tests;
mod editor_tests;
mod frames_tests;
mod gpt_tests;
mod initrd_tests;
mod interrupts_tests;
mod level_tests;
mod loopback_tests;
mod memory_tests;
mod pci_tests;
mod task_tests;
mod time_tests;
mod words_tests;

#[path = "../../../guest-kernel/src/cmdline.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
mod cmdline;

#[path = "../../../guest-kernel/src/gpt.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
mod gpt;

#[path = "../../../guest-kernel/src/conform/loopback.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
mod loopback;

#[path = "../../../guest-kernel/src/trap/level.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
mod level;

#[path = "../../../guest-kernel/src/initrd.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
mod initrd;

#[path = "../../../guest-kernel/src/task.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
mod task;

/// Stand-in for the loader's information.
#[path = "."]
mod boot {
    #[path = "../../../guest-kernel/src/boot/memory.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod memory;

    pub(crate) mod info {
        /// As in the kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct Range {
            pub(crate) start: u64,
            pub(crate) end: u64,
        }

        impl Range {
            pub(crate) fn len(self) -> u64 {
                self.end - self.start
            }
        }
    }
}

/// Stand-in for the lock that masks events: nothing locks here.
mod sync {
    pub(crate) struct Lock<T>(#[allow(dead_code, reason = "only its type is needed")] T);

    impl<T> Lock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(value)
        }
    }

    // SAFETY: nothing reaches the value.
    unsafe impl<T> Sync for Lock<T> {}
}

/// Stand-in for the direct map: physical memory is a mapping of this process.
#[path = "."]
mod mm {
    use std::cell::Cell;

    pub(crate) const PAGE_SIZE: usize = 4096;

    thread_local! {
        /// Where physical address 0 would be.
        pub(crate) static BASE: Cell<usize> = const { Cell::new(0) };
    }

    pub(crate) fn direct(physical: u64) -> usize {
        BASE.get() + physical as usize
    }

    #[path = "../../../guest-kernel/src/mm/arena.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod arena;

    #[path = "../../../guest-kernel/src/mm/frames.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod frames;

    /// Stand-in for the page tables.
    pub(crate) mod paging {
        pub(crate) fn map_device(physical: u64, len: u64) -> Option<usize> {
            // As the kernel's: pages have 52 bits of address.
            (len > 0 && physical >> 52 == 0).then(|| super::direct(physical))
        }
    }
}

#[path = "."]
mod platform {
    #[path = "../../../guest-kernel/src/platform/acpi.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod acpi;

    #[path = "../../../guest-kernel/src/platform/aml.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod aml;

    #[path = "../../../guest-kernel/src/platform/interrupts.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod interrupts;

    #[path = "../../../guest-kernel/src/platform/mmio.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod mmio;

    #[path = "."]
    pub(crate) mod pci {
        #[path = "../../../guest-kernel/src/platform/pci/bars.rs"]
        #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
        pub(crate) mod bars;
        #[path = "../../../guest-kernel/src/platform/pci/ecam.rs"]
        #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
        pub(crate) mod ecam;
        #[path = "../../../guest-kernel/src/platform/pci/walk.rs"]
        #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
        pub(crate) mod walk;
    }
}

#[path = "."]
mod time {
    #[path = "../../../guest-kernel/src/time/calibrate.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod calibrate;
}

#[path = "."]
mod shell {
    #[path = "../../../guest-kernel/src/shell/editor.rs"]
    #[allow(dead_code, unreachable_pub, reason = "the kernel uses all of it")]
    pub(crate) mod editor;
}
