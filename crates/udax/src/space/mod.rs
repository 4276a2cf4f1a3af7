//! Free space: which blocks may be taken now.
//!
//! The allocation bitmaps on media change only through journal records. Beside them, in memory, each group has *held*
//! bits: blocks that are allocated on media, or taken by an operation that has not committed yet, or freed but still
//! in quarantine. A block is taken by setting its held bit and becomes allocated when the operation's record commits;
//! what the operation does not commit is given back.
//!
//! Groups are loaded when first used, so that opening a pool does not read its bitmaps. A bitmap is verified when it
//! is loaded, and it is loaded before any bit of it changes: its checksum is not stale then.
//!
//! What the medium has lost is not given out: a free block that is known to be bad when a search finds it is *set
//! aside* (`bad`), held until the tree of bad blocks has it.
//!
//! A pool with a data device has a [`Space`] for each [`Tier`]: the same in all but whose groups their geometry has.
//! What is metadata comes from that of the pool.
//!
//! Locks: one per group (rank Allocator), held only for the search; the quarantine has its own. Bits commute between
//! operations, so no lock is held until the record commits.

mod bad;
mod group;

use std::sync::Arc;

use udax_journal::{Checkpointed, Committed, Quarantine};
use udax_media::bitmap::{self, GROUP_BLOCKS};
use udax_media::extent::MAX_EXTENT_BLOCKS;
use udax_media::seal::Seed;
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, Geometry, HUGE_BLOCKS};
use udax_pmem::Region;
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::refusal::{self, Resource};
use udax_sync::{Mutex, OnceLock, Rank, RwLock};

use crate::error::{Error, Result};
use crate::health::Health;
use group::GroupState;

/// Groups in one page of the group table.
const TABLE_PAGE: usize = 512;
/// Freed metadata blocks are looked through for reusable ones when there are this many more.
const QUARANTINE_BATCH: u64 = 64;
/// The largest part of the pool that is kept for operations that free space, as a divisor, and the most blocks.
const RESERVE_DIVISOR: u64 = 64;
const RESERVE_BLOCKS: u64 = 256;

/// Blocks of the pool that stay free for nodes of trees when dirty pages are written: one for so many pages, which is
/// more than a tree of extents of one page each needs, and so many for each file, which may get a tree, or another
/// level of it.
const PAGES_PER_NODE: u64 = 64;
const NODES_PER_FILE: u64 = 2;

/// Who asks for blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Priority {
    /// Fails when only the reserve is left.
    Ordinary,
    /// May use the reserve: operations that free space in the end.
    Freeing,
}

/// Where blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tier {
    /// In the pool.
    Pool,
    /// On its data device.
    Device,
}

impl Tier {
    /// That of a block.
    #[inline]
    pub(crate) fn of(block: BlockNo) -> Self {
        match block.is_on_device() {
            true => Self::Device,
            false => Self::Pool,
        }
    }
}

/// A wish for blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Where the search begins: best the block after the file's last one.
    pub(crate) goal: BlockNo,
    /// How many blocks are wanted, at least 1.
    pub(crate) count: u64,
    /// Whether whole 2 MiB chunks are wanted while `count` allows.
    pub(crate) placement: Placement,
    /// Who asks.
    pub(crate) priority: Priority,
}

/// Where in the pool's chunks an allocation should lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    /// Anywhere.
    Any,
    /// From the start of a free 2 MiB chunk, so that huge pages can map it; elsewhere when there is none.
    Huge,
}

/// The pool's free space.
#[derive(Debug)]
pub(crate) struct Space {
    region: Arc<Region>,
    health: Arc<Health>,
    seed: Seed,
    geometry: RwLock<Arc<Geometry>>,
    pages: RwLock<Vec<Arc<GroupPage>>>,
    /// Seldom is a block free in a group below this one: where requests without a goal begin.
    first: AtomicU64,
    /// Shared with the reservations of the page cache.
    available: Arc<AtomicU64>,
    /// Blocks that were reserved and are about to be taken: nobody else gets them.
    converting: AtomicU64,
    reserve: AtomicU64,
    /// What will need nodes of trees when it is written back.
    dirty: OnceLock<Dirty>,
    quarantine: Mutex<Quarantine>,
    quarantine_seen: AtomicU64,
    /// Bad blocks that were free: held, and to be listed.
    aside: Mutex<Vec<BlockRange>>,
}

/// What of the page cache is to be written back, as it is counted there.
#[derive(Debug)]
pub(crate) struct Dirty {
    /// Dirty pages for which a block is reserved, here or on the data device.
    pub(crate) pages: Arc<AtomicU64>,
    /// Files with dirty pages.
    pub(crate) files: Arc<AtomicU64>,
}

impl Dirty {
    /// Blocks for the nodes of trees that are needed, when `pages` more are reserved for a file.
    fn nodes(&self, pages: u64) -> u64 {
        let reserved = self.pages.load(Ordering::Acquire) + pages;
        let files = self.files.load(Ordering::Acquire) + u64::from(pages > 0);
        // However they lie, a page needs no more than one.
        (reserved / PAGES_PER_NODE + NODES_PER_FILE * files).min(reserved)
    }
}

/// Reserved blocks that are about to be taken. Dropped, those that are not said to be used are reserved again: what was
/// taken of them was given back before.
#[derive(Debug)]
pub(crate) struct Conversion<'s> {
    space: &'s Space,
    blocks: u64,
    /// Of these, how many are to be reserved again.
    unused: u64,
}

impl Conversion<'_> {
    /// What was needed of them was taken for good; the rest is for everybody.
    pub(crate) fn used(mut self) {
        self.unused = 0;
    }

    /// Of `blocks` of them, what was needed was taken for good; the others are reserved again.
    pub(crate) fn used_partly(mut self, blocks: u64) {
        self.unused = self.unused.saturating_sub(blocks);
    }
}

impl Drop for Conversion<'_> {
    fn drop(&mut self) {
        if self.unused > 0 {
            let less = |free: u64| Some(free.saturating_sub(self.unused));
            let _ = self
                .space
                .available
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
        self.space.converting.fetch_sub(self.blocks, Ordering::AcqRel);
    }
}

/// A group, and how many of its blocks one request may get, so that full groups are passed over without their lock.
#[derive(Debug)]
struct GroupCell {
    state: OnceLock<Mutex<GroupState>>,
    longest: AtomicU64,
}

type GroupPage = [GroupCell; TABLE_PAGE];

fn new_page() -> Arc<GroupPage> {
    Arc::new(std::array::from_fn(|_| GroupCell {
        state: OnceLock::new(),
        longest: AtomicU64::new(u64::MAX),
    }))
}

impl Space {
    /// The free space of an open pool of which `free_blocks` are free on media.
    pub(crate) fn new(
        (region, health): (Arc<Region>, Arc<Health>),
        seed: Seed,
        geometry: Geometry,
        free_blocks: u64,
    ) -> Self {
        let space = Self {
            region,
            health,
            seed,
            geometry: RwLock::new(Rank::Leaf, Arc::new(geometry)),
            pages: RwLock::new(Rank::Leaf, Vec::new()),
            first: AtomicU64::new(0),
            available: Arc::new(AtomicU64::new(free_blocks)),
            converting: AtomicU64::new(0),
            reserve: AtomicU64::new(0),
            dirty: OnceLock::new(),
            quarantine: Mutex::new(Rank::Quarantine, Quarantine::default()),
            quarantine_seen: AtomicU64::new(0),
            aside: Mutex::new(Rank::Leaf, Vec::new()),
        };
        space.fit_to_geometry();
        space
    }

    /// Takes a grown pool's geometry with `added` more free blocks.
    pub(crate) fn grow(&self, geometry: Geometry, added: u64) {
        *self.geometry.write() = Arc::new(geometry);
        self.fit_to_geometry();
        self.available.fetch_add(added, Ordering::Relaxed);
    }

    fn fit_to_geometry(&self) {
        let geometry = self.geometry();
        let total = geometry.block_count();
        self.reserve
            .store((total / RESERVE_DIVISOR).min(RESERVE_BLOCKS), Ordering::Relaxed);
        let groups = usize::try_from(geometry.group_count()).unwrap_or(usize::MAX);
        let mut pages = self.pages.write();
        while pages.len() * TABLE_PAGE < groups {
            pages.push(new_page());
        }
    }

    /// Counts the free blocks in all bitmaps. Damaged ones have none: who wants a block of theirs is told.
    pub(crate) fn count_free(&self) -> u64 {
        let groups = 0..self.geometry().group_count();
        let free = groups.map(|index| match self.load(index) {
            Ok(group) => group.free(),
            Err(error) => {
                tracing::error!(%error, index, "a bitmap of the data device cannot be used; run fsck");
                0
            }
        });
        free.sum()
    }

    /// The free blocks, as they were counted: before anybody takes one.
    pub(crate) fn set_free(&self, free: u64) {
        self.available.store(free, Ordering::Relaxed);
    }

    /// Blocks that it is about.
    pub(crate) fn block_count(&self) -> u64 {
        self.geometry().block_count()
    }

    /// The pool's layout.
    pub(crate) fn geometry(&self) -> Arc<Geometry> {
        Arc::clone(&self.geometry.read())
    }

    /// Blocks that an ordinary request may still take.
    pub(crate) fn available(&self) -> u64 {
        self.available.load(Ordering::Relaxed).saturating_sub(self.kept())
    }

    /// The count of blocks that may be taken, for who reserves some.
    pub(crate) fn free_count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.available)
    }

    /// Blocks that ordinary requests leave.
    pub(crate) fn kept(&self) -> u64 {
        self.kept_with(0)
    }

    /// As [`Space::kept`], when there are so many more reserved pages.
    pub(crate) fn kept_with(&self, pages: u64) -> u64 {
        let nodes = self.dirty.get().map_or(0, |dirty| dirty.nodes(pages));
        self.reserve.load(Ordering::Relaxed) + self.converting.load(Ordering::Acquire) + nodes
    }

    /// Whether ordinary requests may take `blocks`, when there are so many more reserved pages.
    pub(crate) fn has_room(&self, blocks: u64, pages: u64) -> bool {
        self.available.load(Ordering::Acquire) >= self.kept_with(pages).saturating_add(blocks)
    }

    /// From now on keeps blocks for the nodes that this needs.
    pub(crate) fn keep_nodes_for(&self, dirty: Dirty) {
        self.dirty.get_or_init(|| dirty);
    }

    /// Makes reserved blocks available to requests that may use the reserve, and to nobody else, as long as what this
    /// gives is kept.
    pub(crate) fn convert(&self, blocks: u64) -> Conversion<'_> {
        // First: who sees the blocks sees that they are not for everybody.
        self.converting.fetch_add(blocks, Ordering::AcqRel);
        self.available.fetch_add(blocks, Ordering::AcqRel);
        Conversion {
            space: self,
            blocks,
            unused: blocks,
        }
    }

    /// Takes between 1 and `request.count` consecutive blocks, near the goal if possible.
    ///
    /// # Errors
    /// `NoSpace` when no block is free for this priority; a damaged bitmap.
    pub(crate) fn take(&self, request: Request) -> Result<BlockRange> {
        self.debit(request)?;
        match self.search_good(request) {
            Ok(range) => {
                self.available
                    .fetch_add(request.count - range.count, Ordering::Relaxed);
                Ok(range)
            }
            Err(error) => {
                self.available.fetch_add(request.count, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Takes exactly `request.count` blocks in as few runs as possible, none longer than an extent can be.
    ///
    /// # Errors
    /// As [`Space::take`]; then nothing is taken.
    pub(crate) fn take_all(&self, mut request: Request) -> Result<Vec<BlockRange>> {
        let mut runs: Vec<BlockRange> = Vec::new();
        while request.count > 0 {
            match self.take(request) {
                Ok(run) => {
                    request.count -= run.count;
                    request.goal = run.end();
                    match runs.last_mut() {
                        Some(last)
                            if last.end() == run.start && last.count + run.count <= MAX_EXTENT_BLOCKS =>
                        {
                            last.count += run.count;
                        }
                        _ => runs.push(run),
                    }
                }
                Err(error) => {
                    runs.into_iter().for_each(|run| self.give_back(run));
                    return Err(error);
                }
            }
        }
        Ok(runs)
    }

    /// Takes what of `wanted` is free from its start on; `None` when its first block is not.
    pub(crate) fn take_at(&self, wanted: BlockRange, priority: Priority) -> Result<Option<BlockRange>> {
        let request = Request {
            goal: wanted.start,
            count: wanted.count,
            placement: Placement::Any,
            priority,
        };
        let geometry = self.geometry();
        let Some(index) = geometry.group_of(wanted.start) else {
            return Ok(None);
        };
        self.debit(request)?;
        let run = self.with_group(index, |group| group.take_exact(wanted))?;
        let run = run.and_then(|run| self.set_bad_aside(run));
        let taken = run.map_or(0, |run| run.count);
        self.available.fetch_add(wanted.count - taken, Ordering::Relaxed);
        Ok(run)
    }

    /// Makes blocks available again: taken but not committed, or freed data whose record has committed.
    pub(crate) fn give_back(&self, range: BlockRange) {
        let mut rest = range;
        while rest.count > 0 {
            let geometry = self.geometry();
            let Some(index) = geometry.group_of(rest.start) else {
                return;
            };
            let Some(group) = geometry.group(index) else {
                return;
            };
            let part = BlockRange::new(
                rest.start,
                rest.count.min(group.covers.end().raw() - rest.start.raw()),
            );
            // The group was loaded when the blocks were taken or their freeing was prepared.
            if let Ok(released) = self.with_group(index, |group| group.release(part)) {
                // Pairs with the Acquire in `debit`.
                self.available.fetch_add(released, Ordering::Release);
                if released != part.count {
                    tracing::error!(blocks = %part, "blocks were freed that were free; run fsck");
                }
            }
            rest = BlockRange::new(part.end(), rest.count - part.count);
        }
    }

    /// Loads the bitmaps that freeing `range` will change.
    ///
    /// # Errors
    /// `Inconsistent` when some of the blocks are free already; a damaged bitmap.
    pub(crate) fn prepare_free(&self, range: BlockRange) -> Result<()> {
        let geometry = self.geometry();
        let first = geometry.group_of(range.start);
        let last = geometry.group_of(BlockNo(range.end().raw().saturating_sub(1)));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(Error::Inconsistent {
                place: udax_media::Place::Block(range.start),
                what: "a block outside the pool is to be freed",
            });
        };
        if geometry.is_own(range) {
            return Err(Error::Inconsistent {
                place: udax_media::Place::Block(range.start),
                what: "a block of the pool itself is to be freed",
            });
        }
        for index in first..=last {
            if !self.with_group(index, |group| group.is_held(range))? {
                return Err(Error::Inconsistent {
                    place: udax_media::Place::Block(range.start),
                    what: "a block that is free is to be freed",
                });
            }
        }
        Ok(())
    }

    /// Keeps freed metadata blocks until a checkpoint has passed the record that freed them.
    pub(crate) fn quarantine(&self, committed: Committed, blocks: BlockRange, checkpointed: Checkpointed) {
        let mut quarantine = self.quarantine.lock();
        quarantine.put(committed, blocks);
        let kept = quarantine.blocks();
        let seen = self.quarantine_seen.load(Ordering::Relaxed);
        if kept < seen.saturating_add(QUARANTINE_BATCH) {
            return;
        }
        let passed = quarantine.take(checkpointed);
        self.quarantine_seen.store(quarantine.blocks(), Ordering::Relaxed);
        drop(quarantine);
        passed.into_iter().for_each(|range| self.give_back(range));
    }

    /// Makes available what the checkpoint has passed.
    pub(crate) fn release_quarantine(&self, checkpointed: Checkpointed) {
        let passed = self.quarantine.lock().take(checkpointed);
        self.quarantine_seen.store(0, Ordering::Relaxed);
        passed.into_iter().for_each(|range| self.give_back(range));
    }

    #[cold]
    fn no_space(&self, request: Request, free: u64) -> Error {
        let group = self.geometry.read().group(0);
        Error::NoSpace {
            needed: request.count,
            free,
            on_device: group.is_some_and(|group| group.covers.start.is_on_device()),
        }
    }

    fn debit(&self, request: Request) -> Result<()> {
        if refusal::is_refused(Resource::Blocks) {
            return Err(self.no_space(request, 0));
        }
        let is_ordinary = match request.priority {
            Priority::Ordinary => true,
            Priority::Freeing => false,
        };
        let mut available = self.available.load(Ordering::Acquire);
        loop {
            let kept = if is_ordinary { self.kept() } else { 0 };
            if available < kept.saturating_add(request.count) {
                return Err(self.no_space(request, available.saturating_sub(kept)));
            }
            match self.available.compare_exchange_weak(
                available,
                available - request.count,
                // Pairs with the Release in `give_back`: who debits what was given back sees in which group it is.
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => available = now,
            }
        }
    }

    fn search(&self, request: Request) -> Result<BlockRange> {
        let geometry = self.geometry();
        let groups = geometry.group_count();
        let first = self.first.load(Ordering::Relaxed);
        let start = match geometry.group_of(request.goal) {
            Some(start) if request.goal != BlockNo(0) => start,
            _ => first.min(groups),
        };
        let in_order = || (start..groups).chain(0..start);
        if request.placement == Placement::Huge {
            for index in in_order() {
                let taken =
                    self.with_likely_group(index, HUGE_BLOCKS, |group| group.take_chunks(request.count));
                if let Some(run) = taken?.flatten() {
                    return Ok(run);
                }
            }
        }
        // First a run that is long enough, in any group; then whatever there is.
        let mut longest = 0;
        for index in in_order() {
            let goal = if index == start { Some(request.goal) } else { None };
            match self.with_likely_group(index, 1, |group| group.take_run(goal, request.count))? {
                Some(Ok(run)) => {
                    if start == first && longest == 0 {
                        self.note_first(first, index);
                    }
                    return Ok(run);
                }
                Some(Err(length)) => longest = longest.max(length),
                None => {}
            }
        }
        while longest > 0 {
            let mut next = 0;
            for index in in_order() {
                match self.with_likely_group(index, 1, |group| group.take_run(None, longest))? {
                    Some(Ok(run)) => return Ok(run),
                    Some(Err(length)) => next = next.max(length),
                    None => {}
                }
            }
            // Others took the runs in the meantime; what is there now is shorter.
            longest = next.min(longest - 1);
        }
        Err(self.no_space(request, 0))
    }

    /// All groups from `seen` to before `index` were full.
    fn note_first(&self, seen: u64, index: u64) {
        // Relaxed: a hint. When it has changed meanwhile, the other knows better.
        let _raced = self
            .first
            .compare_exchange(seen, index, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Runs `action` on the group unless it has no run of `count` free blocks.
    fn with_likely_group<T>(
        &self,
        index: u64,
        count: u64,
        action: impl FnOnce(&mut GroupState) -> T,
    ) -> Result<Option<T>> {
        self.with_cell(index, |cell| {
            // What was given back before the blocks now wanted were debited is seen here, see `debit`.
            if cell.longest.load(Ordering::Relaxed) < count {
                return Ok(None);
            }
            self.act_on(index, cell, action).map(Some)
        })?
    }

    /// Runs `action` on the group, loading it first if need be.
    fn with_group<T>(&self, index: u64, action: impl FnOnce(&mut GroupState) -> T) -> Result<T> {
        self.with_cell(index, |cell| self.act_on(index, cell, action))?
    }

    fn act_on<T>(
        &self,
        index: u64,
        cell: &GroupCell,
        action: impl FnOnce(&mut GroupState) -> T,
    ) -> Result<T> {
        let state = match cell.state.get() {
            Some(state) => state,
            None => match (self.load(index), cell.state.get()) {
                // Somebody was faster, whose changes of the bitmap may have been seen, half of them or all.
                (_, Some(state)) => state,
                (loaded, None) => {
                    let loaded = loaded?;
                    cell.state
                        .get_or_init(|| Mutex::with_order(Rank::Allocator, index, loaded))
                }
            },
        };
        let mut group = state.lock();
        let result = action(&mut group);
        // Under the lock, so that the last change counts.
        let longest = group.longest();
        if cell.longest.swap(longest, Ordering::Relaxed) < longest {
            self.first.fetch_min(index, Ordering::Relaxed);
        }
        Ok(result)
    }

    fn with_cell<T>(&self, index: u64, action: impl FnOnce(&GroupCell) -> T) -> Result<T> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let page = self.pages.read().get(at / TABLE_PAGE).map(Arc::clone);
        match page.as_deref().and_then(|page| page.get(at % TABLE_PAGE)) {
            Some(cell) => Ok(action(cell)),
            None => Err(Error::Invalid("allocation group")),
        }
    }

    fn load(&self, index: u64) -> Result<GroupState> {
        let geometry = self.geometry();
        let group = geometry.group(index).ok_or(Error::Invalid("allocation group"))?;
        debug_assert!(group.covers.count <= GROUP_BLOCKS);
        let mut block = [0; BLOCK_SIZE];
        self.health.note(
            "an allocation bitmap",
            self.region.read(group.bitmap.offset().raw(), &mut block),
        )?;
        let words = bitmap::verify(self.seed, &block, group.bitmap, group.covers)?;
        Ok(GroupState::new(group.covers, words))
    }
}
