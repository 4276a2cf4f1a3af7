//! One file's pages in the cache: [`Mapping`].
//!
//! # Invariants
//! - A folio is in the index from `add` to `remove` (`removal`), the only places that change it.
//! - Marks change under the index's writer lock, with the folio locked or its write under way.
//! - `counts.pages` and `counts.dirty` are sums over the folios of the index.

use std::ops::Range;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use udax_sync::atomic::{AtomicU8, AtomicU64, Ordering};
use udax_sync::{Rank, RwLock};
use udax_xarray::{Entry, Found, XArray};

use crate::backing::give_back_reservations;
use crate::bits::IsSet;
use crate::folio::{Folio, flag};
use crate::locked::LockedFolio;
use crate::page::{PAGE, in_memory, page_of};
use crate::prefetch::{Intent, prefetch};
use crate::{Cache, ErrSeq, FreeFolio, Owner, Stability};

/// What the marks of the index stand for.
pub(crate) mod mark {
    use udax_xarray::Mark;

    pub(crate) const DIRTY: Mark = Mark::Zero;
    pub(crate) const TOWRITE: Mark = Mark::One;
    pub(crate) const WRITEBACK: Mark = Mark::Two;
}

/// How much of a file is cached.
#[derive(Debug, Default)]
pub(crate) struct MappingCounts {
    /// Pages of its folios.
    pub(crate) pages: AtomicU64,
    /// Of these, dirty ones.
    pub(crate) dirty: AtomicU64,
}

/// Errors of write-back that somebody is still to be told.
#[derive(Debug, Default)]
pub(crate) struct MappingErrors {
    pub(crate) sequence: ErrSeq,
    /// For callers without an open file: `NO_SPACE`, `INPUT_OUTPUT`.
    flags: AtomicU8,
    /// How often a run found no memory that its pass tries to write again.
    pub(crate) shortages: AtomicU64,
}

const NO_SPACE: u8 = 1;
const INPUT_OUTPUT: u8 = 2;

/// One file's pages. See the [module](self).
#[derive(Debug)]
pub struct Mapping {
    cache: Arc<Cache>,
    number: u64,
    pub(crate) owner: Weak<dyn Owner>,
    pub(crate) rules: Rules,
    pub(crate) invalidate: RwLock<()>,
    pub(crate) index: XArray<Folio>,
    pub(crate) counts: MappingCounts,
    pub(crate) errors: MappingErrors,
    /// Bytes that were written to, up to here: the file's size may be told later. Grows with the folio locked.
    pub(crate) end: AtomicU64,
    /// Where the next cyclic pass begins.
    pub(crate) next_write: AtomicU64,
    /// Its place in the list of dirty files, or 0.
    pub(crate) listed: AtomicU64,
}

/// What differs from one kind of file to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) stability: Stability,
    pub(crate) free_folio: FreeFolio,
}

/// Why a folio did not come to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AddError {
    /// There is one already in its place.
    Exists,
    /// There is no memory.
    NoMemory,
}

impl Mapping {
    /// The mapping of the file whose inode has this number, with nothing cached. A file has one at a time.
    pub fn new(cache: &Arc<Cache>, number: u64, owner: Weak<dyn Owner>, stability: Stability) -> Arc<Self> {
        Self::with_free_folio(cache, number, owner, stability, give_back_reservations)
    }

    /// As [`Mapping::new`], for who wants to be told of each folio that goes. Then it is the function that gives back
    /// the folio's reservations.
    pub fn with_free_folio(
        cache: &Arc<Cache>,
        number: u64,
        owner: Weak<dyn Owner>,
        stability: Stability,
        free_folio: FreeFolio,
    ) -> Arc<Self> {
        Arc::new(Self {
            cache: Arc::clone(cache),
            number,
            owner,
            rules: Rules {
                stability,
                free_folio,
            },
            invalidate: RwLock::with_order(Rank::Invalidate, number, ()),
            index: XArray::new(number),
            counts: MappingCounts::default(),
            errors: MappingErrors::default(),
            end: AtomicU64::new(0),
            next_write: AtomicU64::new(0),
            listed: AtomicU64::new(0),
        })
    }

    /// The cache that it is part of.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The inode's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Pages that are cached.
    pub fn pages(&self) -> u64 {
        self.counts.pages.load(Ordering::Relaxed)
    }

    /// Pages that are dirty.
    pub fn dirty_pages(&self) -> u64 {
        self.counts.dirty.load(Ordering::Relaxed)
    }

    /// Pages that have a reservation: blocks that the file will have and has not yet.
    pub fn reserved_pages(&self) -> u64 {
        let folios = self.index.range(0..=u64::MAX).marked(mark::DIRTY);
        let reserved = |folio: Arc<Folio>| folio.pages.reserved.count(0..folio.len());
        folios.filter_map(folio_of).map(reserved).sum()
    }

    /// Whether a page is cached and uptodate.
    pub fn is_cached(&self, page: u64) -> bool {
        self.folio(page)
            .is_some_and(|folio| folio.is_uptodate(&(page..page + 1)))
    }

    /// Whether a page is dirty.
    pub fn is_dirty(&self, page: u64) -> bool {
        self.folio(page)
            .is_some_and(|folio| folio.pages.dirty.any(folio.inner(&(page..page + 1))))
    }

    /// The errors of write-back, for who opens the file.
    pub fn errors(&self) -> &ErrSeq {
        &self.errors.sequence
    }

    /// Notes an error of write-back: for every open file, for the filesystem, and for who has neither. The kernel's
    /// `mapping_set_error`.
    pub fn note_error(&self, errno: Errno) {
        self.errors.sequence.set(errno);
        self.cache.errors().set(errno);
        let flag = if errno == Errno::ENOSPC {
            NO_SPACE
        } else {
            INPUT_OUTPUT
        };
        self.errors.flags.fetch_or(flag, Ordering::AcqRel);
    }

    /// The error that nobody without an open file was told, which from now on is told: EIO before ENOSPC. The kernel's
    /// `filemap_check_errors`.
    pub fn take_error(&self) -> Option<Errno> {
        let flags = self.errors.flags.swap(0, Ordering::AcqRel);
        Self::errno_of(flags)
    }

    /// As [`Mapping::take_error`], but it is still to be told: `filemap_check_errors` of callers that keep errors, as
    /// sync(2).
    pub fn peek_error(&self) -> Option<Errno> {
        Self::errno_of(self.errors.flags.load(Ordering::Acquire))
    }

    fn errno_of(flags: u8) -> Option<Errno> {
        if flags & INPUT_OUTPUT != 0 {
            return Some(Errno::EIO);
        }
        (flags & NO_SPACE != 0).then_some(Errno::ENOSPC)
    }

    /// The first dirty page from `page` on; those that are being written are not dirty.
    pub fn next_dirty(&self, page: u64) -> Option<u64> {
        let mut from = page;
        loop {
            let folio = folio_of(self.index.range(from..=u64::MAX).marked(mark::DIRTY).next()?)?;
            let inner = folio.inner(&(from.max(folio.first)..folio.range().end));
            if let Some(run) = folio.pages.dirty.next_run(inner, IsSet::Yes) {
                return Some(folio.first + run.start);
            }
            from = folio.range().end;
        }
    }

    /// Has the processor fetch what a read of `len` bytes at `at` probably meets first: a folio, and up to 2 KiB of its
    /// bytes. A caller asks for it once, before it takes the locks that a read needs: then a hit need not wait for
    /// memory. Nothing but time depends on it.
    #[inline]
    pub fn prefetch(&self, at: u64, len: usize) {
        self.prefetch_for(at, len, Intent::Load);
    }

    /// As [`Mapping::prefetch`], before a write: up to 1 KiB.
    #[inline]
    pub fn prefetch_to_store(&self, at: u64, len: usize) {
        self.prefetch_for(at, len, Intent::Store);
    }

    #[inline]
    fn prefetch_for(&self, at: u64, len: usize, intent: Intent) {
        if let Some(hint) = self.cache.hints.find(self.number, page_of(at)) {
            prefetch(hint.folio, size_of::<Folio>(), intent);
            let within = in_memory(at % PAGE);
            prefetch(hint.bytes + within, len.min(in_memory(PAGE) - within), intent);
        }
    }

    /// The folio that has the page.
    pub(crate) fn folio(&self, page: u64) -> Option<Arc<Folio>> {
        folio_of(self.index.load(page)?)
    }

    /// The first folio that has a page of the range.
    pub(crate) fn next_folio(&self, pages: &Range<u64>) -> Option<Arc<Folio>> {
        folio_of(self.index.range(pages.start..=pages.end.checked_sub(1)?).next()?)
    }

    /// A new folio, locked and in the index, of which no page is uptodate. Makes room for it first.
    ///
    /// # Locks
    /// The invalidate lock is held, shared or alone, or the caller excludes by a lock of its own that the layout
    /// changes.
    pub(crate) fn add(self: &Arc<Self>, first: u64, order: u8) -> Result<LockedFolio, AddError> {
        let room = self.cache.claim(1 << order);
        let folio = Folio::new_locked(self, first, order).ok_or(AddError::NoMemory)?;
        let folio = LockedFolio::new(folio);
        let mut writer = self.index.write();
        if writer.next(first..=first + (folio.len() - 1)).is_some() {
            return Err(AddError::Exists);
        }
        let stored = writer.store(first, order, Entry::Pointer(Arc::clone(&folio)));
        debug_assert!(matches!(stored, Ok(None)), "{stored:?}");
        self.counts.pages.fetch_add(folio.len(), Ordering::Relaxed);
        drop(writer);
        room.keep();
        self.cache.admit(self.number, &folio);
        Ok(folio)
    }

    /// Notes that `new` more pages of a folio are dirty, and whether it was clean before. It is locked, or being
    /// written.
    pub(crate) fn count_dirty(&self, folio: &Folio, new: u64, is_first: bool) {
        if is_first {
            self.index.write().set_mark(folio.first, mark::DIRTY);
        }
        if new > 0 {
            self.counts.dirty.fetch_add(new, Ordering::Relaxed);
            self.cache.count_dirty(new);
            self.list_dirty();
        }
    }

    /// Notes that `pages` fewer are dirty: they are being written, or gone.
    pub(crate) fn uncount_dirty(&self, pages: u64) {
        self.counts.dirty.fetch_sub(pages, Ordering::Relaxed);
        self.cache.uncount_dirty(pages);
    }

    /// Waits until no write of a page of the range is under way.
    pub fn wait_written(&self, pages: Range<u64>) {
        let mut from = pages.start;
        while from < pages.end {
            let found = self
                .index
                .range(from..=pages.end - 1)
                .marked(mark::WRITEBACK)
                .next();
            let Some(folio) = found.and_then(folio_of) else {
                return;
            };
            let _ = folio.wait_lowered(flag::WRITEBACK, &udax_sync::wait::Until::forever());
            from = folio.range().end;
        }
    }
}

pub(crate) fn folio_of(found: Found<Entry<Folio>>) -> Option<Arc<Folio>> {
    match found.entry {
        Entry::Pointer(folio) => Some(folio),
        // The index holds folios only.
        Entry::Value(_) => None,
    }
}

impl Drop for Mapping {
    /// Nobody has a pin or an open file any more. What is still dirty was never promised.
    fn drop(&mut self) {
        self.forget();
    }
}
