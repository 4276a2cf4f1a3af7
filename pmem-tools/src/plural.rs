//! Counts with their words.

/// `1 file`, `2 files`: `one` or `many` after the count.
pub(crate) fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let word = if count == 1 { one } else { many };
    format!("{count} {word}")
}

/// Journal records.
pub(crate) fn records(count: u64) -> String {
    counted(count, "journal record", "journal records")
}

/// Journal lanes.
pub(crate) fn lanes(count: u32) -> String {
    counted(count, "lane", "lanes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(0_u64, "entry", "entries"), "0 entries");
        assert_eq!(counted(1_usize, "entry", "entries"), "1 entry");
        assert_eq!(records(2), "2 journal records");
    }
}
