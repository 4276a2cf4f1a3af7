//! Which metadata blocks have been verified since the pool was opened.
//!
//! A node's checksum is checked when it is first read, and only then: after that it may be stale until the next
//! checkpoint. Blocks allocated as metadata since the pool was opened count as verified. A block that is free is not in
//! the set: what it holds next may be a file's data, which nothing may take for a node that has been verified.

use udax_media::{BlockNo, BlockRange};
use udax_sync::OnceLock;
use udax_sync::atomic::{AtomicU64, Ordering};

/// Blocks in one page of the set: 1 GiB of pool.
const PAGE_BLOCKS: u64 = 1 << 18;
/// Pages in a directory page, and directory pages: together enough for the largest pool.
const DIRECTORY: usize = 1 << 10;

type Page = Box<[AtomicU64]>;
type DirectoryPage = Box<[OnceLock<Page>]>;

/// A set of blocks.
#[derive(Debug)]
pub(crate) struct VerifiedBlocks {
    directory: Box<[OnceLock<DirectoryPage>]>,
}

impl VerifiedBlocks {
    pub(crate) fn new() -> Self {
        Self {
            directory: (0..DIRECTORY).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Whether `block` is in the set.
    #[inline]
    pub(crate) fn contains(&self, block: BlockNo) -> bool {
        let (at, bit) = place(block);
        self.word(at)
            .is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Adds `block`.
    pub(crate) fn insert(&self, block: BlockNo) {
        let (at, bit) = place(block);
        let Some((outer, inner, word)) = split(at) else {
            return;
        };
        let Some(cell) = self.directory.get(outer) else {
            return;
        };
        let pages = cell.get_or_init(|| (0..DIRECTORY).map(|_| OnceLock::new()).collect());
        let Some(page) = pages.get(inner) else { return };
        let words = page.get_or_init(|| (0..PAGE_BLOCKS / 64).map(|_| AtomicU64::new(0)).collect());
        if let Some(word) = words.get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Takes `blocks` out, which are about to be free.
    pub(crate) fn remove(&self, blocks: BlockRange) {
        let mut next = blocks.start;
        while next < blocks.end() {
            let (at, first) = place(next);
            let count = (64 - next.raw() % 64).min(blocks.end().raw() - next.raw());
            let mask = (u64::MAX >> (64 - count)) * first;
            // Most are data: a look is cheaper than a change.
            if let Some(word) = self.word(at)
                && word.load(Ordering::Relaxed) & mask != 0
            {
                word.fetch_and(!mask, Ordering::Relaxed);
            }
            next = BlockNo(next.raw() + count);
        }
    }

    #[inline]
    fn word(&self, at: u64) -> Option<&AtomicU64> {
        let (outer, inner, word) = split(at)?;
        self.directory.get(outer)?.get()?.get(inner)?.get()?.get(word)
    }
}

/// The word that has the block's bit, counted through all pages, and the bit.
fn place(block: BlockNo) -> (u64, u64) {
    (block.raw() / 64, 1 << (block.raw() % 64))
}

/// Where a word is: directory page, page, word in it.
fn split(at: u64) -> Option<(usize, usize, usize)> {
    const PAGE_WORDS: u64 = PAGE_BLOCKS / 64;
    let page = usize::try_from(at / PAGE_WORDS).ok()?;
    let word = usize::try_from(at % PAGE_WORDS).ok()?;
    Some((page / DIRECTORY, page % DIRECTORY, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_exactly_what_was_inserted() {
        let set = VerifiedBlocks::new();
        for block in [0, 63, 64, PAGE_BLOCKS - 1, PAGE_BLOCKS, (1 << 38) - 1] {
            assert!(!set.contains(BlockNo(block)));
            set.insert(BlockNo(block));
            assert!(set.contains(BlockNo(block)));
            assert!(!set.contains(BlockNo(block + 2)));
        }
        assert!(!set.contains(BlockNo(u64::MAX)));
    }

    #[test]
    fn what_is_removed_is_gone_and_nothing_else() {
        let set = VerifiedBlocks::new();
        for first in [0, 5, 63, 64, PAGE_BLOCKS - 70] {
            for count in [1, 2, 64, 65, 200] {
                (first..first + 300).for_each(|block| set.insert(BlockNo(block)));
                set.remove(BlockRange::new(BlockNo(first + 20), count));
                for block in first..first + 300 {
                    let is_removed = (first + 20..first + 20 + count).contains(&block);
                    assert_eq!(
                        set.contains(BlockNo(block)),
                        !is_removed,
                        "{first}, {count}: {block}"
                    );
                }
            }
        }
        // Where no page is.
        set.remove(BlockRange::new(BlockNo(1 << 37), 1000));
        set.remove(BlockRange::new(BlockNo(1 << 39), 3));
    }
}
