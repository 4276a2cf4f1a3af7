//! What memory the cache takes: none for a hit, and no more than its budget for the folios.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use udax_pagecache::{
    Backing, BackingError, Cache, CacheError, CacheOptions, Control, Mapping, Owner, PAGE, ReadAhead,
    ReadFlags, ReadRun, Reservations, Reserving, Stability, WriteFlags, WriteRun, Written,
};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that are allocated, and the most there were.
static BYTES: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

struct Counting;

fn size(layout: Layout) -> i64 {
    i64::try_from(layout.size()).unwrap_or(0)
}

fn note(layout: Layout) {
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    let now = BYTES.fetch_add(size(layout), Ordering::Relaxed) + size(layout);
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: all is System's; counting touches no memory of the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout);
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(size(layout), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A large file of zeros, which forgets what is written.
struct Nothing;

impl Backing for Nothing {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn read(&mut self, run: ReadRun) -> Result<(), BackingError> {
        run.complete();
        Ok(())
    }

    fn reserve(&mut self, _: Range<u64>, _: &mut Reserving<'_>) -> Result<(), BackingError> {
        Ok(())
    }

    fn write(&mut self, run: WriteRun) -> Result<(), BackingError> {
        run.complete(Ok(()));
        Ok(())
    }
}

struct File(Arc<Mapping>);

impl Owner for File {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.0
    }

    fn write_back(&self, control: Control) -> Result<Written, CacheError> {
        self.0.write_back(&mut Nothing, control)
    }
}

fn file(bytes: u64) -> Arc<File> {
    let options = CacheOptions {
        bytes,
        ..CacheOptions::default()
    };
    let cache = Cache::new(&options, Reservations::default());
    Arc::new_cyclic(|weak: &Weak<File>| {
        let owner: Weak<dyn Owner> = Weak::<File>::clone(weak);
        File(Mapping::new(&cache, 1, owner, Stability::Loose))
    })
}

fn count(mut what: impl FnMut()) -> u64 {
    // Makes what is made once: stacks of held ranks, bags of the index's reclaimer.
    what();
    what();
    let before = COUNT.get();
    assert!(before > 0, "nothing is counted");
    for _ in 0..100 {
        what();
    }
    COUNT.get() - before
}

#[test]
fn a_read_of_what_is_cached_and_an_overwrite_of_what_is_dirty_allocate_nothing() {
    for first in [100, 512] {
        let file = file(256 << 20);
        let mapping = &file.0;
        let (mut ahead, mut bytes) = (ReadAhead::new(), vec![1; 4096]);
        // A folio of one page, and of 512.
        let len = if first == 100 { 4096 } else { 2 << 20 };
        let at = first * PAGE;
        mapping
            .write(&mut Nothing, at, &vec![2; len], WriteFlags::empty())
            .unwrap();
        let reads = count(|| {
            let read = mapping.read(&mut Nothing, at, &mut bytes, &mut ahead, ReadFlags::empty());
            assert_eq!(read.unwrap(), 4096);
        });
        let writes = count(|| {
            let written = mapping.write(&mut Nothing, at, &bytes, WriteFlags::empty());
            assert_eq!(written.unwrap(), 4096);
        });
        assert_eq!((reads, writes), (0, 0), "from page {first}");
        mapping.truncate(0..u64::MAX);
    }
}

#[test]
fn memory_stays_within_the_budget_while_large_folios_come_and_go() {
    let budget = 128_i64 << 20;
    let file = file(128 << 20);
    let mapping = &file.0;
    let mut bytes = vec![0; 1 << 20];
    let mut ahead = ReadAhead::new();
    ahead.advise(udax_pagecache::Advice::Sequential);
    let before = BYTES.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    for piece in 0..1000 {
        let at = piece << 20;
        let read = mapping.read(&mut Nothing, at, &mut bytes, &mut ahead, ReadFlags::empty());
        assert_eq!(read.unwrap(), bytes.len());
        if piece % 3 == 0 {
            mapping
                .write(&mut Nothing, at, &bytes, WriteFlags::DONTCACHE)
                .unwrap();
            mapping.write_behind(&mut Nothing, at..at + (1 << 20)).unwrap();
        }
        if piece % 400 == 399 {
            mapping.truncate(0..u64::MAX);
        }
    }
    let most = MOST.load(Ordering::Relaxed) - before;
    println!("{} KiB at most, of a budget of {} KiB", most >> 10, budget >> 10);
    assert!(most < budget + budget / 8, "{most} bytes");
    assert!(most > budget / 2, "{most} bytes: the cache was not full");
    assert!(mapping.cache().statistics().evicted > 100);
}
