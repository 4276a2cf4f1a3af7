//! Writing to files, in place or to fresh blocks.
//!
//! In place when every block is there and nobody shares it: non-temporal stores and one fence, times are lazy.
//! Otherwise the bytes first go to fresh or unwritten blocks (`pieces`), with one fence; then one journal record
//! publishes blocks, extents, size and times together, with another. So a crash shows the old file or the new one,
//! never a size without its data, and no block ever shows what was in it before.

use std::io::IoSlice;

use smallvec::SmallVec;
use udax_dax::WriteTicket;
use udax_journal::DataWriter;
use udax_media::extent::Extent;
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, BlockRange, ByteOffset, FileBlock, MAX_FILE_BYTES};
use udax_pmem::RegionError;
use udax_sync::fault::{Fault, is_injected};

use super::File;
use super::pieces::Origin;
use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::options::OpenFlags;
use crate::pool::Pool;
use crate::update::Update;

impl File {
    /// Writes `bytes` at `offset`, or at the end with `APPEND`; gives how many, all of them unless an error came after
    /// some.
    ///
    /// # Errors
    /// `BadHandle` without `WRITE`; `FileTooLarge`; `NoSpace`; `LostData`: bytes are lost in a block that the write
    /// covers only partly, so that it cannot be replaced. Then nothing was changed, but for a media error that a write
    /// in place is the first to meet: its first bytes may have been.
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
        self.pool.wait_and_retry(&self.wait, || {
            let mut state = self.inode.write()?;
            let start = match offset {
                Some(offset) if !self.flags.contains(OpenFlags::APPEND) => offset,
                _ => self.pool.inode_size(&self.inode)?,
            };
            let count = self.pool.write_locked(&self.inode, &mut state, bytes, start)?;
            Ok((start, count))
        })
    }
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
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let _ticket = self.begin_write(inode, offset, length)?;
        match self.overwrite(inode, state, bytes, offset) {
            Ok(true) => return Ok(bytes.len()),
            Ok(false) => {}
            Err(error) => return Err(self.lost_in_write(inode, state, (offset, offset + length), error)),
        }
        self.finish_cut(inode, state)?;
        if is_injected(Fault::EarlySize) && offset + length > self.inode_size(inode)? {
            self.extend(inode, state, offset + length)?;
        }
        if offset > self.inode_size(inode)? {
            self.retry_locked(state, |state| self.unshare_tail(inode, state))?;
        }
        let range = (
            FileBlock::holding(offset),
            FileBlock((offset + length).div_ceil(BLOCK_BYTES)),
        );
        let broken = self.break_if_shared(inode, state, range)?;
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.get(done..).unwrap_or_default();
            let at = offset + u64::try_from(done).unwrap_or(0);
            let written = self.retry_locked(state, |state| {
                self.in_steps(|limit| self.write_mapping(inode, state, rest, at, limit))
            });
            match written {
                Ok(count) => done += count,
                Err(error) if done == 0 => {
                    return Err(self.lost_in_write(inode, state, (offset, offset + length), error));
                }
                Err(_) => break,
            }
        }
        drop(broken);
        self.note_filled(inode, range);
        Ok(done)
    }

    /// Writes in place if every block is there and written, inside the file; whether it did.
    fn overwrite(&self, inode: &Inode, state: &mut InodeState, bytes: &[u8], offset: u64) -> Result<bool> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if offset + length > self.inode_size(inode)? {
            return Ok(false);
        }
        // Nothing is stored before all of it is known to be possible: what else is needed may find no space.
        let mut parts: SmallVec<[(u64, &[u8]); 2]> = SmallVec::new();
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
            parts.push((extent.start.offset().raw() + skipped, part));
            rest = after;
            at += u64::try_from(count).unwrap_or(0);
        }
        // Where known lost bytes would stop it, it does not begin.
        for (place, part) in &parts {
            let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
            if let Some(at) = self.region.first_unstorable(*place, len) {
                return Err(RegionError::Media { at }.into());
            }
        }
        for (place, part) in parts {
            self.region.store_nontemporal(place, part)?;
        }
        if !is_injected(Fault::UnfencedOverwrite) {
            self.region.fence()?;
        }
        state.lazy.modified = Some(now());
        inode.note_close_work();
        Ok(true)
    }

    /// Does `step`, and when there is no space once more, after freeing what can be freed. The inode's lock is held, so
    /// only other inodes' windows can be given back by [`Pool::reclaim_space`], and its own here.
    fn retry_locked<T>(
        &self,
        state: &mut InodeState,
        mut step: impl FnMut(&mut InodeState) -> Result<T>,
    ) -> Result<T> {
        match step(state) {
            Err(Error::NoSpace { .. }) => {
                if let Some(window) = state.window.take() {
                    self.space.give_back(window);
                }
                self.reclaim_space()?;
                step(state)
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
        limit: usize,
    ) -> Result<usize> {
        extents::load(self, inode, state)?;
        let mut update = Update::new(self);
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        let last = FileBlock(end.div_ceil(BLOCK_BYTES));
        let pieces = self.plan(
            &mut update,
            inode,
            state,
            (FileBlock::holding(offset), last),
            limit,
        )?;
        let Some(reached) = pieces.last().map(|piece| piece.extent.end()) else {
            return Ok(0);
        };
        let end = end.min(reached.raw() * BLOCK_BYTES);
        let count = usize::try_from(end - offset).unwrap_or(0);

        let mut line = Line::read(self, inode)?;
        let mut writer = DataWriter::new(&self.region);
        let _ticket = self.zero_old_tail(&mut writer, inode, state, line.size(), offset)?;

        // All that may find no space or room comes before the first byte that a reader can see.
        let mut map = ExtentMap::begin(self, inode, state)?;
        let written: SmallVec<[Extent; 2]> = pieces.iter().map(|piece| piece.extent).collect();
        let first = FileBlock::holding(offset);
        map.splice(&mut update, first, reached, &written)?;
        for piece in &pieces {
            if let Some(old) = piece.replaced() {
                update.free_extent(&old)?;
            }
        }
        map.store(&mut update)?;
        // What is added below: the inode's lines and a run for each piece.
        update.check_room(1024 + 32 * pieces.len())?;

        for piece in &pieces {
            self.store_piece(
                &mut writer,
                piece,
                bytes.get(..count).unwrap_or_default(),
                (offset, end),
            )?;
        }
        let taken = pieces.iter().filter(|piece| piece.is_taken());
        let taken: SmallVec<[BlockRange; 2]> = taken.map(|piece| piece.extent.blocks()).collect();
        let durable = writer.finish(taken).fence(&self.region)?;
        update.allocate_data(&durable);

        let fresh = pieces.iter().filter(|piece| piece.origin == Origin::Fresh);
        let added: u64 = fresh.map(|piece| piece.extent.count).sum();
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

    /// What comes before a file grows to `size`, or what is written behind its end begins there: its last block is its
    /// own, and zeros behind the old end, durably. Nothing when it does not grow.
    pub(super) fn prepare_growth(&self, inode: &Inode, state: &mut InodeState, size: u64) -> Result<()> {
        let old_size = self.inode_size(inode)?;
        if size <= old_size {
            return Ok(());
        }
        self.unshare_tail(inode, state)?;
        if old_size.is_multiple_of(BLOCK_BYTES) {
            return Ok(());
        }
        extents::load(self, inode, state)?;
        let mut writer = DataWriter::new(&self.region);
        let _ticket = self.zero_old_tail(&mut writer, inode, state, old_size, size)?;
        let _durable = writer.finish(()).fence(&self.region)?;
        Ok(())
    }

    /// When the file grows past its old end, what its last block holds behind that end must read as zeros. Keep what
    /// this gives until the fence.
    fn zero_old_tail<'i>(
        &self,
        writer: &mut DataWriter<'_>,
        inode: &'i Inode,
        state: &InodeState,
        old_size: u64,
        new_start: u64,
    ) -> Result<Option<WriteTicket<'i>>> {
        let in_block = old_size % BLOCK_BYTES;
        if in_block == 0 || new_start <= old_size || is_injected(Fault::StaleTail) {
            return Ok(None);
        }
        let block = FileBlock::holding(old_size);
        if let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, block)?
            && !extent.is_unwritten()
        {
            let until = new_start.min((block.raw() + 1) * BLOCK_BYTES);
            let at = extent.start.offset().raw() + old_size - extent.first.raw() * BLOCK_BYTES;
            let ticket = self.begin_write(inode, old_size, until - old_size)?;
            writer.zero(ByteOffset(at), until - old_size)?;
            return Ok(ticket);
        }
        Ok(None)
    }
}
