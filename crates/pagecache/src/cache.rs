//! The memory that all files of a filesystem share: [`Cache`].
//!
//! # Locks
//! The queue of reclaim and the list of dirty files are leaves. Folios are removed with none of them held.

use std::sync::Arc;
use std::time::Duration;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::wait::{WaitTable, Wake};
use udax_sync::{CachePadded, Mutex, Rank, thread_number};

use crate::arena::Arena;
use crate::dirty_list::DirtyList;
use crate::flusher::Alarm;
use crate::folio::{Folio, Key};
use crate::hints::{Hint, Hints};
use crate::page::{MAX_ORDER, PAGE};
use crate::queue::Queue;
use crate::{ErrSeq, Reservations};

/// How much memory a cache takes, and when it writes.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Bytes of folios. More is taken only while all of it is dirty or pinned. As much as a sixteenth of it is kept
    /// besides, for the next folios; what is known of each folio takes some 200 bytes.
    pub bytes: u64,
    /// Bytes that may be dirty: who would make more waits. At most half of `bytes`; 0 for a fifth of them (the kernel's
    /// `dirty_ratio`).
    pub dirty_bytes: u64,
    /// Bytes that may be dirty before flushers begin to write. Less than `dirty_bytes`; 0 for half of them.
    pub background_bytes: u64,
    /// Bytes of one file that may be dirty; 0 for as many as of all files.
    pub file_dirty_bytes: u64,
    /// How often the flusher looks for old dirty files (the kernel's `dirty_writeback_centisecs`).
    pub interval: Duration,
    /// After this time a dirty file is written, whatever the limits (`dirty_expire_centisecs`).
    pub expire: Duration,
}

impl Default for CacheOptions {
    /// 256 MiB, and the kernel's times.
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            dirty_bytes: 0,
            background_bytes: 0,
            file_dirty_bytes: 0,
            interval: Duration::from_secs(5),
            expire: Duration::from_secs(30),
        }
    }
}

/// The limits in pages, each within what it must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) pages: u64,
    pub(crate) dirty: u64,
    pub(crate) background: u64,
    pub(crate) file_dirty: u64,
    pub(crate) max_order: u8,
    /// Pages that may wait for their memory to be freed before that is seen to.
    pub(crate) leaving: u64,
    /// Pages of one read ahead.
    pub(crate) window: u64,
}

/// The least that works: a write of the largest piece, and room for what is clean.
const LEAST_PAGES: u64 = 16;

impl Limits {
    fn new(options: &CacheOptions) -> Self {
        let pages = (options.bytes / PAGE).max(LEAST_PAGES);
        let or = |bytes: u64, default: u64| if bytes == 0 { default } else { bytes.div_ceil(PAGE) };
        let dirty = or(options.dirty_bytes, pages / 5).clamp(2, pages / 2);
        let background = or(options.background_bytes, dirty / 2).clamp(1, dirty - 1);
        let file_dirty = or(options.file_dirty_bytes, dirty).clamp(2, dirty);
        // One folio is a small part of all: the queue has something to choose from.
        let fits = |order: &u8| (1_u64 << order) <= (pages / 64).max(1);
        Self {
            pages,
            dirty,
            background,
            file_dirty,
            max_order: (0..=MAX_ORDER).rev().find(fits).unwrap_or(0),
            leaving: (pages / 64).max(16),
            // A few of them fit into the small queue of reclaim: what is read ahead is there when its reader comes.
            window: pages / 32,
        }
    }
}

/// What the cache counts. Each number stands for itself.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) cached: CachePadded<AtomicU64>,
    pub(crate) dirty: CachePadded<AtomicU64>,
    pub(crate) under_write: AtomicU64,
    /// Pages that have left a mapping, and whose memory may not have been freed.
    pub(crate) leaving: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) over_budget: AtomicU64,
    pub(crate) throttled: AtomicU64,
    pub(crate) looks: [CachePadded<Looks>; LOOK_SHARDS],
}

/// Threads count their looks apart, so that readers share no line.
const LOOK_SHARDS: usize = 8;

/// How often readers found what they looked for.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The numbers of a [`Cache`], at about one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Pages of folios. At most `budget`, unless `over_budget` has grown.
    pub cached: u64,
    /// Of these, dirty ones.
    pub dirty: u64,
    /// Pages that are being written.
    pub under_write: u64,
    /// Folios that went for lack of memory.
    pub evicted: u64,
    /// How often there was nothing that could go, and more memory than the budget was taken.
    pub over_budget: u64,
    /// How often a writer had to wait.
    pub throttled: u64,
    /// Blocks that dirty pages will need.
    pub reserved: u64,
    /// Pages that the cache may take.
    pub budget: u64,
    /// Bytes of memory that folios have, also of those that have left their files and are still being looked at.
    pub memory: u64,
    /// Bytes of memory that are kept for the next folios.
    pub kept: u64,
    /// Pages that may be dirty before writers have to wait.
    pub dirty_limit: u64,
    /// How often a reader found the folio that it looked for.
    pub hits: u64,
    /// How often it had to be read first.
    pub misses: u64,
}

/// The folios of all files of a filesystem, and their limits. Two mappings at a time have different numbers.
#[derive(Debug)]
pub struct Cache {
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    pub(crate) waits: WaitTable<Key>,
    pub(crate) queue: Mutex<Queue>,
    reservations: Reservations,
    errors: ErrSeq,
    pub(crate) dirty_files: Mutex<DirtyList>,
    pub(crate) alarm: Alarm,
    pub(crate) arena: Arc<Arena>,
    pub(crate) hints: Hints,
}

impl Cache {
    /// An empty cache. Without a [`crate::Flusher`], nothing is written but by who asks for it.
    pub fn new(options: &CacheOptions, reservations: Reservations) -> Arc<Self> {
        let limits = Limits::new(options);
        Arc::new(Self {
            arena: Arc::new(Arena::new(limits.pages)),
            hints: Hints::new(limits.pages),
            limits,
            counts: Counts::default(),
            waits: WaitTable::new(),
            queue: Mutex::new(Rank::Leaf, Queue::default()),
            reservations,
            errors: ErrSeq::new(),
            dirty_files: Mutex::new(Rank::Leaf, DirtyList::default()),
            alarm: Alarm::new(options.interval, options.expire),
        })
    }

    /// Blocks that dirty pages of all files will need.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// Errors of write-back of any file: what syncfs(2) tells, once to each open file.
    pub fn errors(&self) -> &ErrSeq {
        &self.errors
    }

    /// The numbers of now.
    pub fn statistics(&self) -> Statistics {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (memory, kept) = self.arena.bytes();
        // Before `over_budget`, which says why it is more than the budget.
        let cached = self.counts.cached.load(Ordering::Acquire);
        Statistics {
            memory,
            kept,
            cached,
            dirty: read(&self.counts.dirty),
            under_write: read(&self.counts.under_write),
            evicted: read(&self.counts.evicted),
            over_budget: read(&self.counts.over_budget),
            throttled: read(&self.counts.throttled),
            reserved: self.reservations.blocks(),
            budget: self.limits.pages,
            dirty_limit: self.limits.dirty,
            hits: self.counts.looks.iter().map(|looks| read(&looks.hits)).sum(),
            misses: self.counts.looks.iter().map(|looks| read(&looks.misses)).sum(),
        }
    }

    /// Whether more is dirty than may be. Of all counts this looks at one.
    pub fn is_over_dirty_limit(&self) -> bool {
        self.counts.dirty.load(Ordering::Relaxed) > self.limits.dirty
    }

    /// Whether a [`crate::Flusher`] writes what is dirty.
    pub fn has_flusher(&self) -> bool {
        self.alarm.has_flusher()
    }

    /// A reader has found a folio.
    #[inline]
    pub(crate) fn count_hit(&self) {
        self.looks().hits.fetch_add(1, Ordering::Relaxed);
    }

    /// A reader has not.
    pub(crate) fn count_miss(&self) {
        self.looks().misses.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn looks(&self) -> &Looks {
        &self.counts.looks[thread_number() % LOOK_SHARDS]
    }

    /// A folio has come into the mapping of this file.
    pub(crate) fn admit(&self, file: u64, folio: &Arc<Folio>) {
        let hint = Hint {
            bytes: folio.bytes.address_of(0, 0).addr().get(),
            folio: Arc::as_ptr(folio).addr(),
        };
        self.hints.note(file, folio.range(), hint);
        self.queue.lock().admit(folio);
    }

    /// A folio has left its mapping.
    pub(crate) fn dismiss(&self, folio: &Folio) {
        self.counts.cached.fetch_sub(folio.len(), Ordering::Relaxed);
        self.queue.lock().dismiss(folio);
        let leaving = self.counts.leaving.fetch_add(folio.len(), Ordering::Relaxed) + folio.len();
        if leaving >= self.limits.leaving {
            self.counts.leaving.store(0, Ordering::Relaxed);
            // The index frees what was taken out when nobody can be looking at it, dozens at a time: of large folios,
            // that would be more than the budget.
            crossbeam_epoch::pin().flush();
        }
    }

    /// More pages are dirty.
    pub(crate) fn count_dirty(&self, pages: u64) {
        self.counts.dirty.fetch_add(pages, Ordering::AcqRel);
    }

    /// Somebody has made pages dirty: is it time to write some? Not asked when a write-back makes its own dirty again,
    /// or a flusher would be called by what it cannot write.
    pub(crate) fn ring_if_over(&self) {
        if self.counts.dirty.load(Ordering::Relaxed) > self.limits.background {
            self.alarm.ring();
        }
    }

    /// Fewer pages are dirty.
    pub(crate) fn uncount_dirty(&self, pages: u64) {
        let before = self.counts.dirty.fetch_sub(pages, Ordering::AcqRel);
        debug_assert!(before >= pages);
    }

    /// Pages are no longer being written: who waits for fewer dirty ones looks again.
    pub(crate) fn end_write(&self, pages: u64) {
        self.counts.under_write.fetch_sub(pages, Ordering::AcqRel);
        self.waits.wake(Key::Dirty, Wake::All);
    }
}
