//! Which metadata blocks have been verified since the pool was opened.
//!
//! A node's checksum is checked when it is first read, and only then: after that it may be stale until the next
//! checkpoint. Blocks allocated as metadata since the pool was opened count as verified.

use std::sync::OnceLock;

use udax_media::BlockNo;
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
        let Some((outer, inner, word, bit)) = place(block) else {
            return false;
        };
        self.directory
            .get(outer)
            .and_then(|pages| pages.get()?.get(inner)?.get()?.get(word))
            .is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Adds `block`.
    pub(crate) fn insert(&self, block: BlockNo) {
        let Some((outer, inner, word, bit)) = place(block) else {
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
}

fn place(block: BlockNo) -> Option<(usize, usize, usize, u64)> {
    let page = usize::try_from(block.raw() / PAGE_BLOCKS).ok()?;
    let word = usize::try_from(block.raw() % PAGE_BLOCKS / 64).ok()?;
    Some((page / DIRECTORY, page % DIRECTORY, word, 1 << (block.raw() % 64)))
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
}
