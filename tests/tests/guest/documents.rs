//! What docs/ quotes of the guest. `cargo xtask docs` writes it.

use crate::guest;
use ringside_tests::generated;

const OPERATIONS: [&str; 5] = ["irq.save", "irq.disable", "mmu.set_pte", "time.now", "mmu.lazy_end"];

#[test]
fn the_sites_that_docs_quote_are_those_of_the_guest() {
    let Some(mut guest) = guest("sites in docs", 64) else { return };
    let lines: Vec<String> = OPERATIONS
        .iter()
        .map(|op| {
            guest.type_line(&format!("pvops {op}"));
            let [before, after] = ["before  ", "after   "].map(|part| guest.expect(part));
            let (before, after) = (before.trim_start_matches("before"), after.trim_start_matches("after"));
            let split = |text: &str| {
                let (bytes, meaning) = text.trim().split_once("    ").unwrap_or((text.trim(), ""));
                (without_addresses(bytes), meaning.to_string())
            };
            let ((before, call), (after, now)) = (split(before), split(after));
            format!("{op:12}  {before:35}  {call}\n{:12}  {after:35}  {now}\n", "  becomes")
        })
        .collect();
    guest.type_line("poweroff");
    guest.end();
    generated::check("docs/patching.md", "sites", &format!("\n```text\n{}```\n\n", lines.concat()));
}

/// Puts `xx` for the operands of calls: they change with every build.
fn without_addresses(bytes: &str) -> String {
    let mut bytes: Vec<&str> = bytes.split(' ').collect();
    let operand = match bytes[..] {
        ["ff", "15", ..] => 2..6,
        ["e8", ..] => 1..5,
        _ => 0..0,
    };
    bytes[operand].fill("xx");
    bytes.join(" ")
}
