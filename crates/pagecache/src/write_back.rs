//! Write-back: which dirty folios are written, in which order, and for how long. [`Pass`], after the kernel's
//! `writeback_iter` (mm/page-writeback.c; reference 2.19).
//!
//! - A *full* pass writes what is dirty when it begins, each folio once, however fast others make pages dirty: it marks
//!   them TOWRITE first and looks for that mark only. It waits for writes under way, goes on after an error, and tells
//!   the first. What there was no memory for, it tries again ([`shortage`](crate::shortage)).
//! - A *background* pass takes what is dirty as it meets it, skips what is being written, and ends after so many pages,
//!   or with the first error. A *cyclic* one begins where the last one ended, and does not wrap.
//!
//! A pass gives runs: folios that follow each other, at most [`LARGEST_RUN`] pages. Their locks are taken ascending,
//! and without waiting but for the first.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use udax_sync::atomic::Ordering;
use udax_xarray::Mark;

use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::mapping::{folio_of, mark};
use crate::page::pages_touched;
use crate::shortage::{MOST_TRIES, Shortage, is_no_memory};
use crate::{Backing, BackingError, CacheError, Mapping, WriteRun};

/// Pages of a run, at most: 8 MiB. Enough for a medium to be at its fastest, and
/// little enough for the locks of the backing to be held a few milliseconds.
pub(crate) const LARGEST_RUN: u64 = 2048;

/// So many entries are marked under one hold of the index's lock: as in the kernel, `XA_CHECK_SCHED`.
const MARK_BATCH: usize = 4096;

/// Whether a pass is for durability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Integrity {
    /// Everything that is dirty when the pass begins (the kernel's `WB_SYNC_ALL`).
    Full,
    /// What is convenient (`WB_SYNC_NONE`).
    Background,
}

/// Where a pass looks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Span {
    /// At these pages.
    Pages(Range<u64>),
    /// From where the last cyclic pass has stopped, but from this page at the latest, to the end.
    Cyclic {
        /// The page.
        latest: u64,
    },
}

/// What a pass is to do (the kernel's `writeback_control`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// What for.
    pub integrity: Integrity,
    /// Where.
    pub span: Span,
    /// Pages to write, at most: it ends with the folio that reaches it. A full pass takes no notice.
    pub most: u64,
}

impl Control {
    /// The folios that have a byte of a range, however many they are. Up to `u64::MAX` is to the end.
    pub fn range(integrity: Integrity, bytes: &Range<u64>) -> Self {
        Self {
            integrity,
            span: Span::Pages(pages_touched(bytes)),
            most: u64::MAX,
        }
    }

    /// All of a file, for durability.
    pub fn full() -> Self {
        Self::range(Integrity::Full, &(0..u64::MAX))
    }

    /// Up to `most` pages, from where the last such pass has ended.
    pub fn background(most: u64) -> Self {
        Self {
            integrity: Integrity::Background,
            span: Span::Cyclic { latest: u64::MAX },
            most,
        }
    }
}

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Pages that were given to the backing.
    pub pages: u64,
    /// In so many runs.
    pub runs: u64,
    /// Folios that the pass took into its hands: a file's clean ones are none of them.
    pub looked: u64,
}

/// Write-back of one file, run by run: an iterator. Tell it by [`Pass::failed`] what could not be written.
#[derive(Debug)]
pub struct Pass<'m> {
    mapping: &'m Arc<Mapping>,
    control: Control,
    /// Bytes of the file.
    size: u64,
    /// Where to look next; none when it is over.
    next: Option<u64>,
    range: Range<u64>,
    written: Written,
    error: Option<BackingError>,
    shortage: Shortage,
}

impl Mapping {
    /// Begins a pass over a file of `size` bytes.
    pub fn pass(self: &Arc<Self>, control: Control, size: u64) -> Pass<'_> {
        let range = match &control.span {
            Span::Pages(pages) => pages.clone(),
            Span::Cyclic { latest } => self.next_write.load(Ordering::Relaxed).min(*latest)..u64::MAX,
        };
        let mut pass = Pass {
            mapping: self,
            control,
            size,
            next: None,
            range,
            written: Written::default(),
            error: None,
            shortage: Shortage::Told,
        };
        pass.begin();
        pass
    }

    /// Writes back by one pass, each run by the backing. A full one is made again, up to three times, when there was no
    /// memory for a write (`ENOMEM`).
    ///
    /// # Errors
    /// The first of the backing. What could not be written is dirty still, and every open file will be told.
    ///
    /// # Durability
    /// What the backing promises of a completed write, for runs that this pass has written; others may still be under
    /// way: [`Mapping::write_and_wait`] waits for them.
    pub fn write_back(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        control: Control,
    ) -> Result<Written, CacheError> {
        let mut left = match control.integrity {
            Integrity::Full => MOST_TRIES - 1,
            Integrity::Background => 0,
        };
        let mut pass = self.pass(control, backing.size());
        loop {
            let before = self.shortages();
            pass.shortage = if left > 0 {
                Shortage::TriedAgain
            } else {
                Shortage::Told
            };
            pass.write_all(backing);
            let is_short = self.shortages() != before || pass.error.as_ref().is_some_and(is_no_memory);
            if left == 0 || !is_short {
                return Ok(pass.finish()?);
            }
            left -= 1;
            self.pause_for_memory();
            pass.begin_again();
        }
    }

    /// Marks what is dirty as to be written by a full pass. The kernel's `tag_pages_for_writeback`.
    fn mark_to_write(&self, pages: &Range<u64>) {
        let mut from = pages.start;
        while from < pages.end {
            let mut writer = self.index.write();
            for _ in 0..MARK_BATCH {
                let Some(found) = writer.next_marked(from..=pages.end - 1, mark::DIRTY) else {
                    return;
                };
                writer.set_mark(found.start, mark::TOWRITE);
                from = found.last().saturating_add(1);
                if from >= pages.end {
                    return;
                }
            }
        }
    }
}

impl Pass<'_> {
    fn begin(&mut self) {
        if self.control.integrity == Integrity::Full {
            self.mapping.mark_to_write(&self.range);
        }
        self.next = Some(self.range.start).filter(|start| *start < self.range.end);
    }

    /// There may be memory now. What else has failed is told, even if it does not fail again.
    fn begin_again(&mut self) {
        self.error = self.error.take().filter(|error| !is_no_memory(error));
        self.begin();
    }

    /// Has the backing write all runs.
    fn write_all(&mut self, backing: &mut dyn Backing) {
        while let Some(run) = self.next() {
            if let Err(error) = backing.write(run) {
                self.failed(error);
            }
        }
        if let Err(error) = backing.finish() {
            self.failed(error);
        }
    }

    /// A run could not be written. A background pass ends; a full one goes on, and tells its first error at the end.
    pub fn failed(&mut self, error: BackingError) {
        let is_tried_again =
            |first: &BackingError| self.shortage == Shortage::TriedAgain && is_no_memory(first);
        if self.error.as_ref().is_none_or(is_tried_again) {
            self.error = Some(error);
        }
        if self.control.integrity == Integrity::Background {
            self.stop();
        }
    }

    /// Ends the pass, wherever it is.
    ///
    /// # Errors
    /// The first that [`Pass::failed`] was told.
    pub fn finish(mut self) -> Result<Written, BackingError> {
        self.stop();
        match self.error.take() {
            None => Ok(self.written),
            Some(error) => Err(error),
        }
    }

    /// A cyclic pass ends: the next one goes on here, or begins anew.
    fn stop(&mut self) {
        let next = self.next.take();
        if let (Span::Cyclic { .. }, Some(next)) = (&self.control.span, next) {
            self.mapping.next_write.store(next, Ordering::Relaxed);
        }
    }

    fn wanted(&self) -> Mark {
        match self.control.integrity {
            Integrity::Full => mark::TOWRITE,
            Integrity::Background => mark::DIRTY,
        }
    }

    /// Pages that may still be written.
    fn left(&self) -> u64 {
        match self.control.integrity {
            Integrity::Full => u64::MAX,
            Integrity::Background => self.control.most.saturating_sub(self.written.pages),
        }
    }

    /// Locks the folio if it is to be written; goes past it if it is not.
    fn choose(&mut self, folio: Arc<Folio>) -> ControlFlow<LockedFolio> {
        self.written.looked += 1;
        let end = folio.range().end;
        let locked = LockedFolio::lock(folio);
        let is_full = self.control.integrity == Integrity::Full;
        if !locked.is_removed() && is_full && locked.has(flag::DIRTY | flag::WRITEBACK) {
            // Another pass has it. What it writes may be older than what this one must write.
            locked.wait_written();
        }
        if locked.is_removed() {
            // Truncated, or given other folios, which have its marks: those are looked for in the same place.
            return ControlFlow::Continue(());
        }
        // Clean: another pass has written it.
        if !locked.has(flag::DIRTY) || locked.has(flag::WRITEBACK) {
            self.advance(end);
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(locked)
    }

    /// Goes on behind `page`.
    fn advance(&mut self, page: u64) {
        self.next = Some(page).filter(|next| *next < self.range.end);
        if self.next.is_none() && matches!(self.control.span, Span::Cyclic { .. }) {
            self.mapping.next_write.store(0, Ordering::Relaxed);
        }
    }

    /// The folios that follow, as far as they can be locked at once and written.
    fn gather(&mut self, first: LockedFolio) -> SmallVec<[LockedFolio; 4]> {
        let dirty = |folio: &LockedFolio| folio.pages.dirty.count(0..folio.len());
        let left = self.left();
        let mut pages = dirty(&first);
        self.advance(first.range().end);
        let mut folios: SmallVec<[LockedFolio; 4]> = smallvec![first];
        while pages < left
            && let Some(next) = self.next
            && self.mapping.index.is_marked(next, self.wanted())
            && let Some(folio) = self.mapping.folio(next).filter(|folio| folio.first == next)
            && let Some(locked) = LockedFolio::try_lock(folio)
            && !locked.is_removed()
            && locked.has(flag::DIRTY)
            && !locked.has(flag::WRITEBACK)
            && pages + dirty(&locked) <= LARGEST_RUN
        {
            self.written.looked += 1;
            pages += dirty(&locked);
            self.advance(locked.range().end);
            folios.push(locked);
        }
        folios
    }
}

impl Iterator for Pass<'_> {
    type Item = WriteRun;

    /// The next run: its pages are no longer dirty, and it is under way. To be completed by who gets it.
    fn next(&mut self) -> Option<WriteRun> {
        if self.left() == 0 {
            self.stop();
        }
        loop {
            let next = self.next?;
            // With the lock: a collapse takes folios out for a moment.
            let found = self
                .mapping
                .index
                .write()
                .next_marked(next..=self.range.end - 1, self.wanted());
            let Some(folio) = found.and_then(folio_of) else {
                self.advance(u64::MAX);
                return None;
            };
            if let ControlFlow::Break(first) = self.choose(folio) {
                let folios = self.gather(first);
                let run = WriteRun::begin(self.mapping, folios, self.size, self.shortage);
                self.written.pages += run.pages();
                self.written.runs += 1;
                return Some(run);
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
