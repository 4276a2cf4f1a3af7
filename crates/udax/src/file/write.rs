//! Writing to files, in place or to fresh blocks.
//!
//! In place when every block is there: non-temporal stores and one fence, times are lazy. Otherwise the bytes first go
//! to fresh or unwritten blocks, whose edges are zeroed, with one fence; then one journal record publishes blocks,
//! extents, size and times together, with another. So a crash shows the old file or the new one, never a size without
//! its data, and no block ever shows what was in it before.

use std::io::IoSlice;

use udax_journal::DataWriter;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, ByteOffset, FileBlock, HUGE_BLOCKS, MAX_FILE_BYTES};

use super::File;
use crate::error::{Error, Result};
use crate::extents::{self, Completeness, ExtentMap, Mapping};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::options::OpenFlags;
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::update::Update;

/// The most pieces that one record maps; a write with more takes several records.
const PIECES_PER_RECORD: usize = 256;
/// The most blocks taken ahead for the next append.
const MAX_WINDOW: u64 = HUGE_BLOCKS;
/// At most this part of the available blocks, as a divisor, is taken ahead by one file.
const WINDOW_SHARE: u64 = 64;

impl File {
    /// Writes `bytes` at `offset`, or at the end with `APPEND`; gives how many, all of them unless an error came after
    /// some.
    ///
    /// # Errors
    /// `BadHandle` without `WRITE`; `FileTooLarge`; `NoSpace`; a media error. Then nothing was changed, but for a media
    /// error of a write in place: its first bytes may have been.
    ///
    /// # Durability
    /// Durable on return. In place: one fence, atomic in aligned 8-byte units. Otherwise two, and what goes to new
    /// blocks (up to 256 pieces of free space) becomes visible together, with the size; what of it overwrites blocks
    /// that were written before is as a write in place.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        Ok(self.write(bytes, Some(offset))?.1)
    }

    /// As [`File::write_at`], from several buffers in turn, as one write.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub fn write_vectored_at(&self, bytes: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        // Gathered first: then it is one write also to a crash.
        let whole: Vec<u8> = bytes.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(&whole, offset)
    }

    /// Writes `bytes` at the end of the file, atomically with respect to other appends; gives the offset they went to.
    /// Fewer bytes may have been written when space ran out meanwhile: the file's size tells.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        Ok(self.write(bytes, None)?.0)
    }

    /// Writes under the inode's lock, at the end without an `offset`; gives where, and how many bytes.
    fn write(&self, bytes: &[u8], offset: Option<u64>) -> Result<(u64, usize)> {
        self.check_writable()?;
        if self.inode.kind != FileKind::Regular {
            return Err(Error::Invalid("only a regular file is written"));
        }
        let mut state = self.inode.write()?;
        let start = match offset {
            Some(offset) if !self.flags.contains(OpenFlags::APPEND) => offset,
            _ => self.pool.inode_size(&self.inode)?,
        };
        let count = self.pool.write_locked(&self.inode, &mut state, bytes, start)?;
        Ok((start, count))
    }
}

/// A run of blocks that a write goes to.
#[derive(Clone, Copy, Debug)]
struct Piece {
    extent: Extent,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// Just taken: its bits and its extent are to be recorded.
    Fresh,
    /// Allocated but unwritten: its extent is to be recorded as written.
    Unwritten,
    /// Written before.
    Written,
}

impl Pool {
    /// Writes to a regular file whose lock the caller has alone; gives how many bytes.
    pub(crate) fn write_locked(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        // As Linux's `generic_write_checks`: what fits is written, and only then there is no more.
        let room = MAX_FILE_BYTES.saturating_sub(offset);
        let bytes = bytes
            .get(..usize::try_from(room).unwrap_or(usize::MAX))
            .unwrap_or(bytes);
        if bytes.is_empty() {
            return Err(Error::FileTooLarge);
        }
        extents::load(self, inode, state)?;
        if self.overwrite(inode, state, bytes, offset)? {
            return Ok(bytes.len());
        }
        self.finish_cut(inode, state)?;
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.get(done..).unwrap_or_default();
            let at = offset + u64::try_from(done).unwrap_or(0);
            match self.write_mapping_retried(inode, state, rest, at) {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes in place if every block is there and written, inside the file; whether it did.
    fn overwrite(&self, inode: &Inode, state: &mut InodeState, bytes: &[u8], offset: u64) -> Result<bool> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if offset + length > self.inode_size(inode)? {
            return Ok(false);
        }
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let mapping = extents::lookup(self, inode, &state.extents, FileBlock::holding(at))?;
            let Mapping::Extent(extent) = mapping else {
                return Ok(false);
            };
            if !extent.flags.is_empty() {
                return Ok(false);
            }
            let here = extent.end().raw() * BLOCK_BYTES - at;
            let count = usize::try_from(here).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at(count);
            let skipped = at - extent.first.raw() * BLOCK_BYTES;
            self.region
                .store_nontemporal(extent.start.offset().raw() + skipped, part)?;
            rest = after;
            at += u64::try_from(count).unwrap_or(0);
        }
        self.region.fence()?;
        state.lazy.modified = Some(now());
        inode.note_close_work();
        Ok(true)
    }

    /// As [`Pool::write_mapping`]; frees what can be freed when there is no space. The inode's lock is held, so only
    /// other inodes' windows can be given back, and its own here.
    fn write_mapping_retried(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize> {
        match self.write_mapping(inode, state, bytes, offset) {
            Err(Error::NoSpace { .. }) => {
                if let Some(window) = state.window.take() {
                    self.space.give_back(window);
                }
                self.reclaim_space()?;
                self.write_mapping(inode, state, bytes, offset)
            }
            other => other,
        }
    }

    /// Writes to blocks that must be taken or converted first; gives how many bytes one record could map.
    fn write_mapping(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize> {
        extents::load(self, inode, state)?;
        let mut update = Update::new(self);
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        let last = FileBlock(end.div_ceil(BLOCK_BYTES));
        let pieces = self.plan(&mut update, inode, state, FileBlock::holding(offset), last)?;
        let Some(reached) = pieces.last().map(|piece| piece.extent.end()) else {
            return Ok(0);
        };
        let end = end.min(reached.raw() * BLOCK_BYTES);
        let count = usize::try_from(end - offset).unwrap_or(0);

        let mut line = Line::read(self, inode)?;
        let mut writer = DataWriter::new(&self.region);
        for piece in &pieces {
            store_piece(
                &mut writer,
                piece,
                bytes.get(..count).unwrap_or_default(),
                (offset, end),
            )?;
        }
        self.zero_old_tail(&mut writer, inode, state, line.size(), offset)?;
        let fresh: Vec<BlockRange> = pieces
            .iter()
            .filter(|piece| piece.origin == Origin::Fresh)
            .map(|piece| piece.extent.blocks())
            .collect();
        let added: u64 = fresh.iter().map(|range| range.count).sum();
        let durable = writer.finish(fresh).fence(&self.region)?;

        update.allocate_data(&durable);
        let mut map = ExtentMap::begin(self, inode, state)?;
        let written: Vec<Extent> = pieces.iter().map(|piece| piece.extent).collect();
        let first = FileBlock::holding(offset);
        map.splice(&mut update, first, reached, &written)?;
        map.store(&mut update)?;
        line.set_size(line.size().max(end));
        line.add_blocks(i64::try_from(added).unwrap_or(i64::MAX) + update.take_metadata_delta());
        line.touch_modified(now());
        if let Some(time) = state.lazy.accessed {
            line.set_atime(time);
        }
        line.store(&mut update, inode);
        update.commit()?;
        map.finish(state);
        state.lazy = Default::default();
        Ok(count)
    }

    /// The pieces of `first..end`, taking blocks for its holes. At most [`PIECES_PER_RECORD`], from the start.
    fn plan(
        &self,
        update: &mut Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        first: FileBlock,
        end: FileBlock,
    ) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut goal = self.goal_before(inode, state, first)?;
        let mut at = first;
        while at < end && pieces.len() < PIECES_PER_RECORD {
            let piece = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Extent(extent) => {
                    let mut part = extents::clip(&extent, at, end).ok_or(Error::Invalid("empty extent"))?;
                    let origin = if part.is_unwritten() {
                        Origin::Unwritten
                    } else {
                        Origin::Written
                    };
                    part.flags = ExtentFlags::empty();
                    Piece { extent: part, origin }
                }
                Mapping::Hole { until } => {
                    let wanted = until.min(end).raw() - at.raw();
                    let is_append = until == extents::END_OF_FILES && end.raw() - at.raw() == wanted;
                    let run = self.take_for_file(state, at, wanted, goal, is_append)?;
                    update.guard(run);
                    let extent = Extent {
                        first: at,
                        start: run.start,
                        count: run.count,
                        flags: ExtentFlags::empty(),
                    };
                    Piece {
                        extent,
                        origin: Origin::Fresh,
                    }
                }
            };
            goal = piece.extent.blocks().end();
            at = piece.extent.end();
            pieces.push(piece);
        }
        if is_append_candidate(&pieces, end) && at == end {
            self.take_ahead(inode, state, goal, at)?;
        }
        Ok(pieces)
    }

    /// Where the blocks before `first` end, as the best place for those of `first`.
    fn goal_before(&self, inode: &Inode, state: &InodeState, first: FileBlock) -> Result<BlockNo> {
        if let Some(before) = first.raw().checked_sub(1)
            && let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, FileBlock(before))?
        {
            return Ok(BlockNo(extent.start.raw() + (first.raw() - extent.first.raw())));
        }
        Ok(state.window.map_or(BlockNo(0), |window| window.start))
    }

    /// Takes up to `wanted` blocks for file block `at`: from the window if it continues there, in whole 2 MiB chunks
    /// where the file has whole ones.
    fn take_for_file(
        &self,
        state: &mut InodeState,
        at: FileBlock,
        wanted: u64,
        goal: BlockNo,
        is_append: bool,
    ) -> Result<BlockRange> {
        if let Some(window) = state.window.take() {
            if is_append && window.start == goal {
                let used = BlockRange::new(window.start, wanted.min(window.count));
                let rest = BlockRange::new(used.end(), window.count - used.count);
                state.window = (rest.count > 0).then_some(rest);
                return Ok(used);
            }
            self.space.give_back(window);
        }
        let in_chunk = at.raw() % HUGE_BLOCKS;
        let (count, placement) = if in_chunk == 0 && wanted >= HUGE_BLOCKS {
            (wanted - wanted % HUGE_BLOCKS, Placement::Huge)
        } else if wanted > HUGE_BLOCKS - in_chunk {
            (HUGE_BLOCKS - in_chunk, Placement::Any)
        } else {
            (wanted, Placement::Any)
        };
        self.space.take(Request {
            goal,
            count,
            placement,
            priority: Priority::Ordinary,
        })
    }

    /// Takes blocks ahead for the next append: half of the file's size, in memory only.
    fn take_ahead(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        after: BlockNo,
        file_end: FileBlock,
    ) -> Result<()> {
        let wanted = (file_end.raw() / 2)
            .min(MAX_WINDOW - file_end.raw() % HUGE_BLOCKS)
            .min(self.space.available() / WINDOW_SHARE);
        if state.window.is_some() || wanted < 2 {
            return Ok(());
        }
        state.window = self
            .space
            .take_at(BlockRange::new(after, wanted), Priority::Ordinary)?;
        if state.window.is_some() {
            inode.note_close_work();
        }
        Ok(())
    }

    /// When the file grows past its old end, what its last block holds behind that end must read as zeros.
    pub(super) fn zero_old_tail(
        &self,
        writer: &mut DataWriter<'_>,
        inode: &Inode,
        state: &InodeState,
        old_size: u64,
        new_start: u64,
    ) -> Result<()> {
        let in_block = old_size % BLOCK_BYTES;
        if in_block == 0 || new_start <= old_size {
            return Ok(());
        }
        let block = FileBlock::holding(old_size);
        if let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, block)?
            && !extent.is_unwritten()
        {
            let until = new_start.min((block.raw() + 1) * BLOCK_BYTES);
            let at = extent.start.offset().raw() + old_size - extent.first.raw() * BLOCK_BYTES;
            writer.zero(ByteOffset(at), until - old_size)?;
        }
        Ok(())
    }
}

/// Whether the blocks behind the last piece are worth taking ahead: the file was extended by fresh blocks.
fn is_append_candidate(pieces: &[Piece], end: FileBlock) -> bool {
    pieces
        .last()
        .is_some_and(|piece| piece.origin == Origin::Fresh && piece.extent.end() == end)
}

/// Stores the bytes of a write that fall into `piece`. What a block that was not written before holds around them is
/// zeroed.
fn store_piece(
    writer: &mut DataWriter<'_>,
    piece: &Piece,
    bytes: &[u8],
    (offset, end): (u64, u64),
) -> Result<()> {
    let first = piece.extent.first.raw() * BLOCK_BYTES;
    let last = piece.extent.end().raw() * BLOCK_BYTES;
    let base = piece.extent.start.offset().raw();
    let (from, to) = (offset.max(first), end.min(last));
    let start = usize::try_from(from - offset).unwrap_or(usize::MAX);
    let stop = usize::try_from(to - offset).unwrap_or(usize::MAX);
    writer.write(
        ByteOffset(base + from - first),
        bytes.get(start..stop).unwrap_or_default(),
    )?;
    if piece.origin == Origin::Written {
        return Ok(());
    }
    if from > first {
        writer.zero(ByteOffset(base), from - first)?;
    }
    if to < last {
        writer.zero(ByteOffset(base + to - first), last - to)?;
    }
    Ok(())
}

/// Whether everything was done, for callers that work in steps.
pub(super) const fn is_all(completeness: Completeness) -> bool {
    matches!(completeness, Completeness::All)
}
