//! Breaking a layout: what everybody does who changes which blocks a range of a file has.
//!
//! In this order, with the invalidate lock held alone: views unmap the range; its entries are scanned for pins; when
//! there are some, the lock is released, one of them is waited for, and all begins anew; when there are none, dirty
//! entries are written back, and all are deleted. [`Broken`] is the proof, and keeps the lock: no page of the range is
//! pinned, mapped or faulted in while it lives. Where something fails, no entry is deleted.
//!
//! A break whose pins are waited for without the filesystem's locks has two halves: [`Mapping::try_break`] gives
//! [`Busy`], the caller releases its inode's lock, [`Busy::wait`]s, takes the lock and tries again. While it keeps the
//! `Busy`, new pins of the range wait, so that it does not starve.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use udax_sync::{WriteGuard, fault};

use crate::fault::PinnedPage;
use crate::gate::Pending;
use crate::index::Mark;
use crate::statistics::Statistics;
use crate::wait::Key;
use crate::{Copies, DaxError, Mapping, Mode, PageRange, Until, WaitError};

/// What becomes of the bytes in a range whose layout is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// They go on to exist, here or elsewhere: dirty ones are made durable.
    Kept,
    /// Nobody will read them again.
    Discarded,
}

/// What is broken together: mostly one range, or two of one file.
pub(crate) type Ranges = SmallVec<[(PageRange, Fate); 2]>;

/// Proof that ranges of a file have no pin, no translation and no entry, and get none while it lives.
#[derive(Debug)]
pub struct Broken<'m> {
    mapping: &'m Mapping,
    ranges: Ranges,
    _alone: WriteGuard<'m, ()>,
}

impl Broken<'_> {
    /// The number of the file.
    pub fn number(&self) -> u64 {
        self.mapping.number()
    }

    /// Whether it is a proof for this range of this mapping: what frees blocks asserts that.
    pub fn covers(&self, mapping: &Mapping, pages: PageRange) -> bool {
        std::ptr::eq(self.mapping, mapping) && self.ranges.iter().any(|(range, _)| range.covers(pages))
    }
}

/// What an attempt to break came to.
#[derive(Debug)]
pub enum Attempt<B> {
    /// It is broken.
    Broken(B),
    /// A page is pinned. Nothing has changed, but that views have to fault again.
    Busy(Busy),
}

/// A pinned page in the way of a break. While it lives, new pins of the range wait; keep it until the next attempt.
#[derive(Debug)]
pub struct Busy {
    pending: Pending,
    pinned: PinnedPage,
}

impl Busy {
    /// The number of the file.
    pub fn number(&self) -> u64 {
        self.pending.mapping().number()
    }

    /// The page.
    pub fn page(&self) -> u64 {
        self.pinned.page
    }

    /// Waits until nobody has the page pinned. Another page may be pinned then, or the same again.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`: by `until`.
    ///
    /// # Locks
    /// None may be held that a holder of a pin could want.
    pub fn wait(&self, until: &Until) -> Result<(), WaitError> {
        let mapping = self.pending.mapping();
        let device = mapping.device();
        let begin = Instant::now();
        let is_pinned = || mapping.awaits_unpin(self.pinned);
        let result = device
            .waits
            .wait_while(Key::Frame(self.pinned.frame), until, is_pinned);
        device.statistics.note_wait(begin.elapsed());
        result
    }

    fn error(&self) -> DaxError {
        DaxError::WouldBlock {
            page: self.pinned.page,
            what: "it is pinned",
        }
    }
}

/// A mapping whose invalidate lock is held alone, with ranges that are unmapped.
pub(crate) struct Claim<'m> {
    mapping: &'m Mapping,
    ranges: Ranges,
    alone: WriteGuard<'m, ()>,
}

impl<'m> Claim<'m> {
    /// Takes the lock and unmaps.
    pub(crate) fn new(mapping: &'m Arc<Mapping>, ranges: &[(PageRange, Fate)]) -> Self {
        let alone = mapping.invalidate.write();
        for (pages, _) in ranges {
            mapping.views.unmap(Mapping::rounded(*pages), Copies::Keep);
        }
        Self {
            mapping,
            ranges: ranges.iter().copied().collect(),
            alone,
        }
    }

    /// The first page of the ranges that is pinned.
    pub(crate) fn first_busy(&self) -> Option<PinnedPage> {
        if fault::is_injected(fault::Fault::SkipWait) {
            return None;
        }
        self.ranges
            .iter()
            .find_map(|(pages, _)| self.mapping.first_busy(*pages))
    }

    /// Makes those bytes durable that go on to exist. No page is pinned, so that the entries are clean then.
    pub(crate) fn save(&self) -> Result<(), DaxError> {
        self.ranges
            .iter()
            .filter(|(_, fate)| *fate == Fate::Kept)
            .try_for_each(|(pages, _)| self.mapping.write_back_range(*pages))
    }

    /// Deletes the entries.
    pub(crate) fn finish(self) -> Broken<'m> {
        if !fault::is_injected(fault::Fault::SkipDelete) {
            for (pages, _) in &self.ranges {
                self.mapping.delete_range(*pages);
            }
        }
        Statistics::add(&self.mapping.device().statistics.breaks);
        Broken {
            mapping: self.mapping,
            ranges: self.ranges,
            _alone: self.alone,
        }
    }
}

/// The pinned page as what a caller waits for; registers the ranges, and then the lock may go.
pub(crate) fn busy(mapping: &Arc<Mapping>, ranges: &[(PageRange, Fate)], pinned: PinnedPage) -> Busy {
    let pages: SmallVec<[PageRange; 2]> = ranges.iter().map(|(pages, _)| *pages).collect();
    let pending = Pending::new(mapping, &pages);
    // Who sees it counted finds the ranges registered.
    Statistics::add(&mapping.device().statistics.busy_breaks);
    Busy { pending, pinned }
}

/// Tries until it is broken, waiting as `mode` says. The last `Busy` lives until the next attempt is over, so that no
/// pin of the range comes in between.
pub(crate) fn insist<B>(
    mode: &Mode,
    mut attempt: impl FnMut() -> Result<Attempt<B>, DaxError>,
) -> Result<B, DaxError> {
    let mut last: Option<Busy> = None;
    loop {
        let busy = match attempt()? {
            Attempt::Broken(broken) => return Ok(broken),
            Attempt::Busy(busy) => busy,
        };
        drop(last.take());
        let Mode::Until(until) = mode else {
            return Err(busy.error());
        };
        busy.wait(until)?;
        last = Some(busy);
    }
}

impl Mapping {
    /// Breaks the layout of the range if nobody has a page of it pinned.
    ///
    /// # Errors
    /// `Region`: dirty bytes could not be made durable; no entry is deleted.
    ///
    /// # Locks
    /// Takes the invalidate lock alone; [`Broken`] holds it. The caller may hold its inode's lock.
    pub fn try_break(
        self: &Arc<Self>,
        pages: PageRange,
        fate: Fate,
    ) -> Result<Attempt<Broken<'_>>, DaxError> {
        self.try_break_all(&[(pages, fate)])
    }

    /// As [`Mapping::try_break`], for several ranges at once.
    ///
    /// # Errors
    /// As [`Mapping::try_break`]; then none is broken.
    ///
    /// # Locks
    /// As [`Mapping::try_break`].
    pub fn try_break_all(
        self: &Arc<Self>,
        ranges: &[(PageRange, Fate)],
    ) -> Result<Attempt<Broken<'_>>, DaxError> {
        self.save_before(ranges)?;
        let claim = Claim::new(self, ranges);
        if let Some(pinned) = claim.first_busy() {
            return Ok(Attempt::Busy(busy(self, ranges, pinned)));
        }
        claim.save()?;
        Ok(Attempt::Broken(claim.finish()))
    }

    /// Most of the write-back, while faults and pins still go on.
    pub(crate) fn save_before(&self, ranges: &[(PageRange, Fate)]) -> Result<(), DaxError> {
        if !self.index.has_mark(Mark::Dirty) {
            return Ok(());
        }
        let kept = ranges.iter().filter(|(_, fate)| *fate == Fate::Kept);
        kept.map(|(pages, _)| *pages)
            .try_for_each(|pages| self.write_back_range(pages))
    }

    /// Breaks the layout of the range, waiting for its pins as `mode` says.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: a page stays pinned; `Region`: dirty bytes could not be made durable. No entry is deleted.
    ///
    /// # Locks
    /// As [`Mapping::try_break`], but waits with none: nor may the caller hold one that a holder of a pin could want.
    pub fn break_layout(
        self: &Arc<Self>,
        pages: PageRange,
        fate: Fate,
        mode: &Mode,
    ) -> Result<Broken<'_>, DaxError> {
        insist(mode, || self.try_break(pages, fate))
    }

    /// The last break of a file that goes out of memory or is destroyed: of all its pages, however long that takes. A
    /// failure to write back does not keep the file: it is given beside the proof.
    ///
    /// # Locks
    /// As [`Mapping::break_layout`].
    pub fn break_layout_final(self: &Arc<Self>, fate: Fate) -> (Broken<'_>, Result<(), DaxError>) {
        let mut saved = self.save_before(&[(PageRange::ALL, fate)]);
        let mut last: Option<Busy> = None;
        loop {
            let ranges = [(PageRange::ALL, fate)];
            let claim = Claim::new(self, &ranges);
            let Some(pinned) = claim.first_busy() else {
                saved = saved.and(claim.save());
                return (claim.finish(), saved);
            };
            let busy = busy(self, &ranges, pinned);
            drop(claim);
            drop(last.take());
            // Without end or cancellation it gives no error.
            let _ = busy.wait(&Until::forever());
            last = Some(busy);
        }
    }
}
