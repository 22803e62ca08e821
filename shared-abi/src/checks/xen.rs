//! Xen's paravirtual interface, as a guest sees it. The rules are those of Xen's public headers.

use super::{Check, row};

const VERSION: &str = "Xen public/version.h, XENVER_version";
const EVENTS: &str = "Xen public/event_channel.h, event-channel operations";
const VCPU_INFO: &str = "Xen public/xen.h, struct vcpu_info";
const BLOCK: &str = "Xen public/sched.h, SCHEDOP_block";
const TIMER: &str = "Xen public/vcpu.h, VCPUOP_set_singleshot_timer";
const TIME: &str = "Xen public/xen.h, struct vcpu_time_info";
const CONSOLE: &str = "Xen public/xen.h, console_io";
const CALLS: &str = "Xen public/arch-x86/xen-x86_64.h, hypercall interface; public/errno.h";
const MULTICALL: &str = "Xen public/xen.h, struct multicall_entry";
const UPDATE: &str = "Xen public/xen.h, mmu_update";
const EXTENDED: &str = "Xen public/xen.h, mmuext_op";
const VA_MAPPING: &str = "Xen public/xen.h, update_va_mapping";
const FRAMES: &str = "Xen public/xen.h, start_info.mfn_list; arch-x86/xen-x86_64.h, machine_to_phys_mapping";
const EXCHANGE: &str = "Xen public/memory.h, XENMEM_exchange";
const RESERVATION: &str = "Xen public/memory.h, XENMEM_decrease_reservation, XENMEM_populate_physmap";
const TRAPS: &str = "Xen public/arch-x86/xen.h, struct trap_info";

/// Group `xen`.
pub const CHECKS: &[Check] = &[
    row("xen/version-is-not-too-old", "Xen tells its version", VERSION, "Ask for it", "4.0 or newer"),
    row(
        "xen/event-sent-arrives",
        "An event on an unmasked channel makes an upcall",
        EVENTS,
        "Send to a channel from this CPU to itself",
        "Its handler has run once",
    ),
    row(
        "xen/event-waits-for-the-upcall-mask",
        "With the upcall mask set no upcall is made, and the event stays pending",
        VCPU_INFO,
        "Mask upcalls, send, look, unmask",
        "Pending bits while masked, the handler once behind it",
    ),
    row(
        "xen/event-waits-for-its-channel-mask",
        "A masked channel makes no upcall, and its event stays pending",
        EVENTS,
        "Mask the channel, send, look, unmask in the shared page",
        "The pending bit while masked, the handler once behind it",
    ),
    row(
        "xen/event-waits-for-xens-unmask",
        "EVTCHNOP_unmask delivers what is pending",
        EVENTS,
        "Mask the channel, send, unmask by Xen's command",
        "The handler once",
    ),
    row(
        "xen/events-while-masked-are-one",
        "An event is a bit: sent again while pending, it is one",
        EVENTS,
        "Mask the channel, send three times, unmask",
        "The handler once",
    ),
    row(
        "xen/unmasking-loses-no-event",
        "No event is lost between mask and unmask of a channel",
        EVENTS,
        "Mask, send, unmask, 20000 times",
        "The handler once each time",
    ),
    row(
        "xen/enabling-loses-no-event",
        "No event is lost between setting and clearing of the upcall mask",
        VCPU_INFO,
        "Mask upcalls, send, unmask, 20000 times",
        "The handler once each time",
    ),
    row(
        "xen/upcall-does-not-nest",
        "An upcall starts with upcalls masked",
        "Xen public/callback.h, CALLBACKTYPE_event",
        "A handler sends to its own channel, 100 times",
        "101 calls, never two at once",
    ),
    row(
        "xen/two-channels-both-arrive",
        "Events on several channels all arrive",
        EVENTS,
        "Mask upcalls, send to two channels, unmask",
        "Each handler once",
    ),
    row(
        "xen/channels-of-two-words-arrive",
        "The selector has a bit for every word of pending channels",
        VCPU_INFO,
        "Bind 70 channels, mask upcalls, send to all, unmask",
        "70 events",
    ),
    row("xen/closed-channel-refuses", "A closed channel is none", EVENTS, "Close a channel, send to it", "EINVAL"),
    row("xen/channel-out-of-range-refuses", "A channel has to exist", EVENTS, "Send to channel 1000000", "EINVAL"),
    row(
        "xen/virtual-interrupt-binds-once",
        "A virtual interrupt has one channel for each CPU",
        EVENTS,
        "Bind the timer's again",
        "EEXIST",
    ),
    row(
        "xen/block-returns-for-an-event",
        "SCHEDOP_block unmasks upcalls and does not miss an event that is pending",
        BLOCK,
        "Mask upcalls, send, block, 100 times",
        "It returns, and the handler has run",
    ),
    row(
        "xen/disable-and-enable-cost-no-hypercall",
        "With nothing pending the upcall mask is memory",
        VCPU_INFO,
        "A million pairs of irq.disable and irq.enable",
        "No hypercall is counted",
    ),
    row(
        "xen/save-and-restore-cost-no-hypercall",
        "With nothing pending the upcall mask is memory",
        VCPU_INFO,
        "100000 pairs of irq.save and irq.restore",
        "No hypercall is counted",
    ),
    row(
        "xen/enabling-with-an-event-costs-one-hypercall",
        "Any hypercall delivers what is pending",
        VCPU_INFO,
        "Mask upcalls, send, unmask",
        "One hypercall for the unmasking",
    ),
    row("xen/timer-is-not-early", "A timer does not fire before its time", TIMER, "20 timers of 2 ms", "None early"),
    row(
        "xen/timer-is-within-a-percent",
        "A timer fires at its time",
        TIMER,
        "Up to five timers of half a second",
        "One less than 5 ms late",
    ),
    row(
        "xen/timer-in-the-past-fires",
        "A time that has passed fires at once",
        TIMER,
        "A timer at time 1",
        "One event within a second",
    ),
    row(
        "xen/timer-stops",
        "A stopped timer does not fire",
        "Xen public/vcpu.h, VCPUOP_stop_singleshot_timer",
        "Set a timer of 50 ms, stop it, wait 100 ms",
        "No event",
    ),
    row(
        "xen/time-page-version-is-even",
        "A CPU sees its own time only as Xen has finished it",
        TIME,
        "Read it 2000 times",
        "The version is even, the multiplier not 0",
    ),
    row(
        "xen/wall-clock-is-set",
        "The shared page has the time of day",
        "Xen public/xen.h, struct shared_info, wc_sec",
        "Read it",
        "A time behind 2020",
    ),
    row(
        "xen/console-without-input-reads-nothing",
        "CONSOLEIO_read returns what is there",
        CONSOLE,
        "Read while nobody types",
        "0 bytes",
    ),
    row("xen/unknown-hypercall-refuses", "A number without hypercall is refused", CALLS, "Call number 63", "ENOSYS"),
    row("xen/unknown-command-refuses", "A command that is none is refused", CALLS, "Call sched_op 99", "ENOSYS"),
    row(
        "xen/bad-pointer-is-an-error",
        "An argument that the guest cannot reach is an error",
        CALLS,
        "Send with the argument at an address of Xen's",
        "EFAULT",
    ),
    row(
        "xen/multicall-goes-on-behind-a-failure",
        "Each call of a list has its own result",
        MULTICALL,
        "Three calls, the second one refused",
        "Two versions, ENOSYS between",
    ),
    row(
        "xen/multicall-is-one-entry",
        "A list of calls is one hypercall",
        MULTICALL,
        "64 calls",
        "One hypercall is counted, 64 results are right",
    ),
    row(
        "xen/batch-is-like-single-updates",
        "A list of updates does what the updates do one by one",
        UPDATE,
        "Fill one table with 512 single updates, another with a batch",
        "The same entries",
    ),
    row(
        "xen/batch-of-512-costs-two-hypercalls-at-most",
        "A batch is collected",
        "Ringside docs/worlds.md, Batches",
        "Count the hypercalls of 512 set_pte in a batch",
        "2 or fewer",
    ),
    row(
        "xen/single-updates-cost-one-each",
        "Without a batch each update is made at once",
        "Ringside docs/worlds.md, Batches",
        "Count the hypercalls of 512 set_pte",
        "512",
    ),
    row(
        "xen/refused-update-leaves-the-table",
        "A list ends at the first update that is refused, and says how far it came",
        UPDATE,
        "A list with a bad update in the middle",
        "An error, 1 done, the other two entries as before",
    ),
    row(
        "xen/writable-mapping-of-a-table-refused",
        "No table is mapped writable",
        UPDATE,
        "Map a pinned table writable, then read-only",
        "The first is refused, the second made",
    ),
    row(
        "xen/frame-of-another-refused",
        "A domain maps its own frames only",
        UPDATE,
        "Map a frame far behind the machine's memory",
        "Refused, the entry as before",
    ),
    row(
        "xen/table-refuses-writes",
        "Tables are written by Xen only",
        UPDATE,
        "Write to the live top-level table",
        "A page fault",
    ),
    row(
        "xen/pinned-frame-stays-a-table",
        "A pinned frame keeps its type",
        EXTENDED,
        "Map a pinned table writable by update_va_mapping",
        "Refused",
    ),
    row(
        "xen/unpinned-frame-is-memory-again",
        "An unpinned frame may change its type",
        EXTENDED,
        "Pin, unpin, map writable, write",
        "No fault",
    ),
    row(
        "xen/bad-table-is-not-pinned",
        "A table is checked before it is pinned",
        EXTENDED,
        "Pin a table that maps itself writable",
        "Refused",
    ),
    row(
        "xen/base-pointer-must-be-a-table",
        "The base pointer is a checked level 4 table",
        EXTENDED,
        "Give an ordinary frame",
        "Refused, the live tables as before",
    ),
    row(
        "xen/new-mapping-is-seen-at-once",
        "UVMF_INVLPG flushes the address",
        VA_MAPPING,
        "Map one address in turn to two frames and read it",
        "Each frame's own word",
    ),
    row(
        "xen/frame-lists-agree",
        "The domain's list and Xen's table are inverse",
        FRAMES,
        "Look every frame up there and back",
        "The same frame",
    ),
    row(
        "xen/block-becomes-contiguous",
        "Frames are exchanged for a contiguous block",
        EXCHANGE,
        "Let two of 16 pages change places, ask for a block of 16",
        "Machine frames one behind the other",
    ),
    row(
        "xen/balloon-moves-the-reservation",
        "Frames given away are no longer the domain's",
        RESERVATION,
        "Give 64 pages, take them back",
        "The current reservation follows both ways",
    ),
    row(
        "xen/page-from-the-balloon-is-clean",
        "A page never shows another domain's data",
        RESERVATION,
        "Fill 16 pages, give them away, take them back, read them",
        "Zeroes, or what was there before",
    ),
    row(
        "xen/frame-comes-without-error-code",
        "An exception without error code arrives at its instruction",
        TRAPS,
        "Run ud2",
        "Vector 6, RIP and RSP of the instruction",
    ),
    row(
        "xen/frame-comes-with-error-code",
        "An exception with error code brings it",
        TRAPS,
        "Load FS with selector 0xfff0",
        "Vector 13, error code 0xfff0, RIP and RSP of the instruction",
    ),
    row(
        "xen/page-fault-tells-address-and-way",
        "A page fault brings its error code and CR2",
        VCPU_INFO,
        "Read and write where nothing is mapped, write to what is read-only",
        "Error codes 0, 2 and 3, the address in CR2",
    ),
    row(
        "xen/frame-shows-the-upcall-mask",
        "RFLAGS.IF of a frame is the inverse of the upcall mask, which returns with it",
        "Xen public/arch-x86/xen-x86_64.h, struct iret_context",
        "Fault with events on and off",
        "IF as the mask was, and the mask as before",
    ),
    row(
        "xen/fault-inside-an-upcall-returns",
        "Exceptions nest in upcalls",
        TRAPS,
        "A handler that faults, 100 times",
        "100 faults, 100 returns",
    ),
    row(
        "xen/fault-keeps-registers",
        "RCX and R11 come by Xen's frame, the others as they were",
        TRAPS,
        "Fault with known registers",
        "The same in the frame and behind it",
    ),
];
