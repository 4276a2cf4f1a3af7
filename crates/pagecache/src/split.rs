//! Breaking a folio up into pages, so that one of them can be pinned.
//!
//! A pin keeps a whole folio where it is. If that were a large one, a truncation that cuts it could neither take the
//! pinned page out of the file nor leave it in: whoever has it pinned would store to what the file gets there next. So
//! what is pinned has one page.

use std::sync::Arc;

use udax_xarray::Entry;

use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::mapping::mark;
use crate::replace::take_over;
use crate::{CacheError, Mapping};

impl Mapping {
    /// Puts folios of one page in the place of a locked large one, all at once. No write of it is under way.
    ///
    /// # Errors
    /// There is no memory for both; nothing has changed.
    pub(crate) fn split(self: &Arc<Self>, large: &LockedFolio) -> Result<(), CacheError> {
        debug_assert!(!large.is_removed() && !large.is_pinned() && !large.has(flag::WRITEBACK));
        let room = self.cache().claim(large.len());
        let small = large
            .range()
            .map(|page| Folio::new_locked(self, page, 0).map(LockedFolio::new));
        let small = small.collect::<Option<Vec<_>>>();
        let page = large.first;
        let small = small.ok_or(CacheError::NoMemory { page })?;
        let mut inherited = flag::DROPBEHIND;
        if !large.has(inherited) {
            inherited = 0;
        }
        for folio in &small {
            take_over(folio, large, &folio.range());
            folio.raise(inherited);
        }
        let mut writer = self.index.write();
        let piece = |page: u64| {
            let at = usize::try_from(page - large.first).unwrap_or(usize::MAX);
            Entry::Pointer(Arc::clone(&small[at]))
        };
        let split = writer.split(large.first, 0, piece);
        debug_assert!(split.is_ok(), "{split:?}");
        for clean in small.iter().filter(|folio| !folio.has(flag::DIRTY)) {
            writer.clear_mark(clean.first, mark::DIRTY);
            writer.clear_mark(clean.first, mark::TOWRITE);
        }
        large.raise(flag::REMOVED);
        drop(writer);
        room.keep();
        for folio in &small {
            self.cache().admit(self.number(), folio);
        }
        self.replaced(large);
        Ok(())
    }
}
