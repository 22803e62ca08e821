//! Rate limits: `bps=SIZE,iops=N,burst=TIME` of a disk, `bps=SIZE,pps=N,burst=TIME` of a network card.

use super::{ParseError, bad, parse_size};
use crate::rate::BURST;
use std::time::Duration;

/// Shortest burst: the timer that ends a wait may be late by a few milliseconds.
const BURST_MIN: Duration = Duration::from_millis(10);
/// Longest burst.
const BURST_MAX: Duration = Duration::from_secs(3600);

/// The name of the limit on a disk's requests.
pub(super) const REQUESTS: &str = "iops";
/// The name of the limit on a card's packets.
pub(super) const PACKETS: &str = "pps";

/// How much a device may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes per second; `None` is without a limit.
    pub bytes: Option<u64>,
    /// Requests or packets per second; `None` is without a limit.
    pub operations: Option<u64>,
    /// How long what is not used is saved: so much of both may go at once.
    pub burst: Duration,
}

/// No limit.
impl Default for RateLimit {
    fn default() -> Self {
        Self { bytes: None, operations: None, burst: BURST }
    }
}

impl RateLimit {
    /// Sets what an option says; false if it is no option of a limit. `operations` is the name of the limit on those.
    pub(super) fn set(&mut self, name: &str, value: &str, operations: &str) -> Result<bool, ParseError> {
        match name {
            "bps" => match parse_size(value) {
                Ok(rate) if rate > 0 => self.bytes = Some(rate),
                _ => return bad("bps takes a number of bytes per second, such as 10M"),
            },
            "burst" => match parse_time(value) {
                Some(time) if (BURST_MIN..=BURST_MAX).contains(&time) => self.burst = time,
                _ => return bad("burst takes a time from 10ms to 3600s, such as 500ms or 2s"),
            },
            _ if name == operations => match value.parse() {
                Ok(rate @ 1..) => self.operations = Some(rate),
                _ => return bad(format!("{name} takes a number from 1 on")),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses a burst of nothing.
    pub(super) fn check(&self, operations: &str) -> Result<(), ParseError> {
        if self.burst != BURST && self.bytes.is_none() && self.operations.is_none() {
            return bad(format!("burst needs a limit: bps=SIZE, {operations}=N or both"));
        }
        Ok(())
    }
}

/// Reads a whole number of milliseconds (`ms`) or seconds (`s`).
fn parse_time(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, parse_net};
    use super::*;

    #[test]
    fn disks_and_cards_have_limits() {
        let limit = |bytes, operations, ms| RateLimit { bytes, operations, burst: Duration::from_millis(ms) };
        let disk = |text: &str| text.parse::<Disk>().unwrap().limit;
        assert_eq!(disk("x"), limit(None, None, 1000));
        assert_eq!(disk("x,bps=10M"), limit(Some(10 << 20), None, 1000));
        assert_eq!(disk("x,ro,iops=500,burst=2s,bps=1"), limit(Some(1), Some(500), 2000));
        assert_eq!(disk("x,iops=1,burst=10ms"), limit(None, Some(1), 10));
        let net = |text: &str| parse_net(text).unwrap().unwrap().limit;
        assert_eq!(net("passt"), RateLimit::default());
        assert_eq!(
            net("passt,bps=1M,pps=1000,mac=02:00:00:00:00:01,burst=100ms"),
            limit(Some(1 << 20), Some(1000), 100)
        );
    }

    #[test]
    fn bad_limits_are_refused() {
        let both = [
            "bps=0",
            "bps=",
            "bps=-1",
            "bps=1T",
            "ops=1",
            "burst=2s",
            "bps=1,burst=1",
            "bps=1,burst=9ms",
            "bps=1,burst=3601s",
            "bps=1,burst=1.5s",
            "bps=1,burst=s",
            "bps=1,burst=99999999999999999999s",
        ];
        for wrong in both.into_iter().chain(["iops=0", "iops=1K", "iops=", "iops=-1", "pps=1"]) {
            assert!(format!("x,{wrong}").parse::<Disk>().is_err(), "{wrong}");
        }
        for wrong in both.into_iter().chain(["pps=0", "pps=1K", "pps=", "pps=-1", "iops=1"]) {
            assert!(parse_net(&format!("passt,{wrong}")).is_err(), "{wrong}");
        }
    }
}
