//! A folio and its lock: [`LockedFolio`], and what may be done with it alone.

use std::ops::{Deref, Range};
use std::sync::Arc;

use udax_sync::atomic::Ordering;
use udax_sync::wait::Until;
use udax_sync::{Held, Rank};

use crate::folio::{Folio, flag};
use crate::page::{PAGE, overlap, pages_touched};

/// A folio that this thread has locked.
///
/// Locks of folios are taken ascending, one file at a time; debug builds check it.
#[derive(Debug)]
pub(crate) struct LockedFolio {
    folio: Arc<Folio>,
    /// None once somebody else is to unlock it.
    held: Option<Held>,
}

impl Deref for LockedFolio {
    type Target = Arc<Folio>;

    fn deref(&self) -> &Arc<Folio> {
        &self.folio
    }
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        if self.held.take().is_some() {
            self.folio.lower(flag::LOCKED);
        }
    }
}

/// A folio that is locked as long as this value, without a count of it: for the length of a look at the index.
pub(crate) struct BrieflyLocked<'f> {
    folio: &'f Folio,
    _held: Held,
}

impl<'f> BrieflyLocked<'f> {
    /// Takes the lock if it is free.
    pub(crate) fn try_new(folio: &'f Folio) -> Option<Self> {
        folio.try_raise_lock().then(|| Self {
            folio,
            _held: Held::note(Rank::Entry, folio.first),
        })
    }
}

impl Drop for BrieflyLocked<'_> {
    fn drop(&mut self) {
        self.folio.lower(flag::LOCKED);
    }
}

impl LockedFolio {
    /// Waits for the lock.
    pub(crate) fn lock(folio: Arc<Folio>) -> Self {
        let held = Held::take(Rank::Entry, folio.first);
        while !folio.try_raise_lock() {
            // Without a deadline or token the wait ends only by a wake.
            let _ = folio.wait_lowered(flag::LOCKED, &Until::forever());
        }
        Self {
            folio,
            held: Some(held),
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(folio: Arc<Folio>) -> Option<Self> {
        folio.try_raise_lock().then(|| Self::new(folio))
    }

    /// A folio that was made locked.
    pub(crate) fn new(folio: Arc<Folio>) -> Self {
        let held = Held::note(Rank::Entry, folio.first);
        Self {
            folio,
            held: Some(held),
        }
    }

    /// The folio, still locked: whoever has it now unlocks it, on any thread.
    pub(crate) fn into_locked(mut self) -> Arc<Folio> {
        // The rank belongs to this thread, the lock does not any more.
        self.held = None;
        Arc::clone(&self.folio)
    }

    /// Whether it has left its mapping: then there is nothing to be done with it.
    pub(crate) fn is_removed(&self) -> bool {
        self.has(flag::REMOVED)
    }

    /// Whether its bytes are reached by address.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.any.load(Ordering::Acquire) > 0
    }

    /// Waits until no write of it is under way.
    pub(crate) fn wait_written(&self) {
        let _ = self.wait_lowered(flag::WRITEBACK, &Until::forever());
    }

    /// Notes that these pages of the file are to be written back; they are uptodate and reserved for.
    pub(crate) fn make_dirty(&self, pages: &Range<u64>) {
        let is_dirty = self.has(flag::DIRTY) && self.pages.dirty.all(self.inner(pages));
        if is_dirty {
            return;
        }
        // A mapping that is going takes its folios with it, and what was stored by address to the last.
        if let Some(mapping) = self.mapping.upgrade() {
            let new = self.pages.dirty.set(self.inner(pages));
            let is_first = self.raise(flag::DIRTY);
            mapping.count_dirty(&self.folio, new, is_first);
        }
    }

    /// Zeros these bytes of the file, as far as they are its own and in pages that are uptodate.
    pub(crate) fn zero(&self, bytes: &Range<u64>) {
        let part = overlap(bytes, &self.byte_range());
        for page in pages_touched(&part) {
            if self.is_uptodate(&(page..page + 1)) {
                let within = overlap(&part, &(page * PAGE..(page + 1) * PAGE));
                self.bytes
                    .zero(self.offset(within.start)..self.offset(within.end));
            }
        }
    }
}
