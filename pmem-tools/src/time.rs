//! Times as text: ISO 8601 in UTC, with nanoseconds, for any 64-bit second.

use std::fmt::Write as _;

use udax::Timestamp;

/// `2026-11-21 03:38:53.123456789 UTC`.
pub(crate) fn iso(time: Timestamp) -> String {
    let day = time.seconds.div_euclid(86_400);
    let second = time.seconds.rem_euclid(86_400);
    let (year, month, day) = civil(day);
    let mut text = String::new();
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:09} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60,
        time.nanoseconds
    );
    text
}

/// The date of `day` days since 1970-01-01 in the proleptic Gregorian calendar.
///
/// Counts in eras of 400 years from 0000-03-01, so that the leap day is the last of its year.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: u32) -> String {
        iso(Timestamp { seconds, nanoseconds })
    }

    #[test]
    fn known_instants() {
        assert_eq!(at(0, 0), "1970-01-01 00:00:00.000000000 UTC");
        assert_eq!(at(-1, 999_999_999), "1969-12-31 23:59:59.999999999 UTC");
        assert_eq!(at(951_782_400, 0), "2000-02-29 00:00:00.000000000 UTC");
        assert_eq!(at(2_147_483_648, 1), "2038-01-19 03:14:08.000000001 UTC");
        assert_eq!(at(4_102_444_800, 0), "2100-01-01 00:00:00.000000000 UTC");
    }

    #[test]
    fn extreme_seconds_do_not_overflow() {
        assert!(at(i64::MAX, 0).ends_with(" UTC"));
        assert!(at(i64::MIN, 0).starts_with('-'));
    }
}
