//! The one time stamp that everything in an image gets: `SOURCE_DATE_EPOCH`, or the first that FAT can hold.

use crate::{Error, Result};
use fatfs::{Date, DateTime, Time, TimeProvider};
use std::env;

/// The variable of the reproducible-builds specification: seconds since 1970.
pub const VARIABLE: &str = "SOURCE_DATE_EPOCH";
/// 1980-01-01, where FAT's time starts.
const FAT_FIRST: u64 = 315_532_800;
/// 2107-12-31 23:59:58, where it ends.
const FAT_LAST: u64 = 4_354_819_198;
const DAY: u64 = 86_400;

/// Seconds since 1970, within what FAT can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(u64);

impl Default for Timestamp {
    fn default() -> Self {
        Self(FAT_FIRST)
    }
}

impl Timestamp {
    /// The nearest time that FAT can hold.
    pub fn new(seconds: u64) -> Self {
        Self(seconds.clamp(FAT_FIRST, FAT_LAST))
    }

    /// What the environment says.
    ///
    /// # Errors
    /// [`Error::BadTime`].
    pub fn from_environment() -> Result<Self> {
        let Some(text) = env::var_os(VARIABLE) else { return Ok(Self::default()) };
        let number = text.to_str().and_then(|text| text.parse().ok());
        number.map(Self::new).ok_or_else(|| Error::BadTime(text.to_string_lossy().into_owned()))
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Year, month and day, hour, minute and second (UTC).
    pub(crate) fn civil(self) -> ([u16; 3], [u16; 3]) {
        let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let (mut days, of_day) = (self.0 / DAY, self.0 % DAY);
        let mut year = 1970;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let february = 28 + u64::from(is_leap(year));
        let mut month = 1;
        for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < len {
                break;
            }
            days -= len;
            month += 1;
        }
        let clock = [of_day / 3600, of_day / 60 % 60, of_day % 60];
        ([year as u16, month, days as u16 + 1], clock.map(|part| part as u16))
    }

    /// For fatfs, which wants it for as long as the program runs.
    pub(crate) fn provider(self) -> &'static dyn TimeProvider {
        Box::leak(Box::new(Fixed(self)))
    }
}

#[derive(Debug)]
struct Fixed(Timestamp);

impl TimeProvider for Fixed {
    fn get_current_date(&self) -> Date {
        let [year, month, day] = self.0.civil().0;
        Date { year, month, day }
    }

    fn get_current_date_time(&self) -> DateTime {
        let [hour, min, sec] = self.0.civil().1;
        DateTime { date: self.get_current_date(), time: Time { hour, min, sec, millis: 0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates_and_stay_within_what_fat_can_hold() {
        for (seconds, date, clock) in [
            (0, [1980, 1, 1], [0, 0, 0]),
            (951_782_399, [2000, 2, 28], [23, 59, 59]),
            (951_782_400, [2000, 2, 29], [0, 0, 0]),
            (1_700_000_000, [2023, 11, 14], [22, 13, 20]),
            (u64::MAX, [2107, 12, 31], [23, 59, 58]),
        ] {
            assert_eq!(Timestamp::new(seconds).civil(), (date, clock), "{seconds}");
        }
    }
}
