//! A piece of the cache: one or more pages of a file, in memory. [`Folio`].
//!
//! # Invariants
//! - `REMOVED` is set once, with the folio locked, and never cleared; from then on the folio is in no index.
//! - `DIRTY` says that a bit of `pages.dirty` is set, whenever the folio is unlocked.
//! - Waiters set `WAITERS` after they have joined the queue, and look at the flags in the same step; who clears a flag
//!   sees `WAITERS` in the same step: no wake is lost.

use std::ops::Range;
use std::sync::{Arc, Weak};

use udax_sync::atomic::{AtomicU8, AtomicU32, Ordering};
use udax_sync::wait::{Promise, Until, WaitError, WaitKey, Wake};

use crate::bits::{Bits, IsSet};
use crate::bytes::Bytes;
use crate::page::{PAGE, in_memory};
use crate::{Cache, Mapping};

/// Properties of a folio.
pub(crate) mod flag {
    /// Somebody has it locked.
    pub(crate) const LOCKED: u32 = 1;
    /// Somebody waits for a flag to go.
    pub(crate) const WAITERS: u32 = 1 << 1;
    /// A page is dirty.
    pub(crate) const DIRTY: u32 = 1 << 2;
    /// A write of it is under way.
    pub(crate) const WRITEBACK: u32 = 1 << 3;
    /// It leaves the cache when it is clean.
    pub(crate) const DROPBEHIND: u32 = 1 << 4;
    /// It has left its mapping.
    pub(crate) const REMOVED: u32 = 1 << 5;
    /// Whoever reads it should have the next window read ahead.
    pub(crate) const AHEAD: u32 = 1 << 6;
    /// A read into it is under way, and whoever has it locked waits for that.
    pub(crate) const READING: u32 = 1 << 7;
    /// It is in a queue of reclaim. Changes under the queue's lock.
    pub(crate) const QUEUED: u32 = 1 << 8;
    /// Namely in the main one.
    pub(crate) const MAIN: u32 = 1 << 9;
    /// It was not used before, only brought.
    pub(crate) const FRESH: u32 = 1 << 10;
}

/// What is waited for in a [`Cache`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// That a flag of the folio at this address goes, or its pins.
    Folio(usize),
    /// That fewer pages are dirty.
    Dirty,
}

impl WaitKey for Key {
    fn number(self) -> u64 {
        match self {
            Self::Folio(at) => crate::page::in_file(at >> 6),
            Self::Dirty => 1,
        }
    }
}

/// What each page is.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PageStates {
    /// Its bytes are those of the file.
    pub(crate) uptodate: Bits,
    /// They are not yet on the medium.
    pub(crate) dirty: Bits,
    /// A block is reserved for it.
    pub(crate) reserved: Bits,
}

/// Who reaches the bytes by address.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// All of them.
    pub(crate) any: AtomicU32,
    /// Those who may store.
    pub(crate) write: AtomicU32,
}

/// A piece of the cache. What every read and write looks at comes first, and is on one line.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Folio {
    flags: AtomicU32,
    /// How often it was used, up to a few: for reclaim.
    pub(crate) uses: AtomicU8,
    /// The first page, a multiple of `1 << order`.
    pub(crate) first: u64,
    pub(crate) bytes: Bytes,
    pub(crate) pages: PageStates,
    pub(crate) pins: Pins,
    pub(crate) mapping: Weak<Mapping>,
    pub(crate) cache: Arc<Cache>,
}

// Of a small folio, all but what it takes to give its space up is there; model checkers have larger atomics.
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(
    std::mem::offset_of!(Folio, pages) + std::mem::offset_of!(PageStates, reserved) == 64,
    "what a hit looks at is one line"
);

impl Folio {
    /// A folio of zeros, locked, of which no page is uptodate; none if there is no memory.
    pub(crate) fn new_locked(mapping: &Arc<Mapping>, first: u64, order: u8) -> Option<Arc<Self>> {
        let len = 1 << order;
        Some(Arc::new(Self {
            cache: Arc::clone(mapping.cache()),
            mapping: Arc::downgrade(mapping),
            first,
            flags: AtomicU32::new(flag::LOCKED | flag::FRESH),
            pins: Pins::default(),
            pages: PageStates {
                uptodate: Bits::new(len),
                dirty: Bits::new(len),
                reserved: Bits::new(len),
            },
            uses: AtomicU8::new(0),
            bytes: Bytes::zeroed(&mapping.cache().arena, order)?,
        }))
    }

    /// It has `1 << order` pages.
    pub(crate) fn order(&self) -> u8 {
        self.bytes.order()
    }

    /// How many pages it has.
    pub(crate) fn len(&self) -> u64 {
        1 << self.order()
    }

    /// Its pages, as the file numbers them.
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first + self.len()
    }

    /// Its bytes, as the file numbers them.
    pub(crate) fn byte_range(&self) -> Range<u64> {
        self.first * PAGE..(self.first + self.len()) * PAGE
    }

    /// Pages of the file, as those of the folio. They must be its own.
    pub(crate) fn inner(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start - self.first..pages.end - self.first
    }

    /// A byte of the file, as an offset into the folio's memory. It must be its own, or the one after.
    pub(crate) fn offset(&self, at: u64) -> usize {
        in_memory(at - self.first * PAGE)
    }

    /// Whether all these pages of the file, which are its own, are uptodate.
    pub(crate) fn is_uptodate(&self, pages: &Range<u64>) -> bool {
        self.pages.uptodate.all(self.inner(pages))
    }

    /// The first run of pages, of these of the file, that are not uptodate.
    pub(crate) fn next_missing(&self, pages: &Range<u64>) -> Option<Range<u64>> {
        let run = self.pages.uptodate.next_run(self.inner(pages), IsSet::No)?;
        Some(run.start + self.first..run.end + self.first)
    }

    /// The first run of pages, of these of the file, that are not dirty.
    pub(crate) fn next_clean(&self, pages: &Range<u64>) -> Option<Range<u64>> {
        let run = self.pages.dirty.next_run(self.inner(pages), IsSet::No)?;
        Some(run.start + self.first..run.end + self.first)
    }

    /// Keeps a block for each of these pages of the file, which were taken from the reservations. A page needs one
    /// only: it may have got one meanwhile from a write-back that failed, or have been written to while it was under
    /// way.
    pub(crate) fn keep_reserved(&self, pages: &Range<u64>) {
        let new = self.pages.reserved.set(self.inner(pages));
        self.cache.reservations().give_back(pages.end - pages.start - new);
    }

    #[inline]
    pub(crate) fn has(&self, flags: u32) -> bool {
        // Pairs with the Release in `raise` and `lower`.
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    /// Sets flags; whether any of them was not set.
    pub(crate) fn raise(&self, flags: u32) -> bool {
        self.flags.fetch_or(flags, Ordering::AcqRel) & flags != flags
    }

    /// Clears flags, and wakes who waits for that; whether any of them was set.
    pub(crate) fn lower(&self, flags: u32) -> bool {
        let before = self.flags.fetch_and(!flags, Ordering::AcqRel);
        if before & flag::WAITERS != 0 {
            self.wake();
        }
        before & flags != 0
    }

    /// Clears flags that nobody waits for; whether any of them was set. Wakes nobody, so that it can be done under a
    /// leaf.
    pub(crate) fn clear(&self, flags: u32) -> bool {
        debug_assert!(flags & (flag::LOCKED | flag::WRITEBACK | flag::READING) == 0);
        // Mostly none is: a look costs less than a change of nothing.
        self.has(flags) && self.flags.fetch_and(!flags, Ordering::AcqRel) & flags != 0
    }

    /// Locks it if it is unlocked.
    pub(crate) fn try_raise_lock(&self) -> bool {
        self.raise(flag::LOCKED)
    }

    /// Wakes everybody who waits for a flag of this folio, or for its pins.
    pub(crate) fn wake(&self) {
        // Cleared first: who sets it afterwards looks at the flags afterwards.
        self.flags.fetch_and(!flag::WAITERS, Ordering::AcqRel);
        self.cache.waits.wake(self.key(), Wake::All);
    }

    fn key(&self) -> Key {
        Key::Folio(std::ptr::from_ref(self).addr())
    }

    /// Waits until none of the flags is set.
    ///
    /// # Errors
    /// The caller's patience ended first.
    pub(crate) fn wait_lowered(&self, flags: u32, until: &Until) -> Result<(), WaitError> {
        self.wait_while(until, |now| now & flags != 0)
    }

    /// Waits while `is_blocked` says so of the flags; it is asked again whenever one goes.
    ///
    /// # Errors
    /// The caller's patience ended first.
    pub(crate) fn wait_while(
        &self,
        until: &Until,
        is_blocked: impl Fn(u32) -> bool,
    ) -> Result<(), WaitError> {
        while is_blocked(self.flags.load(Ordering::Acquire)) {
            let waiting = self.cache.waits.enqueue(self.key(), Promise::None);
            if !is_blocked(self.flags.fetch_or(flag::WAITERS, Ordering::AcqRel)) {
                break;
            }
            waiting.wait_until(until)?;
        }
        Ok(())
    }

    /// Notes that it was used. The first use is what it was brought for, and does not count: else a scan would look
    /// like what is used again.
    pub(crate) fn touch(&self) {
        if self.clear(flag::FRESH) {
            return;
        }
        // A lost count of two threads does no harm.
        let uses = self.uses.load(Ordering::Relaxed);
        if uses < crate::queue::MOST_USES {
            self.uses.store(uses + 1, Ordering::Relaxed);
        }
    }
}
