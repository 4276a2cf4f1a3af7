//! Times as the protocol library has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::TimeOrNow;
use udax::{SetTime, Timestamp};

/// For replies. A time that no `SystemTime` can be is the epoch.
pub(crate) fn to_system(time: Timestamp) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(time.nanoseconds));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    second
        .and_then(|second| second.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}

/// The present.
pub(crate) fn now() -> Timestamp {
    of_system(SystemTime::now())
}

/// A time that a request sets.
pub(crate) fn of_request(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(of_system(time)),
    }
}

/// What the kernel sent, from what fuser 0.18 made of it. Before the epoch fuser subtracts the nanoseconds from the
/// second, where the protocol adds them: so the distance to the epoch has what was sent.
fn of_system(time: SystemTime) -> Timestamp {
    let (distance, seconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after, 0_i64.checked_add_unsigned(after.as_secs())),
        Err(error) => {
            let before = error.duration();
            (before, 0_i64.checked_sub_unsigned(before.as_secs()))
        }
    };
    Timestamp {
        // A `SystemTime` has no more seconds than that.
        seconds: seconds.unwrap_or(i64::MAX),
        nanoseconds: distance.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_around_the_epoch_are_what_they_are() {
        for (seconds, nanoseconds) in [(0, 0), (1, 5), (-1, 0), (-1, 999_999_999), (-86_400, 1)] {
            let system = to_system(Timestamp { seconds, nanoseconds });
            let expected = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
            let found = match system.duration_since(UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).expect("small"),
                Err(before) => -i128::try_from(before.duration().as_nanos()).expect("small"),
            };
            assert_eq!(found, expected);
        }
    }
}
