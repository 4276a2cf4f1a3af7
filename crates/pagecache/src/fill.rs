//! Bringing bytes into the cache: whole windows ahead of a reader, or just the pages that somebody waits for.

use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use udax_sync::wait::Until;

use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::mapping::AddError;
use crate::page::{order_at, overlap, pages_touched};
use crate::read_ahead::asked;
use crate::{Backing, BackingError, CacheError, Mapping, ReadRun};

/// Pages to be read at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// The pages.
    pub(crate) pages: Range<u64>,
    /// The order of the largest folio to make.
    pub(crate) order: u8,
    /// The page whose reader has the next window read.
    pub(crate) marker: Option<u64>,
}

/// Whether a folio that a read or write brings stays after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stay {
    Cached,
    Dropped,
}

impl Mapping {
    /// Brings bytes into the cache that will be read soon, as far as the file and a part of the memory go: for
    /// posix_fadvise(2) with `POSIX_FADV_WILLNEED`. What cannot be read is met by who reads it.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn will_need(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        bytes: Range<u64>,
    ) -> Result<(), CacheError> {
        let mut pages = pages_touched(&overlap(&bytes, &(0..backing.size())));
        pages.end = pages.end.min(pages.start + self.cache().limits.pages / 2);
        while pages.start < pages.end {
            let end = pages.end.min(pages.start + self.cache().limits.window.max(1));
            self.fill(backing, &asked(pages.start..end), pages.start, Stay::Cached)?;
            pages.start = end;
        }
        Ok(())
    }

    /// Reads those pages of a window that are not cached, and gives the folio of `wanted`, if that is one of them. What
    /// cannot be read is not uptodate.
    pub(crate) fn fill(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        window: &Window,
        wanted: u64,
        stay: Stay,
    ) -> Result<Option<Arc<Folio>>, CacheError> {
        let _invalidate = self.invalidate.read();
        let mut found = None;
        let mut run = ReadRun::of_locked(self);
        let mut page = window.pages.start;
        while page < window.pages.end {
            let order = order_at(
                page,
                window.pages.end,
                window.order.min(self.cache().limits.max_order),
            );
            // The first folio in the way, and the hole before it.
            let next = self.next_folio(&(page..page + (1 << order)));
            if let Some(there) = next.filter(|folio| folio.first <= page) {
                read(backing, std::mem::replace(&mut run, ReadRun::of_locked(self)));
                page = there.range().end;
                continue;
            }
            match self.add_fitting(page, order) {
                Err(AddError::Exists) => continue,
                // A smaller read is better than none, and the wanted page alone is tried once more.
                Err(AddError::NoMemory) if page > wanted => break,
                Err(AddError::NoMemory) => return Err(CacheError::NoMemory { page }),
                Ok(folio) => {
                    self.note_made(&folio, window, stay);
                    page = folio.range().end;
                    if folio.range().contains(&wanted) {
                        found = Some(Arc::clone(&folio));
                    }
                    let pages = folio.range();
                    run.push(folio.into_locked(), pages);
                }
            }
        }
        read(backing, run);
        Ok(found)
    }

    /// As [`Mapping::add`], with a smaller folio if memory or what is there asks for it.
    pub(crate) fn add_fitting(self: &Arc<Self>, first: u64, order: u8) -> Result<LockedFolio, AddError> {
        match self.add(first, order) {
            Err(_) if order > 0 => self.add(first, 0),
            result => result,
        }
    }

    fn note_made(&self, folio: &LockedFolio, window: &Window, stay: Stay) {
        if stay == Stay::Dropped {
            folio.raise(flag::DROPBEHIND);
        }
        if window
            .marker
            .is_some_and(|marker| folio.range().contains(&marker))
        {
            folio.raise(flag::AHEAD);
        }
    }

    /// Makes pages of a locked folio uptodate, by reading those that are not.
    ///
    /// # Errors
    /// What the backing says of the first page that cannot be read.
    pub(crate) fn bring(
        &self,
        backing: &mut dyn Backing,
        folio: &LockedFolio,
        pages: &Range<u64>,
    ) -> Result<(), CacheError> {
        while let Some(missing) = folio.next_missing(pages) {
            if read_locked(backing, folio, missing.clone()).is_ok() && folio.is_uptodate(&missing) {
                continue;
            }
            // What is lost costs only itself.
            for page in missing {
                read_locked(backing, folio, page..page + 1)?;
                if !folio.is_uptodate(&(page..page + 1)) {
                    return Err(
                        BackingError::new(Errno::EIO, format!("page {page} could not be read")).into(),
                    );
                }
            }
        }
        Ok(())
    }
}

/// Reads what nobody may be waiting for: an error is met again by who is.
fn read(backing: &mut dyn Backing, run: ReadRun) {
    if !run.is_empty()
        && let Err(error) = backing.read(run)
    {
        tracing::debug!(%error, "reading ahead failed");
    }
}

fn read_locked(
    backing: &mut dyn Backing,
    folio: &LockedFolio,
    pages: Range<u64>,
) -> Result<(), BackingError> {
    folio.raise(flag::READING);
    let mut run = ReadRun::of_waiter();
    run.push(Arc::clone(folio), pages);
    let result = backing.read(run);
    // However it ended, the run lowers the flag.
    let _ = folio.wait_lowered(flag::READING, &Until::forever());
    result
}
