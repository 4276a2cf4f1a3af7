//! Collapsing and inserting ranges: every extent behind the range moves.

use udax_media::extent::Extent;
use udax_media::{BLOCK_BYTES, BlockNo, FileBlock, MAX_FILE_BYTES};

use super::allocate::Range;
use crate::error::{Error, Result};
use crate::extents::{self, END_OF_FILES, ExtentMap, Mapping, clip};
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::update::Update;

impl Pool {
    /// Cuts `range` out of the file.
    pub(super) fn collapse(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<()> {
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
    pub(super) fn insert(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<()> {
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
