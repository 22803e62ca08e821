//! Checks that the kernel makes of itself, reported as `@check` lines.

use crate::boot;
use crate::mm::image;
use crate::trap::expected::write_faults;
use alloc::format;
use alloc::string::String;
use pvops::patch::{self, Summary};
use pvops::{site, table::op};
use shared_abi::report::{Kind, Outcome};
use x86_64::structures::paging::PageTableFlags;

/// A check says what it saw instead of what it expected.
type Check = fn(&Summary) -> Result<(), String>;

/// Name, whether it is about patched sites, and the check.
const CHECKS: &[(&str, bool, Check)] = &[
    ("pvops/no-indirect-site-is-left", true, no_indirect_site_is_left),
    ("pvops/irq-disable-is-inline", true, irq_disable_is_inline),
    ("pvops/every-site-is-as-planned", true, every_site_is_as_planned),
    ("pvops/irq-flag-follows", false, irq_flag_follows),
    ("mm/nothing-is-writable-and-executable", false, nothing_is_writable_and_executable),
    ("mm/text-refuses-writes", false, text_refuses_writes),
    ("mm/patched-table-refuses-writes", false, patched_table_refuses_writes),
    ("mm/stack-guard-is-not-mapped", false, stack_guard_is_not_mapped),
    ("time/never-goes-back", false, time_never_goes_back),
];

/// Runs all and reports each; returns how many failed.
pub fn run() -> u32 {
    let mut failed = 0;
    for check in CHECKS {
        let (name, ..) = check;
        match judge(check) {
            None => {
                crate::console::report(Kind::Check, name, Outcome::Skip, |line| line.field("why", "pvops=unpatched"))
            }
            Some(Ok(())) => crate::console::report(Kind::Check, name, Outcome::Success, |line| Ok(line)),
            Some(Err(why)) => {
                failed += 1;
                crate::console::report(Kind::Check, name, Outcome::Failure, |line| line.field("why", &why));
            }
        }
    }
    failed
}

/// Runs one by its name: whether it applies, and what it saw.
pub fn one(name: &str) -> Option<Result<(), String>> {
    judge(CHECKS.iter().find(|(found, ..)| *found == name)?)
}

/// Runs one; `None` for what is about patching in a kernel that is not patched.
fn judge(&(_, needs_patching, check): &(&str, bool, Check)) -> Option<Result<(), String>> {
    let summary = crate::patching::patches();
    (!needs_patching || summary.count(None) == 0).then(|| check(summary))
}

fn no_indirect_site_is_left(_: &Summary) -> Result<(), String> {
    for site in site::all() {
        let Some(op) = site.op() else { return Err(format!("corrupt record at {:#x}", site.address())) };
        if patch::is_call_of(&patch::bytes(site), site.address(), op) {
            return Err(format!("{} at {:#x}", op.name(), site.address()));
        }
    }
    Ok(())
}

/// `cli`, or a store to the mask of events, and nothing else.
fn irq_disable_is_inline(_: &Summary) -> Result<(), String> {
    let code = crate::patching::world()
        .backend()
        .template(op::irq::disable)
        .ok_or("this world has no inline code for it")?
        .bytes();
    let mut seen = 0;
    for site in site::all().iter().filter(|site| site.op() == Some(op::irq::disable)) {
        let bytes = patch::bytes(site);
        if !bytes.starts_with(code) || !patch::is_nops(&bytes[code.len()..]) {
            return Err(format!("{bytes:02x?} at {:#x}", site.address()));
        }
        seen += 1;
    }
    if seen == 0 { Err("there is no such site".into()) } else { Ok(()) }
}

fn every_site_is_as_planned(summary: &Summary) -> Result<(), String> {
    let counted = summary.sites() as usize;
    if counted != site::all().len() {
        return Err(format!("{counted} sites patched of {}", site::all().len()));
    }
    for site in site::all() {
        let backend = crate::patching::world().backend();
        match site.op().map(|op| patch::plan(op, site.address(), backend)) {
            Some(Ok(plan)) if plan.bytes == patch::bytes(site) => {}
            _ => return Err(format!("{:02x?} at {:#x}", patch::bytes(site), site.address())),
        }
    }
    Ok(())
}

fn irq_flag_follows(_: &Summary) -> Result<(), String> {
    let outer = pvops::irq::save();
    let off = pvops::irq::save();
    // SAFETY: these are the flags of a moment ago.
    unsafe { pvops::irq::restore(off) };
    let still_off = pvops::irq::save();
    // SAFETY: as above.
    unsafe { pvops::irq::restore(outer) };
    let on = pvops::irq::save();
    // SAFETY: as above.
    unsafe { pvops::irq::restore(on) };
    match (off == still_off, outer == on) {
        (true, true) => Ok(()),
        _ => Err(format!("saved {outer:#x} {off:#x} {still_off:#x} {on:#x}")),
    }
}

fn nothing_is_writable_and_executable(_: &Summary) -> Result<(), String> {
    const WRITABLE: PageTableFlags = PageTableFlags::WRITABLE;
    let ranges = [
        (image::text_start(), image::text_end()),
        (image::rodata_start(), image::rodata_end()),
        (image::data_start(), image::data_end()),
    ];
    for (start, end) in ranges {
        let physical = crate::mm::direct(image::physical(start));
        for address in (start..end).chain(physical..physical + (end - start)).step_by(4096) {
            let Some((_, flags)) = crate::mm::paging::lookup(address) else { continue };
            if flags & (WRITABLE | PageTableFlags::NO_EXECUTE) == WRITABLE {
                return Err(format!("{address:#x} has {flags:#x}"));
            }
        }
    }
    Ok(())
}

fn text_refuses_writes(_: &Summary) -> Result<(), String> {
    let text = image::text_start();
    for address in [text, crate::mm::direct(image::physical(text))] {
        if !write_faults(address) {
            return Err(format!("a write to {address:#x} went through"));
        }
    }
    Ok(())
}

fn patched_table_refuses_writes(_: &Summary) -> Result<(), String> {
    let table = pvops::live_table();
    if write_faults(table) { Ok(()) } else { Err(format!("a write to {table:#x} went through")) }
}

fn stack_guard_is_not_mapped(_: &Summary) -> Result<(), String> {
    match crate::mm::paging::lookup(boot::stack_guard()) {
        None => Ok(()),
        Some((physical, flags)) => Err(format!("mapped to {physical:#x} with {flags:#x}")),
    }
}

fn time_never_goes_back(_: &Summary) -> Result<(), String> {
    let mut last = pvops::time::now();
    for _ in 0..200 {
        let now = pvops::time::now();
        if now < last {
            return Err(format!("{now} after {last}"));
        }
        last = now;
    }
    Ok(())
}
