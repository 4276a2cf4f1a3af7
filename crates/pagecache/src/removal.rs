//! How a folio leaves its mapping: here, whatever the reason.
//!
//! Truncation (one by one and in batches), invalidation, dropbehind, reclaim and collapse all end in
//! [`Mapping::remove_all`], so that [`crate::FreeFolio`] is told of every folio once: after its removal, with no lock
//! of a higher rank than the folio's.

use std::slice;

use udax_sync::atomic::Ordering;
use udax_sync::thread;

use crate::backing::Freed;
use crate::folio::flag;
use crate::locked::LockedFolio;
use crate::{Cache, FreeFolio, Mapping};

/// Most folios that are removed under one hold of the index's lock: the kernel's `PAGEVEC_SIZE`, about.
pub(crate) const BATCH: usize = 16;

/// What hinders a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy;

impl Mapping {
    /// Removes a folio that nobody needs: clean, with no write under way, not reached by address. The kernel's
    /// `folio_unmap_invalidate`.
    ///
    /// # Errors
    /// It is none of that, or was removed already; it stays as it is.
    pub(crate) fn remove_unused(&self, folio: &LockedFolio) -> Result<(), Busy> {
        if folio.is_removed() || folio.has(flag::DIRTY | flag::WRITEBACK) || folio.is_pinned() {
            return Err(Busy);
        }
        self.remove_all(slice::from_ref(folio));
        Ok(())
    }

    /// Removes locked folios of this mapping, whatever they hold; no write of them is under way. Who has them pinned
    /// keeps their memory.
    pub(crate) fn remove_all(&self, folios: &[LockedFolio]) {
        // Loaded while the folios keep the mapping: afterwards nothing does.
        let free_folio = self.rules.free_folio;
        let mut pages = 0;
        let mut writer = self.index.write();
        for folio in folios {
            debug_assert!(!folio.is_removed() && !folio.has(flag::WRITEBACK));
            let erased = writer.erase(folio.first);
            debug_assert!(erased.is_some_and(|found| found.order == folio.order()));
            folio.raise(flag::REMOVED);
            pages += folio.len();
        }
        drop(writer);
        self.counts.pages.fetch_sub(pages, Ordering::Relaxed);
        for folio in folios {
            let dirty = folio.pages.dirty.clear(0..folio.len());
            if dirty > 0 {
                self.uncount_dirty(dirty);
            }
            folio.clear(flag::DIRTY);
            self.cache().dismiss(folio);
            freed(free_folio, self.cache(), self.number(), folio);
        }
    }

    /// Forgets everything: the file is gone, and nobody reads, writes or writes it back any more. A folio can be locked
    /// only by the end of a pin or by reclaim, which wait for nothing: nor does this, in order, so that it can happen
    /// under any lock.
    pub fn forget(&self) {
        while let Some(folio) = self.next_folio(&(0..u64::MAX)) {
            match LockedFolio::try_lock(folio) {
                Some(locked) if !locked.is_removed() => self.remove_all(slice::from_ref(&locked)),
                _ => thread::yield_now(),
            }
        }
    }
}

/// Tells of a folio that has left its mapping. It is given numbers: nothing here can lead back to the mapping.
pub(crate) fn freed(free_folio: FreeFolio, cache: &Cache, number: u64, folio: &LockedFolio) {
    let reserved = folio.pages.reserved.clear(0..folio.len());
    let freed = Freed {
        number,
        first: folio.first,
        order: folio.order(),
        reserved,
    };
    free_folio(freed, cache.reservations());
}
