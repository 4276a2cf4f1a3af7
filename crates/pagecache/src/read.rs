//! Reading through the cache. After the kernel's `filemap_read`.

use std::ops::Range;
use std::sync::Arc;

use crate::fill::Stay;
use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::page::{PAGE, in_file, in_memory, overlap, page_of, pages_touched};
use crate::{Backing, CacheError, Mapping, ReadAhead, ReadFlags};

/// One read under way.
struct Reading<'r> {
    mapping: &'r Arc<Mapping>,
    backing: &'r mut dyn Backing,
    ahead: &'r mut ReadAhead,
    flags: ReadFlags,
    size: u64,
}

impl Mapping {
    /// Reads from `at` into `to`: what is cached, and what the backing brings. Gives the number of bytes, which is less
    /// than asked for at the end of the file, and where something behind the first page cannot be read. Goes together
    /// with a [`Mapping::prefetch`].
    ///
    /// # Errors
    /// `WouldBlock` with `NOWAIT`; `NoMemory`; `Backing` if the first page cannot be read.
    pub fn read(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        at: u64,
        to: &mut [u8],
        ahead: &mut ReadAhead,
        flags: ReadFlags,
    ) -> Result<usize, CacheError> {
        let size = backing.size();
        let end = at.saturating_add(in_file(to.len())).min(size);
        let mut reading = Reading {
            mapping: self,
            backing,
            ahead,
            flags,
            size,
        };
        let mut next = at;
        let mut result = Ok(());
        while next < end && result.is_ok() {
            let part = &mut to[in_memory(next - at)..in_memory(end - at)];
            result = reading.piece(next..end, part).map(|end| next = end);
        }
        // While it was being read, what it brought could not go.
        self.cache().shrink_to_budget();
        match result {
            Err(error) if next <= at => Err(error),
            _ => Ok(in_memory(next.saturating_sub(at))),
        }
    }
}

impl Reading<'_> {
    /// Copies as much of the range as the folio of its first byte has at hand, and gives its end.
    fn piece(&mut self, bytes: Range<u64>, to: &mut [u8]) -> Result<u64, CacheError> {
        let page = page_of(bytes.start);
        let hit = self.mapping.index.look(page, |folio| self.hit(folio, &bytes, to));
        let end = match hit {
            Some(Some(end)) => end,
            Some(None) => self.found(self.mapping.folio(page), &bytes, to)?,
            None => self.found(None, &bytes, to)?,
        };
        self.ahead.note(end.div_ceil(PAGE));
        Ok(end)
    }

    /// Copies what a folio has at hand if nothing else is to be done with it. Takes no count of it: one that leaves the
    /// index meanwhile stays until the look is over.
    fn hit(&self, folio: &Folio, bytes: &Range<u64>, to: &mut [u8]) -> Option<u64> {
        let page = page_of(bytes.start);
        if folio.has(flag::AHEAD | flag::DROPBEHIND) || !folio.is_uptodate(&(page..page + 1)) {
            return None;
        }
        self.mapping.cache().count_hit();
        Some(self.copy(folio, bytes, to))
    }

    /// Brings what is missing, copies, and does what the folio's flags ask of its reader.
    fn found(
        &mut self,
        found: Option<Arc<Folio>>,
        bytes: &Range<u64>,
        to: &mut [u8],
    ) -> Result<u64, CacheError> {
        let page = page_of(bytes.start);
        let folio = match found {
            Some(folio) if folio.is_uptodate(&(page..page + 1)) => {
                self.mapping.cache().count_hit();
                folio
            }
            found => {
                self.mapping.cache().count_miss();
                self.obtain(found, bytes)?
            }
        };
        if folio.has(flag::AHEAD) && !self.flags.contains(ReadFlags::NOWAIT) && folio.clear(flag::AHEAD) {
            self.read_ahead()?;
        }
        let end = self.copy(&folio, bytes, to);
        if folio.has(flag::DROPBEHIND) {
            self.note_dropped(&folio, end);
        }
        Ok(end)
    }

    /// Copies what the folio has of the range from its first page on, gives the end of that, and notes the use.
    fn copy(&self, folio: &Folio, bytes: &Range<u64>, to: &mut [u8]) -> u64 {
        let part = at_hand(folio, bytes);
        let len = in_memory(part.end - part.start);
        folio.bytes.copy_out(folio.offset(part.start), &mut to[..len]);
        // Several small reads of a folio are one use.
        if !self.ahead.is_reading_on(&folio.range()) {
            folio.touch();
        }
        part.end
    }

    /// A folio in which the first page of the range is uptodate.
    fn obtain(&mut self, found: Option<Arc<Folio>>, bytes: &Range<u64>) -> Result<Arc<Folio>, CacheError> {
        let wanted = pages_touched(bytes);
        let page = wanted.start;
        let mut found = found;
        let stay = self.stay();
        let most = self.mapping.cache().limits.window;
        loop {
            if self.flags.contains(ReadFlags::NOWAIT) {
                return Err(CacheError::WouldBlock {
                    page,
                    what: "it must be read",
                });
            }
            let folio = match found.take() {
                Some(folio) => Some(folio),
                None => {
                    let window = self.ahead.on_miss(&wanted, self.size.div_ceil(PAGE), most);
                    self.mapping.fill(self.backing, &window, page, stay)?
                }
            };
            if let Some(folio) = folio
                && self.wait_uptodate(&folio, &wanted)?
            {
                return Ok(folio);
            }
            found = self.mapping.folio(page);
        }
    }

    /// Waits until the first of the pages is uptodate, or reads it. False if the folio has left the file before.
    fn wait_uptodate(&mut self, folio: &Arc<Folio>, wanted: &Range<u64>) -> Result<bool, CacheError> {
        let page = wanted.start..wanted.start + 1;
        if folio.is_uptodate(&page) {
            return Ok(true);
        }
        // Shared before the folio is locked: nobody changes where the pages are until it is read.
        let _invalidate = self.mapping.invalidate.read();
        let locked = LockedFolio::lock(Arc::clone(folio));
        if locked.is_removed() {
            return Ok(folio.is_uptodate(&page));
        }
        let part = wanted.start..wanted.end.min(folio.range().end);
        match self.mapping.bring(self.backing, &locked, &part) {
            Err(error) if !folio.is_uptodate(&page) => Err(error),
            _ => Ok(true),
        }
    }

    fn read_ahead(&mut self) -> Result<(), CacheError> {
        let most = self.mapping.cache().limits.window;
        let Some(window) = self.ahead.on_marker(self.size.div_ceil(PAGE), most) else {
            return Ok(());
        };
        let stay = self.stay();
        match self.mapping.fill(self.backing, &window, window.pages.start, stay) {
            // The page that is read is there; what comes next is not needed yet.
            Ok(_) | Err(CacheError::NoMemory { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn stay(&self) -> Stay {
        if self.flags.contains(ReadFlags::DONTCACHE) {
            Stay::Dropped
        } else {
            Stay::Cached
        }
    }

    /// What becomes of a folio that is to leave the cache, read up to `end`.
    fn note_dropped(&self, folio: &Arc<Folio>, end: u64) {
        match self.stay() {
            Stay::Cached => {
                folio.clear(flag::DROPBEHIND);
            }
            // Read to its end, or that of the file: until then who reads on comes back for the rest.
            Stay::Dropped if end >= folio.byte_range().end.min(self.size) => {
                self.mapping.drop_behind(folio);
            }
            Stay::Dropped => {}
        }
    }
}

/// As much of the range as the folio, whose pages are uptodate from its first one on, has without a gap.
fn at_hand(folio: &Folio, bytes: &Range<u64>) -> Range<u64> {
    let mut part = overlap(bytes, &folio.byte_range());
    if let Some(missing) = folio.next_missing(&pages_touched(&part)) {
        part.end = missing.start * PAGE;
    }
    part
}
