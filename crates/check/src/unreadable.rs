//! Reading every block, whether somebody owns it or not: what the medium has lost.

use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Place, Superblock};
use udax_pmem::{Region, RegionError};
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::on_threads;

use crate::source::BlockSource as _;
use crate::{Problem, Progress};

/// Blocks read at once.
const BATCH_BLOCKS: u64 = 16;
/// Blocks between two looks for work: 2 MiB.
const STEP_BLOCKS: u64 = 512;

/// Blocks that cannot be read: runs that neither overlap nor touch, ascending.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    runs: Vec<BlockRange>,
    /// All blocks were read: the others can be.
    is_complete: bool,
}

impl Unreadable {
    /// Reads the first `total_blocks` of the region on `threads` threads.
    ///
    /// # Errors
    /// Another error than one of the medium.
    pub(crate) fn find(
        region: &Region,
        total_blocks: u64,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Self, RegionError> {
        let next = AtomicU64::new(0);
        let run = || -> Result<(), RegionError> {
            loop {
                let first = next.fetch_add(STEP_BLOCKS, Ordering::Relaxed);
                if first >= total_blocks {
                    return Ok(());
                }
                let end = (first + STEP_BLOCKS).min(total_blocks);
                meet_lost(region, first, end)?;
                progress.step("reading all blocks", end, total_blocks);
            }
        };
        on_threads(threads, run).into_iter().collect::<Result<(), _>>()?;
        Ok(Self {
            is_complete: true,
            ..Self::known(region)
        })
    }

    /// Those that the region knows of already.
    fn known(region: &Region) -> Self {
        Self {
            runs: region.lost_blocks(),
            is_complete: false,
        }
    }

    /// Whether the block was read, and can be.
    pub(crate) fn is_readable(&self, block: BlockNo) -> bool {
        self.is_complete && self.within(BlockRange::new(block, 1)).next().is_none()
    }

    /// Those in `range`.
    pub(crate) fn within(&self, range: BlockRange) -> impl Iterator<Item = BlockRange> {
        let first = self.runs.partition_point(|run| run.end() <= range.start);
        let from_first = self.runs.get(first..).unwrap_or_default().iter();
        from_first
            .take_while(move |run| run.start < range.end())
            .map(move |run| {
                let start = run.start.max(range.start);
                BlockRange::new(start, run.end().min(range.end()).raw() - start.raw())
            })
    }
}

/// Reads blocks, so that the region knows those that are lost.
fn meet_lost(region: &Region, first: u64, end: u64) -> Result<(), RegionError> {
    let mut buffer = vec![0; usize::try_from(BATCH_BLOCKS).unwrap_or(1) * BLOCK_SIZE];
    let mut next = first;
    while next < end {
        let count = BATCH_BLOCKS.min(end - next);
        let part = usize::try_from(count).unwrap_or(1) * BLOCK_SIZE;
        let bytes = buffer.get_mut(..part).unwrap_or_default();
        next = match region.read(next * BLOCK_BYTES, bytes) {
            Ok(()) => next + count,
            Err(RegionError::Media { at }) => ByteOffset(at).block().raw() + 1,
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// What is to say of lost blocks of the journal. With [`Repair::Yes`], once nothing in them is needed any more, they
/// are filled with zeros, which makes them good where the medium can do that.
pub(crate) fn judge_journal(region: &Region, superblock: &Superblock, repair: Repair) -> Vec<Problem> {
    let judge = |run: BlockRange| {
        let is_mended = repair == Repair::Yes && zero(region, run).is_ok();
        Problem {
            place: Place::Block(run.start),
            inode: None,
            path: None,
            what: format!("journal: {} cannot be read", blocks(run)),
            has_remedy: true,
            repair: is_mended.then(|| "stored anew".to_owned()),
            lost: None,
        }
    };
    let lost = Unreadable::known(region);
    lost.within(superblock.journal_blocks()).map(judge).collect()
}

/// Whether something may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repair {
    No,
    Yes,
}

fn zero(region: &Region, run: BlockRange) -> Result<(), RegionError> {
    region.zero_nontemporal(run.start.offset().raw(), run.count * BLOCK_BYTES)?;
    region.fence()?;
    let mut bytes = [0; BLOCK_SIZE];
    (run.start.raw()..run.end().raw()).try_for_each(|block| region.read_block(BlockNo(block), &mut bytes))
}

/// A run for people: its first block is told elsewhere.
pub(crate) fn blocks(run: BlockRange) -> String {
    match run.count {
        1 => "a block".to_owned(),
        count => format!("{count} blocks"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    #[test]
    fn every_lost_block_is_found_and_no_other() {
        let region = Region::anonymous(2000 * BLOCK_BYTES, None).unwrap();
        let lost = [0, 1, 15, 16, 17, 511, 512, 700, 1999];
        for block in lost {
            region.poison(block * BLOCK_BYTES + 5, 1).unwrap();
        }
        let found = Unreadable::find(&region, 2000, 3, &Silent).unwrap();
        let blocks = found.runs.iter().flat_map(|run| run.start.raw()..run.end().raw());
        assert_eq!(blocks.collect::<Vec<_>>(), lost);
        assert_eq!(found.runs.len(), 5);
        assert_eq!(found.runs, region.lost_blocks());
        let within: Vec<_> = found.within(BlockRange::new(BlockNo(16), 496)).collect();
        assert_eq!(
            within,
            [BlockRange::new(BlockNo(16), 2), BlockRange::new(BlockNo(511), 1)]
        );
    }
}
