//! A run of pages to be read: [`ReadRun`].

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::Mapping;
use crate::folio::{Folio, flag};
use crate::page::{PAGE, in_file, in_memory};

/// Whether the folios are unlocked when they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lock {
    /// Yes: the run has the locks.
    Released,
    /// No: somebody has them, who waits for `READING` to go.
    Kept,
}

#[derive(Debug)]
struct Part {
    folio: Arc<Folio>,
    /// Pages of the file.
    pages: Range<u64>,
}

/// Pages of a file that follow each other, of which nobody reads a byte before the run is completed. A run that is
/// dropped has failed: its pages are not uptodate.
#[derive(Debug)]
pub struct ReadRun {
    /// Kept, so that the mapping does not go, and wait for these folios, before they are unlocked.
    _mapping: Option<Arc<Mapping>>,
    parts: SmallVec<[Part; 4]>,
    lock: Lock,
}

impl ReadRun {
    /// A run of folios that it unlocks.
    pub(crate) fn of_locked(mapping: &Arc<Mapping>) -> Self {
        Self {
            _mapping: Some(Arc::clone(mapping)),
            parts: SmallVec::new(),
            lock: Lock::Released,
        }
    }

    /// A run of one folio, whose lock somebody keeps who waits.
    pub(crate) fn of_waiter() -> Self {
        Self {
            _mapping: None,
            parts: SmallVec::new(),
            lock: Lock::Kept,
        }
    }

    /// Adds pages of a locked folio, none of them uptodate, which follow those that the run has.
    pub(crate) fn push(&mut self, folio: Arc<Folio>, pages: Range<u64>) {
        debug_assert!(self.parts.last().is_none_or(|last| last.pages.end == pages.start));
        self.parts.push(Part { folio, pages });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The pages of the file.
    pub fn pages(&self) -> Range<u64> {
        let first = self.parts.first().map_or(0, |part| part.pages.start);
        first..self.parts.last().map_or(first, |part| part.pages.end)
    }

    /// The bytes of the file: whole pages, which may reach beyond its end.
    pub fn bytes(&self) -> Range<u64> {
        let pages = self.pages();
        pages.start * PAGE..pages.end * PAGE
    }

    /// Calls `fill` with each piece of memory and the place in the file that belongs there. It may leave pieces as they
    /// are: they were zeros.
    ///
    /// # Errors
    /// Those of `fill`, which is not called again then.
    pub fn fill<E>(&mut self, mut fill: impl FnMut(u64, &mut [u8]) -> Result<(), E>) -> Result<(), E> {
        for part in &mut self.parts {
            let at = part.pages.start * PAGE;
            let len = in_memory((part.pages.end - part.pages.start) * PAGE);
            let from = part.folio.offset(at);
            // SAFETY: the pages are not uptodate, so nobody reads them, and the run has their lock (or borrows it from
            // who waits for it), so nobody stores there; the run is borrowed alone.
            let bytes = unsafe { part.folio.bytes.exclusive(from..from + len) };
            fill(at, bytes)?;
        }
        Ok(())
    }

    /// The bytes are there: everybody can read them.
    pub fn complete(mut self) {
        for part in &self.parts {
            part.folio.pages.uptodate.set(part.folio.inner(&part.pages));
        }
        self.end();
    }

    /// How many bytes the run has.
    pub fn byte_len(&self) -> u64 {
        let len = |part: &Part| (part.pages.end - part.pages.start) * PAGE;
        self.parts.iter().map(len).sum()
    }

    fn end(&mut self) {
        let gone = match self.lock {
            Lock::Released => flag::LOCKED,
            Lock::Kept => flag::READING,
        };
        for part in self.parts.drain(..) {
            part.folio.lower(gone);
        }
    }
}

impl Drop for ReadRun {
    fn drop(&mut self) {
        // Half filled pages are made zeros again: that is what the next read expects, and no other file's bytes.
        for part in &self.parts {
            let from = part.folio.offset(part.pages.start * PAGE);
            let len = in_memory((part.pages.end - part.pages.start) * PAGE);
            debug_assert!(in_file(len) > 0);
            part.folio.bytes.zero(from..from + len);
        }
        self.end();
    }
}
