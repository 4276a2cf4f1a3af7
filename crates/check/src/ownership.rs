//! Which blocks have an owner, and which more than one.
//!
//! Two bits a block, set by all workers at once with relaxed atomic operations: the phases are separated by joining
//! the threads, which orders everything.

use udax_media::{BlockNo, BlockRange};
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The owned blocks.
#[derive(Debug)]
pub(crate) struct Ownership {
    owned: Vec<AtomicU64>,
    /// Owned more than once, or said to be shared.
    contested: Vec<AtomicU64>,
    is_contested: AtomicBool,
}

impl Ownership {
    /// A pool of `total_blocks` of which none is owned.
    pub(crate) fn new(total_blocks: u64) -> Self {
        let words = usize::try_from(total_blocks.div_ceil(64)).unwrap_or(usize::MAX);
        let zeroed = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self {
            owned: zeroed(),
            contested: zeroed(),
            is_contested: AtomicBool::new(false),
        }
    }

    /// Notes one more owner of `range`.
    pub(crate) fn claim(&self, range: BlockRange) {
        for (index, mask) in words(range) {
            let Some(word) = self.owned.get(index) else { return };
            let before = word.fetch_or(mask, Ordering::Relaxed);
            if before & mask != 0 {
                self.contest_word(index, before & mask);
            }
        }
    }

    /// Asks for the owners of `range` to be compared, however many.
    pub(crate) fn contest(&self, range: BlockRange) {
        for (index, mask) in words(range) {
            self.contest_word(index, mask);
        }
    }

    fn contest_word(&self, index: usize, mask: u64) {
        if let Some(word) = self.contested.get(index) {
            word.fetch_or(mask, Ordering::Relaxed);
            self.is_contested.store(true, Ordering::Relaxed);
        }
    }

    /// Whether any block is contested.
    pub(crate) fn is_contested(&self) -> bool {
        self.is_contested.load(Ordering::Relaxed)
    }

    /// Whether a block of `range` is contested.
    pub(crate) fn contests(&self, range: BlockRange) -> bool {
        words(range).any(|(index, mask)| {
            let word = self.contested.get(index);
            word.is_some_and(|word| word.load(Ordering::Relaxed) & mask != 0)
        })
    }

    /// The ownership bits of 64 blocks from `start`; blocks past the pool have none.
    pub(crate) fn bits(&self, start: BlockNo) -> u64 {
        let word = |index: u64| {
            let word = usize::try_from(index)
                .ok()
                .and_then(|index| self.owned.get(index));
            word.map_or(0, |word| word.load(Ordering::Relaxed))
        };
        let (index, shift) = (start.raw() / 64, start.raw() % 64);
        if shift == 0 {
            word(index)
        } else {
            (word(index) >> shift) | (word(index + 1) << (64 - shift))
        }
    }

    /// How many blocks have an owner.
    pub(crate) fn count(&self) -> u64 {
        let ones = self
            .owned
            .iter()
            .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()));
        ones.sum()
    }
}

fn words(range: BlockRange) -> impl Iterator<Item = (usize, u64)> {
    let (mut next, end) = (range.start.raw(), range.end().raw());
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let bit = next % 64;
        let run = (64 - bit).min(end - next);
        let mask = (u64::MAX >> (64 - run)) << bit;
        let index = usize::try_from(next / 64).ok()?;
        next += run;
        Some((index, mask))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_owner_contests_only_the_common_blocks() {
        let map = Ownership::new(300);
        map.claim(BlockRange::new(BlockNo(10), 100));
        assert!(!map.is_contested());
        map.claim(BlockRange::new(BlockNo(109), 20));
        assert!(map.is_contested());
        assert!(map.contests(BlockRange::new(BlockNo(109), 1)));
        assert!(!map.contests(BlockRange::new(BlockNo(110), 190)));
        assert_eq!(map.count(), 119);
    }

    #[test]
    fn bits_are_read_at_any_alignment() {
        let map = Ownership::new(200);
        map.claim(BlockRange::new(BlockNo(63), 3));
        assert_eq!(map.bits(BlockNo(0)), 1 << 63);
        assert_eq!(map.bits(BlockNo(60)), 0b111_000);
        assert_eq!(map.bits(BlockNo(64)), 0b11);
        assert_eq!(map.bits(BlockNo(190)), 0);
    }
}
