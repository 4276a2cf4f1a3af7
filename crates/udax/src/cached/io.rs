//! Reading and writing cached files.

use std::ops::Range;

use nix::errno::Errno;
use udax_dax::Mode;
use udax_media::BLOCK_BYTES;
use udax_pagecache::{
    Advice, CacheError, Control, ErrorCursor, Integrity, ReadFlags as CacheRead, SharedReadAhead,
    WriteFlags as CacheWrite,
};
use udax_sync::fault::{Fault, is_injected};
use udax_sync::{Mutex, Rank};

use super::Beneath;
use crate::error::Result;
use crate::file::{Cause, File, fitting, in_use};
use crate::inode::{Inode, InodeState};
use crate::options::{ReadFlags, WriteFlags};
use crate::pool::Pool;

/// Bytes of one write that become dirty before it is seen to that not too many are. More than any program writes at
/// once that has an eye on its memory; with `NOWAIT` a write ends there.
const PIECE: usize = 4 << 20;

/// What an open file remembers of its reads, and of errors that it was told.
#[derive(Debug)]
pub(crate) struct CachedHandle {
    ahead: SharedReadAhead,
    errors: Mutex<HandleErrors>,
}

/// What of the errors of write-back was told: of the file's, and of the pool's.
#[derive(Clone, Copy, Debug, Default)]
struct HandleErrors {
    of_file: ErrorCursor,
    of_pool: ErrorCursor,
    /// Of failed flushes of the data device, by a sync of the file.
    of_disk: ErrorCursor,
    /// The same, by one of the filesystem.
    of_disk_in_all: ErrorCursor,
}

impl CachedHandle {
    /// Of a file that is opened now: errors that nobody was told are still to be told.
    pub(crate) fn new(pool: &Pool, inode: &Inode) -> Self {
        let errors = HandleErrors {
            of_file: inode
                .cached()
                .map_or_else(ErrorCursor::default, |part| part.mapping.errors().sample()),
            of_pool: pool.cache.errors().sample(),
            of_disk: pool.disk_errors().sample(),
            of_disk_in_all: pool.disk_errors().sample(),
        };
        Self {
            ahead: SharedReadAhead::new(),
            errors: Mutex::new(Rank::Leaf, errors),
        }
    }
}

impl File {
    /// How the file will be read (`posix_fadvise`): windows of read-ahead follow it. Of a DAX file, nothing changes.
    pub fn advise(&self, advice: Advice) {
        self.cached_handle().ahead.advise(advice);
    }

    /// Reads through the cache, with the inode's lock shared and its extents loaded.
    pub(crate) fn read_cached(
        &self,
        state: &InodeState,
        to: &mut [u8],
        offset: u64,
        flags: ReadFlags,
    ) -> Result<usize> {
        let part = self.inode_arc().cached_or_make(self.pool());
        let mut beneath = Beneath::shared(self.pool(), self.inode(), state)?;
        let mut wanted = CacheRead::empty();
        wanted.set(CacheRead::DONTCACHE, flags.contains(ReadFlags::DONTCACHE));
        wanted.set(CacheRead::NOWAIT, flags.contains(ReadFlags::NOWAIT));
        let mut ahead = self.cached_handle().ahead.load();
        let read = part.mapping.read(&mut beneath, offset, to, &mut ahead, wanted);
        self.cached_handle().ahead.store(&ahead);
        Ok(read?)
    }

    /// Has the processor fetch what a read of `len` bytes meets first in the cache, while it waits for its locks.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u64, len: usize) {
        if !self.is_direct()
            && self.inode().is_cached()
            && let Some(part) = self.inode().cached()
        {
            part.mapping.prefetch(offset, len);
        }
    }

    /// As [`File::prefetch`], before a write.
    #[inline]
    pub(crate) fn prefetch_to_store(&self, offset: u64, len: usize) {
        if let Some(part) = self.inode().cached() {
            part.mapping.prefetch_to_store(offset, len);
        }
    }

    /// Waits until the cache takes `len` more bytes, which from now on are written in the background. No lock is held.
    pub(crate) fn throttle(&self, len: usize, mode: &Mode) -> Result<()> {
        let part = self.inode_arc().cached_or_make(self.pool());
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.pool().start_flusher();
        Ok(self.pool().cache.throttle(&part.mapping, len, mode)?)
    }

    /// Writes to the cache, with the inode's lock held alone; gives how many bytes. What is asked to be durable is so
    /// afterwards.
    pub(crate) fn write_cached(
        &self,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
        flags: WriteFlags,
    ) -> Result<usize> {
        // Pages are written back as they come; only a write past them is one record.
        if self.is_direct() || flags.contains(WriteFlags::ATOMIC) {
            return self.write_direct(state, bytes, offset, flags);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let (pool, inode) = (self.pool(), self.inode());
        let bytes = fitting(bytes, offset)?;
        pool.finish_cut(inode, state)?;
        let part = self.inode_arc().cached_or_make(pool);
        // What is dirty in the last block has a block reserved. Else write-back would take one for the zeros behind
        // the end, and nobody could be told that there is none.
        let written = pool.inode_size(inode)?;
        if offset > written && !part.mapping.is_dirty(written / BLOCK_BYTES) {
            if flags.contains(WriteFlags::NOWAIT) && !pool.is_tail_prepared(inode, state, offset)? {
                return Err(in_use(offset));
            }
            pool.prepare_tail(inode, state, offset)?;
        }
        let mut wanted = CacheWrite::empty();
        wanted.set(CacheWrite::DONTCACHE, flags.contains(WriteFlags::DONTCACHE));
        wanted.set(CacheWrite::NOWAIT, flags.contains(WriteFlags::NOWAIT));
        if flags.contains(WriteFlags::APPEND) {
            let beneath = Beneath::alone(pool, inode, state)?;
            // It does not tell how much of it was written: all, unless others take the space meanwhile.
            let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
            beneath.check_space(&part.mapping, &(offset..end))?;
        }
        let mut count = 0;
        for piece in bytes.chunks(PIECE) {
            let at = offset + u64::try_from(count).unwrap_or(0);
            let mut beneath = Beneath::alone(pool, inode, state)?;
            let written = match part.mapping.write(&mut beneath, at, piece, wanted) {
                Err(error) if count == 0 => return Err(error.into()),
                written => written.unwrap_or(0),
            };
            count += written;
            let end = offset + u64::try_from(count).unwrap_or(0);
            if end > state.size(pool.inode_size(inode)?) {
                state.pending_size = Some(end);
            }
            state.note_modified(inode);
            let is_written = self.write_behind(state, at..end, flags);
            // More would only fill memory.
            let is_stuck = !is_written && pool.cache.is_over_dirty_limit();
            if written < piece.len() || flags.contains(WriteFlags::NOWAIT) || is_stuck {
                break;
            }
        }
        let end = offset + u64::try_from(count).unwrap_or(0);
        if flags.contains(WriteFlags::DSYNC) && !is_injected(Fault::UnwrittenDsync) {
            pool.write_range(inode, state, &(offset..end))?;
        }
        Ok(count)
    }

    /// Writes back what a write has just made dirty, if nothing of it is to stay or too much is dirty, and the writer
    /// may wait (else the flusher does it): it was throttled once for all of its pieces. What fails is told by the next
    /// sync; here, that it failed.
    fn write_behind(&self, state: &mut InodeState, bytes: Range<u64>, flags: WriteFlags) -> bool {
        let is_dropped = flags.contains(WriteFlags::DONTCACHE);
        if flags.contains(WriteFlags::NOWAIT) {
            if is_dropped && let Some(part) = self.inode().cached() {
                part.mapping.kick();
            }
            return true;
        }
        if !is_dropped && !self.pool().cache.is_over_dirty_limit() {
            return true;
        }
        // Only now that the write is done with the extents.
        let control = Control::range(Integrity::Background, &bytes);
        self.pool().write_dirty(self.inode(), state, control).is_ok()
    }

    /// Writes past the cache: what it has of the range is written first and leaves it. Pages that stay because they are
    /// reached by address there are none of: a cached file has no pins.
    fn write_direct(
        &self,
        state: &mut InodeState,
        bytes: &[u8],
        offset: u64,
        flags: WriteFlags,
    ) -> Result<usize> {
        let cause = Cause::of_write(bytes, offset, flags)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let (pool, inode) = (self.pool(), self.inode());
        if flags.contains(WriteFlags::NOWAIT) && Pool::is_unflushed(inode, state) {
            return Err(in_use(offset));
        }
        let bytes = fitting(bytes, offset)?;
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        if end > pool.inode_size(inode)? {
            // The size in the pool must not cover what is only in the cache.
            pool.flush(inode, state)?;
        }
        let part = self.inode_arc().cached_or_make(pool);
        let mut beneath = Beneath::alone(pool, inode, state)?;
        part.mapping.prepare_direct(&mut beneath, offset..end)?;
        let count = pool.store(inode, state, bytes, offset, cause)?;
        if flags.contains(WriteFlags::DSYNC) {
            pool.flush_overwritten(state)?;
        }
        part.mapping.finish_direct(offset..end);
        Ok(count)
    }

    /// Tells that bytes will be read soon (`POSIX_FADV_WILLNEED`): they are brought into the cache. Of a DAX file,
    /// nothing is done.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn will_need(&self, offset: u64, len: u64) -> Result<()> {
        self.check_readable()?;
        let state = self.pool().read_loaded(self.inode())?;
        if self.inode().is_cached() {
            let part = self.inode_arc().cached_or_make(self.pool());
            let mut beneath = Beneath::shared(self.pool(), self.inode(), &state)?;
            part.mapping
                .will_need(&mut beneath, offset..offset.saturating_add(len))?;
        }
        Ok(())
    }

    /// Tells that bytes will not be read soon (`POSIX_FADV_DONTNEED`): whole pages of the range that are not dirty
    /// leave the cache. Of a DAX file, nothing is done.
    pub fn dont_need(&self, offset: u64, len: u64) {
        if let Some(part) = self.inode().cached() {
            part.mapping.drop_unused(offset..offset.saturating_add(len));
        }
    }

    /// Makes the file's cached bytes durable, and tells what has failed since this handle was told last.
    pub(crate) fn sync_cached(&self) -> Result<()> {
        let Some(part) = self.inode().cached() else {
            return Ok(());
        };
        let written = {
            let mut hold = self.inode().write_lendable()?;
            match is_injected(Fault::UnwrittenSync) {
                false => self.pool().write_range(self.inode(), &mut hold, &(0..u64::MAX)),
                true => Ok(()),
            }
        };
        let mut errors = self.cached_handle().errors.lock();
        let told = part.mapping.check_errors(&mut errors.of_file);
        drop(errors);
        written?;
        Ok(told?)
    }

    /// Makes durable what the data device was given, and tells of flushes that have failed since this handle was told
    /// last: what this file had written may be lost by them, whoever asked for them.
    pub(crate) fn sync_disk(&self) -> Result<()> {
        let pool = self.pool();
        if pool.disk.is_none() {
            return Ok(());
        }
        // A DAX file has nothing there: what was moved from it to the pool was durable before the flag was.
        let flushed = match self.inode().is_cached() {
            true => pool.flush_disk(),
            false => Ok(()),
        };
        let sequence = pool.disk_errors();
        let told = {
            let mut errors = self.cached_handle().errors.lock();
            sequence.check_and_advance(&mut errors.of_disk)
        };
        flushed?;
        as_result(told)
    }

    /// Makes everything of the pool durable, and tells, once to each open file, that writing back any file has failed
    /// since (`syncfs`).
    ///
    /// # Errors
    /// Of this pass; `Cache(WriteBack)` for an earlier one.
    ///
    /// # Durability
    /// As [`crate::Filesystem::sync`].
    pub fn sync_filesystem(&self) -> Result<()> {
        let written = self.pool().sync();
        let of_disk = self.pool().disk_errors();
        let mut errors = self.cached_handle().errors.lock();
        let told = self.pool().cache.errors().check_and_advance(&mut errors.of_pool);
        let of_disk = of_disk.check_and_advance(&mut errors.of_disk_in_all);
        drop(errors);
        written?;
        as_result(told.or(of_disk))
    }
}

/// What is told of errors before.
fn as_result(told: Option<Errno>) -> Result<()> {
    match told {
        None => Ok(()),
        Some(errno) => Err(CacheError::WriteBack { errno }.into()),
    }
}
