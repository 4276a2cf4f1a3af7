//! The lock bit of entries: taking it with [`Mapping::grab`], and giving it back by dropping [`Locked`].
//!
//! A waiter looks at the bit and enqueues under the index's writer lock; whoever unlocks changes the bit under it and
//! then wakes: no wake is lost. Who grabs waits *exclusively*: one is woken at a time, and locks the entry or finds
//! that another has (whose unlocking wakes the next) or that it is gone (which woke all). Who gives up in time was not
//! the one chosen, or goes on: see `wait`. Who scans waits without a promise, and looks at the same page again.

use crate::index::{Mark, Slot, Writer};
use crate::statistics::Statistics;
use crate::wait::{Key, Promise, Wake};
use crate::{Copies, DaxError, Entry, Mapping, Mode, PageRange, Size};

/// An entry whose lock bit is this one's. Dropping it puts `slot.entry` in place, unlocked, and wakes the next.
#[derive(Debug)]
pub(crate) struct Locked<'m> {
    mapping: &'m Mapping,
    /// The entry as it is to be left: what was put last, never what was found first.
    slot: Slot,
    is_new: bool,
}

/// What locking came to.
#[derive(Debug)]
pub(crate) enum Grabbed<'m> {
    /// The entry, or an empty one that was made.
    Locked(Locked<'m>),
    /// There are smaller entries where a large one was asked for.
    Fallback,
}

impl<'m> Locked<'m> {
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Puts another entry of the same size in place, still locked. In the index's lock that `index` holds.
    pub(crate) fn put(&mut self, index: &mut Writer<'_>, entry: Entry) {
        let next = Slot { entry, ..self.slot };
        index.replace(self.slot.locked(), next.locked());
        self.slot = next;
    }

    /// Gives the entry up: takes it out again if it was made for this, so that what fails leaves nothing behind.
    pub(crate) fn abandon(self) {
        if self.is_new {
            let mut index = self.mapping.index.write();
            self.mapping.take_out(&mut index, self.slot.start);
            std::mem::forget(self);
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut index = self.mapping.index.write();
        index.replace(self.slot.locked(), self.slot);
        drop(index);
        self.mapping.wake(self.slot.start, Wake::Next);
    }
}

impl Mapping {
    pub(crate) fn key(&self, start: u64) -> Key {
        Key::Entry {
            mapping: self.id(),
            start,
        }
    }

    pub(crate) fn wake(&self, start: u64, wake: Wake) {
        self.device().waits.wake(self.key(start), wake);
    }

    /// Erases the entry at `page`, with its marks and its claim to its frame, and wakes all who wait for it.
    pub(crate) fn take_out(&self, index: &mut Writer<'_>, page: u64) {
        if let Some(slot) = index.erase(page) {
            self.disassociate(slot);
            self.uncount_entry(slot);
            self.wake(slot.start, Wake::All);
        }
    }

    /// The first entry of the range, once it is not locked; and the index's lock, which was released meanwhile if the
    /// entry was.
    pub(crate) fn next_unlocked<'i>(
        &'i self,
        mut index: Writer<'i>,
        pages: PageRange,
    ) -> (Writer<'i>, Option<Slot>) {
        loop {
            match index.next(pages) {
                Some(slot) if slot.entry.is_locked() => {
                    let waiting = self.device().waits.enqueue(self.key(slot.start), Promise::None);
                    drop(index);
                    waiting.wait();
                    index = self.index.write();
                }
                found => return (index, found),
            }
        }
    }

    /// Locks the entry that covers `page`; makes an empty one of `size` if there is none.
    ///
    /// The invalidate lock is shared by the caller.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: somebody else has it locked, by `mode`.
    pub(crate) fn grab(&self, page: u64, size: Size, mode: &Mode) -> Result<Grabbed<'_>, DaxError> {
        let start = size.start_of(page);
        let wanted = PageRange::of_entry(start, size.pages());
        let mut index = self.index.write();
        loop {
            let Some(slot) = index.next(wanted) else {
                return Ok(Grabbed::Locked(self.make_empty(&mut index, start, size)));
            };
            // Before the lock is looked at: a large request must not wait for a small entry.
            if slot.entry.size() < size {
                return Ok(Grabbed::Fallback);
            }
            if slot.entry.is_locked() {
                let Mode::Until(until) = mode else {
                    return Err(DaxError::WouldBlock {
                        page,
                        what: "its entry is locked",
                    });
                };
                let waiting = self
                    .device()
                    .waits
                    .enqueue(self.key(slot.start), Promise::Exclusive);
                drop(index);
                waiting.wait_until(until)?;
                index = self.index.write();
                continue;
            }
            index.replace(slot, slot.locked());
            let locked = Locked {
                mapping: self,
                slot,
                is_new: false,
            };
            if slot.entry.frame().is_some() || slot.entry.size() == size {
                return Ok(Grabbed::Locked(locked));
            }
            drop(index);
            self.downgrade(locked);
            index = self.index.write();
        }
    }

    fn make_empty(&self, index: &mut Writer<'_>, start: u64, size: Size) -> Locked<'_> {
        let slot = Slot {
            start,
            entry: Entry::empty(size),
        };
        index.put(slot.locked());
        self.count_entry(slot);
        Locked {
            mapping: self,
            slot,
            is_new: true,
        }
    }

    /// Makes room for a page's entry where a large one stands for nothing.
    fn downgrade(&self, locked: Locked<'_>) {
        let slot = locked.slot;
        if slot.entry.is_zero() {
            self.views.unmap(slot.pages(), Copies::Keep);
        }
        let mut index = self.index.write();
        // Its waiters queued by the large entry's first page, as this wake does, and it wakes all.
        self.take_out(&mut index, slot.start);
        std::mem::forget(locked);
    }

    /// Locks the entry at `page`, which the caller has found unlocked in the index's lock that it holds.
    pub(crate) fn lock_found(&self, index: &mut Writer<'_>, slot: Slot) -> Locked<'_> {
        index.replace(slot, slot.locked());
        Locked {
            mapping: self,
            slot,
            is_new: false,
        }
    }

    /// Unlocks the entry without DIRTY, in one step: it has been made durable.
    pub(crate) fn unlock_clean(&self, locked: Locked<'_>) {
        let slot = locked.slot;
        let mut index = self.index.write();
        index.clear_mark(slot.start, Mark::Dirty);
        index.replace(slot.locked(), slot);
        drop(index);
        std::mem::forget(locked);
        self.wake(slot.start, Wake::Next);
        Statistics::add(&self.device().statistics.written_back);
    }
}
