//! What the guest sees when the host changes the machine while it runs.

use super::{Check, row};

const CONFIG: &str = "2.5.2 Device Requirements: Device Configuration Space";
const NOTIFICATION: &str = "2.3 Notifications";
const STATUS: &str = "4.2.2 MMIO Device Register Layout; 4.1.4.5 ISR status capability";
const CAPACITY: &str = "5.2.5 Device Initialization";
const LINK: &str = "5.1.4 Device configuration layout";
const BALLOON: &str = "5.5.6 Device Operation";
const STATISTICS: &str = "5.5.6.3 Memory Statistics";

/// The checks of this group.
pub const CHECKS: &[Check] = &[
    row(
        "outside/generation-changes-with-the-configuration",
        "The generation changes whenever two reads could see different configurations",
        CONFIG,
        "Have the balloon's target, the disk's capacity, the link changed, one after the other",
        "Another generation where the field reads differently; over MMIO advice where a field is read at once",
    ),
    row(
        "outside/configuration-change-interrupts",
        "A change of the configuration is notified",
        NOTIFICATION,
        "Have target, capacity and link changed, count the interrupts of each device that has some",
        "At least one for each",
    ),
    row(
        "outside/interrupt-status-tells-a-configuration-change",
        "Bit 1 of the interrupt status stands for a change of the configuration",
        STATUS,
        "Have the balloon's target changed, where there is no MSI-X; acknowledge",
        "Bit 1 set; 0 behind the acknowledgement",
    ),
    row(
        "outside/configuration-change-is-no-used-buffer",
        "Bit 0 of the interrupt status stands for a used buffer",
        STATUS,
        "Have the balloon's target changed, where there is no MSI-X",
        "Bit 0 clear: no queue has a buffer",
    ),
    row(
        "outside/reset-forgets-a-configuration-change",
        "A reset takes pending interrupts back",
        "2.4.1 Device Requirements: Device Reset",
        "Have the balloon's target changed, where there is no MSI-X; reset",
        "Interrupt status 0",
    ),
    row(
        "outside/change-without-a-vector-stays-quiet",
        "A change of the configuration does not interrupt while config_msix_vector is NO_VECTOR",
        "4.1.5.4.1 Device Requirements: Notification of Device Configuration Changes",
        "Have the balloon's target changed with NO_VECTOR, or the link where the balloon has no MSI-X, wait 20 ms; then with a vector",
        "No interrupt; then one",
    ),
    row(
        "outside/disk-shrinks",
        "capacity is the disk's size, also when that changes",
        CAPACITY,
        "Have 8 sectors taken from the disk, read the first of them",
        "capacity is less by 8; IOERR",
    ),
    row(
        "outside/disk-grows",
        "A disk that grew can be used to its new end",
        CAPACITY,
        "Have 8 sectors taken and given back, write and read them",
        "capacity as before; what was written",
    ),
    row(
        "outside/link-goes-down-and-up",
        "status follows the link",
        LINK,
        "Have the cable pulled and plugged in",
        "Bit 0 of status falls, then rises",
    ),
    row(
        "outside/frames-are-taken-while-the-link-is-down",
        "The transmit queue goes on without a link",
        "5.1.9.2 Packet Transmission",
        "Have the cable pulled, send two frames, have it plugged in",
        "Both used, no DEVICE_NEEDS_RESET",
    ),
    row(
        "outside/balloon-target-is-told",
        "num_pages is the size that the host wants",
        BALLOON,
        "Have the target set to 3, 700 and 0 pages",
        "num_pages reads so",
    ),
    row(
        "outside/balloon-target-moves-while-busy",
        "The target may change at any time",
        BALLOON,
        "Let our driver inflate; have the target moved up, down and up before it is there, and to 0 at the end",
        "It ends with what was last wanted, and actual says so",
    ),
    row(
        "outside/statistics-wait-for-a-request",
        "A used statistics buffer is a request for new ones, so without a request it stays",
        STATISTICS,
        "Give statistics without a request, wait 50 ms",
        "The buffer is not used",
    ),
    row(
        "outside/statistics-buffer-comes-back",
        "The device uses the statistics buffer to ask for new ones",
        STATISTICS,
        "Give statistics, have them asked for, twice",
        "The buffer is used, with length 0",
    ),
    row(
        "outside/statistics-unknown-and-unordered-are-taken",
        "The device ignores tags that it does not know, and takes those that it does in any order",
        "5.5.6.3.2 Device Requirements: Memory Statistics",
        "Give statistics with the tag 0x7a7a first and the others in descending order, have them asked for, twice",
        "The buffer is used, with length 0; no DEVICE_NEEDS_RESET",
    ),
];
