//! Giving a file blocks of its own in place of those that it shares (copy on write).
//!
//! A copy is durable before the record that lets the file refer to it; that record takes one owner from the old blocks.
//! What an extent says of sharing may be out of date: who turns out to be the last owner keeps the blocks.
//!
//! All under the inode's lock, alone.

use smallvec::SmallVec;
use udax_dax::{Broken, Fate};
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, FileBlock, Place};

use super::pieces::{Origin, Piece, Treatment};
use super::write::Cause;
use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping, clip};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::Tier;
use crate::sums::SUMS_PER_RECORD;
use crate::update::Update;

/// The most ranges that are broken apart: each is looked through by whoever pins. Behind them, one range to the end.
const MAX_BROKEN: usize = 64;

impl Pool {
    /// The first piece of `part`, which is shared or was: new blocks, or the old ones for their last owner. It has sums
    /// where `part` has.
    pub(super) fn take_for_shared(
        &self,
        update: &mut Update<'_>,
        part: Extent,
        (goal, tier): (BlockNo, Tier),
    ) -> Result<Piece> {
        let first = update.owners(&part, 1)?.into_iter().next();
        let Some(segment) = first.filter(|_| !part.is_unwritten()) else {
            return Err(Error::Inconsistent {
                place: Place::Block(part.start),
                what: "a file shares unwritten blocks",
            });
        };
        let own = part.flags.difference(ExtentFlags::SHARED);
        let old = Extent {
            count: segment.blocks.count,
            ..part
        };
        if segment.owners == 1 {
            return Ok(Piece {
                extent: Extent { flags: own, ..old },
                origin: Origin::Written,
            });
        }
        self.take_instead(update, old, (goal, tier), own)
    }

    /// Copies what is shared of `first..end`, some pieces to a record; what the file reads as does not change, nor do
    /// its times. The caller has not broken the layout of any range of the file.
    ///
    /// # Errors
    /// `NoSpace`: a part from the start may have been copied. `Conflict`, and nothing was.
    pub(crate) fn unshare_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        first: FileBlock,
        end: FileBlock,
    ) -> Result<()> {
        let _broken = self.break_if_shared(inode, state, (first, end))?;
        self.unshare_broken(inode, state, (first, end))
    }

    /// As [`Pool::unshare_range`], in a range that the caller has broken.
    pub(super) fn unshare_broken(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (first, end): (FileBlock, FileBlock),
    ) -> Result<()> {
        let mut at = first;
        while at < end {
            at = self.in_steps(|limit| self.unshare_step(inode, state, (at, end), limit))?;
        }
        Ok(())
    }

    /// Copies the first shared pieces of `at..end`, at most `limit`; gives up to where.
    fn unshare_step(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (mut at, end): (FileBlock, FileBlock),
        limit: usize,
    ) -> Result<FileBlock> {
        extents::load(self, inode, state)?;
        let tier = self.tier_of(inode)?;
        let mut update = Update::new(self);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut summed = 0;
        while at < end && pieces.len() < limit && summed < SUMS_PER_RECORD {
            at = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Hole { until } => until,
                Mapping::Extent(extent) => match clip(&extent, at, end) {
                    Some(part) if part.is_shared() => {
                        let goal = pieces.last().map(|piece| piece.extent.blocks().end());
                        let part = first_blocks(part, SUMS_PER_RECORD - summed);
                        let piece =
                            self.take_for_shared(&mut update, part, (goal.unwrap_or_default(), tier))?;
                        if part.is_summed() {
                            summed += piece.extent.count;
                        }
                        pieces.push(piece);
                        piece.extent.end()
                    }
                    _ => extent.end(),
                },
            };
        }
        if !pieces.is_empty() {
            self.record_copies(update, inode, state, &pieces)?;
        }
        Ok(at)
    }

    /// If blocks of `first..end` are shared, they are about to be others: then nobody may have them pinned. Blocks
    /// between them that are the file's own stay: who has those pinned may be the caller.
    pub(super) fn break_if_shared<'i>(
        &self,
        inode: &'i Inode,
        state: &mut InodeState,
        range: (FileBlock, FileBlock),
    ) -> Result<Option<Broken<'i>>> {
        self.break_those(inode, state, range, Extent::is_shared)
    }

    /// Breaks the layout of what a write to `first..end` gives other blocks; and how the write is to treat the file's
    /// blocks. Those that would get sums stay as they are while they are pinned.
    ///
    /// # Errors
    /// `Conflict`: what must be replaced is pinned.
    pub(super) fn break_for_write<'i>(
        &self,
        inode: &'i Inode,
        state: &mut InodeState,
        range: (FileBlock, FileBlock),
        cause: Cause,
    ) -> Result<(Option<Broken<'i>>, Treatment)> {
        let must = |extent: &Extent| extent.is_shared() || extent.is_summed();
        if cause == Cause::Atomic {
            let broken = self.break_those(inode, state, range, |extent| !extent.is_unwritten())?;
            let treatment = match self.is_summed(inode)? {
                true => Treatment::Summed,
                false => Treatment::Replaced,
            };
            return Ok((broken, treatment));
        }
        if !self.is_summed(inode)? {
            return Ok((self.break_those(inode, state, range, must)?, Treatment::Plain));
        }
        match self.break_those(inode, state, range, |extent| !extent.is_unwritten()) {
            Ok(broken) => Ok((broken, Treatment::Summed)),
            Err(Error::Conflict(_)) => {
                let broken = self.break_those(inode, state, range, must)?;
                Ok((broken, Treatment::SummedButPinned))
            }
            Err(error) => Err(error),
        }
    }

    /// Breaks the layout of those extents of `first..end` that are to be broken.
    fn break_those<'i>(
        &self,
        inode: &'i Inode,
        state: &mut InodeState,
        (first, end): (FileBlock, FileBlock),
        is_broken: impl Fn(&Extent) -> bool,
    ) -> Result<Option<Broken<'i>>> {
        if inode.mapping().is_none_or(|mapping| mapping.pages() == 0) {
            return Ok(None);
        }
        extents::load(self, inode, state)?;
        let mut ranges: SmallVec<[(FileBlock, FileBlock); 2]> = SmallVec::new();
        let mut at = first;
        while at < end {
            let extent = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Hole { until } => {
                    at = until;
                    continue;
                }
                Mapping::Extent(extent) => extent,
            };
            if is_broken(&extent) {
                let upto = extent.end().min(end);
                let is_full = ranges.len() == MAX_BROKEN;
                match ranges.last_mut() {
                    Some(last) if last.1 == at || is_full => last.1 = upto,
                    _ => ranges.push((at, upto)),
                }
            }
            at = extent.end();
        }
        self.break_ranges(inode, &ranges, Fate::Kept)
    }

    fn record_copies(
        &self,
        mut update: Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        pieces: &[Piece],
    ) -> Result<()> {
        let mut writer = self.data_writer();
        for piece in pieces {
            if let Some(old) = piece.replaced() {
                let length = old.count * BLOCK_BYTES;
                writer.copy(old.start.offset(), piece.extent.start.offset(), length)?;
            }
        }
        let taken = pieces.iter().filter(|piece| piece.is_taken());
        let taken: Vec<BlockRange> = taken.map(|piece| piece.extent.blocks()).collect();
        let durable = writer.finish(taken).fence(&self.region)?;
        update.allocate_data(&durable);
        let mut map = ExtentMap::begin(self, inode, state)?;
        for piece in pieces {
            map.splice(
                &mut update,
                piece.extent.first,
                piece.extent.end(),
                &[piece.extent],
            )?;
            if let Some(old) = piece.replaced() {
                if old.is_summed() {
                    // Bytes and sums as they are: what is wrong stays wrong.
                    update.copy_sums(old.blocks(), piece.extent.blocks())?;
                }
                update.free_extent(&old)?;
            }
        }
        self.commit_extents(update, inode, state, map)
    }

    /// Gives the file's last block to it alone if the file ends inside it: what is behind the end is about to be
    /// zeroed, and may be another file's data.
    pub(super) fn unshare_tail(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        let size = self.inode_size(inode)?;
        if size.is_multiple_of(BLOCK_BYTES) {
            return Ok(());
        }
        let block = FileBlock::holding(size);
        self.unshare_range(inode, state, block, FileBlock(block.raw() + 1))
    }
}

/// The first `count` blocks of `part` if it is summed, else all of it.
fn first_blocks(part: Extent, count: u64) -> Extent {
    let count = if part.is_summed() {
        part.count.min(count)
    } else {
        part.count
    };
    Extent { count, ..part }
}
