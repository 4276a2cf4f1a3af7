//! Taking bytes out of the cache because the file has them no more: after the kernel's `truncate_inode_pages_range`.

use std::ops::Range;

use smallvec::SmallVec;
use udax_sync::atomic::Ordering;

use crate::Mapping;
use crate::folio::flag;
use crate::locked::LockedFolio;
use crate::page::{overlap, pages_within};
use crate::removal::BATCH;

impl Mapping {
    /// Forgets these bytes, dirty or not: folios that lie whole in the range leave the cache; of the others, pages are
    /// as if they had never been read, and parts of pages are zeros. Up to `u64::MAX` is to the end.
    ///
    /// The caller has stored the new size of the file before, and frees the blocks afterwards.
    ///
    /// # Locks
    /// Takes the invalidate lock. The caller lets nobody read or write the range until its blocks are gone. Waits for
    /// writes under way.
    pub fn truncate(&self, bytes: Range<u64>) {
        let _invalidate = self.invalidate.write();
        if bytes.end >= self.end.load(Ordering::Acquire) {
            self.end.fetch_min(bytes.start, Ordering::AcqRel);
        }
        let whole = pages_within(&bytes);
        let touched = bytes.start / crate::PAGE..bytes.end.div_ceil(crate::PAGE);
        let mut from = touched.start;
        let mut batch: SmallVec<[LockedFolio; BATCH]> = SmallVec::new();
        while let Some(folio) = self.next_folio(&(from..touched.end)) {
            from = folio.range().end;
            let locked = LockedFolio::lock(folio);
            if locked.is_removed() {
                continue;
            }
            if locked.has(flag::WRITEBACK) {
                // Nobody waits with what the batch has locked.
                self.remove_batch(&mut batch);
                locked.wait_written();
            }
            let range = locked.range();
            if whole.start <= range.start && range.end <= whole.end {
                batch.push(locked);
            } else {
                self.forget_part(&locked, &bytes, &whole);
            }
            if batch.len() == BATCH || from >= touched.end {
                self.remove_batch(&mut batch);
            }
        }
        self.remove_batch(&mut batch);
        drop(batch);
        self.unlist_clean();
    }

    fn remove_batch(&self, batch: &mut SmallVec<[LockedFolio; BATCH]>) {
        if !batch.is_empty() {
            self.remove_all(batch);
            batch.clear();
        }
    }

    /// Forgets a part of a locked folio: `whole` pages, and the rest of `bytes`.
    fn forget_part(&self, folio: &LockedFolio, bytes: &Range<u64>, whole: &Range<u64>) {
        folio.zero(&overlap(bytes, &folio.byte_range()));
        let gone = overlap(whole, &folio.range());
        let inner = folio.inner(&gone);
        folio.pages.uptodate.clear(inner.clone());
        let reserved = folio.pages.reserved.clear(inner.clone());
        self.cache().reservations().give_back(reserved);
        let dirty = folio.pages.dirty.clear(inner);
        if dirty > 0 {
            self.uncount_dirty(dirty);
        }
        if !folio.pages.dirty.any(0..folio.len()) && folio.clear(flag::DIRTY) {
            let mut writer = self.index.write();
            writer.clear_mark(folio.first, crate::mapping::mark::DIRTY);
            writer.clear_mark(folio.first, crate::mapping::mark::TOWRITE);
        }
    }
}
