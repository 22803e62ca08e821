//! Where ISA interrupts arrive, by the flags of ACPI's interrupt source overrides.

use crate::platform::interrupts::{Override, Routing};
use pvops::event::{IoApic, Trigger};
use shared_abi::board::{IO_APIC_BASE, LOCAL_APIC_BASE};

#[test]
fn a_machine_without_a_madt_is_wired_like_every_pc() {
    let routing = Routing::usual();
    assert_eq!(routing.local, LOCAL_APIC_BASE);
    assert_eq!(routing.io.to_vec(), [IoApic { address: IO_APIC_BASE, first_line: 0 }]);
    assert_eq!(routing.isa(4), (4, Trigger::Edge));
}

#[test]
fn an_override_moves_its_interrupt_and_says_how_it_signals() {
    let mut routing = Routing::usual();
    for (irq, line, flags) in [(0, 2, 0), (9, 9, 0xd), (4, 20, 0xf), (3, 19, 0x7), (5, 21, 0x5), (7, 7, 0xa)] {
        routing.overrides.push(Override { irq, line, flags }).unwrap();
    }
    assert_eq!(routing.isa(0), (2, Trigger::Edge), "as on the bus");
    assert_eq!(routing.isa(9), (9, Trigger::LevelHigh));
    assert_eq!(routing.isa(4), (20, Trigger::Level));
    assert_eq!(routing.isa(3), (19, Trigger::EdgeLow));
    assert_eq!(routing.isa(5), (21, Trigger::Edge));
    assert_eq!(routing.isa(7), (7, Trigger::Edge), "reserved values are as on the bus");
    assert_eq!(routing.isa(1), (1, Trigger::Edge), "no override");
}
