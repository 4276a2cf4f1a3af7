//! Sizes in bytes, as people write and read them.
//!
//! `16M`, `16MiB` and `16 MiB` are the same: binary units, as other mkfs programs have them. `16MB` is
//! decimal (the rule of GNU coreutils). What [`Size`] prints, it also parses.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Size(pub(crate) u64);

const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let number_end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(number_end);
        let unit = unit_bytes(unit.trim()).ok_or_else(|| {
            format!(
                "'{}' is no unit of size; use K, M, G, T, P (powers of 1024) or KB, MB, ... (of 1000)",
                unit.trim()
            )
        })?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
            return Err(format!(
                "'{number}' is no number; write for example 16M, 1G or 1.5GiB"
            ));
        }
        let too_large = || format!("'{text}' is more than 64 bits can hold");
        let digits = format!("{whole}{fraction}");
        let digits: u128 = digits.parse().map_err(|_| too_large())?;
        let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let bytes = digits.checked_mul(u128::from(unit)).ok_or_else(too_large)? / scale;
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let mut letters = unit.chars();
    let Some(first) = letters.next() else {
        return Some(1);
    };
    let rest = letters.as_str();
    if first.eq_ignore_ascii_case(&'B') && rest.is_empty() {
        return Some(1);
    }
    let position = UNITS
        .iter()
        .position(|known| known.eq_ignore_ascii_case(&first))?;
    let power = u32::try_from(position).ok()? + 1;
    match rest {
        "" | "iB" | "ib" | "i" => Some(1024_u64.pow(power)),
        "B" | "b" => Some(1000_u64.pow(power)),
        _ => None,
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut divisor = 1_u64;
        let mut unit = None;
        for candidate in UNITS {
            if self.0 / divisor < 1024 {
                break;
            }
            divisor = divisor.saturating_mul(1024);
            unit = Some(candidate);
        }
        let Some(unit) = unit else {
            return f.pad(&format!("{} B", self.0));
        };
        let tenths = u128::from(self.0) * 10 / u128::from(divisor);
        let text = if tenths.is_multiple_of(10) || tenths >= 1000 {
            format!("{} {unit}iB", tenths / 10)
        } else {
            format!("{}.{} {unit}iB", tenths / 10, tenths % 10)
        };
        f.pad(&text)
    }
}

/// A time in three digits at least, for tables: `850 ns`, `12.4 µs`, `3.1 s`, `2 min`.
pub(crate) fn short_time(nanoseconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (60_000_000_000, "min"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1000, "µs"),
    ];
    // Minutes only where seconds would be many.
    let fits =
        |(size, unit): &&(u64, &str)| nanoseconds >= *size && (*unit != "min" || nanoseconds >= 2 * size);
    let Some((size, unit)) = UNITS.iter().find(fits) else {
        return format!("{nanoseconds} ns");
    };
    let tenths = u128::from(nanoseconds) * 10 / u128::from(*size);
    if tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// `value` as a floating-point number, for rates and ratios; exact below 2^53.
pub(crate) fn float(value: u64) -> f64 {
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let high = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_unless_they_end_in_a_bare_b() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("16M", 16 << 20),
            ("16m", 16 << 20),
            ("1G", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("1.5 GiB", 3 << 29),
            ("1MB", 1_000_000),
            (".5K", 512),
            ("15E", 15 << 60),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in [
            "",
            "G",
            ".",
            "1.2.3M",
            "-1",
            "1X",
            "1GiBs",
            "16E",
            "99999999999999999999999999999999999999999",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_to_within_a_tenth() {
        let mut value = 1_u64;
        while value < u64::MAX / 3 {
            let printed = Size(value).to_string();
            let parsed = printed.parse::<Size>().unwrap().0;
            assert!(
                parsed <= value && value - parsed <= value / 10,
                "{value} {printed} {parsed}"
            );
            value = value * 3 + 1;
        }
        assert_eq!(Size(16 << 20).to_string(), "16 MiB");
        assert_eq!(Size(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Size(1023).to_string(), "1023 B");
    }

    #[test]
    fn times_are_short() {
        for (nanoseconds, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (12_499, "12.4 µs"),
            (999_999, "999 µs"),
            (1_000_000, "1.0 ms"),
            (119_000_000_000, "119 s"),
            (120_000_000_000, "2.0 min"),
        ] {
            assert_eq!(short_time(nanoseconds), text);
        }
    }

    #[test]
    fn float_is_exact_for_large_numbers() {
        assert_eq!(float((1 << 40) + 3), 1_099_511_627_779.0);
    }
}
