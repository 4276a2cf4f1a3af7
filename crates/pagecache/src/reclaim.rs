//! Making room: removal of folios that nobody needs most.

use std::sync::Arc;

use udax_sync::atomic::Ordering;

use crate::Cache;
use crate::folio::Folio;
use crate::locked::LockedFolio;
use crate::queue::Queue;

/// Pages of the budget that a folio to come has taken; given back unless it comes.
#[must_use]
pub(crate) struct Room<'c> {
    cache: &'c Cache,
    pages: u64,
}

impl Room<'_> {
    /// The folio is there: whoever removes it gives the pages back.
    pub(crate) fn keep(mut self) {
        self.pages = 0;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.cache.counts.cached.fetch_sub(self.pages, Ordering::Relaxed);
    }
}

impl Cache {
    /// Takes `pages` of the budget, and removes folios for them, as far as that goes without waiting. They are taken
    /// before the folio is there: of two that make room at once, neither counts on the other's. More than the budget is
    /// taken only when nothing can go, which is counted.
    pub(crate) fn claim(&self, pages: u64) -> Room<'_> {
        let limit = self.limits.pages;
        let with_them = |cached: u64| Some(cached + pages).filter(|sum| *sum <= limit);
        let cached = &self.counts.cached;
        while cached
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, with_them)
            .is_err()
        {
            // When room was made and is gone again, somebody else has it, and goes on.
            if !self.shrink(limit.saturating_sub(pages)) {
                self.counts.over_budget.fetch_add(1, Ordering::Relaxed);
                // Pairs with the Acquire of `statistics`: whoever sees more than the budget sees why.
                cached.fetch_add(pages, Ordering::Release);
                self.alarm.ring();
                break;
            }
        }
        Room { cache: self, pages }
    }

    /// Something can go that could not: was more memory than the budget taken because of it?
    pub(crate) fn shrink_to_budget(&self) {
        let _ = self.shrink(self.limits.pages);
    }

    /// Removes folios until there are no more than `limit` pages, as far as that goes without waiting: dirty and pinned
    /// folios stay, and so do those that somebody has locked; whether it went. The kernel's `shrink_folio_list`.
    fn shrink(&self, limit: u64) -> bool {
        if self.counts.cached.load(Ordering::Relaxed) <= limit {
            return true;
        }
        // By merit first, as often as there are folios; then each in turn once: merit may have passed over what can go
        // for what cannot.
        self.shrink_by(limit, Queue::next_victim) || self.shrink_by(limit, Queue::next_of_any)
    }

    fn shrink_by(&self, limit: u64, choose: fn(&mut Queue) -> Option<Arc<Folio>>) -> bool {
        let mut tries = self.queue.lock().len();
        while self.counts.cached.load(Ordering::Relaxed) > limit {
            let victim = if tries == 0 {
                None
            } else {
                choose(&mut self.queue.lock())
            };
            let Some(folio) = victim else {
                return false;
            };
            tries -= 1;
            let mapping = folio.mapping.upgrade();
            let locked = LockedFolio::try_lock(folio.clone());
            let is_removed = match (&mapping, &locked) {
                (Some(mapping), Some(locked)) => mapping.remove_unused(locked).is_ok(),
                _ => false,
            };
            drop(locked);
            if is_removed {
                self.counts.evicted.fetch_add(1, Ordering::Relaxed);
            } else {
                self.queue.lock().keep(&folio);
            }
        }
        true
    }

    /// Gives up all that can go now: for tests, and for who wants the memory. How many pages stay.
    pub fn drop_clean(&self) -> u64 {
        self.shrink(0);
        self.counts.cached.load(Ordering::Relaxed)
    }
}
