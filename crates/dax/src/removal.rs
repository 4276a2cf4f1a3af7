//! How entries go: deleted by a break, invalidated when clean, and found by a truncation that should find none.

use crate::fault::{PinnedPage, Which};
use crate::index::{Mark, Slot};
use crate::mapping::Sharing;
use crate::statistics::Statistics;
use crate::{Copies, DaxError, Entry, Mapping, PageRange, Size};

/// Entries that are looked at before others get the index's lock.
const BATCH: u32 = 1024;

impl Mapping {
    /// The range with all of the large entries that it may cut: what views let go of, as a large translation goes
    /// whole.
    pub(crate) fn rounded(pages: PageRange) -> PageRange {
        let first = Size::Pmd.start_of(pages.first());
        let last = pages.last() | (Size::Pmd.pages() - 1);
        PageRange::between(first, last)
    }

    /// Calls `look` with each entry of the range, unlocked and in the index's lock, until it gives something.
    ///
    /// An entry that is locked is waited for, and looked at then. The invalidate lock is held alone.
    pub(crate) fn scan<T>(&self, pages: PageRange, mut look: impl FnMut(Slot) -> Option<T>) -> Option<T> {
        let mut rest = Some(pages);
        while rest.is_some() {
            let mut index = self.index.write();
            for _ in 0..BATCH {
                let Some(pages) = rest else { break };
                let slot;
                (index, slot) = self.next_unlocked(index, pages);
                let slot = slot?;
                if let Some(found) = look(slot) {
                    return Some(found);
                }
                rest = pages.starting_at(slot.pages().last().checked_add(1));
            }
        }
        None
    }

    /// The first page of the range that is pinned. The invalidate lock is held alone.
    pub(crate) fn first_busy(&self, pages: PageRange) -> Option<PinnedPage> {
        self.scan(pages, |slot| self.first_pinned(slot, pages, Which::All))
    }

    /// Unmaps the range, and gives the first page of it that is pinned: by whomever, and though no view has it any
    /// more.
    ///
    /// # Locks
    /// Takes the invalidate lock alone; on return it is released, and another pin may have come.
    pub fn busy_page_range(&self, pages: PageRange) -> Option<u64> {
        let _alone = self.invalidate.write();
        self.views.unmap(Self::rounded(pages), Copies::Keep);
        self.first_busy(pages).map(|pinned| pinned.page)
    }

    /// Deletes every entry of the range, and parts those that it cuts: what is left of them keeps its marks. The
    /// invalidate lock is held alone, and no page of the range is pinned.
    pub(crate) fn delete_range(&self, pages: PageRange) -> u64 {
        let mut deleted = 0;
        let mut rest = Some(pages);
        while rest.is_some() {
            let mut index = self.index.write();
            for _ in 0..BATCH {
                let Some(pages) = rest else { break };
                let slot;
                (index, slot) = self.next_unlocked(index, pages);
                let Some(slot) = slot else { return deleted };
                if !pages.covers(slot.pages()) && slot.entry.frame().is_some() {
                    self.part(&mut index, slot);
                    continue;
                }
                self.take_out(&mut index, slot.start);
                deleted += 1;
                rest = pages.starting_at(slot.pages().last().checked_add(1));
            }
        }
        deleted
    }

    /// Makes page entries out of a large one. No waiter is lost: it is not locked, so that nobody waits for it.
    fn part(&self, index: &mut crate::index::Writer<'_>, slot: Slot) {
        let Some(block) = slot.entry.frame() else {
            return;
        };
        let entry_of = |page: u64| Entry::real(block + (page - slot.start), Size::Page);
        index.split(slot, entry_of);
        self.disassociate(slot);
        for start in slot.pages().first()..=slot.pages().last() {
            let entry = entry_of(start);
            self.associate(Slot { start, entry }, Sharing::Shared);
        }
        // Who was woken by the lock's last holder and has not looked yet looks again anyway; who queues later does so
        // by the page's own number.
        self.wake(slot.start, crate::wait::Wake::All);
    }

    /// Deletes entries that are neither dirty nor pinned, and unmaps them: after a hole of the range was filled, or
    /// when memory is short. Gives how many were kept.
    ///
    /// # Locks
    /// Takes the invalidate lock alone.
    pub fn invalidate_clean(&self, pages: PageRange) -> u64 {
        if self.index.is_empty() {
            return 0;
        }
        let _alone = self.invalidate.write();
        self.views.unmap(Self::rounded(pages), Copies::Keep);
        let mut kept = 0;
        let mut rest = Some(pages);
        while let Some(pages) = rest {
            let (mut index, slot) = self.next_unlocked(self.index.write(), pages);
            let Some(slot) = slot else { break };
            let is_pinned = self.first_pinned(slot, slot.pages(), Which::All).is_some();
            if is_pinned || index.is_marked(slot.start, Mark::Dirty) {
                kept += 1;
            } else {
                self.take_out(&mut index, slot.start);
            }
            rest = pages.starting_at(slot.pages().last().checked_add(1));
        }
        kept
    }

    /// Deletes every entry, pinned or not: for a file without pins of its own, whose blocks may be pinned through other
    /// files that share them. Those keep the blocks; this file gives them up. Dirty bytes are not made durable.
    ///
    /// A file that is out of use has no pins: each keeps it in use.
    ///
    /// # Locks
    /// Takes the invalidate lock alone.
    pub fn forget(&self) {
        let _alone = self.invalidate.write();
        self.forget_alone();
    }

    /// As [`Mapping::forget`], for who has the mapping to itself.
    pub(crate) fn forget_alone(&self) {
        self.views.unmap(PageRange::ALL, Copies::Unmap);
        self.delete_range(PageRange::ALL);
    }

    /// For the end of a truncation, whose layout was broken: there is no entry in the range. If there is one, blocks
    /// may have been freed that somebody can still reach: it is deleted, counted, and in debug builds a panic.
    ///
    /// # Panics
    /// In debug builds, when there was an entry.
    ///
    /// # Errors
    /// `Moved`: a page of the range is pinned; nothing was deleted.
    pub fn truncate(&self, pages: PageRange) -> Result<(), DaxError> {
        let deleted = {
            let _alone = self.invalidate.write();
            // Also without entries: private copies may have been made since the break.
            self.views.unmap(pages, Copies::Unmap);
            if let Some(pinned) = self.first_busy(pages) {
                Statistics::add(&self.device().statistics.entries_at_truncate);
                return Err(DaxError::Moved { page: pinned.page });
            }
            self.delete_range(pages)
        };
        for _ in 0..deleted {
            Statistics::add(&self.device().statistics.entries_at_truncate);
        }
        debug_assert!(deleted == 0, "a truncation found {deleted} entries in {pages:?}");
        Ok(())
    }
}
