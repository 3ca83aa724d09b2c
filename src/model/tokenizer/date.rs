//! The date that `strftime_now` shows to a chat template.
//!
//! Several templates print today's date into the system message, so a score would drift from day to day. A pinned date
//! keeps it; without one, the current date in UTC is used.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// A date and time of day, without a time zone, in the proleptic Gregorian calendar.
///
/// ```
/// use foreturn::model::tokenizer::DateTime;
///
/// let date: DateTime = "2024-07-26".parse()?;
/// assert_eq!(date.strftime("%d %b %Y"), "26 Jul 2024");
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    pub(super) year: u16,
    pub(super) month: u8,
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl DateTime {
    /// The current time in UTC.
    pub fn now() -> Self {
        // A clock before 1970 is a broken clock; the epoch is as good an answer as any.
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        DateTime::from_unix(seconds)
    }

    /// The time in UTC that many seconds after 1970-01-01T00:00:00.
    fn from_unix(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Years counted from March, so that the leap day is a year's last (Hinnant, "chrono-compatible low-level date
        // algorithms"): an era is 400 years, 719,468 days lie between 0000-03-01 and 1970-01-01.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        DateTime {
            year: u16::try_from(year).unwrap_or(9999),
            month: month as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Formats like Python's `datetime.strftime` on Linux in the C locale. Empty where that would be a text of more than
    /// a mebibyte.
    pub fn strftime(&self, format: &str) -> String {
        self.written(format).unwrap_or_default()
    }

    /// As [`strftime`](DateTime::strftime), or `None`.
    pub(super) fn written(&self, format: &str) -> Option<String> {
        super::strftime::strftime(self, format)
    }

    /// Seconds since 1970-01-01T00:00:00 in UTC; 0 before that.
    pub(super) fn unix(&self) -> u64 {
        let before = u64::from(self.year) - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + u64::from(self.day_of_year());
        let seconds = u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second);
        // 1970-01-01 is the 719,163rd day of the first year's count.
        days.checked_sub(719_163).map_or(0, |days| days * 86_400 + seconds)
    }

    /// Days since this year's 1 January, plus one.
    pub(super) fn day_of_year(&self) -> u16 {
        (1..self.month).map(|month| u16::from(days_in_month(self.year, month))).sum::<u16>() + u16::from(self.day)
    }

    /// 0 for Sunday (Sakamoto's method).
    pub(super) fn weekday(&self) -> usize {
        const OFFSETS: [usize; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = usize::from(self.year) - usize::from(self.month < 3 && self.year > 0);
        (year + year / 4 - year / 100 + year / 400 + OFFSETS[usize::from(self.month) - 1] + usize::from(self.day)) % 7
    }
}

fn days_in_month(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400) => 29,
        2 => 28,
        _ => 31,
    }
}

impl std::fmt::Display for DateTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let DateTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// Reads `2024-07-26` or `2024-07-26T13:45:00`.
impl FromStr for DateTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::invalid_config(format!(
                "`{text}` is not a date; write it as 2024-07-26, or with a time of day as 2024-07-26T13:45:00"
            ))
        };
        let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
        let fields = |text: &str, separator: char| -> Option<[u16; 3]> {
            let numbers: Option<Vec<u16>> = text
                .split(separator)
                .map(|field| field.bytes().all(|b| b.is_ascii_digit()).then(|| field.parse().ok())?)
                .collect();
            numbers?.try_into().ok()
        };
        let [year, month, day] = fields(date, '-').ok_or_else(refuse)?;
        let [hour, minute, second] = fields(time, ':').ok_or_else(refuse)?;
        let plausible = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=u16::from(days_in_month(year, month as u8))).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !plausible {
            return Err(refuse());
        }
        let [month, day, hour, minute, second] = [month, day, hour, minute, second].map(|field| field as u8);
        Ok(DateTime { year, month, day, hour, minute, second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_times_become_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_722_001_503, "2024-07-26T13:45:03"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(DateTime::from_unix(seconds).to_string(), expected);
        }
    }

    #[test]
    fn strftime_is_pythons() {
        // datetime(2024, 7, 6, 15, 4, 9).strftime(…) of CPython 3.11 on Linux.
        let date: DateTime = "2024-07-06T15:04:09".parse().unwrap();
        for (format, expected) in [
            ("%d %b %Y", "06 Jul 2024"),
            ("%Y-%m-%d", "2024-07-06"),
            ("%B %-d, %Y", "July 6, 2024"),
            ("%A %a %e %j %w", "Saturday Sat  6 188 6"),
            ("%H:%M:%S %I %p %y", "15:04:09 03 PM 24"),
            ("%F %T %R %D", "2024-07-06 15:04:09 15:04 07/06/24"),
            ("%c", "Sat Jul  6 15:04:09 2024"),
            ("100%% é", "100% é"),
        ] {
            assert_eq!(date.strftime(format), expected, "{format}");
        }
    }

    #[test]
    fn nonsense_is_no_date() {
        for text in ["", "2024", "2023-02-29", "2024-13-01", "2024-07-26T24:00:00", "+024-07-26", "26 Jul 2024"] {
            assert!(text.parse::<DateTime>().is_err(), "{text}");
        }
        assert!("2024-02-29 12:00:00".parse::<DateTime>().is_ok());
    }
}
