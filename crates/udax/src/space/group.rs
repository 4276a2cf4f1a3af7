//! One allocation group's held bits, and the search in them.

use udax_media::bitmap::{GROUP_CHUNKS, GROUP_WORDS};
use udax_media::{BlockNo, BlockRange, HUGE_BLOCKS};

/// The held bits of a group: set when the block may not be taken.
///
/// # Invariants
/// Bits past `covers.count` are set. `free` is the number of clear bits. No bit below `lowest` is clear. No run of
/// clear bits is longer than `longest`, and one is as long when `is_exact`; without `may_have_chunks` none holds a
/// chunk.
#[derive(Debug)]
pub(super) struct GroupState {
    covers: BlockRange,
    words: Box<[u64; GROUP_WORDS]>,
    free: u64,
    lowest: u64,
    longest: u64,
    is_exact: bool,
    may_have_chunks: bool,
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
            lowest: 0,
            longest: free,
            is_exact: false,
            may_have_chunks: true,
            cursor: 0,
        }
    }

    /// Blocks that can be taken.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// A bound of the longest run that can be taken.
    pub(super) fn longest(&self) -> u64 {
        self.longest.min(self.free)
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
        if self.longest() < count {
            return Err(self.measure_longest());
        }
        self.lowest = self
            .next_free(self.lowest, self.covers.count)
            .unwrap_or(self.covers.count);
        let origin = goal
            .and_then(|goal| goal.raw().checked_sub(self.covers.start.raw()))
            .filter(|bit| *bit < self.covers.count)
            .unwrap_or(self.cursor);
        let mut longest = 0;
        for (from, to) in [(origin, self.covers.count), (0, origin)] {
            let mut bit = from.max(self.lowest);
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
        (self.longest, self.is_exact) = (longest, true);
        Err(longest)
    }

    /// The length of the longest run, looked for only after a change.
    fn measure_longest(&mut self) -> u64 {
        if !self.is_exact {
            let (mut longest, mut bit) = (0, self.lowest);
            while let Some(first) = self.next_free(bit, self.covers.count) {
                let length = self.free_length(first, self.covers.count);
                longest = longest.max(length);
                bit = first + length + 1;
            }
            (self.longest, self.is_exact) = (longest, true);
        }
        self.longest
    }

    /// Takes whole free chunks, as many in a row as `count` has, at least one; fewer blocks than a chunk never.
    pub(super) fn take_chunks(&mut self, count: u64) -> Option<BlockRange> {
        let wanted = count / HUGE_BLOCKS;
        if wanted == 0 || !self.may_have_chunks || self.longest() < HUGE_BLOCKS {
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
        self.may_have_chunks = false;
        None
    }

    /// Whether the part of `range` in this group is held as a whole.
    pub(super) fn is_held(&self, range: BlockRange) -> bool {
        let start = range.start.max(self.covers.start).raw();
        let end = range.end().min(self.covers.end()).raw();
        let mut is_held = true;
        for_each_word(
            start - self.covers.start.raw(),
            end.saturating_sub(start),
            |index, mask| {
                is_held &= self.words.get(index).is_some_and(|word| word & mask == mask);
            },
        );
        is_held
    }

    /// Clears the held bits of `range`, which lies in the group; gives how many there were. In a damaged pool two
    /// files may own the same blocks, and both give them back.
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
        self.lowest = self.lowest.min(first);
        // The run may have grown by its neighbours. How far is found out when a search next fails.
        (self.longest, self.is_exact) = (self.free, false);
        self.may_have_chunks = true;
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
        self.is_exact = false;
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
    fn what_is_given_back_twice_is_free_once() {
        let mut group = empty_group(64, 100);
        let run = group.take_run(None, 3).unwrap();
        assert!(group.is_held(run));
        assert!(!group.is_held(BlockRange::new(run.start, 4)));
        assert_eq!(group.release(run), 3);
        assert!(!group.is_held(run));
        assert_eq!(group.release(run), 0);
        assert_eq!(group.free, 100);
    }

    #[test]
    fn the_longest_run_is_known_after_each_change() {
        let mut group = empty_group(0, 1000);
        let runs: Vec<_> = (0..10).map(|_| group.take_run(None, 100).unwrap()).collect();
        assert_eq!((group.longest(), group.take_run(None, 1)), (0, Err(0)));
        group.release(runs[3]);
        group.release(BlockRange::new(BlockNo(550), 50));
        assert_eq!(group.take_run(None, 101), Err(100));
        assert_eq!(group.longest(), 100);
        // Joins what is free on its left.
        group.release(runs[6]);
        assert_eq!(group.take_run(None, 151), Err(150));
        assert_eq!(group.take_run(Some(BlockNo(0)), 20).unwrap().start, BlockNo(300));
        assert_eq!(group.take_run(None, 149).unwrap().start, BlockNo(550));
        assert_eq!(group.take_run(None, 149), Err(80));
    }

    #[test]
    fn a_chunk_is_found_again_after_it_was_given_back() {
        let mut group = empty_group(0, 1024);
        let first = group.take_chunks(512).unwrap();
        let _ = group.take_exact(BlockRange::new(BlockNo(700), 1)).unwrap();
        assert_eq!(group.take_chunks(512), None);
        group.release(first);
        assert_eq!(group.take_chunks(512), Some(first));
    }

    #[test]
    fn a_search_from_the_start_passes_over_what_is_held() {
        let mut group = empty_group(0, GROUP_BLOCKS);
        let held = group.take_run(Some(BlockNo(0)), GROUP_BLOCKS - 100).unwrap();
        let next = group.take_run(Some(BlockNo(0)), 1).unwrap();
        assert_eq!(next.start, held.end());
        assert_eq!(group.lowest, held.count);
        group.release(BlockRange::new(BlockNo(5), 1));
        assert_eq!(group.take_run(Some(BlockNo(0)), 1).unwrap().start, BlockNo(5));
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
