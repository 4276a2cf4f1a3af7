//! Several threads at once, as a filesystem has them: content verified, then compared with the medium.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_pagecache::{CacheOptions, Flush, Flusher, PAGE, ReadAhead, ReadFlags, Stability, WriteFlags};

use crate::disk::{File, World, len, page_of, until};

/// Pages that each writer has for itself.
const OWN: u64 = 24;

fn options(pages: u64) -> CacheOptions {
    CacheOptions {
        bytes: pages * PAGE,
        dirty_bytes: pages * PAGE / 2,
        interval: Duration::from_millis(2),
        expire: Duration::from_millis(5),
        ..CacheOptions::default()
    }
}

/// Writes to its own pages and reads them, with a filesystem's lock.
fn write_and_verify(file: &File, lock: &RwLock<()>, writer: u64, rounds: u64, seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + writer);
    let base = writer * OWN * PAGE;
    let mut model = vec![0; len(OWN * PAGE)];
    let mut ahead = ReadAhead::new();
    for round in 0..rounds {
        let start = rng.random_range(0..model.len());
        let end = (start + rng.random_range(1..12_000)).min(model.len());
        let flags = if rng.random_bool(0.2) {
            WriteFlags::DONTCACHE
        } else {
            WriteFlags::empty()
        };
        let byte = u8::try_from(round % 250 + 1).unwrap();
        model[start..end].fill(byte);
        let at = base + u64::try_from(start).unwrap();
        let bytes = vec![byte; end - start];
        file.mapping
            .cache()
            .throttle(&file.mapping, 12_000, &udax_pagecache::Mode::wait())
            .unwrap();
        {
            let _inode = lock.read();
            assert_eq!(file.write_with(at, &bytes, flags).unwrap(), bytes.len());
        }
        if rng.random_bool(0.3) {
            let end = base + u64::try_from(end).unwrap();
            file.mapping.write_behind(&mut file.disk.lend(), at..end).unwrap();
        }
        let from = rng.random_range(0..model.len() - 100);
        let count = rng.random_range(1..(model.len() - from).min(20_000));
        let flags = [ReadFlags::empty(), ReadFlags::DONTCACHE][usize::from(rng.random_bool(0.3))];
        let _inode = lock.read();
        let read = file.read_with(base + u64::try_from(from).unwrap(), count, &mut ahead, flags);
        assert!(
            read.unwrap() == model[from..from + count],
            "writer {writer}, round {round}, seed {seed}"
        );
    }
    model
}

fn soak(stability: Stability, pages: u64, seed: u64, rounds: u64) {
    let world = World::new(&options(pages), 1 << 30);
    let file = world.file_with(stability);
    file.disk.with_faults(|faults| faults.is_lazy = seed % 2 == 1);
    let lock = RwLock::new(());
    file.truncate(1);
    file.disk.set_size((3 * OWN + 64) * PAGE);
    let flushers = [(); 2].map(|()| Flusher::start(&world.cache).unwrap());
    let stop = AtomicBool::new(false);
    let models = std::thread::scope(|scope| {
        let (file, lock, stop, world) = (&file, &lock, &stop, &world);
        let writers: Vec<_> = (0..3)
            .map(|writer| scope.spawn(move || write_and_verify(file, lock, writer, rounds, seed)))
            .collect();
        // Truncates and extends what is behind the writers' pages.
        scope.spawn(move || {
            let mut rng = SmallRng::seed_from_u64(seed);
            while !stop.load(Ordering::Relaxed) {
                let _inode = lock.write();
                let end = (3 * OWN + 64) * PAGE;
                let cut = rng.random_range(3 * OWN * PAGE..end);
                file.truncate(cut);
                file.disk.set_size(end);
                assert!(file.read(cut, len(end - cut)).iter().all(|byte| *byte == 0));
                file.write(cut, &vec![7; len((end - cut).min(40_000))]);
                let hole = rng.random_range(3 * OWN * PAGE..end);
                file.punch(hole..end);
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut lent = file.disk.lend();
                file.mapping
                    .invalidate_inode(&mut lent, Flush::Write, 0..u64::MAX)
                    .unwrap();
                for order in [2, 3, 4] {
                    for page in (0..3 * OWN).step_by(1 << order) {
                        file.mapping.collapse(page * PAGE, order);
                    }
                }
                file.sync().unwrap();
                let now = world.cache.statistics();
                // What each thread has in its hands cannot go: 16 pages at a time, in two folios at most.
                let beside = if now.over_budget == 0 { 0 } else { 6 * 32 };
                assert!(now.cached <= pages + beside, "{now:?}");
                world.cache.drop_clean();
                file.mapping
                    .invalidate_inode(&mut lent, Flush::Keep, 0..30 * PAGE)
                    .unwrap();
            }
        });
        let models: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        stop.store(true, Ordering::Relaxed);
        models
    });
    let model: Vec<u8> = models.into_iter().flat_map(Result::unwrap).collect();
    drop(flushers);
    file.sync().unwrap();
    let durable = file.disk.durable();
    assert!(
        durable[..model.len()] == model,
        "what is durable differs, seed {seed}"
    );
    assert!(
        file.read(0, durable.len()) == durable,
        "what is cached differs, seed {seed}"
    );
    assert_eq!(world.cache.reservations().blocks(), 0);
}

#[test]
fn writers_readers_truncations_flushers_and_invalidations_lose_nothing() {
    for seed in 0..4 {
        soak(Stability::Loose, 64, seed, 300);
        soak(Stability::Stable, 64, seed, 300);
        // With folios of up to 16 pages.
        soak(Stability::Loose, 1024, seed, 300);
        soak(Stability::Stable, 1024, seed, 300);
    }
}

#[test]
fn several_files_in_a_small_cache_stay_within_its_budget() {
    let world = World::new(&options(64), 1 << 30);
    let files: Vec<_> = (0..4).map(|_| world.file_of(60)).collect();
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (file, seed) in files.iter().zip(0..) {
            let (world, most) = (&world, &most);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed);
                let mut ahead = ReadAhead::new();
                for _ in 0..3000 {
                    let page = rng.random_range(0..60_u64);
                    let flags = ReadFlags::empty();
                    let bytes = file.read_with(page * PAGE, 4096, &mut ahead, flags).unwrap();
                    assert!(bytes == page_of(u8::try_from(page + 1).unwrap()));
                    most.fetch_max(world.cache.statistics().cached, Ordering::Relaxed);
                }
            });
        }
    });
    let most = most.load(Ordering::Relaxed);
    let end = world.cache.statistics();
    // What is being read cannot go: a window of 8 pages for each.
    let beside = if end.over_budget == 0 { 0 } else { 4 * 8 };
    assert!(most <= 64 + beside, "{most} pages, {end:?}");
    assert!(end.cached <= 64);
}

#[test]
fn failing_writes_of_several_threads_lose_neither_bytes_nor_errors() {
    let world = World::new(&options(64), 1 << 30);
    let file = world.file();
    // Of two open files.
    let mut cursors = [file.mapping.errors().sample(); 2];
    let flusher = Flusher::start(&world.cache).unwrap();
    let (stop, errors) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (file, stop, errors, cursors) = (&file, &stop, &errors, &mut cursors);
        scope.spawn(move || {
            let mut rng = SmallRng::seed_from_u64(1);
            while !stop.load(Ordering::Relaxed) {
                file.disk.with_faults(|faults| {
                    let page = rng.random_range(0..32);
                    faults.unwritable.clear();
                    faults.unwritable.insert(page, nix::errno::Errno::EIO);
                });
                if file.sync().is_err() {
                    errors.fetch_add(1, Ordering::Relaxed);
                    for cursor in cursors.iter_mut() {
                        assert!(file.mapping.check_errors(cursor).is_err(), "not told");
                    }
                }
            }
        });
        let mut round = 0;
        until("some writes have failed", || {
            round = (round + 1) % 150;
            for page in 0..16 {
                file.write(page * 2 * PAGE, &page_of(round));
            }
            errors.load(Ordering::Relaxed) >= 10
        });
        for page in 0..16 {
            file.write(page * 2 * PAGE, &page_of(149));
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(flusher);
    file.disk.with_faults(|faults| faults.unwritable.clear());
    // What the flusher met since is told, and then no more.
    for cursor in &mut cursors {
        let _ = file.mapping.check_errors(cursor);
    }
    file.sync().unwrap();
    let mut later = file.mapping.errors().sample();
    for cursor in cursors.iter_mut().chain([&mut later]) {
        file.mapping.check_errors(cursor).unwrap();
    }
    let durable = file.disk.durable();
    for page in 0..16 {
        assert_eq!(durable[page * 2 * 4096], 149);
    }
    assert_eq!(world.cache.reservations().blocks(), 0);
}
