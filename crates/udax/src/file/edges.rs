//! The edges of a range inside blocks: what a punch or a zeroing leaves of them goes to new blocks.
//!
//! Zeroing them in place would show a crash an old edge beside new blocks, or a torn one. Zeros in the journal record
//! would not help: replay repeats records that are older than writes in place, which it would undo. So the record swaps
//! the block, and the data before it is durable in a block that nothing refers to.

use smallvec::SmallVec;
use udax_journal::{DataWriter, Durable};
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::sum::Sum;
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, ByteOffset, FileBlock};
use udax_sync::fault::{Fault, is_injected};

use super::allocate::Range;
use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::update::Update;

/// New blocks for the edges of a range: none to two, their content durable.
#[derive(Debug, Default)]
pub(super) struct Edges {
    fresh: SmallVec<[Extent; 2]>,
    /// Of those that get sums.
    sums: SmallVec<[(BlockRange, Sum); 2]>,
    durable: Option<Durable<Vec<BlockRange>>>,
}

impl Edges {
    /// Adds to `update` that these blocks take the place of the old ones, which are freed.
    pub(super) fn publish(self, update: &mut Update<'_>, map: &mut ExtentMap<'_>) -> Result<()> {
        let Some(durable) = self.durable else {
            return Ok(());
        };
        update.allocate_data(&durable);
        for (blocks, sum) in self.sums {
            update.set_sums(blocks, &[sum])?;
        }
        for extent in self.fresh {
            for old in map.splice(update, extent.first, extent.end(), &[extent])? {
                update.free_extent(&old)?;
            }
        }
        Ok(())
    }
}

impl Pool {
    /// Copies the written blocks that are partly in `range` without that part, with one fence when there are some. The
    /// update guards the new blocks.
    pub(super) fn copy_edges(
        &self,
        update: &mut Update<'_>,
        (inode, state): (&Inode, &InodeState),
        range: Range,
        priority: Priority,
    ) -> Result<Edges> {
        if range.is_whole_blocks() {
            return Ok(Edges::default());
        }
        let mut writer = self.data_writer();
        let mut edges = Edges::default();
        let flags = match self.is_summed(inode)? {
            true => ExtentFlags::SUMMED,
            false => ExtentFlags::empty(),
        };
        let last = FileBlock::holding(range.end);
        let first = FileBlock::holding(range.start);
        for block in [Some(first), Some(last).filter(|last| *last != first)]
            .into_iter()
            .flatten()
        {
            let start = block.raw() * BLOCK_BYTES;
            let from = range.start.max(start) - start;
            let to = range.end.min(start + BLOCK_BYTES).saturating_sub(start);
            if from >= to || to - from == BLOCK_BYTES {
                continue;
            }
            let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, block)? else {
                continue;
            };
            let Some(old) = extents::clip(&extent, block, FileBlock(block.raw() + 1)) else {
                continue;
            };
            if old.is_unwritten() {
                continue;
            }
            let request = Request {
                goal: old.start,
                count: 1,
                placement: Placement::Any,
                // A block that others keep is not freed in turn: the reserve is not for that.
                priority: if old.is_shared() {
                    Priority::Ordinary
                } else {
                    priority
                },
            };
            let run = self.space_on(self.tier_of(inode)?).take(request)?;
            update.guard(run);
            if is_injected(Fault::EarlyPunch) {
                let place = old.start.offset().raw() + from;
                self.overwrite_data(place, &vec![0; usize::try_from(to - from).unwrap_or(0)])?;
            }
            let copied = self.copy_without((&mut writer, inode), &old, run.start.offset(), (from, to));
            let sum = copied.map_err(|error| match error {
                Error::Region(error) => {
                    self.lost_data(inode, (old.start.offset().raw(), start), BLOCK_BYTES, error)
                }
                other => other,
            })?;
            if flags.contains(ExtentFlags::SUMMED) {
                edges.sums.push((run, sum));
            }
            edges.fresh.push(Extent {
                start: run.start,
                flags,
                ..old
            });
        }
        if edges.fresh.is_empty() {
            return Ok(edges);
        }
        let blocks = edges.fresh.iter().map(Extent::blocks).collect();
        edges.durable = Some(writer.finish(blocks).fence(&self.region)?);
        Ok(edges)
    }

    /// Copies the block of `old`, verified if it is summed, with zeros for its bytes from `from` to `to`; gives the
    /// copy's sum.
    fn copy_without(
        &self,
        (writer, inode): (&mut DataWriter<'_>, &Inode),
        old: &Extent,
        target: ByteOffset,
        (from, to): (u64, u64),
    ) -> Result<Sum> {
        let mut bytes = [0; BLOCK_SIZE];
        self.read_block(inode, old, old.first, &mut bytes)?;
        let place = |at: u64| usize::try_from(at).unwrap_or(BLOCK_SIZE);
        if let Some(gone) = bytes.get_mut(place(from)..place(to)) {
            gone.fill(0);
        }
        writer.write(target, &bytes)?;
        Ok(self.sum_of(&bytes))
    }
}
