//! What is in force, for `--show-sandbox` and `status`.

use super::identity::Identity;
use super::{Error, Kind, Layer, TABLE, hooks};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(super) closed: usize,
    pub(super) identity: Identity,
    pub(super) capabilities: Option<u32>,
    pub(super) no_new_privs: bool,
    pub(super) landlock: Value,
    pub(super) limits: Map<String, Value>,
    /// Kinds of threads, with the rows and the instructions of their filters.
    pub(super) filters: Vec<(Kind, usize, usize)>,
    took: Vec<(Layer, Duration)>,
}

impl Report {
    /// Puts a layer on, and notes how long that took; `None` where a test leaves it out.
    pub(super) fn put_on<T>(
        &mut self,
        layer: Layer,
        put_on: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let started = Instant::now();
        let done = if hooks::lacks(layer) { None } else { Some(put_on()?) };
        self.took.push((layer, started.elapsed()));
        Ok(done)
    }

    /// For `status`.
    pub fn json(&self) -> Value {
        let filters: Map<_, _> =
            self.filters.iter().map(|(kind, rows, _)| (kind.name().into(), (*rows).into())).collect();
        json!({
            "seccomp": filters,
            "landlock": self.landlock,
            "no_new_privs": self.no_new_privs,
            "capabilities": self.capabilities,
            "user": self.identity.user,
            "group": self.identity.group,
            "chroot": self.identity.chroot,
            "namespaces": self.identity.namespaces,
            "limits": self.limits,
            "descriptors_closed": self.closed,
        })
    }

    /// Microseconds that each layer took to be put on.
    pub fn took_us(&self) -> Value {
        let took = self.took.iter().map(|(layer, time)| (layer.name().into(), (time.as_micros() as u64).into()));
        Value::Object(took.collect())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<14} {value}");
        };
        line("user, group", &format!("{}, {}; no capabilities, no_new_privs", self.identity.user, self.identity.group));
        line("descriptors", &format!("{} of the parent's closed", self.closed));
        line("root", self.identity.chroot.as_deref().unwrap_or("the system's"));
        let namespaces = self.identity.namespaces.join(", ");
        line("namespaces", if namespaces.is_empty() { "the parent's (--new-namespaces)" } else { &namespaces });
        line(
            "landlock",
            &format!("version {}, no rules; enforced: {}", self.landlock["abi"], self.landlock["enforced"]),
        );
        let limits: Vec<_> = self.limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
        line("limits", &limits.join(", "));
        for (kind, rows, instructions) in &self.filters {
            line("seccomp", &format!("{}: {rows} calls, {instructions} instructions; any other kills", kind.name()));
        }
        for row in TABLE.iter().filter(|row| self.filters.iter().any(|(kind, ..)| row.threads.contains(*kind))) {
            let kinds = self.filters.iter().filter(|(kind, ..)| row.threads.contains(*kind));
            let kinds: Vec<_> = kinds.map(|(kind, ..)| kind.name()).collect();
            let _ = writeln!(text, "  {:<44} {:<40} {}", row.call(), kinds.join(" "), row.why);
        }
        text
    }
}
