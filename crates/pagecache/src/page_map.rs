//! A set of the pages of a slab: [`PageMap`].

use std::ops::Range;

use crate::page::{MAX_ORDER, in_file};

/// Words of 64 pages.
const WORDS: usize = (1 << MAX_ORDER) / 64;
/// The order of a whole word.
const WORD_ORDER: u8 = 6;
/// For each order below a word's: the places where a run of that order may begin.
const STARTS: [u64; 6] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
];

/// A set of the 512 pages of a slab. A *run* of an order is `1 << order` of them, from a multiple of that on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PageMap([u64; WORDS]);

impl PageMap {
    pub(crate) const ALL: Self = Self([u64::MAX; WORDS]);

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds pages.
    pub(crate) fn insert(&mut self, pages: &Range<u64>) {
        for (word, mask) in self.masks(pages) {
            *word |= mask;
        }
    }

    /// Takes pages out; how many of them were in it.
    pub(crate) fn remove(&mut self, pages: &Range<u64>) -> u64 {
        let mut count = 0;
        for (word, mask) in self.masks(pages) {
            count += u64::from((*word & mask).count_ones());
            *word &= !mask;
        }
        count
    }

    fn masks(&mut self, pages: &Range<u64>) -> impl Iterator<Item = (&mut u64, u64)> {
        let (start, end) = (pages.start, pages.end);
        self.0.iter_mut().zip(0_u64..).filter_map(move |(word, number)| {
            let base = number * 64;
            let from = start.max(base);
            let end = end.min(base + 64);
            (from < end).then(|| (word, (u64::MAX >> (64 - (end - from))) << (from - base)))
        })
    }

    /// Where the first run of the order begins.
    pub(crate) fn find(&self, order: u8) -> Option<u64> {
        if order < WORD_ORDER {
            let starts = self.0.iter().map(|word| starts(*word, order)).zip(0_u64..);
            let mut found = starts.filter(|(starts, _)| *starts != 0);
            return found
                .next()
                .map(|(starts, number)| number * 64 + u64::from(starts.trailing_zeros()));
        }
        let mut runs = self.0.chunks_exact(1 << (order - WORD_ORDER));
        let number = runs.position(|run| run.iter().all(|word| *word == u64::MAX))?;
        Some(in_file(number) << order)
    }

    /// The order of the largest run.
    pub(crate) fn largest(&self) -> Option<u8> {
        (0..=MAX_ORDER).rev().find(|order| self.find(*order).is_some())
    }

    /// Its pages, as few ranges as there are.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = self.next(next, true)?;
            let end = self.next(start, false).unwrap_or(1 << MAX_ORDER);
            next = end;
            Some(start..end)
        })
    }

    /// The first page from `from` on that is in it, or is not.
    fn next(&self, from: u64, is_in: bool) -> Option<u64> {
        self.0
            .iter()
            .zip(0_u64..)
            .skip_while(|(_, number)| number * 64 + 63 < from)
            .find_map(|(word, number)| {
                let wanted = if is_in { *word } else { !*word };
                let behind = wanted & (u64::MAX << from.saturating_sub(number * 64));
                (behind != 0).then(|| number * 64 + u64::from(behind.trailing_zeros()))
            })
    }
}

/// The bits of a word with which a run of the order, less than the word's, begins.
fn starts(word: u64, order: u8) -> u64 {
    let mut runs = word;
    for (level, starts) in (0..order).zip(STARTS.iter().skip(1)) {
        // Two runs of the order before, of which the first is where one of this order may begin.
        runs &= runs >> (1_u64 << level) & starts;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `find`, page by page.
    fn slow_find(map: &PageMap, order: u8) -> Option<u64> {
        let len = 1_u64 << order;
        (0..512).step_by(1 << order).find(|start| {
            let mut copy = *map;
            copy.remove(&(*start..start + len)) == len
        })
    }

    #[test]
    fn runs_of_all_orders_are_found_where_looking_at_each_page_finds_them() {
        let mut seed = 7_u64;
        for round in 0..2000 {
            let mut map = if round % 2 == 0 {
                PageMap::ALL
            } else {
                PageMap::default()
            };
            for _ in 0..round % 40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (start, len) = (seed >> 40 & 511, seed >> 20 & 127);
                let pages = start..(start + len).min(512);
                if round % 2 == 0 {
                    map.remove(&pages);
                } else {
                    map.insert(&pages);
                }
            }
            for order in 0..=MAX_ORDER {
                assert_eq!(
                    map.find(order),
                    slow_find(&map, order),
                    "order {order} of {map:?}"
                );
            }
            let mut again = PageMap::default();
            let mut end = None;
            for range in map.ranges() {
                assert!(end.is_none_or(|end| end < range.start), "ranges touch");
                end = Some(range.end);
                again.insert(&range);
            }
            assert_eq!(again, map);
            assert_eq!(
                map.count(),
                map.ranges().map(|range| range.end - range.start).sum()
            );
        }
    }

    #[test]
    fn the_largest_run_is_aligned_to_its_size() {
        assert_eq!(PageMap::ALL.largest(), Some(9));
        assert_eq!(PageMap::default().largest(), None);
        let mut map = PageMap::default();
        map.insert(&(1..4));
        assert_eq!((map.largest(), map.find(1)), (Some(1), Some(2)));
        map.insert(&(100..400));
        assert_eq!((map.largest(), map.find(7)), (Some(7), Some(128)));
    }
}
