//! Writing a cached file to its extents, wholly or in part.
//!
//! All with the inode's lock held alone; while a data device is written to, it is lent to readers.

use std::ops::Range;

use udax_media::BLOCK_BYTES;
use udax_pagecache::{Control, Flush, Integrity, Span, Written};
use udax_sync::fault::{Fault, is_injected};

use super::Beneath;
use crate::error::{Error, Result};
use crate::inode::fields::Line;
use crate::inode::hold::Hold;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::update::Update;

impl Pool {
    /// Writes dirty pages as `control` says, and what comes before them since the end of the file in the pool.
    pub(super) fn write_dirty(
        &self,
        inode: &Inode,
        hold: &mut dyn Hold,
        control: Control,
    ) -> Result<Written> {
        let Some(part) = inode.cached() else {
            return Ok(Written::default());
        };
        self.check_writable()?;
        let end_page = match is_injected(Fault::EarlyEnd) {
            false => self.inode_size(inode)? / BLOCK_BYTES,
            true => u64::MAX,
        };
        let span = match control.span {
            Span::Pages(pages) => Span::Pages(pages.start.min(end_page)..pages.end),
            Span::Cyclic { .. } => Span::Cyclic { latest: end_page },
        };
        let control = Control { span, ..control };
        let mut beneath = Beneath::alone(self, inode, hold)?;
        let written = part.mapping.write_back(&mut beneath, control)?;
        if part.mapping.dirty_pages() == 0 {
            self.publish_size(inode, hold.state_mut())?;
        }
        Ok(written)
    }

    /// Makes a range durable, with the size and the times.
    pub(super) fn write_range(&self, inode: &Inode, hold: &mut dyn Hold, bytes: &Range<u64>) -> Result<()> {
        self.write_dirty(inode, hold, Control::range(Integrity::Full, bytes))?;
        self.flush_overwritten(hold)
    }

    /// All that was written to a cached file is durable, and nothing of it in the cache: what every operation but
    /// reads and writes begins with. Nothing for a file that was never cached.
    ///
    /// # Errors
    /// What hinders the write-back. Then the file is as before.
    pub(crate) fn settle(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        self.flush_durably(inode, state)?;
        if let Some(part) = inode.cached().filter(|part| part.mapping.pages() > 0) {
            part.mapping.truncate(0..u64::MAX);
        }
        Ok(())
    }

    /// As [`Pool::settle`], but that only of a range nothing is in the cache: what is beneath it is about to change.
    ///
    /// # Errors
    /// As [`Pool::settle`]; an earlier error of write-back that nobody was told.
    pub(crate) fn settle_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        bytes: Range<u64>,
    ) -> Result<()> {
        self.flush_durably(inode, state)?;
        if let Some(part) = inode.cached().filter(|part| part.mapping.pages() > 0) {
            let mut beneath = Beneath::alone(self, inode, state)?;
            part.mapping.invalidate_inode(&mut beneath, Flush::Keep, bytes)?;
        }
        Ok(())
    }

    /// All that was written to a cached file is in the pool.
    pub(crate) fn flush(&self, inode: &Inode, hold: &mut dyn Hold) -> Result<()> {
        if Self::is_unflushed(inode, hold.state()) {
            let all = Control::range(Integrity::Full, &(0..u64::MAX));
            self.write_dirty(inode, hold, all)?;
        }
        Ok(())
    }

    /// All that was written to a cached file is durable: a record may give its blocks to another file, which must not
    /// show there what was in them before.
    pub(crate) fn flush_durably(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        self.flush(inode, state)?;
        match inode.is_cached() && !is_injected(Fault::UnflushedSettle) {
            true => self.flush_overwritten(state),
            false => Ok(()),
        }
    }

    /// Whether there is something to flush. The caller has the inode's lock, shared at least.
    pub(crate) fn is_unflushed(inode: &Inode, state: &InodeState) -> bool {
        let is_pending = state.pending_size.is_some() || state.lent.is_some();
        is_pending || inode.cached().is_some_and(|part| part.mapping.dirty_pages() > 0)
    }

    /// The end that writes to the cache have given the file becomes its size in the pool, if it is not yet.
    fn publish_size(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        if let Some(size) = state.pending_size
            && size > self.inode_size(inode)?
        {
            self.prepare_growth(inode, state, size)?;
            self.store_size(inode, state, size)?;
        }
        state.pending_size = None;
        Ok(())
    }

    /// The file in the pool, whose end is prepared for that, gets longer.
    pub(crate) fn store_size(&self, inode: &Inode, state: &mut InodeState, size: u64) -> Result<()> {
        let mut line = Line::read(self, inode)?;
        let mut update = Update::freeing(self);
        state.settle_times(&mut line);
        line.set_size(size);
        line.store(&mut update, inode);
        update.commit()?;
        state.lazy = Default::default();
        Ok(())
    }

    /// What comes before the file in the pool is cut or extended: whether that is not needed, as the file in the pool
    /// is not longer than `size`, and what is behind that was only in memory.
    ///
    /// # Errors
    /// What hinders the write-back before the file is extended, or hinders zeros behind its end in the pool. Then the
    /// file is as before.
    pub(crate) fn cut_cached(&self, inode: &Inode, state: &mut InodeState, size: u64) -> Result<bool> {
        let written = self.inode_size(inode)?;
        let Some(part) = inode.cached() else {
            return Ok(false);
        };
        if size >= state.size(written) {
            self.settle(inode, state)?;
            return Ok(false);
        }
        if size <= written {
            return Ok(false);
        }
        // Before anything goes, as this may fail. A dirty page there has a block reserved, and is written first.
        if !part.mapping.is_dirty(written / BLOCK_BYTES) {
            self.prepare_growth(inode, state, size)?;
        }
        part.mapping.truncate(size..u64::MAX);
        state.pending_size = Some(size);
        state.note_modified(inode);
        if part.mapping.dirty_pages() == 0 {
            // Nothing keeps the inode in memory.
            self.store_size(inode, state, size)?;
            state.pending_size = None;
        }
        Ok(true)
    }

    /// What comes after the file in the pool was cut: pages behind its end go. Nobody has seen them since, as the
    /// caller has the inode's lock alone.
    pub(crate) fn forget_behind(&self, inode: &Inode, state: &mut InodeState, size: u64) {
        if let Some(part) = inode.cached() {
            part.mapping.truncate(size..u64::MAX);
            state.pending_size = None;
        }
    }

    /// Writes the dirty pages of all files; the first error. All are tried.
    pub(crate) fn write_all_cached(&self) -> Result<()> {
        let mut result = Ok(());
        for inode in self.inodes.collect() {
            if inode.cached().is_none() {
                continue;
            }
            let written = match inode.write_lendable() {
                Ok(mut hold) => self.flush(&inode, &mut hold),
                Err(Error::Stale(_)) => Ok(()),
                Err(error) => Err(error),
            };
            result = result.and(written);
        }
        result
    }
}
