//! Folios, their locks, waits and marks in many schedules (shuttle).
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/shuttle cargo test -p udax-pagecache --test shuttle
//! ```
//! `UDAX_SCHEDULES=100000` tries so many of each instead of a few.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::ops::Range;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use udax_pagecache::{
    Access, Backing, BackingError, Cache, CacheError, CacheOptions, Control, Flush, Mapping, Owner, PAGE,
    ReadAhead, ReadFlags, ReadRun, Reservations, Reserving, Stability, Until, WriteFlags, WriteRun, Written,
};
use udax_sync::thread::{self, JoinHandle};
use udax_sync::{Mutex, Rank};

const SCHEDULES: usize = 300;

fn explore(scenario: fn()) {
    let schedules = std::env::var("UDAX_SCHEDULES").map_or(SCHEDULES, |value| value.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new_from_seed(20, schedules), config.clone()).run(scenario);
    Runner::new(PctScheduler::new_from_seed(20, 3, schedules), config).run(scenario);
}

/// A file of eight pages, each of its blocks reserved for until it is written.
struct File {
    mapping: Arc<Mapping>,
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
        8 * PAGE
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
        // Others run while it is under way.
        thread::yield_now();
        run.complete(Ok(()));
        Ok(())
    }
}

impl File {
    fn new(stability: Stability) -> Arc<Self> {
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
                bytes: Mutex::new(Rank::Allocator, (vec![0; 8 * 4096], [false; 8])),
            }
        })
    }

    fn write(&self, page: u64, byte: u8) {
        let written = self
            .mapping
            .write(&mut Lent(self), page * PAGE + 8, &[byte; 8], WriteFlags::empty());
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
    for scenario in [|| scenario(Stability::Stable), || scenario(Stability::Loose)] {
        explore(scenario);
    }

    fn scenario(stability: Stability) {
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
