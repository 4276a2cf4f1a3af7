//! One allocation group's held bits, and the search in them.

use udax_media::bitmap::{GROUP_CHUNKS, GROUP_WORDS};
use udax_media::{BlockNo, BlockRange, HUGE_BLOCKS};

/// The held bits of a group: set when the block may not be taken.
///
/// # Invariants
/// Bits past `covers.count` are set. `free` is the number of clear bits.
#[derive(Debug)]
pub(super) struct GroupState {
    covers: BlockRange,
    words: Box<[u64; GROUP_WORDS]>,
    free: u64,
    /// Where the last search ended: the next one without a goal begins there.
    cursor: u64,
}

impl GroupState {
    pub(super) fn new(covers: BlockRange, words: Box<[u64; GROUP_WORDS]>) -> Self {
        let free = words.iter().map(|word| u64::from(word.count_zeros())).sum();
        Self {
            covers,
            words,
            free,
            cursor: 0,
        }
    }

    /// Takes the free blocks at the start of `wanted`, cut to this group; `None` when the first is held.
    pub(super) fn take_exact(&mut self, wanted: BlockRange) -> Option<BlockRange> {
        let first = wanted.start.raw().checked_sub(self.covers.start.raw())?;
        let length = self.free_length(first, wanted.count);
        (length > 0).then(|| self.hold(first, length))
    }

    /// Takes `count` blocks in one run, the first such run from `goal` (or from where the last search ended) on. When
    /// there is none, gives the length of the longest run instead.
    pub(super) fn take_run(&mut self, goal: Option<BlockNo>, count: u64) -> Result<BlockRange, u64> {
        if self.free == 0 {
            return Err(0);
        }
        let origin = goal
            .and_then(|goal| goal.raw().checked_sub(self.covers.start.raw()))
            .filter(|bit| *bit < self.covers.count)
            .unwrap_or(self.cursor);
        let mut longest = 0;
        for (from, to) in [(origin, self.covers.count), (0, origin)] {
            let mut bit = from;
            while let Some(first) = self.next_free(bit, to) {
                let length = self.free_length(first, count);
                if length == count {
                    self.cursor = first + length;
                    return Ok(self.hold(first, length));
                }
                longest = longest.max(length);
                bit = first + length + 1;
            }
        }
        Err(longest)
    }

    /// Takes whole free chunks, as many in a row as `count` has, at least one; fewer blocks than a chunk never.
    pub(super) fn take_chunks(&mut self, count: u64) -> Option<BlockRange> {
        let wanted = count / HUGE_BLOCKS;
        if wanted == 0 || self.free < HUGE_BLOCKS {
            return None;
        }
        // Chunks are counted from the pool's start, which the group's start is a multiple of in the first segment;
        // later segments begin at any block and shift their chunks.
        let shift = self.covers.start.raw().next_multiple_of(HUGE_BLOCKS) - self.covers.start.raw();
        let chunk_start = |chunk: u64| shift + chunk * HUGE_BLOCKS;
        let mut chunk = 0;
        while chunk < GROUP_CHUNKS && chunk_start(chunk) + HUGE_BLOCKS <= self.covers.count {
            let length = self.free_length(chunk_start(chunk), wanted * HUGE_BLOCKS) / HUGE_BLOCKS;
            if length > 0 {
                return Some(self.hold(chunk_start(chunk), length * HUGE_BLOCKS));
            }
            chunk += 1;
        }
        None
    }

    /// Whether all of `range`, which lies in the group, is held.
    pub(super) fn is_held(&self, range: BlockRange) -> bool {
        let Some(first) = range.start.raw().checked_sub(self.covers.start.raw()) else {
            return false;
        };
        first + range.count <= self.covers.count && {
            let mut is_held = true;
            for_each_word(first, range.count, |index, mask| {
                is_held &= self.words.get(index).is_some_and(|word| *word & mask == mask);
            });
            is_held
        }
    }

    /// Clears the held bits of `range`, which lies in the group; gives how many were set. All of them, but in a damaged
    /// pool where two files have the same block.
    pub(super) fn release(&mut self, range: BlockRange) -> u64 {
        let first = range.start.raw() - self.covers.start.raw();
        let mut released = 0;
        for_each_word(first, range.count, |index, mask| {
            if let Some(word) = self.words.get_mut(index) {
                released += u64::from((*word & mask).count_ones());
                *word &= !mask;
            }
        });
        self.free += released;
        released
    }

    fn hold(&mut self, first: u64, count: u64) -> BlockRange {
        let mut held = 0;
        for_each_word(first, count, |index, mask| {
            if let Some(word) = self.words.get_mut(index) {
                held += u64::from((!*word & mask).count_ones());
                *word |= mask;
            }
        });
        assert!(held == count, "blocks taken that were held already");
        self.free -= count;
        BlockRange::new(BlockNo(self.covers.start.raw() + first), count)
    }

    /// The first clear bit in `from..to`.
    fn next_free(&self, from: u64, to: u64) -> Option<u64> {
        let mut bit = from;
        while bit < to {
            let word = self.word(bit / 64) >> (bit % 64);
            let skipped = u64::from(word.trailing_ones());
            if skipped < 64 - bit % 64 {
                let found = bit + skipped;
                return (found < to).then_some(found);
            }
            bit += 64 - bit % 64;
        }
        None
    }

    /// How many bits from `first` are clear, at most `limit`.
    fn free_length(&self, first: u64, limit: u64) -> u64 {
        let end = first.saturating_add(limit).min(self.covers.count);
        let mut bit = first;
        while bit < end {
            let word = self.word(bit / 64) >> (bit % 64);
            let clear = u64::from(word.trailing_zeros()).min(64 - bit % 64);
            bit += clear;
            if clear < 64 - (bit - clear) % 64 {
                break;
            }
        }
        bit.min(end).saturating_sub(first)
    }

    fn word(&self, index: u64) -> u64 {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.words.get(index))
            .copied()
            .unwrap_or(u64::MAX)
    }
}

/// Calls `each` with the index and mask of every word that bits `first..first + count` touch.
fn for_each_word(first: u64, count: u64, mut each: impl FnMut(usize, u64)) {
    let end = first + count;
    let mut bit = first;
    while bit < end {
        let run = (64 - bit % 64).min(end - bit);
        let mask = if run == 64 {
            u64::MAX
        } else {
            ((1 << run) - 1) << (bit % 64)
        };
        each(usize::try_from(bit / 64).unwrap_or(usize::MAX), mask);
        bit += run;
    }
}

#[cfg(test)]
mod tests {
    use udax_media::bitmap::GROUP_BLOCKS;

    use super::*;

    fn empty_group(start: u64, count: u64) -> GroupState {
        let mut words = Box::new([0; GROUP_WORDS]);
        for_each_word(count, GROUP_BLOCKS - count, |index, mask| words[index] |= mask);
        GroupState::new(BlockRange::new(BlockNo(start), count), words)
    }

    #[test]
    fn takes_at_the_goal_and_gives_back() {
        let mut group = empty_group(0, GROUP_BLOCKS);
        let run = group.take_run(Some(BlockNo(1000)), 70).unwrap();
        assert_eq!(run, BlockRange::new(BlockNo(1000), 70));
        assert_eq!(group.take_exact(BlockRange::new(BlockNo(1000), 1)), None);
        assert_eq!(
            group.take_exact(BlockRange::new(BlockNo(990), 20)),
            Some(BlockRange::new(BlockNo(990), 10))
        );
        group.release(run);
        assert_eq!(group.free, GROUP_BLOCKS - 10);
        assert_eq!(
            group.take_run(Some(BlockNo(990)), 5).unwrap().start,
            BlockNo(1000)
        );
    }

    #[test]
    fn tells_the_longest_run_when_none_is_long_enough() {
        let mut group = empty_group(0, 200);
        let _ = group.take_run(Some(BlockNo(100)), 1).unwrap();
        assert_eq!(group.take_run(None, 150), Err(100));
        assert_eq!(group.take_run(None, 100).unwrap().count, 100);
    }

    #[test]
    fn chunks_are_aligned_in_the_pool_even_in_a_shifted_segment() {
        let mut group = empty_group(700, 5000);
        let run = group.take_chunks(1100).unwrap();
        assert_eq!((run.start.raw() % 512, run.count), (0, 1024));
        assert_eq!(run.start, BlockNo(1024));
        assert_eq!(group.take_chunks(511), None);
    }

    #[test]
    fn giving_back_twice_counts_once() {
        let mut group = empty_group(0, 100);
        let run = group.take_run(None, 3).unwrap();
        assert!(group.is_held(run));
        assert_eq!(group.release(run), 3);
        assert!(!group.is_held(run));
        assert_eq!(group.release(run), 0);
        assert_eq!(group.free, 100);
    }

    #[test]
    fn a_range_with_one_free_block_is_not_held() {
        let mut group = empty_group(0, 200);
        let _ = group.take_run(Some(BlockNo(60)), 10).unwrap();
        assert!(group.is_held(BlockRange::new(BlockNo(60), 10)));
        assert!(!group.is_held(BlockRange::new(BlockNo(60), 11)));
        assert!(!group.is_held(BlockRange::new(BlockNo(59), 2)));
    }

    #[test]
    fn every_block_can_be_taken_once() {
        let mut group = empty_group(10, 1234);
        let mut taken = 0;
        let mut want = 97;
        loop {
            match group.take_run(None, want) {
                Ok(run) => taken += run.count,
                Err(0) => break,
                Err(longest) => want = longest,
            }
        }
        assert_eq!((taken, group.free), (1234, 0));
    }
}
