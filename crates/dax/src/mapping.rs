//! A file's pages as they are reached by memory access: [`Mapping`].
//!
//! The mapping owns the index of entries, the invalidate lock, and what hangs on them. What is done with it is in the
//! file named for it: `entry_lock`, `fault`, `pinning`, `write_back`, `removal`, `breaking`, `pair`, `lease`.
//!
//! # Invariants
//! - A frame that is pinned through a mapping has an entry there, so that a scan of entries finds every pin.
//! - `pages` is the sum of what the entries cover.
//! - An entry comes, or changes what it names, only under the invalidate lock (shared and with the entry locked, or
//!   alone); it goes only under the lock held alone, or in the hands of the fault that has just made it.
//! - DIRTY goes only from an entry that is locked, flushed, and had no write pin when it was locked; a write pin sets
//!   it.
//!
//! # Locks
//! The invalidate lock (rank `Invalidate`, by number), then one entry's lock bit or several ascending, then the index's
//! writer lock. Nobody waits for a pin with any of them.

use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Rank, ReadGuard, RwLock};

use crate::gate::Gate;
use crate::index::{Index, Mark, Slot};
use crate::lease::Leases;
use crate::views::Views;
use crate::{DaxError, Device, Entry, Mode, PageRange, Unmap};

/// One file's pages. See the [module](self).
#[derive(Debug)]
pub struct Mapping {
    device: Arc<Device>,
    id: u64,
    number: u64,
    pub(crate) invalidate: RwLock<()>,
    pub(crate) index: Index,
    /// Changed under the index's writer lock; read by anybody.
    pages: AtomicU64,
    pub(crate) views: Views,
    pub(crate) gate: Gate,
    pub(crate) leases: Leases,
}

impl Mapping {
    /// The mapping of a file whose inode has this number, without entries. A file has one at a time.
    pub fn new(device: &Arc<Device>, number: u64) -> Arc<Self> {
        Arc::new(Self {
            device: Arc::clone(device),
            id: device.next_mapping(),
            number,
            invalidate: RwLock::with_order(Rank::Invalidate, number, ()),
            index: Index::new(number),
            pages: AtomicU64::new(0),
            views: Views::new(),
            gate: Gate::new(),
            leases: Leases::new(),
        })
    }

    /// The device that the file's blocks are on.
    #[inline]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The inode's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A number that no other mapping of the device has had.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Pages that entries cover.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// The entry at `page`, and the pages that it covers.
    pub fn entry(&self, page: u64) -> Option<(PageRange, Entry)> {
        self.index.load(page).map(|slot| (slot.pages(), slot.entry))
    }

    /// Whether the page's entry may have stores that are not durable.
    pub fn is_dirty(&self, page: u64) -> bool {
        self.index.is_marked(page, Mark::Dirty)
    }

    /// Whether there may be stores that are not durable.
    pub fn has_dirty(&self) -> bool {
        self.index.has_mark(Mark::Dirty)
    }

    /// How many threads wait for the page's entry to be unlocked.
    pub fn entry_waiters(&self, page: u64) -> usize {
        let slot = self.index.load(page);
        slot.map_or(0, |slot| self.device.waits.waiting(self.key(slot.start)))
    }

    /// Adds a view: from now on it is told what to let go of.
    pub fn add_view(&self, view: Arc<dyn Unmap>) {
        self.views.add(view);
    }

    /// Forgets a view, which has nothing mapped any more.
    pub fn remove_view(&self, view: &Arc<dyn Unmap>) {
        self.views.remove(view);
    }

    /// Shares the invalidate lock.
    #[inline]
    pub(crate) fn share(&self, page: u64, mode: &Mode) -> Result<ReadGuard<'_, ()>, DaxError> {
        let guard = match mode {
            Mode::NoWait => self.invalidate.try_read(),
            Mode::Until(until) => match until.deadline {
                None => Some(self.invalidate.read()),
                Some(deadline) => self.invalidate.read_until(deadline),
            },
        };
        guard.ok_or_else(|| match mode {
            Mode::NoWait => DaxError::WouldBlock {
                page,
                what: "its layout is being changed",
            },
            Mode::Until(_) => DaxError::Wait(crate::WaitError::TimedOut),
        })
    }

    /// Notes an entry that has come. Under the index's writer lock.
    pub(crate) fn count_entry(&self, slot: Slot) {
        self.pages.fetch_add(slot.entry.size().pages(), Ordering::Relaxed);
    }

    /// Notes an entry that has gone. Under the index's writer lock.
    pub(crate) fn uncount_entry(&self, slot: Slot) {
        self.pages.fetch_sub(slot.entry.size().pages(), Ordering::Relaxed);
    }

    /// Notes in the frame that an entry of this mapping has it. Under the index's writer lock.
    pub(crate) fn associate(&self, slot: Slot, shared: Sharing) {
        let frame = slot
            .entry
            .frame()
            .and_then(|number| self.device.frames.make(number));
        let Some(frame) = frame else {
            return;
        };
        let before = frame.associate(self.id, slot.start);
        if before != crate::Owner::None && shared == Sharing::Single {
            crate::statistics::Statistics::add(&self.device.statistics.unexpected_sharing);
        }
    }

    /// Notes in the frame that an entry has gone. Under the index's writer lock.
    pub(crate) fn disassociate(&self, slot: Slot) {
        let frame = slot
            .entry
            .frame()
            .and_then(|number| self.device.frames.get(number));
        if let Some(frame) = frame {
            frame.disassociate();
        }
    }
}

impl Drop for Mapping {
    /// Frames forget the entries. Nobody has a pin, which would keep the mapping. Without threads that could wait,
    /// dirty bytes are flushed as far as that goes: what is not durable then was never promised.
    fn drop(&mut self) {
        if self.pages() > 0 {
            let _ = self.write_back_range(PageRange::ALL);
            // Without the invalidate lock: nobody else has it, and whoever drops the last handle may hold another
            // file's.
            self.forget_alone();
        }
    }
}

/// Whether the filesystem says that others have a block too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    Single,
    Shared,
}
