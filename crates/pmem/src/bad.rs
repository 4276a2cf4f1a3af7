//! Pages that are known to be bad, so that nothing touches them: told by the kernel (`told`), met, or injected.
//!
//! # Invariants
//! Ranges are of whole pages; those of a set neither overlap nor touch. `is_any` says whether a set holds one.
//!
//! Lock: `sets`, a leaf; accesses of a region without bad pages take none.

use std::collections::BTreeMap;
use std::ops::Range;

use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::{Rank, RwLock};

use crate::told::Told;

/// The unit that is good or bad as a whole: what the processor maps, and the kernel takes away.
pub(crate) const PAGE: u64 = 4096;

/// Ranges that are kept: what is beyond is met again, by a SIGBUS each time.
const MAX_RANGES: usize = 1 << 16;

/// How a page became known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// The medium, or the kernel for it, does not give its bytes.
    Medium,
    /// [`Region::poison`](crate::Region::poison): the medium is well.
    Injected,
}

/// The pages of a region that are known to be bad.
#[derive(Debug)]
pub(crate) struct BadPages {
    /// Relaxed: who misses a page that becomes bad meanwhile might as well have come before.
    is_any: AtomicBool,
    sets: RwLock<Sets>,
    told: Told,
}

#[derive(Debug, Default)]
struct Sets {
    medium: RangeSet,
    injected: RangeSet,
}

impl BadPages {
    /// Of a region whose bytes are at `addresses`.
    pub(crate) fn new(addresses: Range<usize>) -> Self {
        Self {
            is_any: AtomicBool::new(false),
            sets: RwLock::new(Rank::Leaf, Sets::default()),
            told: Told::new(addresses),
        }
    }

    /// Whether there are any: the one question that every access asks.
    #[inline(always)]
    pub(crate) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed) || self.told.is_any()
    }

    /// Takes over what the kernel has told by a signal.
    #[inline(always)]
    fn learn(&self) {
        if self.told.is_any() {
            for page in self.told.take() {
                self.insert(page..page + PAGE, Origin::Medium);
            }
        }
    }

    /// Adds every page that `range` touches.
    pub(crate) fn insert(&self, range: Range<u64>, origin: Origin) {
        let start = range.start - range.start % PAGE;
        let end = range
            .end
            .checked_next_multiple_of(PAGE)
            .unwrap_or(u64::MAX - u64::MAX % PAGE);
        if range.is_empty() {
            return;
        }
        let mut sets = self.sets.write();
        match origin {
            Origin::Medium => sets.medium.insert(start..end),
            Origin::Injected => sets.injected.insert(start..end),
        }
        self.is_any.store(true, Ordering::Relaxed);
    }

    /// Takes the page at `page` out: it holds valid bytes again.
    pub(crate) fn forget(&self, page: u64) {
        let mut sets = self.sets.write();
        sets.medium.remove(page..page + PAGE);
        sets.injected.remove(page..page + PAGE);
        let is_any = !sets.medium.0.is_empty() || !sets.injected.0.is_empty();
        self.is_any.store(is_any, Ordering::Relaxed);
    }

    /// The first bad byte of `range`.
    pub(crate) fn first_in(&self, range: Range<u64>) -> Option<u64> {
        self.learn();
        let sets = self.sets.read();
        let medium = sets.medium.first_in(&range);
        let injected = sets.injected.first_in(&range);
        medium.into_iter().chain(injected).min()
    }

    /// Whether it is the medium that does not give the page's bytes.
    pub(crate) fn is_of_medium(&self, page: u64) -> bool {
        self.sets.read().medium.first_in(&(page..page + PAGE)).is_some()
    }

    /// All of them, ascending.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        self.learn();
        let sets = self.sets.read();
        let mut all = RangeSet(sets.medium.0.clone());
        for (start, end) in &sets.injected.0 {
            all.insert(*start..*end);
        }
        all.0.into_iter().map(|(start, end)| start..end).collect()
    }
}

/// Disjoint ranges that do not touch: start to end.
#[derive(Debug, Default)]
struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        // Those that overlap or touch become one with it.
        while let Some((other, other_end)) = self.last_before(end.saturating_add(1))
            && other_end >= start
        {
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(other_end));
        }
        if self.0.len() < MAX_RANGES {
            self.0.insert(start, end);
        }
    }

    fn remove(&mut self, range: Range<u64>) {
        while let Some((start, end)) = self.last_before(range.end)
            && end > range.start
        {
            self.0.remove(&start);
            for rest in [start..range.start, range.end..end] {
                if !rest.is_empty() {
                    self.0.insert(rest.start, rest.end);
                }
            }
        }
    }

    fn first_in(&self, range: &Range<u64>) -> Option<u64> {
        if let Some((_, end)) = self.last_before(range.start.saturating_add(1))
            && end > range.start
        {
            return Some(range.start).filter(|_| !range.is_empty());
        }
        self.0.range(range.clone()).next().map(|(start, _)| *start)
    }

    /// The last range that starts before `end`.
    fn last_before(&self, end: u64) -> Option<(u64, u64)> {
        let (start, end) = self.0.range(..end).next_back()?;
        Some((*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(ranges: &[Range<u64>]) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.iter().for_each(|range| set.insert(range.clone()));
        set
    }

    fn listed(set: &RangeSet) -> Vec<(u64, u64)> {
        set.0.iter().map(|(start, end)| (*start, *end)).collect()
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        assert_eq!(listed(&filled(&[10..20, 30..40, 20..30])), [(10, 40)]);
        assert_eq!(listed(&filled(&[10..20, 30..40, 50..60, 15..55])), [(10, 60)]);
        assert_eq!(listed(&filled(&[10..20, 12..14, 21..22])), [(10, 20), (21, 22)]);
    }

    #[test]
    fn what_is_removed_is_cut_out() {
        let mut set = filled(&[10..50, 60..70]);
        set.remove(20..30);
        assert_eq!(listed(&set), [(10, 20), (30, 50), (60, 70)]);
        set.remove(40..65);
        assert_eq!(listed(&set), [(10, 20), (30, 40), (65, 70)]);
        set.remove(0..100);
        assert_eq!(listed(&set), []);
    }

    #[test]
    fn the_first_bad_byte_of_a_range_is_found() {
        let set = filled(&[10..20, 30..40]);
        for (range, first) in [
            (0..10, None),
            (0..11, Some(10)),
            (15..16, Some(15)),
            (20..30, None),
            (19..30, Some(19)),
            (25..35, Some(30)),
            (40..99, None),
            (15..15, None),
        ] {
            assert_eq!(set.first_in(&range), first, "{range:?}");
        }
    }

    #[test]
    fn whole_pages_become_bad_and_are_forgotten_one_by_one() {
        let bad = BadPages::new(0..0);
        assert!(!bad.is_any());
        bad.insert(5000..5001, Origin::Injected);
        bad.insert(8192..8200, Origin::Medium);
        assert_eq!(bad.ranges().first(), Some(&(4096..12288)));
        assert_eq!(bad.ranges().len(), 1);
        assert!(bad.is_of_medium(8192) && !bad.is_of_medium(4096));
        bad.forget(4096);
        assert_eq!(bad.ranges().first(), Some(&(8192..12288)));
        assert!(bad.is_any());
        bad.forget(8192);
        assert!(!bad.is_any());
    }
}
