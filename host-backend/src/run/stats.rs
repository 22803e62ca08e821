//! Prints the statistics: one JSON value, or the same as a table.

use crate::config::StatsFormat;
use crate::log;
use serde_json::Value;

/// Prints them to standard error as the user asked.
pub(super) fn print(format: StatsFormat, all: &Value) {
    match format {
        StatsFormat::Json => log::error_text(&format!("{all}\n")),
        StatsFormat::Table => log::error_text(&table(all, "")),
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
    use serde_json::json;

    #[test]
    fn the_table_has_a_line_per_number() {
        let text = table(&json!({"exits": {"port_write": 3}, "uptime_ms": 12}), "");
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["exits.port_write", "3"], ["uptime_ms", "12"]]);
    }
}
