//! Dates of the Gregorian calendar, in UTC.

use core::fmt;

/// Seconds of a day; there are no leap seconds in Unix time.
const DAY: u64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const DAYS_OF_400_YEARS: u64 = 146_097;
/// Days of 100 years that have no leap day at their end, and of four years that have one.
const DAYS_OF_100_YEARS: u64 = 36_524;
const DAYS_OF_4_YEARS: u64 = 1_461;
/// Days from 0000-03-01, in years that begin with March so that the leap day is their last, to 1970-01-01.
const EPOCH: u64 = 719_468;

/// A date; shown as `2030-07-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Of the common era.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
}

/// A time of day; shown as `23:59:07`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay {
    /// Seconds since midnight.
    pub seconds: u64,
}

/// The date and time of day at so many seconds after 1970-01-01 00:00:00.
#[must_use]
pub const fn at(unix_seconds: u64) -> (Date, TimeOfDay) {
    let days = unix_seconds / DAY + EPOCH;
    let day_of_400_years = days % DAYS_OF_400_YEARS;
    // The last day of 400 years is a leap day in a hundredth year, the last of four years the usual one.
    let year_of_400 = (day_of_400_years - day_of_400_years / (DAYS_OF_4_YEARS - 1)
        + day_of_400_years / DAYS_OF_100_YEARS
        - day_of_400_years / (DAYS_OF_400_YEARS - 1))
        / 365;
    let day_of_year = day_of_400_years - (365 * year_of_400 + year_of_400 / 4 - year_of_400 / 100);
    // From March on five months have 153 days, twice, and then two are left.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = days / DAYS_OF_400_YEARS * 400 + year_of_400 + next_year;
    (Date { year, month, day }, TimeOfDay { seconds: unix_seconds % DAY })
}

impl fmt::Display for Date {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:02}:{:02}:{:02}", self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn known_times() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (2_147_483_648, "2038-01-19 03:14:08"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (4_294_967_295, "2106-02-07 06:28:15"),
        ] {
            let (date, time) = at(seconds);
            assert_eq!(format!("{date} {time}"), shown);
        }
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let length = |date: &Date| match date.month {
            2 if date.year.is_multiple_of(4) && (!date.year.is_multiple_of(100) || date.year.is_multiple_of(400)) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = Date { year: 1970, month: 1, day: 1 };
        for day in 0..2 * DAYS_OF_400_YEARS {
            assert_eq!(at(day * DAY).0, expected);
            expected.day += 1;
            if expected.day > length(&expected) {
                (expected.day, expected.month) = (1, expected.month + 1);
            }
            if expected.month > 12 {
                (expected.month, expected.year) = (1, expected.year + 1);
            }
        }
    }
}
