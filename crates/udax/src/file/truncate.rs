//! Changing a file's size.
//!
//! Shrinking: one record sets the size, unmaps the blocks behind it and frees them; no block can be used again before
//! that record is durable. A file with more extents there than a record takes becomes an orphan in the first record,
//! so that a mount after a crash frees the rest.

use udax_dax::{Fate, Mode};
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, FileBlock, MAX_FILE_BYTES};
use udax_sync::fault::{Fault, is_injected};

use super::File;
use crate::error::{Error, Result};
use crate::extents::{Completeness, END_OF_FILES, ExtentMap};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::lifecycle::free_tail;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::update::Update;

impl File {
    /// Sets the size to `size` bytes: cuts, or extends with a hole (`ftruncate`).
    ///
    /// # Errors
    /// `BadHandle` without `WRITE`; `Invalid` unless it is a regular file; `FileTooLarge`.
    ///
    /// # Durability
    /// Durable on return, atomic, also when it fails: one fence, two when the last block's end must be zeroed first.
    /// What was never written back of a file without DAX is only forgotten.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        self.pool.truncate(&self.inode, size, &self.wait)
    }
}

impl Pool {
    /// Sets the size of `inode`, waiting for pins as `mode` says.
    pub(crate) fn truncate(&self, inode: &Inode, size: u64, mode: &Mode) -> Result<()> {
        self.check_writable()?;
        match inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid("only a regular file has a size to set")),
        }
        if size > MAX_FILE_BYTES {
            return Err(Error::FileTooLarge);
        }
        self.wait_and_retry("truncate", mode, || {
            self.retry_when_full(|| self.truncate_locked(inode, &mut *inode.write()?, size))
        })
    }

    /// As [`Pool::truncate`], with the inode's lock held.
    pub(crate) fn truncate_locked(&self, inode: &Inode, state: &mut InodeState, size: u64) -> Result<()> {
        if let Some(window) = state.window.take() {
            self.give_back(window);
        }
        self.finish_cut(inode, state)?;
        if self.cut_cached(inode, state, size)? {
            return Ok(());
        }
        let old = self.inode_size(inode)?;
        if size > old {
            return self.extend(inode, state, size);
        }
        if let Err(error) = self.in_steps(|limit| self.shrink(inode, state, size, limit)) {
            if !matches!(error, Error::Conflict(_)) {
                let first = FileBlock(size.div_ceil(BLOCK_BYTES));
                self.save_undiscarded(inode, state, (first, END_OF_FILES));
            }
            return Err(error);
        }
        self.forget_behind(inode, state, size);
        // Until all is freed, as for a truncation that failed: what fails below leaves it noted.
        self.finish_cut(inode, state)
    }

    pub(super) fn extend(&self, inode: &Inode, state: &mut InodeState, size: u64) -> Result<()> {
        self.prepare_growth(inode, state, size)?;
        let mut line = Line::read(self, inode)?;
        let mut update = Update::freeing(self);
        state.settle_times(&mut line);
        line.set_size(size);
        line.touch_modified(now());
        line.store(&mut update, inode);
        update.commit()?;
        state.lazy = Default::default();
        Ok(())
    }

    /// Sets the smaller size and frees what one record can; if that is not all, the file is one whose truncation is
    /// unfinished.
    fn shrink(&self, inode: &Inode, state: &mut InodeState, size: u64, limit: usize) -> Result<()> {
        let first = FileBlock(size.div_ceil(BLOCK_BYTES));
        let broken = self.break_layout(inode, (first, END_OF_FILES), Fate::Discarded)?;
        let mut update = Update::freeing(self).limited(limit);
        let mut line = Line::read(self, inode)?;
        state.settle_times(&mut line);
        let mut map = ExtentMap::begin(self, inode, state)?;
        let completeness = free_tail(&mut update, &mut map, &mut line, first)?;
        map.store(&mut update)?;
        if is_injected(Fault::LateSize) {
            line.store(&mut update, inode);
            update.commit()?;
            update = Update::freeing(self);
            line = Line::read(self, inode)?;
        }
        line.set_size(size);
        line.touch_modified(now());
        line.store(&mut update, inode);
        let orphan = match completeness {
            Completeness::All => None,
            Completeness::More if is_injected(Fault::LostCut) => None,
            Completeness::More => Some(self.orphans.add(&mut update, inode.ino)?),
        };
        update.commit()?;
        map.finish(state);
        state.lazy = Default::default();
        if let Some(orphan) = orphan {
            orphan.done();
        }
        if completeness == Completeness::More {
            self.cuts.insert(inode.ino);
        }
        // After the orphans' lock, whose rank is above the one that this takes.
        drop(broken);
        self.verify_unreached(inode, (first, END_OF_FILES));
        Ok(())
    }

    /// Frees what a truncation has left behind the end of the file. Whatever makes a file longer calls this first.
    ///
    /// # Errors
    /// Damage that hinders it; then the file must not become longer.
    pub(crate) fn finish_cut(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        if !self.cuts.contains(inode.ino) {
            return Ok(());
        }
        let first = FileBlock(self.inode_size(inode)?.div_ceil(BLOCK_BYTES));
        while self.free_extents_from(inode, state, first)? == Completeness::More {}
        self.forget_orphan(inode)?;
        self.cuts.remove(inode.ino);
        Ok(())
    }

    /// A long truncation is finished. An unlinked file stays an orphan.
    pub(crate) fn forget_orphan(&self, inode: &Inode) -> Result<()> {
        if self.inode_nlink(inode)? == 0 {
            return Ok(());
        }
        let mut update = Update::freeing(self);
        let change = self.orphans.remove(&mut update, inode.ino)?;
        update.commit()?;
        change.done();
        Ok(())
    }
}
