//! Copying inside the pool (`copy_file_range`).

use std::sync::Arc;

use udax_media::MAX_FILE_BYTES;
use udax_media::inode::FileKind;

use super::File;
use crate::error::{Error, Result};
use crate::namespace::locks::LockSet;

/// Bytes copied at a time: one buffer of a huge page.
const CHUNK_BYTES: usize = 2 << 20;

impl File {
    /// Copies up to `len` bytes from `offset` of this file to `to_offset` of `to`; gives how many, fewer only at the
    /// end of this file. Holes become zeros.
    ///
    /// # Errors
    /// `BadHandle` unless this is open for reading and `to` for writing; `Invalid` for other kinds than regular
    /// files and for overlapping ranges of one file; `OtherPool`; else as [`File::write_at`].
    ///
    /// # Durability
    /// Durable on return, chunk by chunk of 2 MiB; what overwrites blocks of a data device in place is so by a sync.
    pub fn copy_range(&self, offset: u64, to: &Self, to_offset: u64, len: u64) -> Result<u64> {
        self.check_copied_to(to)?;
        let end_of = |offset: u64| {
            offset
                .checked_add(len)
                .filter(|end| *end <= MAX_FILE_BYTES)
                .ok_or(Error::FileTooLarge)
        };
        end_of(offset)?;
        end_of(to_offset)?;
        let mut done = 0;
        let copied = self.pool.wait_for_both("copy", (self, to), || {
            self.copy_from((offset, to), to_offset, len, &mut done)
        });
        match copied {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// Copies what is left after `done` bytes, and counts them there.
    fn copy_from(&self, (offset, to): (u64, &Self), to_offset: u64, len: u64, done: &mut u64) -> Result<()> {
        let mut locks = LockSet::lock([&*self.inode, &*to.inode])?;
        self.settle_for_copy(&mut locks, (to, to_offset), len)?;
        let size = self.pool.inode_size(&self.inode)?;
        let length = len.min(size.saturating_sub(offset));
        let overlap = offset < to_offset + length && to_offset < offset + length;
        if self.inode.ino == to.inode.ino && overlap {
            return Err(Error::Invalid("the ranges overlap"));
        }
        let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(length).unwrap_or(CHUNK_BYTES))];
        while *done < length {
            let count = usize::try_from(length - *done)
                .unwrap_or(CHUNK_BYTES)
                .min(buffer.len());
            let part = buffer.get_mut(..count).unwrap_or_default();
            match self.copy_chunk(&mut locks, to, (offset + *done, to_offset + *done), part) {
                Ok(0) => break,
                Ok(copied) => *done += copied,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is cached of both files is durable, and of the range that the other one is given, nothing is cached.
    pub(super) fn settle_for_copy(
        &self,
        locks: &mut LockSet<'_>,
        (to, at): (&Self, u64),
        len: u64,
    ) -> Result<()> {
        self.pool.flush_durably(&self.inode, locks.state(&self.inode)?)?;
        let range = at..at.saturating_add(len);
        self.pool.settle_range(&to.inode, locks.state(&to.inode)?, range)
    }

    /// Whether this file can be copied to `to`, in the order of Linux's `generic_file_rw_checks`.
    pub(super) fn check_copied_to(&self, to: &Self) -> Result<()> {
        let kinds = [self.inode.kind, to.inode.kind];
        if kinds.contains(&FileKind::Directory) {
            return Err(Error::IsDirectory);
        }
        if kinds != [FileKind::Regular; 2] {
            return Err(Error::Invalid("only regular files are copied"));
        }
        self.check_readable()?;
        to.check_writable()?;
        if to.flags.contains(crate::options::OpenFlags::APPEND) {
            return Err(Error::BadHandle("writing at an offset"));
        }
        if !Arc::ptr_eq(&self.pool, &to.pool) {
            return Err(Error::OtherPool);
        }
        Ok(())
    }

    fn copy_chunk(
        &self,
        locks: &mut LockSet<'_>,
        to: &Self,
        (offset, to_offset): (u64, u64),
        buffer: &mut [u8],
    ) -> Result<u64> {
        let pool = &*self.pool;
        let state = locks.state(&self.inode)?;
        crate::extents::load(pool, &self.inode, state)?;
        let count = pool.read_locked(&self.inode, state, buffer, offset)?;
        let part = buffer.get(..count).unwrap_or_default();
        let written = pool.write_locked(&to.inode, locks.state(&to.inode)?, part, to_offset)?;
        Ok(u64::try_from(written).unwrap_or(0))
    }
}
