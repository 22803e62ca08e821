//! Feature bits: offered, required, accepted and refused.

use crate::catalogue::{Check, checks};
#[cfg(feature = "guest")]
use {
    crate::support::device::Dev,
    crate::support::transport::{Bus, DRIVER, FEATURES_OK, bus_of, each, live},
    crate::support::{equal, holds, skip},
    alloc::format,
    code::*,
    shared_abi::virtio::{CommonFeatures, DeviceType},
};

/// The checks of a bus.
macro_rules! of {
($group:literal, $bus:expr) => {
checks![
    Check {
        name: concat!($group, "/version-1-is-offered"),
        rule: "A device offers VIRTIO_F_VERSION_1",
        clause: "6.2 Device Requirements: Reserved Feature Bits",
        method: "Read bit 32 of the features",
        expectation: "It is set",
        run: |cx| each(cx, $bus, |target| {
    let offered = Dev::new(target)?.offered;
    holds(offered & CommonFeatures::VERSION_1.bits() != 0, "features", "bit 32", format!("{offered:#x}"))
}),
    },
    Check {
        name: concat!($group, "/features-are-stable"),
        rule: "The offered features do not change while a driver looks",
        clause: "2.2 Feature Bits",
        method: "Read them twice, reset, read again",
        expectation: "The same each time",
        run: |cx| each(cx, $bus, |target| {
    let dev = Dev::new(target)?;
    equal("features, read again", dev.offered, target.regs.features())?;
    let offered = dev.offered;
    drop(dev);
    equal("features after a reset", offered, Dev::new(target)?.offered)
}),
    },
    Check {
        name: concat!($group, "/feature-words-beyond-are-zero"),
        rule: "A device offers no bits that no specification has defined",
        clause: "2.2 Feature Bits",
        method: "Read the feature words 100 and 0xffffffff",
        expectation: "Zero",
        run: |cx| each(cx, $bus, |target| {
    let _dev = Dev::new(target)?;
    for word in [100, u32::MAX] {
        equal(&format!("feature word {word:#x}"), 0, target.regs.feature_word(word))?;
    }
    Ok(())
}),
    },
    Check {
        name: concat!($group, "/features-come-with-what-they-require"),
        rule: "A device offers no feature without those that it requires",
        clause: "2.2.2 Device Requirements: Feature Bits; 5.1.3.1 Feature bit requirements; 6.2 Device \
            Requirements: Reserved Feature Bits",
        method: "Compare the features of cards with the list of what each requires, those of disks with \
            5.2.5.2, those of MMIO devices with SR_IOV",
        expectation: "Each has what it requires",
        run: |cx| each(cx, $bus, |target| {
    const SR_IOV: u64 = 1 << 37;
    let rules = match target.device_type {
        DeviceType::NET => CARD_REQUIRES,
        DeviceType::BLOCK => DISK_REQUIRES,
        _ => &[],
    };
    let offered = Dev::new(target)?.offered;
    if bus_of(target) == Bus::Mmio {
        equal("SR_IOV of a device that is not on PCI", 0, offered & SR_IOV)?;
    }
    for &(bit, sets) in rules.iter().filter(|(bit, _)| offered & 1 << bit != 0) {
        let missing = sets.iter().find(|&&set| offered & set == 0);
        let expected = format!("one of {:#x} besides bit {bit}", missing.copied().unwrap_or_default());
        holds(missing.is_none(), "offered features", expected, format!("{offered:#x}"))?;
    }
    Ok(())
}),
    },
    Check {
        name: concat!($group, "/features-ok-stays-for-all-offered"),
        rule: "FEATURES_OK stays when the driver accepts what is offered",
        clause: "2.2.2 Device Requirements: Feature Bits",
        method: "Accept every offered bit that needs nothing else of the driver",
        expectation: "FEATURES_OK reads back",
        level: Should,
        run: |cx| each(cx, $bus, |target| {
// What is left out: bits that change how queues are used or need other bits.
    let left_out = CommonFeatures::RING_PACKED | CommonFeatures::NOTIFICATION_DATA | CommonFeatures::IN_ORDER;
    Dev::with_features(target, !left_out.bits()).map(drop)
}),
    },
    Check {
        name: concat!($group, "/features-ok-stays-for-the-least"),
        rule: "FEATURES_OK stays for a valid subset",
        clause: "2.2.2 Device Requirements: Feature Bits",
        method: "Accept VERSION_1 (and ACCESS_PLATFORM if offered) alone",
        expectation: "FEATURES_OK reads back",
        level: Should,
        run: |cx| each(cx, $bus, |target| Dev::with_exactly(target, 0).map(drop)),
    },
    Check {
        name: concat!($group, "/features-ok-falls-for-a-bit-not-offered"),
        rule: "A device that does not accept the features does not show FEATURES_OK",
        clause: "2.2.2 Device Requirements: Feature Bits",
        method: "Accept VERSION_1 and one bit that was not offered",
        expectation: "FEATURES_OK reads 0",
        run: |cx| each(cx, $bus, |target| {
    let dev = Dev::new(target)?;
    // Bits of device types, from the top: reserved ones could be special to a transport.
    let Some(bit) = (0..24).rev().find(|bit| dev.offered & 1 << bit == 0) else {
        return Err(skip("every bit is offered"));
    };
    dev.regs().set_features(CommonFeatures::VERSION_1.bits() | 1 << bit);
    if dev.regs().accepted_word(0).is_some_and(|word| word & 1 << bit == 0) {
        // 4.1.4.3.1: it may ignore such a bit and present 0, by which the driver knows what was accepted.
        return Ok(());
    }
    dev.regs().set_status(DRIVER | FEATURES_OK);
    equal(&format!("status with bit {bit} accepted, which was not offered"), DRIVER, dev.regs().status())
}),
    },
    Check {
        name: concat!($group, "/features-ok-falls-without-version-1"),
        rule: "A modern device can not be driven without VIRTIO_F_VERSION_1",
        clause: "6.1 Driver Requirements: Reserved Feature Bits",
        method: "Accept no feature at all, set FEATURES_OK, reset, negotiate as usual",
        expectation: "Refused or accepted, the reset and the negotiation after it work",
        run: |cx| each(cx, $bus, |target| {
    let dev = Dev::new(target)?;
    dev.regs().set_features(0);
    dev.regs().set_status(DRIVER | FEATURES_OK);
    let saw = dev.regs().status();
    holds(saw & DRIVER == DRIVER, "status", "ACKNOWLEDGE and DRIVER", format!("{saw:#x}"))?;
    drop(dev);
    live(target).map(drop)
}),
    },
]
};
}

/// On virtio-mmio.
pub(crate) const MMIO: &[Check] = of!("mmio", Bus::Mmio);
/// On virtio-pci.
pub(crate) const PCI: &[Check] = of!("pci", Bus::Pci);

#[cfg(feature = "guest")]
mod code {
    use shared_abi::virtio::{blk, net};

    /// What features of a card require: one of the bits of each set (5.1.3.1), as far as they have 64 bits.
    pub const CARD_REQUIRES: &[(u32, &[u64])] = &[
        (7, &[GUEST_CSUM]),
        (8, &[GUEST_CSUM]),
        (9, &[GUEST_TSO]),
        (10, &[GUEST_CSUM]),
        (11, &[CSUM]),
        (12, &[CSUM]),
        (13, &[HOST_TSO]),
        (14, &[CSUM]),
        (18, &[CTRL_VQ]),
        (19, &[CTRL_VQ]),
        (21, &[CTRL_VQ]),
        (22, &[CTRL_VQ]),
        (23, &[CTRL_VQ]),
        (51, &[CTRL_VQ, RSS_OR_HASH_REPORT]),
        (52, &[CTRL_VQ]),
        (53, &[CTRL_VQ]),
        (54, &[GUEST_CSUM]),
        (55, &[GUEST_CSUM]),
        (56, &[CSUM]),
        (60, &[CTRL_VQ]),
        (61, &[HOST_TSO]),
    ];
    pub const CSUM: u64 = net::Features::CSUM.bits();
    pub const GUEST_CSUM: u64 = net::Features::GUEST_CSUM.bits();
    pub const GUEST_TSO: u64 = net::Features::GUEST_TSO4.union(net::Features::GUEST_TSO6).bits();
    pub const HOST_TSO: u64 = net::Features::HOST_TSO4.union(net::Features::HOST_TSO6).bits();
    pub const CTRL_VQ: u64 = net::Features::CTRL_VQ.bits();
    pub const RSS_OR_HASH_REPORT: u64 = 1 << 60 | 1 << 57;

    /// The same of a disk: CONFIG_WCE comes with FLUSH (5.2.5.2).
    pub const DISK_REQUIRES: &[(u32, &[u64])] = &[(11, &[blk::Features::FLUSH.bits()])];
}
