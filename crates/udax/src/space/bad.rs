//! Bad blocks among the free ones, and among those that are to be freed.

use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, ByteOffset};
use udax_sync::atomic::Ordering;

use super::{Request, Space};
use crate::error::Result;

/// A run of blocks that are all bad, or all good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) blocks: BlockRange,
    pub(crate) is_bad: bool,
}

impl Space {
    /// Whether one of `blocks` is known to be bad.
    #[inline]
    pub(crate) fn is_bad(&self, blocks: BlockRange) -> bool {
        self.first_bad(blocks).is_some()
    }

    #[inline]
    fn first_bad(&self, blocks: BlockRange) -> Option<BlockNo> {
        // What the data device has lost is its own to replace.
        if blocks.start.is_on_device() {
            return None;
        }
        let bad = self
            .region
            .first_bad(blocks.start.offset().raw(), blocks.count * BLOCK_BYTES)?;
        Some(ByteOffset(bad).block())
    }

    /// `blocks` in runs of good and of bad ones.
    pub(crate) fn parts(&self, blocks: BlockRange) -> impl Iterator<Item = Part> {
        let mut next = blocks.start;
        std::iter::from_fn(move || {
            let start = next;
            let rest = blocks
                .end()
                .raw()
                .checked_sub(start.raw())
                .filter(|rest| *rest > 0)?;
            let is_bad = self.is_bad(BlockRange::new(start, 1));
            next = if is_bad {
                let is_good = |block: &BlockNo| !self.is_bad(BlockRange::new(*block, 1));
                let mut behind = (start.raw()..blocks.end().raw()).map(BlockNo);
                behind.find(is_good).unwrap_or(blocks.end())
            } else {
                self.first_bad(BlockRange::new(start, rest))
                    .unwrap_or(blocks.end())
            };
            Some(Part {
                blocks: BlockRange::new(start, next.raw() - start.raw()),
                is_bad,
            })
        })
    }

    /// Takes a run of good blocks; what of it was debited and is not taken is for the caller to credit.
    pub(super) fn search_good(&self, request: Request) -> Result<BlockRange> {
        loop {
            let run = self.search(request)?;
            // Each time round sets one aside, so that there is an end.
            if let Some(run) = self.set_bad_aside(run) {
                return Ok(run);
            }
        }
    }

    /// The good blocks at the start of `run`, which has been taken; the bad ones behind them are set aside, the rest is
    /// given back. `None` when the first block is bad.
    #[inline]
    pub(super) fn set_bad_aside(&self, run: BlockRange) -> Option<BlockRange> {
        match self.first_bad(run) {
            None => Some(run),
            Some(bad) => self.set_aside_from(run, bad),
        }
    }

    #[cold]
    fn set_aside_from(&self, run: BlockRange, bad: BlockNo) -> Option<BlockRange> {
        let good = BlockRange::new(run.start, bad.raw() - run.start.raw());
        let behind = BlockRange::new(bad, run.end().raw() - bad.raw());
        for part in self.parts(behind) {
            if part.is_bad {
                tracing::warn!(blocks = %part.blocks, "free blocks are bad: set aside");
                self.aside.lock().push(part.blocks);
                self.forget_available(part.blocks.count);
            } else {
                self.release(part.blocks);
            }
        }
        (good.count > 0).then_some(good)
    }

    fn forget_available(&self, count: u64) {
        // Relaxed: a count. What was debited for the search is not among the available ones, so it may not suffice.
        let _always = self
            .available
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |available| {
                Some(available.saturating_sub(count))
            });
    }

    /// Makes blocks free again that were debited as a part of a larger run.
    fn release(&self, blocks: BlockRange) {
        let geometry = self.geometry();
        if let Some(index) = geometry.group_of(blocks.start) {
            // A run is of one group, which is loaded.
            let _released = self.with_group(index, |group| group.release(blocks));
        }
    }

    /// Whether nobody has `block`.
    pub(crate) fn is_free(&self, block: BlockNo) -> bool {
        let geometry = self.geometry();
        let blocks = BlockRange::new(block, 1);
        let Some(index) = geometry.group_of(block).filter(|_| !geometry.is_own(blocks)) else {
            return false;
        };
        self.with_group(index, |group| !group.is_held(blocks))
            .unwrap_or(false)
    }

    /// What was set aside since the last time.
    pub(crate) fn take_aside(&self) -> Vec<BlockRange> {
        std::mem::take(&mut *self.aside.lock())
    }

    /// Keeps what could not be listed for the next time.
    pub(crate) fn put_aside(&self, runs: Vec<BlockRange>) {
        self.aside.lock().extend(runs);
    }

    /// A copy of what is set aside.
    pub(crate) fn collect_aside(&self) -> Vec<BlockRange> {
        self.aside.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock, Weak};

    use udax_media::BLOCK_BYTES;
    use udax_pmem::{Event, Recorder, Region, RegionOptions};
    use udax_sync::atomic::{AtomicU64, Ordering};

    use crate::error::Error;
    use crate::options::{FormatOptions, MountOptions, NewInode, OpenFlags, OpenOptions};
    use crate::pool::Pool;
    use crate::{file, mount};

    /// Loses pages that hold nothing but one byte, as soon as they are stored: so many of them.
    #[derive(Debug, Default)]
    struct Spoiler {
        pool: OnceLock<Weak<Pool>>,
        left: AtomicU64,
    }

    impl Recorder for Spoiler {
        fn record(&self, event: Event<'_>) {
            if let Event::NonTemporal { at, bytes } = event
                && bytes.iter().all(|byte| *byte == 0x5a)
                && let Some(pool) = self.pool.get().and_then(Weak::upgrade)
                && self.left.load(Ordering::Relaxed) > 0
            {
                self.left.fetch_sub(1, Ordering::Relaxed);
                pool.region.poison(at, 1).unwrap();
            }
        }
    }

    /// A pool whose medium loses the next `spoiled` pages that data is stored to.
    fn spoiled_pool(spoiled: u64) -> (Arc<Spoiler>, Arc<Pool>) {
        let spoiler = Arc::new(Spoiler::default());
        let options = RegionOptions {
            recorder: Some(spoiler.clone()),
            ..RegionOptions::default()
        };
        let region = Region::anonymous_with(16 << 20, options).unwrap();
        mount::format_region(&region, &FormatOptions::default()).unwrap();
        let pool = mount::open_region(region, &MountOptions::default()).unwrap();
        spoiler.pool.set(Arc::downgrade(&pool)).unwrap();
        spoiler.left.store(spoiled, Ordering::Relaxed);
        (spoiler, pool)
    }

    /// Appends three lines: what is around them in the block is zeroed, which finds out that the block is lost.
    fn append(pool: &Arc<Pool>) -> crate::error::Result<u64> {
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        let options = OpenOptions::new(flags, NewInode::with_permissions(0o600));
        let file = file::open(pool, b"/file", &options)?;
        let done = file.append(&[0x5a; 192])?;
        let mut bytes = [0; 192];
        assert_eq!(file.read_at(&mut bytes, done).unwrap(), 192);
        assert_eq!(bytes, [0x5a; 192]);
        Ok(done)
    }

    #[test]
    fn a_free_block_that_fails_when_it_is_stored_to_is_replaced_by_another() {
        let (spoiler, pool) = spoiled_pool(5);
        append(&pool).unwrap();
        assert_eq!(spoiler.left.load(Ordering::Relaxed), 0);
        pool.sync().unwrap();
        let bad = pool.collect_bad().unwrap();
        assert_eq!(bad.iter().map(|range| range.len / BLOCK_BYTES).sum::<u64>(), 5);
        assert!(bad.iter().all(|range| range.is_retired), "{bad:?}");
        assert_eq!(pool.health.damage(), None);
    }

    #[test]
    fn a_medium_that_loses_everything_ends_in_an_error() {
        let (_spoiler, pool) = spoiled_pool(u64::MAX);
        let error = append(&pool).unwrap_err();
        assert!(matches!(error, Error::Region(_)), "{error}");
        assert_eq!(error.errno(), nix::errno::Errno::EIO);
        pool.sync().unwrap();
    }
}
