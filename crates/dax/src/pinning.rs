//! How a pin comes about: [`Mapping::pin`] and its forms.
//!
//! A page with an entry is pinned without a lock but the shared invalidate lock: its frame is counted, and then the
//! entry is looked at again. Whoever changes an entry under the shared lock, or takes DIRTY from it, locks it first and
//! looks at the counts afterwards; between store and load both have a full fence, so that one of them sees the other.
//! Any other page is faulted in, and counted while its entry is locked.

use std::sync::Arc;
use std::time::Instant;

use udax_sync::ReadGuard;
use udax_sync::atomic::{Ordering, fence};

use crate::fault::{Entered, Fault};
use crate::frames::Reach;
use crate::index::{Looks, Mark, Slot};
use crate::list::{self, Note};
use crate::pin::{Held, Pin};
use crate::statistics::Statistics;
use crate::{Access, DaxError, Extents, Label, Mapping, Mode, PageRange, Size, Term};

/// The most pages of a pin: 1 TiB, whose frames are noted in some megabytes at worst.
const MAX_PIN_PAGES: u64 = 1 << 28;

/// What a pin is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whether its holder stores.
    pub access: Access,
    /// Who holds it.
    pub label: Label,
    /// For how long.
    pub term: Term,
}

impl Request {
    /// A short pin without a label.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            label: Label::default(),
            term: Term::Short,
        }
    }

    /// The same, held by `label`.
    #[must_use]
    pub fn labelled(self, label: Label) -> Self {
        Self { label, ..self }
    }

    /// The same, for a long term.
    #[must_use]
    pub fn long(self) -> Self {
        Self {
            term: Term::Long,
            ..self
        }
    }
}

/// Whether a quick way was taken.
enum Quick {
    /// Up to this page.
    Held(u64),
    No,
}

impl Mapping {
    /// Pins pages: until the guard is dropped they stay where they are, whatever is done to the file.
    ///
    /// Waits for breaks of the range that are pending (for a bounded time: the caller may hold the pin that they wait
    /// for), and with write access for read leases of it.
    ///
    /// # Errors
    /// `NeedsAllocation`: a hole, for reading too: a hole has no page that could be pinned. `NeedsCopy`: write access
    /// to a shared block. `BeyondEnd` and others of [`Extents`]; `BadRange`: more than 2^28 pages; `TooManyPins`;
    /// `Moved`, `BadBlock`: the filesystem erred.
    ///
    /// # Locks
    /// Takes the invalidate lock shared; none is held on return.
    pub fn pin(
        self: &Arc<Self>,
        pages: PageRange,
        request: Request,
        extents: &dyn Extents,
    ) -> Result<Pin, DaxError> {
        self.pin_by(pages, request, &Mode::wait(), extents)
    }

    /// As [`Mapping::pin`], without waiting.
    ///
    /// # Errors
    /// As [`Mapping::pin`]; `WouldBlock`.
    pub fn try_pin(
        self: &Arc<Self>,
        pages: PageRange,
        request: Request,
        extents: &dyn Extents,
    ) -> Result<Pin, DaxError> {
        self.pin_by(pages, request, &Mode::NoWait, extents)
    }

    /// As [`Mapping::pin`], waiting at most until `deadline`.
    ///
    /// # Errors
    /// As [`Mapping::pin`]; `Wait`.
    pub fn pin_deadline(
        self: &Arc<Self>,
        pages: PageRange,
        request: Request,
        deadline: Instant,
        extents: &dyn Extents,
    ) -> Result<Pin, DaxError> {
        self.pin_by(pages, request, &Mode::deadline(deadline), extents)
    }

    /// As [`Mapping::pin`], waiting by `mode`.
    ///
    /// # Errors
    /// As [`Mapping::pin`]; `WouldBlock`, `Wait`.
    pub fn pin_by(
        self: &Arc<Self>,
        pages: PageRange,
        request: Request,
        mode: &Mode,
        extents: &dyn Extents,
    ) -> Result<Pin, DaxError> {
        self.pass_gate(pages, mode)?;
        self.pin_past_gate(pages, request, mode, extents)
    }

    /// As [`Mapping::pin_by`] for who has passed the gate ([`Mapping::pass_gate`]) already: who must not wait here with
    /// a lock, passes the gate without it first, takes the lock, and pins with `Mode::NoWait`.
    ///
    /// # Errors
    /// As [`Mapping::pin_by`].
    pub fn pin_past_gate(
        self: &Arc<Self>,
        pages: PageRange,
        request: Request,
        mode: &Mode,
        extents: &dyn Extents,
    ) -> Result<Pin, DaxError> {
        if pages.count() > MAX_PIN_PAGES {
            return Err(DaxError::BadRange);
        }
        loop {
            if request.access == Access::Write {
                self.leases.pass(self, pages, mode)?;
            }
            let mut held = Held::new(Arc::clone(self), request.access);
            let shared = self.share(pages.first(), mode)?;
            self.hold(&shared, pages, &mut held, (mode, extents))?;
            drop(shared);
            // Either this sees the lease, or the lease sees the pin: see the fences in `hold`.
            if request.access == Access::Write && self.leases.overlaps(pages) {
                continue;
            }
            let note = Note {
                pages,
                request,
                file: self.number(),
                since: list::now(),
            };
            return Ok(Pin::new(held, note));
        }
    }

    /// Counts the frames of the whole range, and passes a full fence after each count; on error some are counted in
    /// `held`, which takes them back.
    fn hold(
        &self,
        shared: &ReadGuard<'_, ()>,
        pages: PageRange,
        held: &mut Held,
        by: (&Mode, &dyn Extents),
    ) -> Result<(), DaxError> {
        let mut rest = Some(pages);
        while let Some(pages) = rest {
            let last = match self.hold_quickly(pages, held)? {
                Quick::Held(last) => last,
                Quick::No => {
                    let last = self.hold_slowly(shared, pages, held, by)?;
                    // Pairs with that in `Leases::add`, as the one in `hold_quickly` does too.
                    fence(Ordering::SeqCst);
                    last
                }
            };
            rest = pages.starting_at(last.checked_add(1));
        }
        Ok(())
    }

    /// Counts frames by the entry at the first page, if there is one as it has to be.
    #[inline]
    fn hold_quickly(&self, pages: PageRange, held: &mut Held) -> Result<Quick, DaxError> {
        let page = pages.first();
        let _looks = Looks::enter();
        let Some(slot) = self.index.load(page) else {
            return Ok(Quick::No);
        };
        if slot.entry.is_locked() || slot.entry.frame().is_none() {
            return Ok(Quick::No);
        }
        let before = held.len();
        let last = self.count(slot, pages, held)?;
        // Pairs with those in `Mapping::is_pinned` and `Mapping::write_back_batch`.
        fence(Ordering::SeqCst);
        let is_unchanged = self.index.load(page) == Some(slot);
        let is_fit = held.access() == Access::Read || self.index.is_marked(page, Mark::Dirty);
        if is_unchanged && is_fit {
            return Ok(Quick::Held(last));
        }
        held.shorten(before);
        Ok(Quick::No)
    }

    /// Faults the first page in, as a part of a large entry if the range covers one, and counts its frames.
    #[cold]
    fn hold_slowly(
        &self,
        shared: &ReadGuard<'_, ()>,
        pages: PageRange,
        held: &mut Held,
        (mode, extents): (&Mode, &dyn Extents),
    ) -> Result<u64, DaxError> {
        Statistics::add(&self.device().statistics.slow_pins);
        let page = pages.first();
        let large = PageRange::of_entry(Size::Pmd.start_of(page), Size::Pmd.pages());
        let sizes: &[Size] = if pages.covers(large) {
            &[Size::Pmd, Size::Page]
        } else {
            &[Size::Page]
        };
        for size in sizes {
            let fault = Fault {
                page,
                size: *size,
                access: held.access(),
            };
            let Entered::Locked(locked) = self.enter(shared, fault, mode, extents)? else {
                continue;
            };
            if locked.slot().entry.frame().is_none() {
                // A hole: its entry is for views, not for pins.
                locked.abandon();
                return Err(DaxError::NeedsAllocation { page });
            }
            return self.count(locked.slot(), pages, held);
        }
        // The filesystem's runs are at least one page long, so that a page is never refused for its size.
        Err(DaxError::BadRange)
    }

    /// Counts the frames of the part of the range that the entry covers; gives its last page.
    #[inline]
    fn count(&self, slot: Slot, pages: PageRange, held: &mut Held) -> Result<u64, DaxError> {
        let page = pages.first();
        let entry = slot.pages();
        let last = entry.last().min(pages.last());
        let Some(block) = slot.entry.frame() else {
            return Err(DaxError::NeedsAllocation { page });
        };
        let is_whole = slot.entry.size() == Size::Pmd && pages.covers(entry);
        let (reach, step) = if is_whole {
            (Reach::Huge, Size::Pmd.pages())
        } else {
            (Reach::Page, 1)
        };
        let mut at = page;
        while at <= last {
            if !held.add(block + (at - slot.start), reach) {
                return Err(DaxError::TooManyPins { page: at });
            }
            let Some(next) = at.checked_add(step) else { break };
            at = next;
        }
        Ok(last)
    }
}
