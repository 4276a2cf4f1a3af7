//! Faults: how an entry comes to name what the filesystem has at a page.
//!
//! The entry is locked *before* the filesystem is asked, so that a fault and an allocation of the same page cannot miss
//! each other: whoever fills a hole invalidates its entries afterwards, and that waits for the lock.

use udax_sync::ReadGuard;
use udax_sync::atomic::{Ordering, fence};

use crate::entry_lock::{Grabbed, Locked};
use crate::frames::{Kinds, Reach};
use crate::index::{Mark, Slot};
use crate::mapping::Sharing;
use crate::{Access, Content, Copies, DaxError, Entry, Extent, Extents, Mapping, Mode, PageRange, Size};

/// What a fault is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The page.
    pub page: u64,
    /// How much to map at once.
    pub size: Size,
    /// Whether it stores.
    pub access: Access,
}

/// What a fault found; a view maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faulted {
    /// Blocks of the device, that of the first page first.
    Mapped {
        /// Which of the file's pages; the faulting one is among them.
        pages: PageRange,
        /// Block of the first of them.
        block: u64,
        /// Whether stores may be allowed: the entry is dirty then.
        access: Access,
    },
    /// A hole: zeros, read-only.
    Zero {
        /// Which of the file's pages.
        pages: PageRange,
    },
    /// Not as a whole: page by page.
    Fallback,
}

/// What locking an entry and asking the filesystem came to.
pub(crate) enum Entered<'m> {
    /// The entry, locked, and as the filesystem says.
    Locked(Locked<'m>),
    /// Not in this size.
    Fallback,
}

impl Mapping {
    /// Makes an entry for a view's fault; calls `map` with what is there while the entry is locked, so that whatever it
    /// maps is unmapped by who changes the entry later.
    ///
    /// A fallback is not mapped: the view takes the large translation away, if it has one, and faults the page.
    ///
    /// # Errors
    /// `NeedsAllocation`, `NeedsCopy`: a store to what is not the file's own block; `BeyondEnd` and others of
    /// [`Extents`]; `Moved`; `BadBlock`; `WouldBlock`, `Wait`: by `mode`, also for a read lease that a store waits for.
    /// Nothing has changed.
    ///
    /// # Locks
    /// Takes the invalidate lock shared.
    pub fn fault(
        &self,
        fault: Fault,
        mode: &Mode,
        extents: &dyn Extents,
        map: impl FnOnce(Faulted),
    ) -> Result<Faulted, DaxError> {
        let mut pages = PageRange::of_entry(fault.size.start_of(fault.page), fault.size.pages());
        let (_shared, locked) = loop {
            if fault.access == Access::Write {
                self.leases.pass(self, pages, mode)?;
            }
            let shared = self.share(fault.page, mode)?;
            let Entered::Locked(locked) = self.enter(&shared, fault, mode, extents)? else {
                return Ok(Faulted::Fallback);
            };
            // A lease that came in between waits for the entry, and then takes away what is mapped below.
            pages = locked.slot().pages();
            if fault.access == Access::Read || !self.leases.overlaps_after_fence(pages) {
                break (shared, locked);
            }
        };
        let slot = locked.slot();
        let pages = slot.pages();
        let faulted = match slot.entry.frame() {
            Some(block) => Faulted::Mapped {
                pages,
                block,
                access: fault.access,
            },
            None => Faulted::Zero { pages },
        };
        map(faulted);
        Ok(faulted)
    }

    /// Locks the page's entry and makes it what the filesystem says.
    pub(crate) fn enter(
        &self,
        _shared: &ReadGuard<'_, ()>,
        fault: Fault,
        mode: &Mode,
        extents: &dyn Extents,
    ) -> Result<Entered<'_>, DaxError> {
        let mut locked = match self.grab(fault.page, fault.size, mode)? {
            Grabbed::Locked(locked) => locked,
            Grabbed::Fallback => return Ok(Entered::Fallback),
        };
        let size = locked.slot().entry.size();
        let first = size.start_of(fault.page);
        let looked = extents
            .extent(first, size, fault.access)
            .and_then(|extent| self.entry_for(first, size, fault, extent));
        let result = looked.and_then(|found| match found {
            Some((entry, sharing)) => self.insert(&mut locked, entry, sharing, fault.access).map(Some),
            None if locked.slot().entry.frame().is_some() => Err(DaxError::Moved { page: fault.page }),
            None => Ok(None),
        });
        match result {
            Ok(Some(())) => Ok(Entered::Locked(locked)),
            Ok(None) => {
                locked.abandon();
                Ok(Entered::Fallback)
            }
            Err(error) => {
                locked.abandon();
                Err(error)
            }
        }
    }

    /// The entry that the extent asks for; none if it is not of this size.
    fn entry_for(
        &self,
        first: u64,
        size: Size,
        fault: Fault,
        extent: Extent,
    ) -> Result<Option<(Entry, Sharing)>, DaxError> {
        let page = fault.page;
        let is_whole = extent.pages >= size.pages();
        let Content::Mapped { block, shared } = extent.content else {
            return match fault.access {
                // A large entry may be a hole in part only.
                _ if !is_whole => Ok(None),
                Access::Write => Err(DaxError::NeedsAllocation { page }),
                Access::Read => Ok(Some((Entry::zero(size), Sharing::Single))),
            };
        };
        if !is_whole || size.start_of(block) != block {
            return Ok(None);
        }
        if shared && fault.access == Access::Write {
            return Err(DaxError::NeedsCopy { page });
        }
        if !self.device().has_blocks(block, size.pages()) {
            return Err(DaxError::BadBlock { page: first, block });
        }
        let sharing = if shared { Sharing::Shared } else { Sharing::Single };
        Ok(Some((Entry::real(block, size), sharing)))
    }

    /// Puts what the filesystem says into the locked entry.
    fn insert(
        &self,
        locked: &mut Locked<'_>,
        entry: Entry,
        sharing: Sharing,
        access: Access,
    ) -> Result<(), DaxError> {
        let old = locked.slot();
        // A shared block is taken anew each time, as its owners may have changed; what was mapped before goes first.
        let replaces = old.entry != entry || sharing == Sharing::Shared;
        if replaces && !old.entry.is_empty() {
            self.views.unmap(old.pages(), Copies::Keep);
        }
        if old.entry != entry && self.is_pinned(old) {
            return Err(DaxError::Moved { page: old.start });
        }
        let mut index = self.index.write();
        if replaces {
            self.disassociate(old);
            self.associate(Slot { entry, ..old }, sharing);
        }
        locked.put(&mut index, entry);
        if entry.frame().is_none() {
            index.clear_mark(old.start, Mark::Dirty);
        } else if access == Access::Write {
            index.set_mark(old.start, Mark::Dirty);
        }
        Ok(())
    }

    /// Whether a page of the locked entry is pinned.
    fn is_pinned(&self, slot: Slot) -> bool {
        // Pairs with the fence in `Mapping::hold_quickly`: either this sees its pin, or it sees the lock.
        fence(Ordering::SeqCst);
        self.first_pinned(slot, slot.pages(), Which::All).is_some()
    }

    /// The first page of `pages` that is pinned by its entry `slot`, and what to wait for.
    pub(crate) fn first_pinned(&self, slot: Slot, pages: PageRange, which: Which) -> Option<PinnedPage> {
        let block = slot.entry.frame()?;
        let pages = slot.pages().intersection(pages)?;
        let frames = &self.device().frames;
        let huge = which.of(Reach::Huge);
        if slot.entry.size() == Size::Pmd && frames.first_pinned(block, 1, huge).is_some() {
            return Some(PinnedPage {
                page: pages.first(),
                frame: block,
                kinds: huge,
            });
        }
        let kinds = which.of(Reach::Page);
        let first = block + (pages.first() - slot.start);
        let frame = frames.first_pinned(first, pages.count(), kinds)?;
        Some(PinnedPage {
            page: slot.start + (frame - block),
            frame,
            kinds,
        })
    }
}

impl Mapping {
    /// Asks to be woken when the page is unpinned; whether it still is pinned, and still this file's. By whom it is
    /// pinned later, when the block has become another file's, concerns nobody here.
    pub(crate) fn awaits_unpin(&self, pinned: PinnedPage) -> bool {
        let frames = &self.device().frames;
        let is_pinned = frames
            .get(pinned.frame)
            .is_some_and(|frame| frame.await_unpin(pinned.kinds));
        is_pinned && self.has_frame(pinned)
    }

    fn has_frame(&self, pinned: PinnedPage) -> bool {
        let slot = self.index.load(pinned.page);
        slot.is_some_and(|slot| {
            let first = slot.entry.frame();
            first.is_some_and(|first| (first..first + slot.entry.size().pages()).contains(&pinned.frame))
        })
    }
}

/// Which pins are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    All,
    Writing,
}

impl Which {
    pub(crate) fn of(self, reach: Reach) -> Kinds {
        let all = match reach {
            Reach::Page => Kinds::PAGE,
            Reach::Huge => Kinds::HUGE,
        };
        match self {
            Self::All => all,
            Self::Writing => all.writes(),
        }
    }
}

/// A page that is pinned, and what to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PinnedPage {
    pub(crate) page: u64,
    pub(crate) frame: u64,
    pub(crate) kinds: Kinds,
}
