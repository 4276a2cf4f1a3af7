//! Reading: from the mapping straight to the caller's buffer.

use std::io::IoSliceMut;

use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, FileBlock, Timestamp};
use udax_pagecache::CacheError;
use udax_sync::ReadGuard;
use udax_sync::atomic::Ordering;

use super::File;
use crate::error::{Error, Result};
use crate::extents::{self, Mapping};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::options::ReadFlags;
use crate::pool::Pool;

/// An access time is renewed when it is older than this (relatime), or not after the last change.
const RELATIVE_ATIME_SECONDS: i64 = 24 * 60 * 60;

impl File {
    /// Reads from `offset` into `to`; gives the bytes read, fewer than asked only at the end of the file and before
    /// bytes that the medium has lost, or changed as their checksum tells.
    ///
    /// # Errors
    /// `BadHandle` without `READ`; `IsDirectory`; `LostData` when the first byte is lost; `WrongData` when the first
    /// block does not have its checksum.
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> Result<usize> {
        self.read_with(to, offset, ReadFlags::empty())
    }

    /// As [`File::read_at`], in the way that `flags` ask for.
    ///
    /// # Errors
    /// As [`File::read_at`]; `NotSupported` for `DONTCACHE` of a DAX file; with `NOWAIT`, `Cache(WouldBlock)`.
    pub fn read_with(&self, to: &mut [u8], offset: u64, flags: ReadFlags) -> Result<usize> {
        self.check_readable()?;
        self.prefetch(offset, to.len());
        let state = match flags.contains(ReadFlags::NOWAIT) {
            true => self.share_at_once(offset)?,
            false => self.share_to_read()?,
        };
        let done = self.read_part(&state, to, offset, flags)?;
        self.note_access(state);
        Ok(done)
    }

    /// Shares the inode's lock, with the extents loaded; to read past the cache, with nothing dirty in there.
    fn share_to_read(&self) -> Result<ReadGuard<'_, InodeState>> {
        if self.is_direct() {
            return self.pool.read_flushed(&self.inode);
        }
        self.pool.read_loaded(&self.inode)
    }

    /// As [`File::share_to_read`], unless that would wait for who uses the file, or for a write-back.
    fn share_at_once(&self, offset: u64) -> Result<ReadGuard<'_, InodeState>> {
        if let Some(mut state) = self.inode.try_write().filter(|state| state.extents.is_unloaded()) {
            extents::load(&self.pool, &self.inode, &mut state)?;
        }
        let must_wait = |state: &InodeState| {
            state.extents.is_unloaded() || self.is_direct() && Pool::is_unflushed(&self.inode, state)
        };
        let state = self.inode.try_read().filter(|state| !must_wait(state));
        state.ok_or_else(|| in_use(offset))
    }

    /// Reads as the file is reached, with its inode's lock shared.
    fn read_part(&self, state: &InodeState, to: &mut [u8], offset: u64, flags: ReadFlags) -> Result<usize> {
        if self.inode.is_cached() && !self.is_direct() {
            return self.read_cached(state, to, offset, flags);
        }
        if flags.contains(ReadFlags::DONTCACHE) {
            return Err(Error::NotSupported("a DAX file is not cached"));
        }
        self.pool.read_locked(&self.inode, state, to, offset)
    }

    /// As [`File::read_at`], into several buffers in turn, as one read.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_vectored_at(&self, to: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        self.check_readable()?;
        let state = self.share_to_read()?;
        let mut done = 0;
        for part in to {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match self.read_part(&state, part, at, ReadFlags::empty()) {
                Ok(count) => {
                    done += count;
                    if count < part.len() {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        self.note_access(state);
        Ok(done)
    }

    /// Renews the access time if it is due, lazily.
    fn note_access(&self, state: ReadGuard<'_, InodeState>) {
        // Looking at the clock costs as much as reading a line: once for each handle is enough for the age.
        let is_first = !self.has_read.load(Ordering::Relaxed);
        if self.pool.note_access(&self.inode, state, is_first) {
            self.has_read.store(true, Ordering::Relaxed);
        }
    }
}

/// Somebody has the file locked, or something of it must be written back first.
pub(crate) fn in_use(offset: u64) -> Error {
    Error::Cache(CacheError::WouldBlock {
        page: offset / BLOCK_BYTES,
        what: "the file is in use",
    })
}

impl Pool {
    /// Renews the access time of `inode` if it is due, lazily: when it is not after the last change, and, where
    /// `looks_at_age`, when it is old (relatime). Whether it looked.
    pub(crate) fn note_access(
        &self,
        inode: &Inode,
        state: ReadGuard<'_, InodeState>,
        looks_at_age: bool,
    ) -> bool {
        let is_kept = inode.kind == FileKind::Directory && self.options.no_directory_atime;
        if self.options.no_atime || self.options.read_only || is_kept {
            return false;
        }
        let (accessed, modified) = match (state.lazy.accessed(), state.lazy.modified) {
            (Some(accessed), Some(modified)) => (accessed, modified),
            (accessed, modified) => {
                let Ok(line) = Line::read(self, inode) else {
                    return false;
                };
                (accessed.unwrap_or(line.atime()), modified.unwrap_or(line.mtime()))
            }
        };
        if accessed > modified && !looks_at_age {
            return false;
        }
        let now = now();
        let is_old = now.seconds.saturating_sub(accessed.seconds) > RELATIVE_ATIME_SECONDS;
        if (accessed <= modified || is_old) && accessed != now {
            self.renew_access(inode, state, now);
        }
        true
    }

    #[cold]
    fn renew_access(&self, inode: &Inode, state: ReadGuard<'_, InodeState>, now: Timestamp) {
        state.lazy.note_accessed(now);
        inode.note_close_work();
        drop(state);
        // Of what nobody has open there is no close that could write it. Who has it locked changes it, or looks at it.
        if !inode.is_open()
            && !inode.is_held()
            && self.check_writable().is_ok()
            && let Some(mut state) = inode.try_write()
            && let Err(error) = self.flush_times(inode, &mut state)
        {
            tracing::warn!(ino = inode.ino.raw(), %error, "an access time is lost");
        }
    }
}

impl Pool {
    /// Shares the inode's lock with its extents loaded.
    pub(crate) fn read_loaded<'i>(&self, inode: &'i Inode) -> Result<ReadGuard<'i, InodeState>> {
        loop {
            let state = inode.read()?;
            if !state.extents.is_unloaded() {
                return Ok(state);
            }
            drop(state);
            extents::load(self, inode, &mut *inode.write()?)?;
        }
    }

    /// As [`Pool::read_loaded`], with nothing in the cache that the extents do not have.
    pub(crate) fn read_flushed<'i>(&self, inode: &'i Inode) -> Result<ReadGuard<'i, InodeState>> {
        loop {
            let state = self.read_loaded(inode)?;
            if !Self::is_unflushed(inode, &state) {
                return Ok(state);
            }
            drop(state);
            self.flush(inode, &mut inode.write_lendable()?)?;
        }
    }

    /// As [`Pool::read_locked`], all of `to`, of which the file has every byte.
    pub(crate) fn read_all_locked(
        &self,
        inode: &Inode,
        state: &InodeState,
        to: &mut [u8],
        offset: u64,
    ) -> Result<()> {
        let mut done = 0;
        // A read ends before what it cannot read; the next one, which begins there, says why. It may also get further:
        // some devices fail only now and then.
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + u64::try_from(done).unwrap_or(0);
            let count = self.read_locked(inode, state, rest, at)?;
            if count == 0 {
                return Err(Error::Invalid("the file ends before what is read of it"));
            }
            done += count;
        }
        Ok(())
    }

    /// Reads from a file whose lock the caller has, with the extents loaded, past the cache.
    pub(crate) fn read_locked(
        &self,
        inode: &Inode,
        state: &InodeState,
        to: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        let size = self.inode_size(inode)?;
        let wanted = u64::try_from(to.len()).unwrap_or(u64::MAX);
        let length = wanted.min(size.saturating_sub(offset));
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let block = FileBlock::holding(at);
            let mapping = extents::lookup(self, inode, &state.extents, block)?;
            let end = match mapping {
                Mapping::Extent(extent) => extent.end(),
                Mapping::Hole { until } => until,
            };
            let count = (end.raw() * BLOCK_BYTES - at).min(length - done);
            let from = usize::try_from(done).unwrap_or(usize::MAX);
            let upto = usize::try_from(done + count).unwrap_or(usize::MAX);
            let part = to.get_mut(from..upto).unwrap_or_default();
            match mapping {
                Mapping::Extent(extent) if !extent.is_unwritten() => {
                    let skipped = at - extent.first.raw() * BLOCK_BYTES;
                    let start = extent.start.offset().raw() + skipped;
                    let read = if extent.is_summed() {
                        self.read_summed(inode, &extent, at, part)
                    } else {
                        self.read_data(start, part).map_err(|error| match error {
                            Error::Region(error) => self.lost_data(inode, (start, at), count, error),
                            other => other,
                        })
                    };
                    match read {
                        Ok(()) => {}
                        // What comes before has been read.
                        Err(Error::Disk(_)) if done > 0 => break,
                        // What is before the lost bytes has been read.
                        Err(
                            Error::LostData { offset: lost, .. }
                            | Error::UnreachableData { offset: lost, .. }
                            | Error::WrongData { offset: lost, .. },
                        ) if lost > offset => {
                            done = lost - offset;
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
                _ => part.fill(0),
            }
            done += count;
        }
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    }
}
