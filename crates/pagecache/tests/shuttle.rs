//! Folios, their locks, waits and marks in many schedules (shuttle).
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/shuttle cargo test -p udax-pagecache --test shuttle
//! ```
//! `UDAX_SCHEDULES=100000` tries so many of each instead of a few. Each test has a process of its own, as some switch a
//! protection off for good: nextest does that.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use udax_pagecache::{
    Access, Backing, BackingError, Cache, CacheError, CacheOptions, Control, Flush, Mapping, Owner, PAGE,
    ReadAhead, ReadFlags, ReadRun, Reservations, Reserving, Stability, Until, WriteFlags, WriteRun, Written,
};
use udax_sync::fault::{Fault, inject};
use udax_sync::thread::{self, JoinHandle};
use udax_sync::{Mutex, Rank};

/// Twenty times as many as find each fault.
const SCHEDULES: usize = 2000;

fn explore(scenario: fn()) {
    let schedules = std::env::var("UDAX_SCHEDULES").map_or(SCHEDULES, |value| value.parse().unwrap());
    Runner::new(RandomScheduler::new_from_seed(20, schedules), config()).run(scenario);
    Runner::new(PctScheduler::new_from_seed(20, 3, schedules), config()).run(scenario);
}

/// For what one thread does alone, of which there is one schedule.
fn alone(scenario: fn()) {
    Runner::new(RandomScheduler::new_from_seed(20, 1), config()).run(scenario);
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config
}

/// Without this protection one of the schedules fails, with it none.
fn is_needed(fault: Fault, try_all: fn(fn()), scenario: fn()) {
    try_all(scenario);
    inject(fault).unwrap();
    let tried = catch_unwind(|| try_all(scenario));
    assert!(tried.is_err(), "{} was not found", fault.name());
}

/// A file of eight pages, each of its blocks reserved for until it is written.
struct File {
    mapping: Arc<Mapping>,
    /// As its owner tells it.
    size: u64,
    is_stable: bool,
    bytes: Mutex<(Vec<u8>, [bool; 8])>,
}

impl Owner for File {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    fn write_back(&self, control: Control) -> Result<Written, CacheError> {
        self.mapping.write_back(&mut Lent(self), control)
    }
}

struct Lent<'f>(&'f File);

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl Backing for Lent<'_> {
    fn size(&self) -> u64 {
        self.0.size
    }

    fn read(&mut self, mut run: ReadRun) -> Result<(), BackingError> {
        let state = self.0.bytes.lock();
        run.fill(|at, to| {
            to.copy_from_slice(&state.0[index(at)..index(at) + to.len()]);
            Ok::<_, Errno>(())
        })
        .unwrap();
        drop(state);
        run.complete();
        Ok(())
    }

    fn reserve(&mut self, pages: Range<u64>, reserving: &mut Reserving<'_>) -> Result<(), BackingError> {
        let new: Vec<u64> = {
            let state = self.0.bytes.lock();
            pages.filter(|page| !state.1[index(*page)]).collect()
        };
        let blocks = u64::try_from(new.len()).unwrap();
        let reservations = self.0.mapping.cache().reservations();
        assert!(reservations.take(blocks, 0));
        for page in new {
            reserving.took(page..page + 1);
        }
        Ok(())
    }

    fn write(&mut self, run: WriteRun) -> Result<(), BackingError> {
        {
            let mut state = self.0.bytes.lock();
            for piece in run.pieces() {
                let at = index(piece.at);
                for page in at / 4096..(at + piece.len) / 4096 {
                    state.1[page] = true;
                }
                piece.with(|bytes| state.0[at..at + piece.len].copy_from_slice(bytes));
            }
        }
        if self.0.is_stable && !self.0.mapping.is_pinned() {
            let lent: Vec<_> = run.pieces().map(|piece| piece.bytes().into_owned()).collect();
            thread::yield_now();
            for (piece, before) in run.pieces().zip(lent) {
                assert!(*piece.bytes() == before, "lent bytes change");
            }
        }
        // Others run while it is under way.
        thread::yield_now();
        run.complete(Ok(()));
        Ok(())
    }
}

impl File {
    fn new(stability: Stability) -> Arc<Self> {
        Self::of_size(stability, 8 * PAGE)
    }

    fn of_size(stability: Stability, size: u64) -> Arc<Self> {
        let options = CacheOptions {
            bytes: 1024 * PAGE,
            dirty_bytes: 512 * PAGE,
            ..CacheOptions::default()
        };
        let cache = Cache::new(&options, Reservations::default());
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let owner: Weak<dyn Owner> = Weak::<Self>::clone(weak);
            Self {
                mapping: Mapping::new(&cache, 1, owner, stability),
                size,
                is_stable: stability == Stability::Stable,
                bytes: Mutex::new(Rank::Allocator, (vec![0; 8 * 4096], [false; 8])),
            }
        })
    }

    fn write(&self, page: u64, byte: u8) {
        self.write_at(page * PAGE + 8, byte);
    }

    fn write_at(&self, at: u64, byte: u8) {
        let written = self
            .mapping
            .write(&mut Lent(self), at, &[byte; 8], WriteFlags::empty());
        assert_eq!(written.unwrap(), 8);
    }

    fn read(&self, page: u64) -> u8 {
        let mut byte = [0];
        let mut ahead = ReadAhead::new();
        let read = self.mapping.read(
            &mut Lent(self),
            page * PAGE + 8,
            &mut byte,
            &mut ahead,
            ReadFlags::empty(),
        );
        assert_eq!(read.unwrap(), 1);
        byte[0]
    }

    fn sync(&self) {
        self.mapping.write_and_wait(&mut Lent(self), 0..u64::MAX).unwrap();
    }

    fn durable(&self, page: usize) -> u8 {
        self.bytes.lock().0[page * 4096 + 8]
    }

    /// Nothing is left when all is synced and gone.
    fn finish(self: Arc<Self>) {
        self.sync();
        let cache = Arc::clone(self.mapping.cache());
        assert_eq!(cache.statistics().dirty, 0);
        let weak = Arc::downgrade(&self);
        drop(self);
        assert!(weak.upgrade().is_none(), "the list keeps a clean file");
        let left = cache.statistics();
        assert_eq!((left.cached, left.reserved, left.under_write), (0, 0, 0));
    }
}

fn spawn(file: &Arc<File>, what: impl FnOnce(&File) + Send + 'static) -> JoinHandle<()> {
    let file = Arc::clone(file);
    thread::spawn(move || what(&file))
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn writers_and_syncs_of_one_page_lose_neither_bytes_nor_wakes() {
    explore(|| writers_and_syncs(Stability::Stable));
    explore(|| writers_and_syncs(Stability::Loose));
}

fn writers_and_syncs(stability: Stability) {
    let file = File::new(stability);
    let writer = spawn(&file, |file| {
        for byte in 1..4 {
            file.write(0, byte);
            assert_eq!(file.read(0), byte);
        }
        file.sync();
        assert_eq!(file.durable(0), 3);
    });
    let other = spawn(&file, |file| {
        file.write(1, 9);
        file.sync();
        assert_eq!(file.durable(1), 9);
    });
    let syncer = spawn(&file, |file| file.sync());
    join([writer, other, syncer]);
    file.finish();
}

#[test]
fn truncation_invalidation_and_reclaim_against_a_writer() {
    explore(|| {
        let file = File::new(Stability::Stable);
        let writer = spawn(&file, |file| {
            file.write(0, 1);
            file.write(5, 2);
            file.write(0, 3);
            assert_eq!(file.read(0), 3);
        });
        let truncator = spawn(&file, |file| {
            file.mapping.truncate(4 * PAGE..u64::MAX);
            let mut lent = Lent(file);
            file.mapping
                .invalidate_inode(&mut lent, Flush::Write, 0..u64::MAX)
                .unwrap();
        });
        let reclaim = spawn(&file, |file| {
            file.sync();
            file.mapping.cache().drop_clean();
        });
        join([writer, truncator, reclaim]);
        file.sync();
        assert_eq!(file.durable(0), 3);
        file.finish();
    });
}

#[test]
fn collapse_and_split_against_readers_writers_and_a_sync() {
    explore(|| {
        let file = File::new(Stability::Loose);
        for page in 0..4 {
            file.write(page, 1);
        }
        let writer = spawn(&file, |file| {
            file.write(2, 7);
            assert_eq!((file.read(2), file.read(3)), (7, 1));
            file.sync();
            assert_eq!((file.durable(2), file.durable(0)), (7, 1));
        });
        let collapser = spawn(&file, |file| {
            file.mapping.collapse(0, 2);
            drop(file.mapping.pin(&mut Lent(file), 1, Access::Read).unwrap());
            file.mapping.collapse(0, 1);
        });
        let syncer = spawn(&file, |file| {
            file.sync();
            for page in [0, 1, 3] {
                assert_eq!(file.durable(page), 1, "page {page}");
            }
        });
        join([writer, collapser, syncer]);
        file.finish();
    });
}

#[test]
fn pins_are_waited_for_and_what_they_store_is_written() {
    explore(|| {
        let file = File::new(Stability::Stable);
        let pinner = spawn(&file, |file| {
            let pin = file.mapping.pin(&mut Lent(file), 0, Access::Write).unwrap();
            pin.store(8, &[5]).unwrap();
        });
        let waiter = spawn(&file, |file| {
            file.mapping.wait_unpinned(&Until::forever()).unwrap();
            file.sync();
        });
        let second = spawn(&file, |file| {
            let _pin = file.mapping.pin(&mut Lent(file), 0, Access::Read).unwrap();
        });
        join([pinner, waiter, second]);
        file.sync();
        assert_eq!(file.durable(0), 5);
        file.finish();
    });
}

#[test]
fn uncached_pages_go_unless_they_are_needed_again() {
    explore(|| {
        let file = File::new(Stability::Loose);
        let uncached = spawn(&file, |file| {
            let mut lent = Lent(file);
            file.mapping
                .write(&mut lent, 8, &[1; 8], WriteFlags::DONTCACHE)
                .unwrap();
            file.mapping.write_behind(&mut lent, 0..PAGE).unwrap();
        });
        let again = spawn(&file, |file| {
            file.write(0, 2);
            assert!([1, 2].contains(&file.read(0)));
        });
        join([uncached]);
        join([again]);
        file.sync();
        assert!([1, 2].contains(&file.durable(0)));
        file.finish();
    });
}

#[test]
fn pages_that_a_sync_has_made_clean_are_dirty_after_a_write() {
    is_needed(Fault::OverwriteClean, alone, || {
        let file = File::new(Stability::Loose);
        file.write(0, 1);
        file.sync();
        file.write(0, 2);
        file.sync();
        assert_eq!(file.durable(0), 2);
        file.finish();
    });
}

#[test]
fn pages_that_become_clean_between_two_looks_are_not_taken_for_dirty_ones() {
    is_needed(Fault::OverwriteUnseen, explore, || {
        write_beside_a_sync(Stability::Loose);
    });
}

#[test]
fn pages_whose_write_begins_while_bytes_are_stored_are_not_taken_for_dirty_ones() {
    is_needed(Fault::OverwriteUnlocked, explore, || {
        write_beside_a_sync(Stability::Loose);
    });
}

#[test]
fn lent_bytes_of_a_stable_file_stay_as_they_are() {
    is_needed(Fault::OverwriteUnlocked, explore, || {
        write_beside_a_sync(Stability::Stable);
    });
}

fn write_beside_a_sync(stability: Stability) {
    let file = File::new(stability);
    file.write(0, 1);
    let writer = spawn(&file, |file| file.write(0, 2));
    let syncer = spawn(&file, |file| file.sync());
    join([writer, syncer]);
    file.sync();
    assert_eq!(file.durable(0), 2);
    file.finish();
}

#[test]
fn bytes_behind_the_end_are_kept_before_the_file_is_told_its_size() {
    is_needed(Fault::OverwriteBehind, alone, || {
        let file = File::of_size(Stability::Loose, 0);
        file.write_at(0, 1);
        file.write_at(8, 2);
        file.sync();
        assert_eq!(file.durable(0), 2);
        file.finish();
    });
}

#[test]
fn what_is_written_again_without_dontcache_stays_in_the_cache() {
    is_needed(Fault::OverwriteDropped, alone, || {
        let file = File::new(Stability::Loose);
        let mut lent = Lent(&file);
        file.mapping
            .write(&mut lent, 0, &[1; 16], WriteFlags::DONTCACHE)
            .unwrap();
        file.write(0, 2);
        file.mapping.write_behind(&mut lent, 0..PAGE).unwrap();
        assert_eq!((file.durable(0), file.mapping.pages()), (2, 1));
        file.finish();
    });
}
