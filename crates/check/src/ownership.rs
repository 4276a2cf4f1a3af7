//! Which blocks have an owner, and which more than one.
//!
//! Two bits a block, set by all workers at once with relaxed atomic operations: the phases are separated by joining
//! the threads, which orders everything.

use udax_media::{BlockNo, BlockRange, DEVICE_START, Reach};
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The owned blocks.
#[derive(Debug)]
pub(crate) struct Ownership {
    /// The words of the data device's blocks follow these.
    pool_words: u64,
    owned: Vec<AtomicU64>,
    /// Owned more than once, or said to be shared.
    contested: Vec<AtomicU64>,
    is_contested: AtomicBool,
}

impl Ownership {
    /// The blocks of `reach`, of which none is owned.
    pub(crate) fn new(reach: impl Into<Reach>) -> Self {
        let reach = reach.into();
        // One word more between the pool and its device, so that no look at 64 blocks sees both.
        let pool_words = reach.pool.div_ceil(64) + 1;
        let words = usize::try_from(pool_words + reach.device.div_ceil(64)).unwrap_or(usize::MAX);
        let zeroed = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self {
            pool_words,
            owned: zeroed(),
            contested: zeroed(),
            is_contested: AtomicBool::new(false),
        }
    }

    /// Notes one more owner of `range`.
    pub(crate) fn claim(&self, range: BlockRange) {
        for (index, mask) in self.words(range) {
            let Some(word) = self.owned.get(index) else { return };
            let before = word.fetch_or(mask, Ordering::Relaxed);
            if before & mask != 0 {
                self.contest_word(index, before & mask);
            }
        }
    }

    /// Asks for the owners of `range` to be compared, however many.
    pub(crate) fn contest(&self, range: BlockRange) {
        for (index, mask) in self.words(range) {
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
        self.words(range).any(|(index, mask)| {
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
        let start = self.bit(start);
        let (index, shift) = (start / 64, start % 64);
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

    /// The place of a block among all bits.
    fn bit(&self, block: BlockNo) -> u64 {
        match block.raw().checked_sub(DEVICE_START.raw()) {
            Some(on_device) => on_device.saturating_add(self.pool_words * 64),
            None => block.raw().min(self.pool_words * 64),
        }
    }

    fn words(&self, range: BlockRange) -> impl Iterator<Item = (usize, u64)> + use<> {
        let mut next = self.bit(range.start);
        let end = match range.start.is_on_device() {
            true => next.saturating_add(range.count),
            false => next.saturating_add(range.count).min(self.pool_words * 64),
        };
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
    fn blocks_of_the_device_are_apart_from_those_of_the_pool() {
        let map = Ownership::new(Reach {
            pool: 100,
            device: 70,
        });
        let on_device = |block: u64, count| BlockRange::new(BlockNo(DEVICE_START.raw() + block), count);
        map.claim(BlockRange::new(BlockNo(90), 10));
        map.claim(on_device(0, 70));
        assert!(!map.is_contested());
        assert_eq!(map.count(), 80);
        assert_eq!(map.bits(DEVICE_START), u64::MAX);
        assert_eq!(map.bits(BlockNo(DEVICE_START.raw() + 64)), 0b11_1111);
        assert_eq!(map.bits(BlockNo(64)), 0x3ff << 26);
        map.claim(on_device(69, 1));
        assert!(map.contests(on_device(69, 1)) && !map.contests(on_device(68, 1)));
        assert!(!map.contests(BlockRange::new(BlockNo(0), 100)));
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
