//! P 128 to 130, and the flusher: how much may be dirty, and who writes it when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax_pagecache::{Access, CacheOptions, Cancel, Control, Flusher, Mode, PAGE, WaitError};

use crate::disk::{File, World, page_of, until};

fn options(dirty: u64, background: u64) -> CacheOptions {
    CacheOptions {
        bytes: 1024 * PAGE,
        dirty_bytes: dirty * PAGE,
        background_bytes: background * PAGE,
        interval: Duration::from_millis(20),
        expire: Duration::from_secs(1000),
        ..CacheOptions::default()
    }
}

/// What could not be written is dirty again, once a flusher that is at it has been refused.
fn stays_dirty(file: &File, pages: u64) {
    until("what could not be written is dirty", || {
        file.mapping.dirty_pages() >= pages
    });
}

#[test]
fn inv_128_no_more_is_dirty_than_the_limit_and_a_piece_for_each_writer() {
    for with_flusher in [true, false] {
        let world = World::new(&options(64, 32), 1 << 30);
        let flusher = with_flusher.then(|| Flusher::start(&world.cache).unwrap());
        let files: Vec<_> = (0..3).map(|_| world.file()).collect();
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for file in &files {
                for thread in 0..4_u64 {
                    let (most, cache) = (&most, &world.cache);
                    scope.spawn(move || {
                        for page in 0..40 {
                            let at = (thread * 40 + page) * 2 * PAGE;
                            assert_eq!(file.throttled_write(at, &page_of(1)).unwrap(), 4096);
                            most.fetch_max(cache.statistics().dirty, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
        let most = most.load(Ordering::Relaxed);
        assert!(most <= 64 + 12, "{most} pages were dirty");
        drop(flusher);
    }
}

#[test]
fn inv_128_one_file_has_a_limit_of_its_own() {
    let options = CacheOptions {
        file_dirty_bytes: 8 * PAGE,
        ..options(64, 32)
    };
    let world = World::new(&options, 1 << 30);
    let (one, other) = (world.file(), world.file());
    for page in 0..20 {
        one.throttled_write(page * 2 * PAGE, &page_of(1)).unwrap();
        assert!(one.mapping.dirty_pages() <= 8);
    }
    other.throttled_write(0, &page_of(1)).unwrap();
    assert_eq!(other.mapping.dirty_pages(), 1);
}

#[test]
fn inv_129_who_must_not_wait_is_refused_at_once_and_others_can_be_cancelled() {
    let world = World::new(&options(8, 4), 1 << 30);
    let file = world.file();
    file.write(0, &vec![1; 8 * 4096]);
    let throttle = |mode: &Mode| world.cache.throttle(&file.mapping, PAGE, mode);
    let error = throttle(&Mode::NoWait).unwrap_err();
    assert_eq!(error.errno(), Errno::EAGAIN);
    assert_eq!(file.mapping.dirty_pages(), 8, "it has written, which may wait");
    // All of it is being written: there is nothing to do but to wait.
    let mut pass = file.mapping.pass(Control::full(), file.disk.size());
    let run = pass.next().unwrap();
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(
        throttle(&Mode::deadline(soon)).unwrap_err().errno(),
        Errno::ETIMEDOUT
    );
    assert!(Instant::now() >= soon);
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| throttle(&Mode::cancelled(cancel.clone())));
        until("it waits", || world.cache.statistics().throttled >= 3);
        cancel.cancel();
        let error = waiter.join().unwrap().unwrap_err();
        assert!(matches!(
            error,
            udax_pagecache::CacheError::Wait(WaitError::Cancelled)
        ));
        let waiter = scope.spawn(|| throttle(&Mode::wait()));
        run.complete(Ok(()));
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn a_dead_medium_is_an_error_to_who_writes_at_the_limit_with_and_without_a_flusher() {
    for with_flusher in [true, false] {
        let world = World::new(&options(8, 4), 1 << 30);
        let flusher = with_flusher.then(|| Flusher::start(&world.cache).unwrap());
        let (dead, other) = (world.file(), world.file());
        dead.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
        let write = |page: u64| dead.throttled_write(page * 2 * PAGE, &page_of(1));
        let error = (0..20).find_map(|page| write(page).err()).unwrap();
        assert_eq!(error.errno(), Errno::EIO);
        stays_dirty(&dead, 7);
        // Nor do those of another file wait for ever.
        assert!(other.throttled_write(0, &page_of(1)).is_err());
        dead.disk.with_faults(|faults| faults.is_dead = None);
        until("it goes on", || write(30).is_ok());
        drop(flusher);
    }
}

#[test]
fn a_file_that_cannot_be_written_does_not_keep_others_from_being_written() {
    let world = World::new(&options(16, 4), 1 << 30);
    let flusher = Flusher::start(&world.cache).unwrap();
    let (dead, other) = (world.file(), world.file());
    dead.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    for page in 0..3 {
        dead.write(page * 2 * PAGE, &page_of(1));
    }
    for page in 0..100 {
        other.throttled_write(page * 2 * PAGE, &page_of(1)).unwrap();
    }
    until("it is written", || world.cache.statistics().dirty <= 4);
    stays_dirty(&dead, 3);
    dead.disk.with_faults(|faults| faults.is_dead = None);
    drop(flusher);
}

#[test]
fn an_old_file_that_cannot_be_written_is_no_error_of_others() {
    let old = CacheOptions {
        interval: Duration::from_millis(1),
        expire: Duration::ZERO,
        ..options(4, 2)
    };
    let world = World::new(&old, 1 << 30);
    let flusher = Flusher::start(&world.cache).unwrap();
    let (dead, other) = (world.file(), world.file());
    dead.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    dead.write(0, &page_of(1));
    let others = [other, world.file(), world.file(), world.file()];
    std::thread::scope(|scope| {
        for other in &others {
            scope.spawn(move || {
                for page in 0..200 {
                    other.throttled_write(page * 2 * PAGE, &page_of(1)).unwrap();
                }
            });
        }
    });
    stays_dirty(&dead, 1);
    dead.disk.with_faults(|faults| faults.is_dead = None);
    drop(flusher);
}

#[test]
fn flushers_write_down_to_the_background_limit_and_what_is_old() {
    let world = World::new(&options(64, 16), 1 << 30);
    let flusher = Flusher::start(&world.cache).unwrap();
    let file = world.file();
    file.write(0, &vec![1; 17 * 4096]);
    until("below the limit", || world.cache.statistics().dirty <= 16);
    // What is not old, and not too much, stays.
    let few = world.file();
    few.write(0, &page_of(1));
    until("all of the other file", || world.cache.statistics().dirty <= 1);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(few.mapping.dirty_pages(), 1);
    drop(flusher);
    let old = CacheOptions {
        expire: Duration::from_millis(30),
        ..options(64, 16)
    };
    let world = World::new(&old, 1 << 30);
    let file = world.file();
    let flusher = Flusher::start(&world.cache).unwrap();
    file.write(0, &page_of(1));
    // What is being written is not dirty any more, and not yet there.
    until("it is old", || file.disk.durable() == page_of(1));
    assert_eq!(file.mapping.dirty_pages(), 0);
    drop(flusher);
}

#[test]
fn one_of_two_flushers_stops_and_the_other_goes_on() {
    let world = World::new(&options(64, 16), 1 << 30);
    let flushers = [(); 3].map(|()| Flusher::start(&world.cache).unwrap());
    let [one, two, three] = flushers;
    drop(one);
    drop(three);
    let file = world.file();
    for page in 0..200 {
        file.throttled_write(page * 2 * PAGE, &page_of(1)).unwrap();
    }
    until("below the limit", || world.cache.statistics().dirty <= 16);
    drop(two);
    // Without any, who writes writes back.
    for page in 200..400 {
        file.throttled_write(page * 2 * PAGE, &page_of(1)).unwrap();
    }
}

#[test]
fn a_flusher_stops_while_nothing_can_be_written_and_does_not_spin_on_what_stays_dirty() {
    let world = World::new(&options(16, 4), 1 << 30);
    let file = world.file();
    file.disk.set_size(64 * PAGE);
    // Pinned to be stored to, they are dirty however often they are written.
    let pin = |page| {
        file.mapping
            .pin(&mut file.disk.lend(), page, Access::Write)
            .unwrap()
    };
    let pins: Vec<_> = (0..12).map(|page| pin(page * 2)).collect();
    let flusher = Flusher::start(&world.cache).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let runs = file.disk.take_runs().len();
    // A round for each interval of 20 ms and ring, 12 runs in each.
    assert!(runs <= 12 * 20, "{runs} runs of what cannot become clean");
    file.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    drop(flusher);
    drop(pins);
    file.disk.with_faults(|faults| faults.is_dead = None);
}

#[test]
fn the_list_keeps_a_file_while_it_is_dirty_and_no_longer() {
    let world = World::new(&options(64, 16), 1 << 30);
    let ways: [fn(&crate::disk::File); 3] = [
        |file| file.sync().unwrap(),
        |file| file.truncate(0),
        |file| _ = file.pass(Control::background(100)).unwrap(),
    ];
    for way in ways {
        let file = world.file();
        world.release(&file);
        file.write(0, &page_of(1));
        let weak = Arc::downgrade(&file);
        drop(file);
        let file = weak.upgrade().expect("the list keeps what is dirty");
        way(&file);
        drop(file);
        assert!(weak.upgrade().is_none(), "kept though it is clean");
    }
}

#[test]
fn writing_everything_also_writes_what_a_flusher_is_at() {
    let world = World::new(&options(256, 16), 1 << 30);
    let stop = AtomicBool::new(false);
    let flusher = Flusher::start(&world.cache).unwrap();
    std::thread::scope(|scope| {
        let noise = world.file();
        let stop = &stop;
        scope.spawn(move || {
            for round in 0_u64.. {
                noise.throttled_write(round % 64 * 2 * PAGE, &page_of(1)).unwrap();
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        let file = world.file();
        for round in 1..60_u8 {
            for page in 0..20 {
                file.write(page * 2 * PAGE, &page_of(round));
            }
            world.cache.write_all().unwrap();
            let durable = file.disk.durable();
            for page in 0..20 {
                assert_eq!(durable[page * 2 * 4096], round, "page {page} was not written");
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    drop(flusher);
}
