//! The patcher's plans, the worlds' tables and what they compute. `tests/own_world.rs` patches and executes sites.

use crate::mmu;
use crate::patch::{NOP_MAX, PatchError, Summary, is_nops, plan};
use crate::site::SITE_LEN;
use crate::table::{Backend, Op, op};
use crate::template::Template;
use crate::worlds::{kvm, native};
use x86_64::PhysAddr;

crate::template!(TOO_LONG, "mov eax, 42", "mov eax, 42");

fn world() -> Backend {
    Backend { name: "test", ops: native::OPS, templates: &[] }
}

#[test]
fn code_that_does_not_fit_is_refused_with_both_lengths() {
    let world = Backend { templates: &[(op::irq::disable, TOO_LONG)], ..world() };
    let error = plan(op::irq::disable, 0x1000, &world).unwrap_err();
    assert_eq!(error, PatchError::TemplateTooLong { site: 0x1000, op: op::irq::disable, template: 10, room: SITE_LEN });
    assert_eq!(error.to_string(), "site 0x1000: 10 bytes of irq.disable do not fit into 8");
}

#[test]
fn a_target_out_of_range_of_a_call_is_refused() {
    let world = world();
    let target = world.target(op::irq::disable).unwrap();
    let just_in_range = target - 5 - i32::MAX as usize;
    assert!(plan(op::irq::disable, just_in_range, &world).is_ok());
    let error = plan(op::irq::disable, just_in_range - 1, &world).unwrap_err();
    assert_eq!(error, PatchError::OutOfRange { site: just_in_range - 1, op: op::irq::disable, target });
    assert!(error.to_string().ends_with("is out of range of a call"));
}

#[test]
fn an_operation_that_the_world_lacks_is_refused() {
    let mut world = world();
    world.ops.smp.relax = None;
    let error = plan(op::smp::relax, 0x1000, &world).unwrap_err();
    assert_eq!(error.to_string(), "site 0x1000: this world has no smp.relax");
}

#[test]
fn every_world_implements_every_operation_and_every_template_fits() {
    for world in [&native::BACKEND, &kvm::BACKEND] {
        for op in Op::all() {
            let near = world.target(op).unwrap_or_else(|| panic!("{} lacks {}", world.name, op.name()));
            plan(op, near, world).unwrap();
        }
    }
}

#[test]
fn inline_code_is_the_function_without_its_return() {
    const RET: u8 = 0xc3;
    // The return from exceptions drops its own return address first.
    for (op, template) in native::TEMPLATES.iter().filter(|(op, _)| *op != op::cpu::iret) {
        let code = template.bytes();
        let target = native::BACKEND.target(*op).unwrap() as *const u8;
        // SAFETY: the function is at least as long as its instructions and the return.
        let function = unsafe { core::slice::from_raw_parts(target, code.len() + 1) };
        assert_eq!((&function[..code.len()], function[code.len()]), (code, RET), "{}", op.name());
    }
}

#[test]
fn irq_disable_becomes_one_cli_and_one_nop() {
    let site = native::BACKEND.target(op::irq::disable).unwrap();
    let plan = plan(op::irq::disable, site, &native::BACKEND).unwrap();
    assert_eq!(*plan.bytes, [0xfa, 0x0f, 0x1f, 0x80, 0, 0, 0, 0]);
    assert!(is_nops(&plan.bytes[1..]) && !is_nops(&plan.bytes));
}

#[test]
fn padding_takes_the_fewest_instructions() {
    assert_eq!(NOP_MAX, 9, "the longest no-operation that Intel recommends");
    // An enabled site has 25 bytes, one of them `sti`.
    let site = native::BACKEND.target(op::irq::enable).unwrap();
    let plan = plan(op::irq::enable, site, &native::BACKEND).unwrap();
    let nops = &plan.bytes[1..];
    assert_eq!(nops.len(), 24);
    assert_eq!(nops[..9], [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
    assert_eq!(nops[9..18], nops[..9]);
    assert_eq!(nops[18..], [0x66, 0x0f, 0x1f, 0x44, 0, 0]);
    assert!(is_nops(nops));
}

#[test]
fn no_world_inherits_an_operation() {
    let worlds =
        [include_str!("worlds/native/mod.rs"), include_str!("worlds/kvm/mod.rs"), include_str!("worlds/xen/mod.rs")];
    for world in worlds {
        let inherited = world.lines().find(|line| line.trim_start().starts_with("..") && line.contains("OPS"));
        assert_eq!(inherited, None, "name every operation: one that a table inherits is forgotten silently");
    }
}

#[test]
fn an_operation_number_is_its_place_in_the_table() {
    assert_eq!(op::irq::save.index(), 0);
    assert_eq!(Op::from_number(Op::COUNT as u16), None);
    assert_eq!(op::vmm::read.index(), Op::COUNT - 1);
    assert_eq!(op::mmu::set_pte.name(), "mmu.set_pte");
    assert_eq!(Summary::EMPTY.sites(), 0);
}

#[test]
fn a_scale_converts_within_a_millionth() {
    for (from, to) in [
        (1_000_000_000, 1_000_000_000),
        (2_249_998_000, 1_000_000_000),
        (1_193_182, 1_000_000_000),
        (1_000_000_000, 24_000_000),
    ] {
        let scale = crate::scale::Scale::new(from, to);
        let ticks = from * 3;
        let error = scale.apply(ticks).abs_diff(to * 3);
        assert!(error <= to * 3 / 1_000_000 + 1, "{from} -> {to}: off by {error}");
        let hz = crate::scale::Scale::new(from, 1_000_000_000).hz_of_nanoseconds();
        assert!(hz.abs_diff(from) <= from / 1_000_000 + 1, "{from} Hz became {hz}");
    }
}

#[test]
fn halt_is_passed_over_only_after_sti() {
    const STI: u8 = 0xfb;
    const HLT: u8 = 0xf4;
    const NOP: u8 = 0x90;
    let code = [STI, HLT, NOP, HLT, STI, NOP];
    let after = |at: usize| {
        let address = code.as_ptr().addr() + at;
        // SAFETY: it reads the bytes there and before, all of the array; offset 0 is no `hlt`, so nothing before it is read.
        unsafe { crate::irq::after_unprotected_halt(address) }.map(|rip| rip - address)
    };
    assert_eq!([0, 1, 2, 3, 4, 5].map(after), [None, Some(1), None, None, None, None]);
}

#[test]
fn the_halt_of_ring_0_is_one_that_is_recognized() {
    let Some(halt) = native::OPS.irq.halt else { panic!("ring 0 halts") };
    let address = halt as usize + 1;
    // SAFETY: the second instruction of a function of this program, and the first before it.
    assert_eq!(unsafe { crate::irq::after_unprotected_halt(address) }, Some(address + 1));
}

#[test]
fn a_template_says_what_it_is() {
    let text = |op| native::BACKEND.template(op).map(Template::text);
    assert_eq!(text(op::irq::disable), Some("cli"));
    assert_eq!(text(op::irq::save), Some("pushfq; pop rax; cli"));
    assert_eq!(text(op::mmu::lazy_begin), Some(""));
    assert_eq!(text(op::time::now), None);
}

#[test]
fn a_virtual_interrupt_is_not_shown_as_a_line() {
    use crate::event::{Line, VIRTUAL};
    assert_eq!([Line(4), Line(VIRTUAL | 2)].map(|line| line.to_string()), ["line 4", "virtual interrupt 2"]);
}

#[test]
fn protections_are_those_that_cpuid_offers() {
    use crate::cpu::{PROTECTIONS, protections_of};
    use x86_64::registers::control::Cr4Flags;
    let (machine_checks, smep) = (Cr4Flags::MACHINE_CHECK_EXCEPTION, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
    assert_eq!(protections_of(0, 0, 0, 0), Cr4Flags::empty());
    assert_eq!(protections_of(!0, !0, !0, !0), PROTECTIONS);
    assert_eq!(protections_of(0, 1 << 7, 1 << 7, 0), machine_checks | smep);
    assert_eq!(protections_of(1 << 17, 0, 1 << 20, 1 << 2), PROTECTIONS - machine_checks - smep);
}

#[test]
fn an_entry_is_its_address_and_its_flags() {
    use x86_64::structures::paging::PageTableFlags;
    let flags = PageTableFlags::PRESENT | PageTableFlags::NO_EXECUTE;
    assert_eq!(mmu::entry(PhysAddr::new(0x1234_5000), flags), 0x8000_0000_1234_5001);
    for entry in [0, 0x8000_0000_1234_5001, u64::MAX] {
        let (address, flags) = mmu::parts(entry);
        assert_eq!(mmu::entry(address, flags), entry, "no bit is lost");
    }
}
