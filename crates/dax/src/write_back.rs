//! Write-back: making the bytes of dirty entries durable.
//!
//! One ascending pass over the entries with DIRTY. Up to [`BATCH`] are locked, write-protected in the views, flushed
//! and fenced together; then DIRTY goes and they are unlocked. An entry that another write-back has locked is waited
//! for: it stays DIRTY until it is durable, so that nobody is told so before. There is no second mark for what was
//! dirty when the pass began: the pass meets each page once, and ends where the caller's range does.
//!
//! An entry with a write pin stays DIRTY: stores through the pin can come at any time.

use smallvec::SmallVec;
use udax_sync::atomic::{Ordering, fence};
use udax_sync::fault::{Fault, is_injected};

use crate::entry_lock::Locked;
use crate::fault::Which;
use crate::index::{Mark, Slot};
use crate::wait::Promise;
use crate::{DaxError, Mapping, PAGE, PageRange};

/// Entries that share a fence: so many that it costs little, so few that nobody waits long for their locks.
const BATCH: usize = 16;

type Batch<'m> = SmallVec<[Locked<'m>; BATCH]>;

impl Mapping {
    /// Makes what was stored into the range durable; of a large entry that the range cuts, all.
    ///
    /// # Durability
    /// All stores to the range through pins and views that ended before the call, and what this thread stored past the
    /// cache before it.
    ///
    /// # Errors
    /// `Region`: a media error; the first of several. What failed stays dirty, all else was written back.
    ///
    /// # Locks
    /// Locks entries; none is needed.
    pub fn write_back_range(&self, pages: PageRange) -> Result<(), DaxError> {
        if !self.index.has_mark(Mark::Dirty) {
            // Others may have stored past the cache and left it to this fence.
            return Ok(self.device().region().fence()?);
        }
        let mut rest = Some(pages);
        let mut result = Ok(());
        while rest.is_some() {
            let batch = self.lock_batch(&mut rest);
            result = result.and(self.write_back_batch(batch));
        }
        result
    }

    /// Locks dirty entries at the beginning of `rest`, and takes them off it.
    fn lock_batch(&self, rest: &mut Option<PageRange>) -> Batch<'_> {
        let mut batch = Batch::new();
        let mut index = self.index.write();
        while let Some(pages) = *rest
            && batch.len() < BATCH
        {
            let Some(slot) = index.next_marked(pages, Mark::Dirty) else {
                *rest = None;
                break;
            };
            if !slot.entry.is_locked() {
                batch.push(self.lock_found(&mut index, slot));
                *rest = pages.starting_at(slot.pages().last().checked_add(1));
            } else if batch.is_empty() {
                let waiting = self.device().waits.enqueue(self.key(slot.start), Promise::None);
                drop(index);
                waiting.wait();
                index = self.index.write();
            } else {
                // Waits for nobody with entries locked.
                break;
            }
        }
        batch
    }

    fn write_back_batch(&self, batch: Batch<'_>) -> Result<(), DaxError> {
        // Pairs with the fence in `Mapping::hold_quickly`: either the pin sees the lock, or this sees the pin.
        fence(Ordering::SeqCst);
        let mut result = Ok(());
        let mut done = SmallVec::<[(Locked<'_>, bool); BATCH]>::new();
        for locked in batch {
            let slot = locked.slot();
            // Before the flush: who unpins later may have stored behind it.
            let stays = self.first_pinned(slot, slot.pages(), Which::Writing).is_some();
            self.views.write_protect(slot.pages());
            match self.flush(slot) {
                Ok(()) => done.push((locked, stays)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.device().region().fence()?;
        for (locked, stays) in done {
            if stays {
                drop(locked);
            } else {
                self.unlock_clean(locked);
            }
        }
        result
    }

    fn flush(&self, slot: Slot) -> Result<(), DaxError> {
        let Some(block) = slot.entry.frame() else {
            return Ok(());
        };
        let len = slot.entry.size().pages() * PAGE;
        if is_injected(Fault::UnflushedPin) {
            return Ok(());
        }
        Ok(self.device().region().flush(block * PAGE, len)?)
    }
}
