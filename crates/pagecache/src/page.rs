//! Pages: their size, and numbers of bytes and pages in each other's terms.

use std::ops::Range;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// The order of the largest folio: 512 pages, 2 MiB.
pub const MAX_ORDER: u8 = 9;

/// The page that has the byte.
pub(crate) fn page_of(at: u64) -> u64 {
    at / PAGE
}

/// The pages that have a byte of the range.
pub(crate) fn pages_touched(bytes: &Range<u64>) -> Range<u64> {
    if bytes.is_empty() {
        return page_of(bytes.start)..page_of(bytes.start);
    }
    page_of(bytes.start)..bytes.end.div_ceil(PAGE)
}

/// The pages that lie whole in the range; empty if there is none.
pub(crate) fn pages_within(bytes: &Range<u64>) -> Range<u64> {
    let first = bytes.start.div_ceil(PAGE);
    first..page_of(bytes.end).max(first)
}

/// The bytes that both ranges have; empty if there is none.
pub(crate) fn overlap(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    let start = one.start.max(other.start);
    start..one.end.min(other.end).max(start)
}

/// A length or offset in memory, which 64-bit machines can always address.
pub(crate) fn in_memory(number: u64) -> usize {
    usize::try_from(number).expect("sizes in memory fit into usize")
}

/// A length in memory as the length in a file.
pub(crate) fn in_file(number: usize) -> u64 {
    u64::try_from(number).expect("usize has 64 bits at most")
}

/// The largest order of a folio that begins at `page` and lies whole within `end`, at most `most`.
pub(crate) fn order_at(page: u64, end: u64, most: u8) -> u8 {
    let fits = |order: u8| page.is_multiple_of(1 << order) && page.saturating_add(1 << order) <= end;
    (0..=most.min(MAX_ORDER))
        .rev()
        .find(|order| fits(*order))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_more_pages_than_it_has_whole() {
        assert_eq!(pages_touched(&(1..2 * PAGE + 1)), 0..3);
        assert_eq!(pages_within(&(1..2 * PAGE + 1)), 1..2);
        assert!(pages_within(&(1..PAGE)).is_empty());
        assert!(pages_touched(&(PAGE..PAGE)).is_empty());
    }

    #[test]
    fn the_order_is_limited_by_alignment_end_and_limit() {
        assert_eq!(order_at(0, 512, MAX_ORDER), 9);
        assert_eq!(order_at(0, 511, MAX_ORDER), 8);
        assert_eq!(order_at(4, 512, MAX_ORDER), 2);
        assert_eq!(order_at(512, 4096, 3), 3);
        assert_eq!(order_at(7, 8, MAX_ORDER), 0);
    }
}
