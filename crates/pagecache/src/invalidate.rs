//! Taking bytes out of the cache because what is beneath has changed, or is about to: after the kernel's
//! `filemap_invalidate_inode` and `invalidate_inode_pages2_range` (reference 2.15, 2.17).

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use smallvec::SmallVec;

use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::page::pages_touched;
use crate::removal::Busy;
use crate::{Backing, CacheError, Control, Integrity, Mapping};

/// What becomes of dirty pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// They are written first.
    Write,
    /// They stay in the cache.
    Keep,
}

impl Mapping {
    /// Writes what is dirty in the range, if so wanted, and takes every folio that has a byte of it out of the cache,
    /// so that the next access reads what is beneath. Pages that are dirty still, or again, and pages in use by
    /// address, stay. Up to `u64::MAX` is to the end.
    ///
    /// # Errors
    /// A write-back of this file has failed, now or before, and nobody was told who had no open file. That pages stay
    /// is no error.
    ///
    /// # Locks
    /// Takes the invalidate lock: meanwhile nothing is read into the cache. Waits for writes under way.
    pub fn invalidate_inode(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        flush: Flush,
        bytes: Range<u64>,
    ) -> Result<(), CacheError> {
        let pages = pages_touched(&bytes);
        if self.pages() > 0 && !pages.is_empty() {
            let _invalidate = self.invalidate.write();
            if self.pages() > 0 {
                if flush == Flush::Write {
                    // That it failed is told below.
                    let _ = self.write_back(backing, Control::range(Integrity::Full, &bytes));
                    self.wait_written(pages.clone());
                }
                let _ = self.invalidate_pages(&pages);
            }
        }
        match self.take_error() {
            None => Ok(()),
            Some(errno) => Err(CacheError::WriteBack { errno }),
        }
    }

    /// Before bytes go past the cache to the medium: writes the dirty pages of the range and takes all of it out of the
    /// cache. False if something stays, in use by address: then they must go through the cache. The kernel's
    /// `kiocb_invalidate_pages`.
    ///
    /// # Errors
    /// The dirty pages could not be written.
    ///
    /// # Locks
    /// As [`Mapping::invalidate_inode`]; the caller lets nobody read or write until its bytes are on the medium.
    pub fn prepare_direct(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        bytes: Range<u64>,
    ) -> Result<bool, CacheError> {
        let pages = pages_touched(&bytes);
        if self.pages() == 0 || pages.is_empty() {
            return Ok(true);
        }
        let _invalidate = self.invalidate.write();
        self.write_back(backing, Control::range(Integrity::Full, &bytes))?;
        self.wait_written(pages.clone());
        Ok(self.invalidate_pages(&pages).is_ok())
    }

    /// After bytes have gone past the cache to the medium: takes what was cached meanwhile out again. What stays, in
    /// use by address, is not what the medium has: an error of write-back, so that the next sync tells of it. The
    /// kernel's `kiocb_invalidate_post_direct_write`.
    ///
    /// # Locks
    /// As [`Mapping::invalidate_inode`].
    pub fn finish_direct(&self, bytes: Range<u64>) {
        let pages = pages_touched(&bytes);
        if self.pages() == 0 || pages.is_empty() {
            return;
        }
        let _invalidate = self.invalidate.write();
        if self.invalidate_pages(&pages).is_err() {
            self.note_error(Errno::EIO);
        }
    }

    /// Takes every folio of the range out of the cache that can go, after waiting for writes under way.
    pub(crate) fn invalidate_pages(&self, pages: &Range<u64>) -> Result<(), Busy> {
        let mut result = Ok(());
        let mut from = pages.start;
        while let Some(folio) = self.next_folio(&(from..pages.end)) {
            from = folio.range().end;
            let locked = LockedFolio::lock(folio);
            if locked.is_removed() {
                continue;
            }
            locked.wait_written();
            result = result.and(self.remove_unused(&locked));
        }
        result
    }

    /// Gives up those pages of the range that nobody needs now: nothing is waited for. For posix_fadvise(2) with
    /// `POSIX_FADV_DONTNEED`: only pages that lie whole in the range. How many folios went. The kernel's
    /// `invalidate_mapping_pages`.
    pub fn drop_unused(&self, bytes: Range<u64>) -> u64 {
        let pages = crate::page::pages_within(&bytes);
        let mut from = pages.start;
        let mut gone = 0;
        while let Some(folio) = self.next_folio(&(from..pages.end)) {
            from = folio.range().end;
            let is_whole = |folio: &Folio| pages.start <= folio.first && folio.range().end <= pages.end;
            if !is_whole(&folio) || folio.has(flag::DIRTY | flag::WRITEBACK) {
                continue;
            }
            if let Some(locked) = LockedFolio::try_lock(folio)
                && self.remove_unused(&locked).is_ok()
            {
                gone += 1;
            }
        }
        gone
    }

    /// The folios of the range that are in use by address: who gives the file another kind of memory waits for them.
    pub(crate) fn pinned_folios(&self, pages: &Range<u64>) -> SmallVec<[Arc<Folio>; 4]> {
        let mut pinned = SmallVec::new();
        let mut from = pages.start;
        while let Some(folio) = self.next_folio(&(from..pages.end)) {
            from = folio.range().end;
            if folio.pins.any.load(udax_sync::atomic::Ordering::Acquire) > 0 {
                pinned.push(folio);
            }
        }
        pinned
    }
}
