//! Folios that leave the cache as soon as they are clean: reads and writes with `DONTCACHE`.
//!
//! Only a folio that such a call has brought has `DROPBEHIND`; any other use takes it away. A write with `DONTCACHE`
//! has its range written back when all of it is in the cache, never in between, so that the extents that it was given
//! stay true. See the kernel's `folio_end_dropbehind` and reference 2.18.

use std::ops::Range;
use std::sync::Arc;

use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::{Backing, CacheError, Control, Integrity, Mapping, Written};

impl Mapping {
    /// Begins to write back what a write with `DONTCACHE` has left, once it is done with: pages go when they are clean.
    /// Nothing is promised by it.
    ///
    /// # Errors
    /// The first of the pass. The next sync tells it too.
    pub fn write_behind(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        bytes: Range<u64>,
    ) -> Result<Written, CacheError> {
        self.write_back(backing, Control::range(Integrity::Background, &bytes))
    }

    /// Removes a folio that is to leave, unless it is needed again: that is looked at with the folio locked.
    pub(crate) fn drop_behind(&self, folio: &Arc<Folio>) {
        if !folio.has(flag::DROPBEHIND) || folio.has(flag::DIRTY | flag::WRITEBACK) {
            return;
        }
        let Some(locked) = LockedFolio::try_lock(Arc::clone(folio)) else {
            return;
        };
        // Dirty or under way again, it keeps the flag, and goes when that is done.
        if !locked.has(flag::DIRTY | flag::WRITEBACK) && locked.clear(flag::DROPBEHIND) {
            // In somebody's use, it stays.
            let _ = self.remove_unused(&locked);
        }
    }
}
