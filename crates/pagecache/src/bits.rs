//! A bit for each page of a folio.

use std::ops::Range;

use udax_sync::atomic::{AtomicU64, Ordering};

use crate::page::{MAX_ORDER, in_file, in_memory};

/// Words of the largest folio.
const MOST_WORDS: usize = (1 << MAX_ORDER) / 64;

/// One bit a page. Changed only with the folio locked, looked at by anybody.
///
/// Setting releases and looking acquires, so that who sees a page uptodate sees its bytes.
#[derive(Debug)]
pub(crate) struct Bits(Words);

/// Of small folios, of which there are many, the bits lie in the folio itself: a hit touches fewer lines.
#[derive(Debug)]
enum Words {
    One(AtomicU64),
    Many(Box<[AtomicU64; MOST_WORDS]>),
}

impl Bits {
    /// Bits for `len` pages, at most those of the largest folio.
    pub(crate) fn new(len: u64) -> Self {
        debug_assert!(len <= 1 << MAX_ORDER);
        Self(if len <= 64 {
            Words::One(AtomicU64::new(0))
        } else {
            Words::Many(Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
        })
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        match &self.0 {
            Words::One(word) => std::slice::from_ref(word),
            Words::Many(words) => words.as_slice(),
        }
    }

    /// The words that have a bit of the range, and which bits these are.
    #[inline]
    fn masks(&self, range: Range<u64>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let words = self.words();
        debug_assert!(range.end.div_ceil(64) <= in_file(words.len()));
        let first = range.start / 64;
        let words = words.iter().skip(in_memory(first));
        words
            .zip(first..range.end.div_ceil(64))
            .filter_map(move |(word, number)| {
                let base = number * 64;
                let from = range.start.max(base);
                let end = range.end.min(base + 64);
                (from < end).then(|| (word, (u64::MAX >> (64 - (end - from))) << (from - base)))
            })
    }

    /// Sets the range; how many were not set before.
    #[inline]
    pub(crate) fn set(&self, range: Range<u64>) -> u64 {
        let news = self.masks(range).map(|(word, mask)| {
            // Mostly they are: a look costs less than a change of nothing.
            if word.load(Ordering::Acquire) & mask == mask {
                return 0;
            }
            mask & !word.fetch_or(mask, Ordering::Release)
        });
        news.map(|new| u64::from(new.count_ones())).sum()
    }

    /// Clears the range; how many were set before.
    pub(crate) fn clear(&self, range: Range<u64>) -> u64 {
        let olds = self
            .masks(range)
            .map(|(word, mask)| mask & word.fetch_and(!mask, Ordering::Release));
        olds.map(|old| u64::from(old.count_ones())).sum()
    }

    #[inline]
    pub(crate) fn all(&self, range: Range<u64>) -> bool {
        self.masks(range)
            .all(|(word, mask)| word.load(Ordering::Acquire) & mask == mask)
    }

    pub(crate) fn any(&self, range: Range<u64>) -> bool {
        self.masks(range)
            .any(|(word, mask)| word.load(Ordering::Acquire) & mask != 0)
    }

    pub(crate) fn count(&self, range: Range<u64>) -> u64 {
        self.masks(range)
            .map(|(word, mask)| u64::from((word.load(Ordering::Acquire) & mask).count_ones()))
            .sum()
    }

    /// The first run of pages in the range that are set, or are not.
    pub(crate) fn next_run(&self, range: Range<u64>, set: IsSet) -> Option<Range<u64>> {
        let wanted = |page: &u64| self.all(*page..*page + 1) == (set == IsSet::Yes);
        let start = range.clone().find(wanted)?;
        let end = (start..range.end).find(|page| !wanted(page));
        Some(start..end.unwrap_or(range.end))
    }
}

/// Which pages are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IsSet {
    Yes,
    No,
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn ranges_over_several_words_are_set_counted_found_and_cleared() {
        let bits = Bits::new(512);
        assert_eq!(bits.set(60..200), 140);
        assert_eq!(bits.set(0..512), 372);
        assert_eq!(bits.clear(63..129), 66);
        assert_eq!(bits.next_run(0..512, IsSet::No), Some(63..129));
        assert_eq!(bits.next_run(70..512, IsSet::Yes), Some(129..512));
        assert_eq!(bits.count(0..512), 446);
        assert!(bits.any(0..64) && !bits.any(63..129) && bits.all(129..512));
    }

    #[test]
    fn an_empty_range_has_nothing_and_lacks_nothing() {
        let bits = Bits::new(1);
        assert_eq!(bits.set(0..0), 0);
        assert!(bits.all(1..1) && !bits.any(0..0));
        assert_eq!(bits.next_run(0..1, IsSet::Yes), None);
    }
}
