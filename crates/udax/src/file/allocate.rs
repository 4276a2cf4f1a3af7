//! Allocating, punching, zeroing, collapsing and inserting ranges (Linux `fallocate`).

use udax_journal::DataWriter;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, BlockNo, ByteOffset, FileBlock, MAX_FILE_BYTES};

use super::File;
use crate::error::{Error, Result};
use crate::extents::{self, Completeness, END_OF_FILES, ExtentMap, Mapping, clip};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::lifecycle::{EXTENTS_PER_RECORD, free_range};
use crate::inode::{Inode, InodeState};
use crate::options::AllocateMode;
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::update::Update;

/// A range of a file in bytes, and the whole blocks around and inside it.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn outer(self) -> (FileBlock, FileBlock) {
        (
            FileBlock::holding(self.start),
            FileBlock(self.end.div_ceil(BLOCK_BYTES)),
        )
    }

    fn inner(self) -> (FileBlock, FileBlock) {
        let first = FileBlock(self.start.div_ceil(BLOCK_BYTES));
        (first, FileBlock::holding(self.end).max(first))
    }

    fn is_whole_blocks(self) -> bool {
        self.start.is_multiple_of(BLOCK_BYTES) && self.end.is_multiple_of(BLOCK_BYTES)
    }
}

impl File {
    /// Changes how the `len` bytes from `offset` are allocated, see [`AllocateMode`].
    ///
    /// # Errors
    /// `BadHandle` without `WRITE`; `Invalid` for an empty range, another kind than a regular file, a collapse or
    /// insertion that is not of whole blocks or not inside the file; `FileTooLarge`; `NotSupported` for a collapse or
    /// insertion in a file of more than about 3000 extents; `NoSpace`, then nothing was changed.
    ///
    /// # Durability
    /// Durable on return. Atomic, but for ranges of more than 256 extents, which are allocated, punched or zeroed
    /// 256 at a time, from the start.
    pub fn allocate(&self, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Err(Error::Invalid("the range is empty"));
        }
        self.check_writable()?;
        match self.inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid("only a regular file is allocated")),
        }
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= MAX_FILE_BYTES)
            .ok_or(Error::FileTooLarge)?;
        let range = Range { start: offset, end };
        let pool = &*self.pool;
        let inode = &*self.inode;
        pool.retry_when_full(|| {
            let mut state = inode.write()?;
            if let Some(window) = state.window.take() {
                pool.space.give_back(window);
            }
            extents::load(pool, inode, &mut state)?;
            match mode {
                AllocateMode::Allocate => pool.allocate_range(inode, &mut state, range, Some(end)),
                AllocateMode::KeepSize => pool.allocate_range(inode, &mut state, range, None),
                AllocateMode::PunchHole => pool.punch(inode, &mut state, range),
                AllocateMode::ZeroRange => pool.zero_range(inode, &mut state, range, Some(end)),
                AllocateMode::ZeroRangeKeepSize => pool.zero_range(inode, &mut state, range, None),
                AllocateMode::Collapse => pool.collapse(inode, &mut state, range),
                AllocateMode::Insert => pool.insert(inode, &mut state, range),
            }
        })
    }
}

impl Pool {
    /// Allocates the holes of `range` as unwritten; then sets the size if it is below `new_size`.
    fn allocate_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        range: Range,
        new_size: Option<u64>,
    ) -> Result<()> {
        let (first, end) = range.outer();
        // Everything is taken before anything is recorded: no space leaves nothing half-done.
        let mut taken = self.take_holes(inode, state, first, end)?;
        while taken.len() > EXTENTS_PER_RECORD {
            let batch: Vec<Extent> = taken.drain(..EXTENTS_PER_RECORD).collect();
            if let Err(error) = self.record_unwritten(inode, state, &batch, None) {
                taken
                    .iter()
                    .for_each(|extent| self.space.give_back(extent.blocks()));
                return Err(error);
            }
        }
        self.record_unwritten(inode, state, &taken, new_size)
    }

    /// Takes blocks for every hole in `first..end`.
    fn take_holes(
        &self,
        inode: &Inode,
        state: &InodeState,
        first: FileBlock,
        end: FileBlock,
    ) -> Result<Vec<Extent>> {
        let mut taken: Vec<Extent> = Vec::new();
        let mut goal = BlockNo(0);
        let mut at = first;
        while at < end {
            let until = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Extent(extent) => {
                    goal = extent.blocks().end();
                    extent.end()
                }
                Mapping::Hole { until } => {
                    let until = until.min(end);
                    let count = until.raw() - at.raw();
                    let placement = if at.raw().is_multiple_of(udax_media::HUGE_BLOCKS) {
                        Placement::Huge
                    } else {
                        Placement::Any
                    };
                    let request = Request {
                        goal,
                        count,
                        placement,
                        priority: Priority::Ordinary,
                    };
                    let runs = self.space.take_all(request).inspect_err(|_| {
                        taken
                            .iter()
                            .for_each(|extent| self.space.give_back(extent.blocks()));
                    })?;
                    for run in runs {
                        let (start, count) = (run.start, run.count);
                        taken.push(Extent {
                            first: at,
                            start,
                            count,
                            flags: ExtentFlags::UNWRITTEN,
                        });
                        at = FileBlock(at.raw() + count);
                        goal = run.end();
                    }
                    until
                }
            };
            at = until;
        }
        Ok(taken)
    }

    /// Records taken blocks as unwritten extents, and a size.
    fn record_unwritten(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        taken: &[Extent],
        new_size: Option<u64>,
    ) -> Result<()> {
        let mut update = Update::new(self);
        let mut line = Line::read(self, inode)?;
        taken.iter().for_each(|extent| update.guard(extent.blocks()));
        if let Some(size) = new_size.filter(|size| *size > line.size()) {
            self.zero_tail_before_growth(inode, state, line.size(), size)?;
            line.set_size(size);
        }
        let mut map = ExtentMap::begin(self, inode, state)?;
        for extent in taken {
            map.splice(&mut update, extent.first, extent.end(), &[*extent])?;
            update.allocate_unwritten(extent.blocks());
            line.add_blocks(i64::try_from(extent.count).unwrap_or(i64::MAX));
        }
        map.store(&mut update)?;
        self.finish_range(update, inode, state, line, map)
    }

    fn zero_tail_before_growth(
        &self,
        inode: &Inode,
        state: &InodeState,
        old_size: u64,
        size: u64,
    ) -> Result<()> {
        if old_size.is_multiple_of(BLOCK_BYTES) {
            return Ok(());
        }
        let mut writer = DataWriter::new(&self.region);
        self.zero_old_tail(&mut writer, inode, state, old_size, size)?;
        let _durable = writer.finish(()).fence(&self.region)?;
        Ok(())
    }

    fn finish_range(
        &self,
        mut update: Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        mut line: Line,
        map: ExtentMap<'_>,
    ) -> Result<()> {
        line.add_blocks(update.take_metadata_delta());
        line.touch_modified(now());
        if let Some(time) = state.lazy.accessed {
            line.set_atime(time);
        }
        line.store(&mut update, inode);
        update.commit()?;
        map.finish(state);
        state.lazy = Default::default();
        Ok(())
    }

    /// Makes `range` a hole: first the whole blocks, which may fail, then the edges in place.
    fn punch(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<()> {
        let (mut first, end) = range.inner();
        loop {
            let mut update = Update::freeing(self);
            let mut line = Line::read(self, inode)?;
            let mut map = ExtentMap::begin(self, inode, state)?;
            let (found, completeness) = map.collect(&update, first, end, EXTENTS_PER_RECORD)?;
            let upto = match (completeness, found.last()) {
                (Completeness::More, Some(last)) => last.end(),
                _ => end,
            };
            if first < upto {
                free_range(&mut update, &mut map, &mut line, first, upto)?;
            }
            map.store(&mut update)?;
            self.finish_range(update, inode, state, line, map)?;
            first = upto;
            if super::write::is_all(completeness) {
                return self.zero_edges(inode, state, range);
            }
        }
    }

    /// Zeroes the parts of `range` in blocks that are only partly inside it, durably.
    fn zero_edges(&self, inode: &Inode, state: &InodeState, range: Range) -> Result<()> {
        if range.is_whole_blocks() {
            return Ok(());
        }
        let mut writer = DataWriter::new(&self.region);
        let first = FileBlock::holding(range.start);
        let last = FileBlock::holding(range.end);
        let whole = |block: FileBlock| (block.raw() * BLOCK_BYTES, (block.raw() + 1) * BLOCK_BYTES);
        for block in [Some(first), Some(last).filter(|last| *last != first)]
            .into_iter()
            .flatten()
        {
            let (start, end) = whole(block);
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from >= to || (from == start && to == end) {
                continue;
            }
            if let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, block)?
                && !extent.is_unwritten()
            {
                let base = extent.start.offset().raw() + (start - extent.first.raw() * BLOCK_BYTES);
                writer.zero(ByteOffset(base + from - start), to - from)?;
            }
        }
        let _durable = writer.finish(()).fence(&self.region)?;
        Ok(())
    }

    /// Makes `range` read as zeros, allocated: holes become unwritten, which may fail for want of space, then whole
    /// blocks, then the edges are zeroed in place, then the size is set.
    fn zero_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        range: Range,
        new_size: Option<u64>,
    ) -> Result<()> {
        self.allocate_range(inode, state, range, None)?;
        let (mut first, end) = range.inner();
        loop {
            let mut update = Update::freeing(self);
            let line = Line::read(self, inode)?;
            let mut map = ExtentMap::begin(self, inode, state)?;
            let (found, completeness) = map.collect(&update, first, end, EXTENTS_PER_RECORD)?;
            let mut upto = first;
            for extent in found.iter().filter_map(|extent| clip(extent, first, end)) {
                let unwritten = Extent {
                    flags: extent.flags | ExtentFlags::UNWRITTEN,
                    ..extent
                };
                map.splice(&mut update, extent.first, extent.end(), &[unwritten])?;
                upto = extent.end();
            }
            map.store(&mut update)?;
            self.finish_range(update, inode, state, line, map)?;
            first = upto;
            if super::write::is_all(completeness) {
                break;
            }
        }
        extents::load(self, inode, state)?;
        self.zero_edges(inode, state, range)?;
        self.record_unwritten(inode, state, &[], new_size)
    }

    /// Cuts `range` out of the file.
    fn collapse(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<()> {
        let size = self.inode_size(inode)?;
        if !range.is_whole_blocks() {
            return Err(Error::Invalid("a collapsed range is of whole blocks"));
        }
        if range.end >= size {
            return Err(Error::Invalid("a collapsed range ends before the file does"));
        }
        let (first, end) = range.inner();
        self.shift(inode, state, size - (range.end - range.start), |extent| {
            let kept = clip(extent, FileBlock(0), first);
            let moved = clip(extent, end, END_OF_FILES).map(|part| Extent {
                first: FileBlock(part.first.raw() - (end.raw() - first.raw())),
                ..part
            });
            [kept, moved]
        })
    }

    /// Puts a hole of `range`'s length in at its start.
    fn insert(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<()> {
        let size = self.inode_size(inode)?;
        let length = range.end - range.start;
        if !range.is_whole_blocks() {
            return Err(Error::Invalid("an inserted range is of whole blocks"));
        }
        if range.start >= size {
            return Err(Error::Invalid("an inserted range begins before the file ends"));
        }
        if size.checked_add(length).is_none_or(|size| size > MAX_FILE_BYTES) {
            return Err(Error::FileTooLarge);
        }
        let first = FileBlock::holding(range.start);
        let count = length / BLOCK_BYTES;
        let last_end = match extents::lookup(self, inode, &state.extents, FileBlock(END_OF_FILES.raw() - 1))?
        {
            Mapping::Extent(extent) => extent.end().raw(),
            Mapping::Hole { .. } => self.last_mapped(inode, state)?.raw(),
        };
        if last_end + count > END_OF_FILES.raw() {
            return Err(Error::FileTooLarge);
        }
        self.shift(inode, state, size + length, |extent| {
            let kept = clip(extent, FileBlock(0), first);
            let moved = clip(extent, first, END_OF_FILES).map(|part| Extent {
                first: FileBlock(part.first.raw() + count),
                ..part
            });
            [kept, moved]
        })
    }

    fn last_mapped(&self, inode: &Inode, state: &mut InodeState) -> Result<FileBlock> {
        let update = Update::new(self);
        let map = ExtentMap::begin(self, inode, state)?;
        let last = map.last(&update)?.map_or(FileBlock(0), |extent| extent.end());
        map.finish(state);
        Ok(last)
    }

    /// Replaces every extent by the parts that `place` gives for it, and frees what is in none, in one record.
    fn shift(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        new_size: u64,
        place: impl Fn(&Extent) -> [Option<Extent>; 2],
    ) -> Result<()> {
        let mut update = Update::new(self);
        let mut line = Line::read(self, inode)?;
        let mut map = ExtentMap::begin(self, inode, state)?;
        let (old, _) = map.collect(&update, FileBlock(0), END_OF_FILES, usize::MAX)?;
        let mut new: Vec<Extent> = Vec::with_capacity(old.len() + 1);
        for extent in &old {
            let parts = place(extent);
            let kept: Vec<Extent> = parts.into_iter().flatten().collect();
            for (from, count) in gaps(extent, &kept) {
                update.free_data(udax_media::BlockRange::new(from, count))?;
                line.add_blocks(-i64::try_from(count).unwrap_or(i64::MAX));
            }
            for part in kept {
                match new.last_mut() {
                    Some(last) if extents::continues(last, &part) => last.count += part.count,
                    _ => new.push(part),
                }
            }
        }
        map.rebuild(&mut update, new)?;
        map.store(&mut update)?;
        line.set_size(new_size);
        self.finish_range(update, inode, state, line, map)
    }
}

/// The blocks of `extent` that none of `parts` (ascending parts of it) has.
fn gaps(extent: &Extent, parts: &[Extent]) -> Vec<(BlockNo, u64)> {
    let mut gaps = Vec::new();
    let mut at = extent.start.raw();
    for part in parts {
        if part.start.raw() > at {
            gaps.push((BlockNo(at), part.start.raw() - at));
        }
        at = part.blocks().end().raw();
    }
    let end = extent.blocks().end().raw();
    if end > at {
        gaps.push((BlockNo(at), end - at));
    }
    gaps
}
