//! Writing to files, in place or to fresh blocks.
//!
//! In place when every block is there, nobody shares it and it has no sum: non-temporal stores and one fence, times are
//! lazy.
//! Otherwise the bytes first go to fresh or unwritten blocks (`pieces`), with one fence; then one journal record
//! publishes blocks, extents, size and times together, with another. So a crash shows the old file or the new one,
//! never a size without its data, and no block ever shows what was in it before.

use std::io::IoSlice;

use smallvec::SmallVec;
use udax_dax::{Mode, WriteTicket};
use udax_journal::DataWriter;
use udax_media::extent::Extent;
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, BlockRange, ByteOffset, FileBlock, MAX_FILE_BYTES};
use udax_pmem::RegionError;
use udax_sync::fault::{Fault, is_injected};

use super::File;
use super::pieces::{Aim, Origin, Piece, Pieces, Treatment};
use super::read::in_use;
use super::summed::FewSums;
use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::options::{MAX_ATOMIC_BYTES, OpenFlags, WriteFlags};
use crate::pool::Pool;
use crate::sums::SUMS_PER_RECORD;
use crate::tier::device_byte;
use crate::update::Update;

/// Why bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// Somebody writes them now.
    Write,
    /// Somebody writes them now, all or none.
    Atomic,
    /// They are written back: they have their time, and their blocks were reserved.
    WriteBack {
        /// The file's size may cover bytes up to here.
        end: u64,
    },
}

impl Cause {
    /// That of a write with these flags.
    ///
    /// # Errors
    /// `Invalid` if it cannot be atomic; `FileTooLarge` if a part of it fits.
    pub(crate) fn of_write(bytes: &[u8], offset: u64, flags: WriteFlags) -> Result<Self> {
        if !flags.contains(WriteFlags::ATOMIC) {
            return Ok(Self::Write);
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !len.is_power_of_two() || len > MAX_ATOMIC_BYTES || !offset.is_multiple_of(len) {
            return Err(Error::Invalid(
                "an atomic write is a power of two of bytes, at most 1 MiB, at a multiple of that",
            ));
        }
        // What is cut off at the end of all files would be a part of it.
        if offset.checked_add(len).is_none_or(|end| end > MAX_FILE_BYTES) {
            return Err(Error::FileTooLarge);
        }
        Ok(Self::Atomic)
    }

    fn end(self) -> u64 {
        match self {
            Self::Write | Self::Atomic => u64::MAX,
            Self::WriteBack { end } => end,
        }
    }
}

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
    /// Of a file without DAX: none before [`File::sync`], or with [`WriteFlags::DSYNC`]; the size neither.
    ///
    /// Of a DAX file, durable on return. In place: one fence, atomic in aligned 8-byte units. Otherwise two, and what
    /// goes to new blocks (up to 256 pieces of free space) becomes visible together, with the size; what of it
    /// overwrites blocks that were written before is as a write in place. A file with
    /// [checksums](File::set_checksums) is written to new blocks always, 16 MiB together.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        Ok(self.write(bytes, offset, WriteFlags::empty())?.1)
    }

    /// As [`File::write_at`], in the way that `flags` ask for; gives where, and how many bytes.
    ///
    /// # Errors
    /// As [`File::write_at`]; `NotSupported` for `DONTCACHE` of a DAX file; with `NOWAIT`, `Cache(WouldBlock)` or
    /// `Dax(WouldBlock)`; with `DSYNC`, what hindered the write-back: then the bytes are in the cache.
    pub fn write_with(&self, bytes: &[u8], offset: u64, flags: WriteFlags) -> Result<(u64, usize)> {
        self.write(bytes, offset, flags)
    }

    /// As [`File::write_at`], from several buffers in turn, as one write.
    ///
    /// # Errors
    /// As [`File::write_at`].
    ///
    /// # Durability
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
    ///
    /// # Durability
    /// As [`File::write_at`].
    pub fn append(&self, bytes: &[u8]) -> Result<u64> {
        Ok(self.write(bytes, 0, WriteFlags::APPEND)?.0)
    }

    /// Writes under the inode's lock; gives where, and how many bytes.
    fn write(&self, bytes: &[u8], offset: u64, flags: WriteFlags) -> Result<(u64, usize)> {
        self.check_writable()?;
        if self.inode.kind != FileKind::Regular {
            return Err(Error::Invalid("only a regular file is written"));
        }
        let is_append = flags.contains(WriteFlags::APPEND) || self.flags.contains(OpenFlags::APPEND);
        let mode = if flags.contains(WriteFlags::NOWAIT) {
            &Mode::NoWait
        } else {
            &self.wait
        };
        self.pool.wait_and_retry("write", mode, || {
            if self.inode.is_cached() && !self.is_direct() {
                if !is_append {
                    self.prefetch_to_store(offset, bytes.len());
                }
                self.throttle(bytes.len(), mode)?;
            }
            let mut state = match flags.contains(WriteFlags::NOWAIT) {
                true => self.inode.try_write().ok_or_else(|| in_use(offset))?,
                false => self.inode.write()?,
            };
            let start = match is_append {
                true => state.size(self.pool.inode_size(&self.inode)?),
                false => offset,
            };
            if self.inode.is_cached() {
                let count = self.write_cached(&mut state, bytes, start, flags)?;
                return Ok((start, count));
            }
            if flags.contains(WriteFlags::DONTCACHE) {
                return Err(Error::NotSupported("a DAX file is not cached"));
            }
            let cause = Cause::of_write(bytes, start, flags)?;
            let count = self.pool.store(&self.inode, &mut state, bytes, start, cause)?;
            Ok((start, count))
        })
    }
}

impl Pool {
    /// Writes to a regular file whose lock the caller has alone, past the cache; gives how many bytes.
    pub(crate) fn write_locked(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize> {
        self.store(inode, state, bytes, offset, Cause::Write)
    }

    /// As [`Pool::write_locked`], for `cause`.
    pub(crate) fn store(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
        cause: Cause,
    ) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let bytes = fitting(bytes, offset)?;
        extents::load(self, inode, state)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let _ticket = self.begin_write(inode, offset, length)?;
        let is_summed = self.is_summed(inode)?;
        let is_in_place = cause != Cause::Atomic || is_injected(Fault::TornAtomic);
        if !is_summed && is_in_place && self.try_overwrite(inode, state, (bytes, offset), cause)? {
            return Ok(bytes.len());
        }
        self.finish_cut(inode, state)?;
        if is_injected(Fault::EarlySize) && offset + length > self.inode_size(inode)? {
            self.extend(inode, state, offset + length)?;
        }
        self.prepare_tail(inode, state, offset)?;
        let range = (
            FileBlock::holding(offset),
            FileBlock((offset + length).div_ceil(BLOCK_BYTES)),
        );
        let (broken, treatment) = self.break_for_write(inode, state, range, cause)?;
        if treatment == Treatment::SummedButPinned
            && self.try_overwrite(inode, state, (bytes, offset), cause)?
        {
            return Ok(bytes.len());
        }
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.get(done..).unwrap_or_default();
            let at = offset + u64::try_from(done).unwrap_or(0);
            let part = match treatment {
                Treatment::Plain => rest,
                _ => rest.get(..summed_at_once(at)).unwrap_or(rest),
            };
            let written = self.retry_locked(state, |state| {
                self.in_steps(|limit| self.write_mapping(inode, state, (part, at), (limit, treatment, cause)))
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

    /// As [`Pool::overwrite`], telling of lost bytes.
    fn try_overwrite(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (bytes, offset): (&[u8], u64),
        cause: Cause,
    ) -> Result<bool> {
        let end = offset + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = self.overwrite(inode, state, bytes, offset);
        if let (Cause::Write, Ok(true)) = (cause, &written) {
            state.lazy.modified = Some(now());
            inode.note_close_work();
        }
        written.map_err(|error| self.lost_in_write(inode, state, (offset, end), error))
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
        for (place, part) in parts.iter().filter(|(place, _)| device_byte(*place).is_none()) {
            let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
            if let Some(at) = self.region.first_unstorable(*place, len) {
                return Err(RegionError::Media { at }.into());
            }
        }
        if parts.iter().any(|(place, _)| device_byte(*place).is_some()) {
            self.note_overwrite(state);
        }
        for (place, part) in parts {
            self.overwrite_data(place, part)?;
        }
        if !is_injected(Fault::UnfencedOverwrite) {
            self.region.fence()?;
        }
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
                    self.give_back(window);
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
        (bytes, offset): (&[u8], u64),
        (limit, treatment, cause): (usize, Treatment, Cause),
    ) -> Result<usize> {
        extents::load(self, inode, state)?;
        let mut update = match cause {
            Cause::Write | Cause::Atomic => Update::new(self),
            // Its blocks were reserved.
            Cause::WriteBack { .. } => Update::freeing(self),
        };
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        let last = FileBlock(end.div_ceil(BLOCK_BYTES));
        let aim = Aim {
            range: (FileBlock::holding(offset), last),
            limit,
            treatment,
        };
        let pieces = self.plan(&mut update, inode, state, aim)?;
        let Some(reached) = pieces.last().map(|piece| piece.extent.end()) else {
            return Ok(0);
        };
        if cause == Cause::Atomic && reached < last {
            return Err(Error::Invalid(
                "free space is too scattered for an atomic write of this length",
            ));
        }
        let end = end.min(reached.raw() * BLOCK_BYTES);
        let count = usize::try_from(end - offset).unwrap_or(0);

        let mut line = Line::read(self, inode)?;
        let mut writer = self.data_writer();
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
        // What is added below: the inode's lines, and a run and sums for each piece.
        let summed = pieces.iter().filter(|piece| piece.extent.is_summed());
        let sums: u64 = summed.map(|piece| piece.extent.count).sum();
        update.check_room(1024 + 64 * pieces.len() + 9 * usize::try_from(sums).unwrap_or(usize::MAX))?;

        let bytes = bytes.get(..count).unwrap_or_default();
        let sums = self.store_pieces(&mut writer, inode, &pieces, (bytes, offset))?;
        let taken = pieces.iter().filter(|piece| piece.is_taken());
        let taken: SmallVec<[BlockRange; 2]> = taken.map(|piece| piece.extent.blocks()).collect();
        let durable = writer.finish(taken).fence(&self.region)?;
        update.allocate_data(&durable);
        for (blocks, sums) in &sums {
            update.set_sums(*blocks, sums)?;
        }

        line.set_size(line.size().max(end.min(cause.end())));
        match cause {
            Cause::Write | Cause::Atomic => {
                // Past the cache, which may have counted changes that no record has yet.
                state.settle_times(&mut line);
                line.touch_modified(now());
            }
            // The time of the write to the cache.
            Cause::WriteBack { .. } => state.settle_times(&mut line),
        }
        self.commit_data(update, inode, state, (map, line), pieces.iter())?;
        Ok(count)
    }

    /// Commits an update that gives a file the blocks of `pieces`; `line` has the new size and times, lazy ones too.
    pub(crate) fn commit_data<'p>(
        &self,
        mut update: Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        (map, mut line): (ExtentMap<'_>, Line),
        pieces: impl Iterator<Item = &'p Piece>,
    ) -> Result<()> {
        let fresh = pieces.filter(|piece| piece.origin == Origin::Fresh);
        let added: u64 = fresh.map(|piece| piece.extent.count).sum();
        line.add_blocks(i64::try_from(added).unwrap_or(i64::MAX) + update.take_metadata_delta());
        line.store(&mut update, inode);
        update.commit()?;
        map.finish(state);
        state.lazy = Default::default();
        Ok(())
    }

    /// Stores the bytes of a write; gives the sums of the pieces that have some.
    fn store_pieces(
        &self,
        writer: &mut DataWriter<'_>,
        inode: &Inode,
        pieces: &Pieces,
        (bytes, offset): (&[u8], u64),
    ) -> Result<SmallVec<[(BlockRange, FewSums); 2]>> {
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        let mut sums = SmallVec::new();
        for piece in pieces {
            if piece.extent.is_summed() {
                let of_piece = self.store_summed(writer, inode, piece, (bytes, offset))?;
                sums.push((piece.extent.blocks(), of_piece));
                continue;
            }
            let first = piece.extent.first.raw() * BLOCK_BYTES;
            let last = piece.extent.end().raw() * BLOCK_BYTES;
            self.verify_kept(inode, piece, (offset > first, end < last))?;
            self.store_piece(writer, piece, bytes, (offset, end))?;
        }
        Ok(sums)
    }

    /// What comes before a file grows to `size`, or what is written behind its end begins there: its last block is its
    /// own, and zeros behind the old end, durably. Nothing when it does not grow.
    pub(crate) fn prepare_growth(&self, inode: &Inode, state: &mut InodeState, size: u64) -> Result<()> {
        let old_size = self.inode_size(inode)?;
        if size <= old_size {
            return Ok(());
        }
        if self.own_tail(inode, state)? || old_size.is_multiple_of(BLOCK_BYTES) {
            return Ok(());
        }
        extents::load(self, inode, state)?;
        let mut writer = self.data_writer();
        let _ticket = self.zero_old_tail(&mut writer, inode, state, old_size, size)?;
        let _durable = writer.finish(()).fence(&self.region)?;
        Ok(())
    }

    /// What comes before bytes are written at `offset`, now or later: if that is behind the end, the last block is the
    /// file's own.
    ///
    /// # Errors
    /// `NoSpace`; then nothing that is seen has changed.
    pub(crate) fn prepare_tail(&self, inode: &Inode, state: &mut InodeState, offset: u64) -> Result<()> {
        if offset > self.inode_size(inode)? {
            self.retry_locked(state, |state| self.own_tail(inode, state))?;
        }
        Ok(())
    }

    /// Whether [`Pool::prepare_tail`] has nothing to do.
    ///
    /// # Errors
    /// A media error.
    pub(crate) fn is_tail_prepared(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        offset: u64,
    ) -> Result<bool> {
        let size = self.inode_size(inode)?;
        if offset <= size || size.is_multiple_of(BLOCK_BYTES) {
            return Ok(true);
        }
        extents::load(self, inode, state)?;
        Ok(
            match extents::lookup(self, inode, &state.extents, FileBlock::holding(size))? {
                Mapping::Extent(extent) => !extent.is_shared() && !extent.is_summed(),
                Mapping::Hole { .. } => true,
            },
        )
    }

    /// Before zeros are stored behind the end of the file, in its last block: that block is its own. Gives whether it
    /// has zeros there already, because it is summed.
    fn own_tail(&self, inode: &Inode, state: &mut InodeState) -> Result<bool> {
        self.unshare_tail(inode, state)?;
        self.replace_summed_tail(inode, state)
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
            && (!extent.is_summed() || is_injected(Fault::TailSum))
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

/// What of a write at `offset` a file can have. As Linux's `generic_write_checks`: what fits is written, and only then
/// there is no more.
///
/// # Errors
/// `FileTooLarge`: nothing of it.
pub(crate) fn fitting(bytes: &[u8], offset: u64) -> Result<&[u8]> {
    let room = usize::try_from(MAX_FILE_BYTES.saturating_sub(offset)).unwrap_or(usize::MAX);
    match bytes.get(..room).unwrap_or(bytes) {
        [] => Err(Error::FileTooLarge),
        fitting => Ok(fitting),
    }
}

/// Bytes of a write at `offset` that one record has room for the sums of.
fn summed_at_once(offset: u64) -> usize {
    usize::try_from(SUMS_PER_RECORD * BLOCK_BYTES - offset % BLOCK_BYTES).unwrap_or(usize::MAX)
}
