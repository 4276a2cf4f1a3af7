//! A filesystem in small for these tests: files in memory, limited space with reservations, and what can go wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;
use udax_pagecache::{
    Backing, BackingError, Cache, CacheError, CacheOptions, Control, Freed, Mapping, Mode, Owner, PAGE,
    ReadAhead, ReadFlags, ReadRun, Reservations, Reserving, Stability, Statistics, WriteFlags, WriteRun,
    Written,
};

/// Whether another thread brings a state about; a bound only for what never comes.
pub(crate) fn comes(mut is_so: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Waits until a state is reached that another thread brings about.
pub(crate) fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(comes(is_so), "never: {what}");
}

/// A thread that is to wait for another one, as the kernel sees it.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    /// Where its state is told.
    stat: Mutex<Option<PathBuf>>,
}

impl Sleeper {
    /// Called by the thread, right before the call that is to wait.
    pub(crate) fn begins(&self) {
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        *self.stat.lock() = Some(Path::new("/proc").join(thread).join("stat"));
    }

    /// Waits until the thread sleeps, however often it is looked at: not for a moment, on its way.
    ///
    /// # Panics
    /// It has ended, and so has not waited.
    pub(crate) fn until_asleep(&self) {
        const LOOKS: u32 = 50;
        let mut looks = 0;
        until("the other thread waits", || {
            let Some(stat) = self.stat.lock().clone() else {
                return false;
            };
            let stat = std::fs::read_to_string(stat).expect("the other thread has not waited");
            // The state comes behind the name, which is in brackets: proc_pid_stat(5).
            let state = stat.rsplit(')').next().unwrap().trim_start().chars().next();
            looks = if state == Some('S') { looks + 1 } else { 0 };
            looks >= LOOKS
        });
    }
}

pub(crate) fn size(len: usize) -> u64 {
    u64::try_from(len).unwrap()
}

pub(crate) fn len(size: u64) -> usize {
    usize::try_from(size).unwrap()
}

/// A page of one byte.
pub(crate) fn page_of(byte: u8) -> Vec<u8> {
    vec![byte; len(PAGE)]
}

/// What was freed of which file, in order: [`udax_pagecache::FreeFolio`] is a plain function.
static FREED: LazyLock<Mutex<HashMap<u64, Vec<Freed>>>> = LazyLock::new(Mutex::default);
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// What a test does when a folio of a file is freed.
type Watch = Arc<dyn Fn(Freed) + Send + Sync>;
static WATCHED: LazyLock<Mutex<HashMap<u64, Watch>>> = LazyLock::new(Mutex::default);

/// Of the next rank above that of folios: in debug builds, to take it panics where an index, a queue or a list is
/// locked (invariant 110).
static ABOVE_FOLIOS: LazyLock<udax_sync::Mutex<()>> =
    LazyLock::new(|| udax_sync::Mutex::new(udax_sync::Rank::Shares, ()));

fn free_folio(freed: Freed, reservations: &Reservations) {
    drop(ABOVE_FOLIOS.lock());
    reservations.give_back(freed.reserved);
    FREED.lock().entry(freed.number).or_default().push(freed);
    let watched = WATCHED.lock().get(&freed.number).cloned();
    if let Some(watch) = watched {
        watch(freed);
    }
}

/// What was freed of a file since the last call.
pub(crate) fn freed(number: u64) -> Vec<Freed> {
    FREED.lock().remove(&number).unwrap_or_default()
}

/// What goes wrong, or takes long, beneath a file.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Pages that cannot be read.
    pub(crate) unreadable: BTreeSet<u64>,
    /// Pages that cannot be written, and why.
    pub(crate) unwritable: BTreeMap<u64, Errno>,
    /// No page can be written.
    pub(crate) is_dead: Option<Errno>,
    /// Reads are completed by [`Disk::complete_reads`].
    pub(crate) holds_reads: bool,
    /// Writes are completed by `finish` only, as the cache allows.
    pub(crate) is_lazy: bool,
    /// For so many writes there is no memory.
    pub(crate) without_memory: u32,
    /// Writes do not go on before this is lifted.
    pub(crate) holds_writes: bool,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    size: u64,
    blocks: BTreeSet<u64>,
    faults: Faults,
    held_reads: Vec<ReadRun>,
    /// Pages of each read, and of each write's segments.
    reads: Vec<Range<u64>>,
    runs: Vec<Vec<Range<u64>>>,
    /// How often space was asked for.
    reserve_calls: u64,
    /// How often a run was to be written.
    write_calls: u64,
}

/// Blocks of all files of a test.
#[derive(Debug)]
pub(crate) struct Space {
    used: Mutex<u64>,
}

/// One file's bytes on the medium.
#[derive(Debug)]
pub(crate) struct Disk {
    cache: Arc<Cache>,
    space: Arc<Space>,
    state: Mutex<State>,
}

impl Disk {
    pub(crate) fn with_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    /// What is on the medium, up to the size.
    pub(crate) fn durable(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut bytes = state.bytes.clone();
        bytes.resize(len(state.size), 0);
        bytes
    }

    /// Changes bytes beneath the cache.
    pub(crate) fn store(&self, at: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        let end = len(at) + bytes.len();
        if state.bytes.len() < end {
            state.bytes.resize(end, 0);
        }
        state.bytes[len(at)..end].copy_from_slice(bytes);
        state.size = state.size.max(size(end));
        let pages = at / PAGE..size(end).div_ceil(PAGE);
        let new = pages.filter(|page| state.blocks.insert(*page)).count();
        *self.space.used.lock() += size(new);
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.lock().size
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.state.lock().size = size;
    }

    /// Frees the blocks of whole pages, and zeros the rest.
    pub(crate) fn punch(&self, bytes: &Range<u64>) {
        let mut state = self.state.lock();
        let there = size(state.bytes.len());
        let (start, end) = (bytes.start.min(there), bytes.end.min(there));
        state.bytes[len(start)..len(end)].fill(0);
        let whole = bytes.start.div_ceil(PAGE)..bytes.end / PAGE;
        let before = state.blocks.len();
        state.blocks.retain(|page| !whole.contains(page));
        *self.space.used.lock() -= size(before - state.blocks.len());
    }

    /// Pages of the reads since the last call.
    pub(crate) fn take_reads(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.state.lock().reads)
    }

    /// Segments of the runs since the last call, in bytes.
    pub(crate) fn take_runs(&self) -> Vec<Vec<Range<u64>>> {
        std::mem::take(&mut self.state.lock().runs)
    }

    pub(crate) fn take_reserve_calls(&self) -> u64 {
        std::mem::take(&mut self.state.lock().reserve_calls)
    }

    pub(crate) fn take_write_calls(&self) -> u64 {
        std::mem::take(&mut self.state.lock().write_calls)
    }

    pub(crate) fn held_reads(&self) -> usize {
        self.state.lock().held_reads.len()
    }

    pub(crate) fn complete_reads(&self) {
        let held = std::mem::take(&mut self.state.lock().held_reads);
        for run in held {
            self.fill(run);
        }
    }

    /// The reads that are held fail, half done.
    pub(crate) fn drop_reads(&self) {
        for mut run in std::mem::take(&mut self.state.lock().held_reads) {
            let half = run.fill(|_, to| {
                to.fill(0xBB);
                Err(())
            });
            half.unwrap_err();
        }
    }

    fn fill(&self, mut run: ReadRun) {
        let state = self.state.lock();
        let filled = run.fill(|at, to| {
            let from = len(at).min(state.bytes.len());
            let end = (from + to.len())
                .min(state.bytes.len())
                .min(len(state.size).max(from));
            to[..end - from].copy_from_slice(&state.bytes[from..end]);
            Ok::<_, Errno>(())
        });
        drop(state);
        filled.unwrap();
        run.complete();
    }

    /// Puts a run's bytes on the medium, and gives them blocks, for which all must have reservations.
    pub(crate) fn take(&self, run: &WriteRun) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.write_calls += 1;
        if let Some(errno) = state.faults.is_dead {
            return Err(errno);
        }
        if let Some(left) = state.faults.without_memory.checked_sub(1) {
            state.faults.without_memory = left;
            return Err(Errno::ENOMEM);
        }
        let mut new = 0;
        for piece in run.pieces() {
            let pages = piece.at / PAGE..(piece.at + size(piece.len)) / PAGE;
            if let Some((_, errno)) = state.faults.unwritable.range(pages.clone()).next() {
                return Err(*errno);
            }
            new += size(pages.filter(|page| !state.blocks.contains(page)).count());
        }
        assert!(
            new <= run.reserved(),
            "{new} new blocks, {} reserved",
            run.reserved()
        );
        for piece in run.pieces() {
            let pages = piece.at / PAGE..(piece.at + size(piece.len)) / PAGE;
            state.blocks.extend(pages);
            let end = len(piece.at) + piece.len;
            if state.bytes.len() < end {
                state.bytes.resize(end, 0);
            }
            piece.with(|bytes| state.bytes[len(piece.at)..end].copy_from_slice(bytes));
        }
        *self.space.used.lock() += new;
        state.runs.push(run.segments().collect());
        Ok(())
    }

    /// The medium as the cache is lent it for one call.
    pub(crate) fn lend(self: &Arc<Self>) -> Lent {
        Lent {
            disk: Arc::clone(self),
            kept: Vec::new(),
        }
    }
}

/// A [`Disk`] for one call.
pub(crate) struct Lent {
    disk: Arc<Disk>,
    kept: Vec<WriteRun>,
}

fn failed(errno: Errno) -> BackingError {
    BackingError::new(errno, "injected")
}

impl Backing for Lent {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&mut self, run: ReadRun) -> Result<(), BackingError> {
        let mut state = self.disk.state.lock();
        state.reads.push(run.pages());
        if state.faults.unreadable.range(run.pages()).next().is_some() {
            return Err(failed(Errno::EIO));
        }
        if state.faults.holds_reads {
            state.held_reads.push(run);
            return Ok(());
        }
        drop(state);
        self.disk.fill(run);
        Ok(())
    }

    fn reserve(&mut self, pages: Range<u64>, reserving: &mut Reserving<'_>) -> Result<(), BackingError> {
        let mut state = self.disk.state.lock();
        state.reserve_calls += 1;
        let new: Vec<u64> = pages.filter(|page| !state.blocks.contains(page)).collect();
        let used = self.disk.space.used.lock();
        if !self.disk.cache.reservations().take(size(new.len()), *used) {
            return Err(failed(Errno::ENOSPC));
        }
        drop((used, state));
        for page in new {
            reserving.took(page..page + 1);
        }
        Ok(())
    }

    fn write(&mut self, run: WriteRun) -> Result<(), BackingError> {
        until("writes go on", || !self.disk.state.lock().faults.holds_writes);
        let result = self.disk.take(&run);
        let is_lazy = self.disk.state.lock().faults.is_lazy;
        match result {
            Ok(()) if is_lazy => self.kept.push(run),
            result => run.complete(result),
        }
        result.map_err(failed)
    }

    fn finish(&mut self) -> Result<(), BackingError> {
        for run in self.kept.drain(..) {
            run.complete(Ok(()));
        }
        Ok(())
    }
}

/// A file, as the flusher knows it.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) disk: Arc<Disk>,
}

impl Owner for File {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    fn write_back(&self, control: Control) -> Result<Written, CacheError> {
        self.mapping.write_back(&mut self.disk.lend(), control)
    }
}

impl File {
    pub(crate) fn number(&self) -> u64 {
        self.mapping.number()
    }

    /// As a filesystem writes: the cache, then the size. How many bytes.
    pub(crate) fn write_with(&self, at: u64, bytes: &[u8], flags: WriteFlags) -> Result<usize, CacheError> {
        let written = self.mapping.write(&mut self.disk.lend(), at, bytes, flags)?;
        let mut state = self.disk.state.lock();
        state.size = state.size.max(at + size(written));
        Ok(written)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let written = self.write_with(at, bytes, WriteFlags::empty());
        assert_eq!(written.unwrap(), bytes.len());
    }

    pub(crate) fn throttled_write(&self, at: u64, bytes: &[u8]) -> Result<usize, CacheError> {
        self.mapping
            .cache()
            .throttle(&self.mapping, size(bytes.len()), &Mode::wait())?;
        self.write_with(at, bytes, WriteFlags::empty())
    }

    pub(crate) fn read_with(
        &self,
        at: u64,
        count: usize,
        ahead: &mut ReadAhead,
        flags: ReadFlags,
    ) -> Result<Vec<u8>, CacheError> {
        let mut to = vec![0xEE; count];
        let read = self
            .mapping
            .read(&mut self.disk.lend(), at, &mut to, ahead, flags)?;
        to.truncate(read);
        Ok(to)
    }

    pub(crate) fn read(&self, at: u64, count: usize) -> Vec<u8> {
        self.read_with(at, count, &mut ReadAhead::new(), ReadFlags::empty())
            .unwrap()
    }

    /// As a filesystem truncates: the size, the cache, the blocks.
    pub(crate) fn truncate(&self, size: u64) {
        let before = self.disk.size();
        self.disk.set_size(size);
        if size < before {
            self.mapping.truncate(size..u64::MAX);
            self.disk.punch(&(size..u64::MAX / PAGE * PAGE));
        }
    }

    pub(crate) fn punch(&self, bytes: Range<u64>) {
        self.mapping.truncate(bytes.clone());
        self.disk.punch(&bytes);
    }

    pub(crate) fn sync(&self) -> Result<(), CacheError> {
        self.mapping.write_and_wait(&mut self.disk.lend(), 0..u64::MAX)
    }

    pub(crate) fn pass(&self, control: Control) -> Result<Written, CacheError> {
        self.write_back(control)
    }

    /// Has something done whenever a folio of this file is freed.
    pub(crate) fn when_freed(self: &Arc<Self>, watch: impl Fn(&Arc<File>, Freed) + Send + Sync + 'static) {
        let weak = Arc::downgrade(self);
        let watch = move |freed| {
            if let Some(file) = weak.upgrade() {
                watch(&file, freed);
            }
        };
        WATCHED.lock().insert(self.number(), Arc::new(watch));
    }

    /// Has folios looked for when they are freed: they must not be found.
    pub(crate) fn watch(self: &Arc<Self>) {
        self.when_freed(|file, freed| {
            for page in freed.first..freed.first + (1 << freed.order) {
                assert!(
                    !file.mapping.is_cached(page),
                    "page {page} is found after it was freed"
                );
            }
        });
    }
}

/// A cache and its files. At the end, all files are emptied, and nothing may be left of them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cache: Arc<Cache>,
    space: Arc<Space>,
    files: Mutex<Vec<Arc<File>>>,
}

impl World {
    /// What the cache counts, but for memory: that of a folio which was replaced goes when nobody looks any more.
    pub(crate) fn counts(&self) -> Statistics {
        Statistics {
            memory: 0,
            kept: 0,
            ..self.cache.statistics()
        }
    }

    pub(crate) fn new(options: &CacheOptions, blocks: u64) -> Self {
        let space = Space { used: Mutex::new(0) };
        Self {
            cache: Cache::new(options, Reservations::new(Arc::new(AtomicU64::new(blocks)))),
            space: Arc::new(space),
            files: Mutex::default(),
        }
    }

    /// So many pages of cache, half of which may be dirty, and more space than any test needs.
    pub(crate) fn with_pages(pages: u64) -> Self {
        let options = CacheOptions {
            bytes: pages * PAGE,
            dirty_bytes: pages * PAGE / 2,
            ..CacheOptions::default()
        };
        Self::new(&options, 1 << 40)
    }

    pub(crate) fn file(&self) -> Arc<File> {
        self.file_with(Stability::Loose)
    }

    pub(crate) fn file_with(&self, stability: Stability) -> Arc<File> {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new_cyclic(|weak: &Weak<File>| {
            let owner: Weak<dyn Owner> = Weak::<File>::clone(weak);
            File {
                mapping: Mapping::with_free_folio(&self.cache, number, owner, stability, free_folio),
                disk: Arc::new(Disk {
                    cache: Arc::clone(&self.cache),
                    space: Arc::clone(&self.space),
                    state: Mutex::default(),
                }),
            }
        });
        self.files.lock().push(Arc::clone(&file));
        file
    }

    /// No longer emptied at the end: the test does what it wants with the file.
    pub(crate) fn release(&self, file: &Arc<File>) {
        self.files.lock().retain(|kept| !Arc::ptr_eq(kept, file));
    }

    /// A file of whole pages, the first of which is full of ones, and so on; nothing is cached.
    pub(crate) fn file_of(&self, pages: u8) -> Arc<File> {
        let file = self.file();
        for page in 0..pages {
            file.disk.store(u64::from(page) * PAGE, &page_of(page + 1));
        }
        file
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for file in self.files.lock().drain(..) {
            file.mapping.truncate(0..u64::MAX);
            assert_eq!((file.mapping.pages(), file.mapping.dirty_pages()), (0, 0));
        }
        let left = self.cache.statistics();
        assert_eq!((left.cached, left.dirty, left.under_write), (0, 0, 0), "{left:?}");
        assert_eq!(left.reserved, 0, "reservations are left");
    }
}
