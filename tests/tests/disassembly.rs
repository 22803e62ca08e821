//! The linked kernel has privileged instructions only where they belong. `cargo xtask test` names the kernel in
//! `RINGSIDE_KERNEL`; without it there is nothing to look at.

use ringside_tests::{disassembly, ready};
use std::fs;

#[test]
fn the_linked_kernel_has_privileged_instructions_only_in_pvops_and_the_entry_stubs() {
    let Some(path) = ready::named(ready::KERNEL, "disassembly") else { return };
    let kernel = fs::read(&path).unwrap_or_else(|error| panic!("cannot read the kernel {path:?}: {error}"));
    let findings = disassembly::check(&kernel).unwrap();
    let list: Vec<String> = findings.violations.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} instructions where they must not be:\n{}", list.len(), list.join("\n"));
    println!("{} instructions of {} functions", findings.instructions, findings.symbols);
}
