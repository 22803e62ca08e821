//! The command line, and the places of virtio-mmio devices on it.

use crate::cmdline::Cmdline;
use crate::platform::mmio::{Slot, slots};
use pvops::event::Trigger;

#[test]
fn the_vmms_words_come_after_the_images_and_the_last_value_wins() {
    let cmdline = Cmdline::new("tour pvops=unpatched", "  pvops=patched drivers=reference ");
    assert!(cmdline.has("tour") && !cmdline.has("pvops") && !cmdline.has("our"));
    assert_eq!(cmdline.value("pvops"), Some("patched"));
    assert_eq!(cmdline.value("drivers"), Some("reference"));
    assert_eq!(cmdline.value("driver"), None);
    assert_eq!(cmdline.words().count(), 4);
}

#[test]
fn words_for_linux_are_not_ours() {
    // Firecracker adds `pci=off`, kvmtool `pci=conf1`, and CI systems configure Linux with `ip=`.
    let cmdline = Cmdline::new("ringside.tour", "pci=off ip=10.0.0.2::10.0.0.1:255.255.255.0 ringside.pci=ports");
    assert_eq!((cmdline.own_value("pci"), cmdline.own_value("ip")), (Some("ports"), None));
    assert!(cmdline.has("tour"), "every word of ours may have the prefix");
    assert_eq!(Cmdline::new("", "ringside.pvops=unpatched").value("pvops"), Some("unpatched"));
}

#[test]
fn devices_are_found_on_the_board_and_on_the_command_line() {
    let cmdline = Cmdline::new("", "virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=4K@0xd0000000:5:7");
    let found: Vec<_> = slots(2, cmdline, Vec::new()).collect();
    let slot = |address, size, line| Slot { address, size, line, trigger: Trigger::Edge };
    assert_eq!(
        found,
        [
            slot(0xd000_0000, 0x1000, 5),
            slot(0xd000_1000, 0x1000, 6),
            slot(0xfeb0_0e00, 512, 12),
            slot(0xd000_0000, 4096, 5)
        ]
    );
}

#[test]
fn a_line_on_the_command_line_signals_as_acpi_says_of_the_same_device() {
    let cmdline = Cmdline::new("", "virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11");
    let declared = |address, line| Slot { address, size: 512, line, trigger: Trigger::LevelHigh };
    // Of the second one it says another line, so it speaks of something else.
    let found: Vec<_> = slots(0, cmdline, vec![declared(0xfeb0_0e00, 12), declared(0xfeb0_0c00, 10)]).collect();
    let triggers: Vec<_> = found.iter().map(|slot| slot.trigger).collect();
    assert_eq!(triggers[..2], [Trigger::LevelHigh, Trigger::Edge]);
}

#[test]
fn a_device_that_cannot_be_read_is_left_out() {
    for text in [
        "",
        "512",
        "512@0xfeb00e00",
        "@0xfeb00e00:5",
        "0@0xfeb00e00:5",
        "512@0:5",
        "512@x:5",
        "99G9@1:5",
        "17179869184G@1:5",
    ] {
        let word: &'static str = Box::leak(format!("virtio_mmio.device={text}").into_boxed_str());
        assert_eq!(slots(0, Cmdline::new("", word), Vec::new()).count(), 0, "{text:?}");
    }
}
