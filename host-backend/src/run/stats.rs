//! The statistics: one JSON value, for the control socket and `--stats json`, and the same as a table.

use super::machine::Machine;
use crate::config::StatsFormat;
use crate::log;
use serde_json::{Map, Value, json};

/// All counters of a machine.
pub(super) fn collect(machine: &Machine) -> Value {
    let exits: Map<_, _> = machine.exits.all().map(|(cause, count)| (cause.into(), count.into())).collect();
    let devices: Map<_, _> = machine
        .devices
        .iter()
        .map(|(name, transport)| {
            let mut counters = json!(transport.counters());
            if let (Some(fault), Some(object)) = (transport.fault(), counters.as_object_mut()) {
                object.insert("first_fault".into(), fault.into());
            }
            (name.clone(), counters)
        })
        .collect();
    let mut all = json!({
        "uptime_ms": machine.started.elapsed().as_millis() as u64,
        "exits": exits,
        "serial": { "bytes_written": machine.output.written(), "bytes_lost": machine.output.lost(),
            "throttled_ms": machine.output.throttled_ms() },
        "devices": devices,
    });
    if let Some(balloon) = &machine.balloon {
        all["balloon"] = json!(balloon.numbers());
    }
    all
}

/// Prints them to standard error as the user asked.
pub(super) fn print(machine: &Machine) {
    match machine.config.stats {
        None => {}
        Some(StatsFormat::Json) => log::error_text(&format!("{}\n", collect(machine))),
        Some(StatsFormat::Table) => log::error_text(&table(&collect(machine), "")),
    }
}

/// One line per number: its path, then the number.
fn table(value: &Value, path: &str) -> String {
    match value {
        Value::Object(members) => {
            let join = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
            members.iter().map(|(name, value)| table(value, &join(name))).collect()
        }
        Value::String(text) => format!("{path:<40} {text}\n"),
        other => format!("{path:<40} {other:>12}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_per_number() {
        let text = table(&json!({"exits": {"port_write": 3}, "uptime_ms": 12}), "");
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["exits.port_write", "3"], ["uptime_ms", "12"]]);
    }
}
