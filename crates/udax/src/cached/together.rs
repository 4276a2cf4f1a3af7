//! Write-back to the data device, several runs together: many requests under way, one flush, one record.
//!
//! Runs are kept, in ascending order, until they are [`KEPT_PAGES`] or the pass ends. Together they are written as
//! whole blocks, straight from the cache, to new blocks or over the file's own; then one record publishes the new
//! ones. What does not go so (free space too scattered for one record, something dirty in the gap before, an error)
//! is done run by run, as in a pool without a device.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;
use udax_journal::Durable;
use udax_media::{BLOCK_BYTES, BlockRange, ByteOffset, FileBlock};
use udax_pagecache::WriteRun;

use crate::error::Result;
use crate::extents::{self, ExtentMap};
use crate::file::{Aim, Origin, Piece, Pieces, Treatment};
use crate::inode::fields::Line;
use crate::inode::hold::Hold;
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::update::Update;

/// Pages that are kept at most: 32 MiB, for which writers of the file wait, and beside which a flush costs little.
pub(super) const KEPT_PAGES: u64 = 8192;

/// Whole pages of a file that follow each other, and the file's bytes among them.
pub(super) struct Segment<'r> {
    bytes: Range<u64>,
    /// Ascending, without gaps.
    memory: Vec<(u64, Cow<'r, [u8]>)>,
}

/// What runs have to be written of a file of `size` bytes.
pub(super) fn segments(runs: &[WriteRun], size: u64) -> Vec<Segment<'_>> {
    let mut segments: Vec<Segment<'_>> = Vec::new();
    for piece in runs.iter().flat_map(WriteRun::pieces) {
        let end = piece.at + u64::try_from(piece.len).unwrap_or(0);
        if piece.at >= size {
            continue;
        }
        let memory = (piece.at, piece.bytes());
        match segments.last_mut() {
            Some(last) if last.bytes.end == piece.at => {
                last.bytes.end = end.min(size);
                last.memory.push(memory);
            }
            _ => segments.push(Segment {
                bytes: piece.at..end.min(size),
                memory: vec![memory],
            }),
        }
    }
    segments
}

impl Segment<'_> {
    pub(super) fn start(&self) -> u64 {
        self.bytes.start
    }

    fn blocks(&self) -> (FileBlock, FileBlock) {
        (
            FileBlock::holding(self.bytes.start),
            FileBlock(self.bytes.end.div_ceil(BLOCK_BYTES)),
        )
    }

    /// The memory of the blocks of `piece`, and where it goes.
    fn writes<'s>(&'s self, piece: &Piece) -> impl Iterator<Item = (ByteOffset, &'s [u8])> + use<'s> {
        let first = piece.extent.first.raw() * BLOCK_BYTES;
        let last = piece.extent.end().raw() * BLOCK_BYTES;
        let base = piece.extent.start.offset().raw();
        self.memory.iter().filter_map(move |(at, bytes)| {
            let end = at + u64::try_from(bytes.len()).unwrap_or(0);
            let (from, to) = ((*at).max(first), end.min(last));
            let skipped = usize::try_from(from.checked_sub(*at)?).ok()?;
            let count = usize::try_from(to.checked_sub(from)?)
                .ok()
                .filter(|count| *count > 0)?;
            let part = bytes.get(skipped..skipped + count)?;
            Some((ByteOffset(base + from - first), part))
        })
    }
}

impl Pool {
    /// Writes all of `segments`, ascending ones of a file with its lock held alone, which is lent to readers until all
    /// is on the device; the size may then cover bytes up to `covered`. Whether it could be done together: else nothing
    /// that shows has changed.
    pub(super) fn store_together(
        &self,
        inode: &Inode,
        hold: &mut dyn Hold,
        segments: &[Segment<'_>],
        covered: u64,
    ) -> Result<bool> {
        let Some(last) = segments.last() else {
            return Ok(true);
        };
        let state = hold.state_mut();
        self.finish_cut(inode, state)?;
        let old_size = self.inode_size(inode)?;
        let tail = FileBlock::holding(old_size);
        let has_tail = |segment: &Segment<'_>| segment.blocks().0 <= tail && tail < segment.blocks().1;
        if last.bytes.start > old_size && !segments.iter().any(has_tail) {
            // What the last block holds behind the old end is not written over.
            self.prepare_growth(inode, state, last.bytes.start)?;
        }
        extents::load(self, inode, state)?;
        // Its blocks were reserved.
        let mut update = Update::freeing(self);
        let mut parts: Vec<(&Segment<'_>, Piece)> = Vec::new();
        for segment in segments {
            let limit = EXTENTS_PER_RECORD.saturating_sub(parts.len());
            let pieces = self.plan_write_back(&mut update, inode, state, segment.blocks(), limit)?;
            if pieces.last().map(|piece| piece.extent.end()) != Some(segment.blocks().1) {
                return Ok(false);
            }
            parts.extend(pieces.into_iter().map(|piece| (segment, piece)));
        }
        let end = last.bytes.end.min(covered);
        let is_in_place =
            end <= self.inode_size(inode)? && parts.iter().all(|(_, piece)| piece.origin == Origin::Written);
        if is_in_place {
            self.note_overwrite(state);
        }
        let taken = parts.iter().filter(|(_, piece)| piece.is_taken());
        let taken = taken.map(|(_, piece)| piece.extent.count).sum();
        let mut written = Ok(None);
        let mut write = || written = self.write_parts(&parts, is_in_place);
        match update.holds_shares() {
            false => hold.while_lent(taken, &mut write),
            // Others would wait for them.
            true => write(),
        }
        let Some(durable) = written? else {
            return Ok(true);
        };
        let state = hold.state_mut();
        let mut map = ExtentMap::begin(self, inode, state)?;
        for (_, piece) in &parts {
            let extent = piece.extent;
            map.splice(&mut update, extent.first, extent.end(), &[extent])?;
            if let Some(old) = piece.replaced() {
                update.free_extent(&old)?;
            }
        }
        map.store(&mut update)?;
        if update.check_room(1024 + 64 * parts.len()).is_err() {
            return Ok(false);
        }
        let mut line = Line::read(self, inode)?;
        update.allocate_data(&durable);
        line.set_size(line.size().max(end));
        state.settle_times(&mut line);
        self.commit_data(
            update,
            inode,
            state,
            (map, line),
            parts.iter().map(|(_, piece)| piece),
        )?;
        Ok(true)
    }

    /// What the pages of `range` go to: as in [`Treatment::Plain`].
    fn plan_write_back(
        &self,
        update: &mut Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        range: (FileBlock, FileBlock),
        limit: usize,
    ) -> Result<Pieces> {
        let aim = Aim {
            range,
            limit,
            treatment: Treatment::Plain,
        };
        self.plan(update, inode, state, aim)
    }

    /// Writes parts, and gives those that were taken, durable now. What was only overwritten on the device is not
    /// durable before that is flushed.
    ///
    /// Whole blocks, so that nothing around them is to be kept or zeroed: behind the file's end the memory is zeros.
    fn write_parts(
        &self,
        parts: &[(&Segment<'_>, Piece)],
        is_in_place: bool,
    ) -> Result<Option<Durable<SmallVec<[BlockRange; 4]>>>> {
        let mut writer = self.data_writer();
        let mut writes: Vec<(ByteOffset, &[u8])> = Vec::new();
        for (segment, piece) in parts {
            for (at, bytes) in segment.writes(piece) {
                match piece.extent.start.is_on_device() {
                    true => writes.push((at, bytes)),
                    false => writer.write(at, bytes)?,
                }
            }
        }
        if !writes.is_empty() {
            writer.write_device(&writes)?;
        }
        if !is_in_place {
            let taken = parts.iter().filter(|(_, piece)| piece.is_taken());
            let taken = taken.map(|(_, piece)| piece.extent.blocks()).collect();
            return Ok(Some(writer.finish(taken).fence(&self.region)?));
        }
        if parts.iter().any(|(_, piece)| !piece.extent.start.is_on_device()) {
            self.region.fence()?;
        }
        Ok(None)
    }
}
