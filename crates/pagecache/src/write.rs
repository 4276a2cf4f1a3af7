//! Writing into the cache. After the kernel's `generic_perform_write` and `iomap_write_iter`.

use std::ops::Range;
use std::sync::Arc;

use udax_sync::atomic::Ordering;
use udax_sync::fault::{Fault, is_injected};

use crate::backing::Reserving;
use crate::folio::{Folio, flag};
use crate::locked::{BrieflyLocked, LockedFolio};
use crate::mapping::AddError;
use crate::page::{MAX_ORDER, PAGE, in_file, in_memory, order_at, overlap, page_of, pages_touched};
use crate::{Backing, CacheError, Mapping, Stability, WriteFlags};

/// One write under way.
struct Writing<'w> {
    mapping: &'w Arc<Mapping>,
    backing: &'w mut dyn Backing,
    flags: WriteFlags,
    size: u64,
}

impl Mapping {
    /// Copies `from` to the file at `at`, in the cache: the pages are dirty then, and have what writing them back will
    /// need. The caller sets the file's size afterwards, and has waited before in [`crate::Cache::throttle`]. Gives the
    /// number of bytes, which is less than asked for if there is no space or memory for more. Goes together with a
    /// [`Mapping::prefetch_to_store`].
    ///
    /// # Errors
    /// For the first byte: no space and other errors of the backing, `NoMemory`, `WouldBlock` with `NOWAIT`;
    /// `BadRange` beyond the last byte that a file can have.
    ///
    /// # Durability
    /// None, before a sync.
    ///
    /// # Locks
    /// The caller lets nobody read or write these bytes meanwhile, or accepts that they see some of both.
    pub fn write(
        self: &Arc<Self>,
        backing: &mut dyn Backing,
        at: u64,
        from: &[u8],
        flags: WriteFlags,
    ) -> Result<usize, CacheError> {
        let end = at
            .checked_add(in_file(from.len()))
            .filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(CacheError::BadRange)?;
        let size = backing.size();
        let mut writing = Writing {
            mapping: self,
            backing,
            flags,
            size,
        };
        let mut next = at;
        while next < end {
            match writing.piece(next..end, &from[in_memory(next - at)..]) {
                Ok(end) => next = end,
                Err(error) if next == at => return Err(error),
                Err(_) => break,
            }
        }
        self.cache().shrink_to_budget();
        self.cache().ring_if_over();
        Ok(in_memory(next - at))
    }
}

impl Writing<'_> {
    /// Copies as much of the range as one folio takes, and gives its end.
    fn piece(&mut self, bytes: Range<u64>, from: &[u8]) -> Result<u64, CacheError> {
        let mapping = self.mapping;
        let page = page_of(bytes.start);
        if let Some(Some(end)) = mapping
            .index
            .look(page, |folio| self.overwrite(folio, &bytes, from))
        {
            return Ok(end);
        }
        let _invalidate = if self.flags.contains(WriteFlags::NOWAIT) {
            let what = "pages are being taken out of the cache";
            mapping
                .invalidate
                .try_read()
                .ok_or(CacheError::WouldBlock { page, what })?
        } else {
            mapping.invalidate.read()
        };
        let folio = self.folio_for(&bytes)?;
        let mut part = overlap(&bytes, &folio.byte_range());
        self.bring_edges(&folio, &part)?;
        let reserved = self.reserve(&folio, &pages_touched(&part))?;
        part.end = part.end.min(reserved * PAGE);
        let from = &from[..in_memory(part.end - part.start)];
        folio.bytes.copy_in(folio.offset(part.start), from);
        let pages = pages_touched(&part);
        folio.pages.uptodate.set(folio.inner(&pages));
        // Before the pages are dirty: whoever writes them back must not take these bytes for what is behind the end.
        if mapping.end.load(Ordering::Acquire) < part.end {
            mapping.end.fetch_max(part.end, Ordering::AcqRel);
        }
        folio.make_dirty(&pages);
        Ok(part.end)
    }

    /// Copies what a folio takes of the range to pages that are dirty already, and gives its end; none if anything else
    /// is to be done or waited for first. Its lock is enough, as nothing is brought, reserved or noted; no count of it
    /// is taken: one that leaves the index meanwhile stays until the look is over.
    ///
    /// With the folio locked a dirty page says that the folio has not left the file, as one that leaves gives its dirty
    /// pages up; and that nobody was lent its bytes as stable: a write takes all dirty pages of a folio. In a stable
    /// mapping only pins, beside which nothing is lent so, and a failure that ends the write make some dirty meanwhile.
    fn overwrite(&self, folio: &Folio, bytes: &Range<u64>, from: &[u8]) -> Option<u64> {
        let part = overlap(bytes, &folio.byte_range());
        let (at, len) = (folio.offset(part.start), in_memory(part.end - part.start));
        let is_within = self.mapping.end.load(Ordering::Acquire) >= part.end;
        let pages = folio.inner(&pages_touched(&part));
        let is_dirty = || folio.pages.dirty.all(pages.clone()) || is_injected(Fault::OverwriteClean);
        if !(is_within || is_injected(Fault::OverwriteBehind)) || !is_dirty() {
            return None;
        }
        let locked = match is_injected(Fault::OverwriteUnlocked) {
            true => None,
            false => Some(BrieflyLocked::try_new(folio)?),
        };
        if !is_dirty() && !is_injected(Fault::OverwriteUnseen) {
            return None;
        }
        debug_assert!(locked.is_none() || !folio.has(flag::REMOVED));
        if !self.flags.contains(WriteFlags::DONTCACHE) && !is_injected(Fault::OverwriteDropped) {
            folio.clear(flag::DROPBEHIND);
        }
        folio.touch();
        folio.bytes.copy_in(at, &from[..len]);
        Some(part.end)
    }

    /// The folio of the first byte, locked, which may be stored to.
    fn folio_for(&self, bytes: &Range<u64>) -> Result<LockedFolio, CacheError> {
        let page = page_of(bytes.start);
        loop {
            let Some(folio) = self.mapping.folio(page) else {
                match self.new_folio(page, bytes) {
                    Err(AddError::Exists) => continue,
                    Err(AddError::NoMemory) => return Err(CacheError::NoMemory { page }),
                    Ok(folio) => return Ok(folio),
                }
            };
            let is_impatient = self.flags.contains(WriteFlags::NOWAIT);
            let blocked = |what| CacheError::WouldBlock { page, what };
            let locked = if is_impatient {
                LockedFolio::try_lock(folio).ok_or_else(|| blocked("it is locked"))?
            } else {
                LockedFolio::lock(folio)
            };
            if locked.is_removed() {
                continue;
            }
            if self.mapping.rules.stability == Stability::Stable && locked.has(flag::WRITEBACK) {
                if is_impatient {
                    return Err(blocked("it is being written"));
                }
                locked.wait_written();
            }
            if !self.flags.contains(WriteFlags::DONTCACHE) {
                locked.clear(flag::DROPBEHIND);
            }
            locked.touch();
            return Ok(locked);
        }
    }

    fn new_folio(&self, page: u64, bytes: &Range<u64>) -> Result<LockedFolio, AddError> {
        // A large one only for pages that are written whole: no byte of it must be read, nor is memory taken for
        // nothing.
        let whole = if bytes.start.is_multiple_of(PAGE) {
            page_of(bytes.end)
        } else {
            page
        };
        let most = MAX_ORDER.min(self.mapping.cache().limits.max_order);
        let order = order_at(page, whole, most).max(self.order_in_sequence(page, most));
        let folio = self.mapping.add_fitting(page, order)?;
        if self.flags.contains(WriteFlags::DONTCACHE) {
            folio.raise(flag::DROPBEHIND);
        }
        folio.touch();
        Ok(folio)
    }

    /// The order of a folio at `page` that small writes in sequence will fill: twice as many pages as the one before
    /// it, which they have filled. So at most twice as much memory is taken for nothing as they have filled.
    fn order_in_sequence(&self, page: u64, most: u8) -> u8 {
        let before = page.checked_sub(1).and_then(|before| self.mapping.folio(before));
        let is_append = page * PAGE >= self.size;
        let is_filled = |before: &Arc<Folio>| {
            (is_append || before.has(flag::DIRTY)) && before.is_uptodate(&before.range())
        };
        match before.filter(is_filled) {
            Some(before) => order_at(page, u64::MAX, most.min(before.order() + 1)),
            None => 0,
        }
    }

    /// Makes those pages uptodate that the range has only a part of.
    fn bring_edges(&mut self, folio: &LockedFolio, part: &Range<u64>) -> Result<(), CacheError> {
        let first = (!part.start.is_multiple_of(PAGE)).then(|| page_of(part.start));
        let last = (!part.end.is_multiple_of(PAGE) && part.end < self.size).then(|| page_of(part.end));
        for page in first.into_iter().chain(last) {
            let pages = page..page + 1;
            if folio.is_uptodate(&pages) {
                continue;
            }
            if page * PAGE >= self.size {
                // Nothing was there: the memory is zeros.
                folio.pages.uptodate.set(folio.inner(&pages));
            } else if self.flags.contains(WriteFlags::NOWAIT) {
                let what = "it must be read";
                return Err(CacheError::WouldBlock { page, what });
            } else {
                self.mapping.bring(self.backing, folio, &pages)?;
            }
        }
        Ok(())
    }

    /// Reserves what these pages need that are not dirty; gives the page up to which there was space.
    fn reserve(&mut self, folio: &LockedFolio, pages: &Range<u64>) -> Result<u64, CacheError> {
        let mut from = pages.start;
        while let Some(clean) = folio.next_clean(&(from..pages.end)) {
            if self.reserve_for(folio, clean.clone()).is_err() {
                // Not for all of them: one by one, as far as it goes.
                for page in clean.clone() {
                    match self.reserve_for(folio, page..page + 1) {
                        Ok(()) => {}
                        Err(_) if page > pages.start => return Ok(page),
                        Err(error) => return Err(error),
                    }
                }
            }
            from = clean.end;
        }
        Ok(pages.end)
    }

    fn reserve_for(&mut self, folio: &LockedFolio, pages: Range<u64>) -> Result<(), CacheError> {
        Ok(self.backing.reserve(pages, &mut Reserving::new(folio))?)
    }
}
