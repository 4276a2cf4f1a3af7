//! Making one large folio of many small ones: [`Mapping::collapse`]. After the kernel's `collapse_file`.
//!
//! The small folios go and the large one comes under one hold of the index's lock. Whoever looks without that lock may
//! see the range empty for a moment, and then asks for it with the lock: a reader finds the folio when it adds one, a
//! pass searches with the lock; truncation and invalidation are kept out by the invalidate lock.

use std::sync::Arc;

use udax_sync::atomic::Ordering;
use udax_xarray::Entry;

use crate::Mapping;
use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::mapping::mark;
use crate::page::{MAX_ORDER, PAGE, page_of};
use crate::replace::take_over;

impl Mapping {
    /// Puts one folio of `1 << order` pages in the place of the smaller ones that have the byte `at` and what is
    /// around it, aligned. Only if all of its pages are cached and uptodate, and none of them is locked, being written
    /// or pinned, and there is memory for both; whether it did. Nothing is waited for.
    ///
    /// # Locks
    /// Shares the invalidate lock, if it is free.
    pub fn collapse(self: &Arc<Self>, at: u64, order: u8) -> bool {
        if order == 0 || order > self.cache().limits.max_order.min(MAX_ORDER) {
            return false;
        }
        let Some(_invalidate) = self.invalidate.try_read() else {
            return false;
        };
        let first = page_of(at) >> order << order;
        let Some(small) = self.lock_small(first, order) else {
            return false;
        };
        let room = self.cache().claim(1 << order);
        let Some(large) = Folio::new_locked(self, first, order) else {
            return false;
        };
        let large = LockedFolio::new(large);
        for folio in &small {
            take_over(&large, folio, &folio.range());
        }
        let uses = small.iter().map(|folio| folio.uses.load(Ordering::Relaxed)).max();
        large.uses.store(uses.unwrap_or(0), Ordering::Relaxed);
        large.clear(flag::FRESH);
        self.exchange(&small, &large);
        room.keep();
        self.cache().admit(self.number(), &large);
        for folio in &small {
            self.replaced(folio);
        }
        true
    }

    /// The folios of an aligned range, if all of them are there and nobody needs them as they are.
    fn lock_small(&self, first: u64, order: u8) -> Option<Vec<LockedFolio>> {
        let end = first
            .checked_add(1 << order)
            .filter(|end| *end <= u64::MAX / PAGE)?;
        let mut small = Vec::new();
        let mut page = first;
        while page < end {
            let folio = LockedFolio::try_lock(self.folio(page)?)?;
            let is_free = folio.first == page
                && folio.order() < order
                && !folio.has(flag::REMOVED | flag::WRITEBACK | flag::DROPBEHIND)
                && !folio.is_pinned()
                && folio.is_uptodate(&folio.range());
            if !is_free {
                return None;
            }
            page = folio.range().end;
            small.push(folio);
        }
        Some(small)
    }

    fn exchange(&self, small: &[LockedFolio], large: &LockedFolio) {
        let mut writer = self.index.write();
        let mut is_to_write = false;
        for folio in small {
            is_to_write |= writer.is_marked(folio.first, mark::TOWRITE);
            let erased = writer.erase(folio.first);
            debug_assert!(erased.is_some_and(|found| found.order == folio.order()));
            folio.raise(flag::REMOVED);
        }
        let stored = writer.store(large.first, large.order(), Entry::Pointer(Arc::clone(large)));
        debug_assert!(matches!(stored, Ok(None)), "{stored:?}");
        if large.has(flag::DIRTY) {
            writer.set_mark(large.first, mark::DIRTY);
            if is_to_write {
                writer.set_mark(large.first, mark::TOWRITE);
            }
        }
    }
}
