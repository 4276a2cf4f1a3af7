//! Two files at once: invariants 47 to 52.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use udax_dax::{Access, Attempt, Cancel, DaxError, Fate, Mode, Target, WaitError, break_two, try_break_two};

use crate::disk::{Disk, File, pages, until};

fn target(file: &File) -> Target<'_> {
    Target {
        mapping: &file.mapping,
        pages: pages(0, 4),
        fate: Fate::Kept,
    }
}

#[test]
fn inv_47_breaks_of_the_same_files_both_ways_round_do_not_deadlock() {
    let disk = Disk::new();
    let files = [disk.file(1, 4), disk.file(2, 4)];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let pinner = scope.spawn(|| {
            let mut step = 0;
            while !stop.load(Ordering::Relaxed) {
                step += 1;
                files[step % 2].touch(1, 2, Access::Write);
            }
        });
        let breakers = [(0, 1), (1, 0)].map(|(one, other)| {
            let files = &files;
            scope.spawn(move || {
                for _ in 0..300 {
                    let (one, other) = (&files[one], &files[other]);
                    let pair = break_two(target(one), target(other), &Mode::wait()).unwrap();
                    assert!(pair.covers(&one.mapping, pages(0, 4)));
                    assert!(pair.covers(&other.mapping, pages(0, 4)));
                    assert!(one.entries(4).is_empty() && other.entries(4).is_empty());
                }
            })
        });
        breakers.into_iter().for_each(|breaker| breaker.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        pinner.join().unwrap();
    });
}

#[test]
fn inv_48_a_busy_second_file_is_waited_for_without_locks_and_the_wait_can_be_ended() {
    let disk = Disk::new();
    let (first, second) = (disk.file(1, 4), disk.file(2, 4));
    let pin = second.pin(3, 1, Access::Read);
    let block = second.layout.block(3).unwrap();
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let mode = Mode::cancelled(cancel.clone());
        let (first, second) = (&first, &second);
        let breaker = scope.spawn(move || break_two(target(first), target(second), &mode).map(drop));
        until("it waits", || disk.device.block_waiters(block) == 1);
        // It does not spin, and neither file is locked: pins elsewhere go on.
        let busy = disk.device.counters().busy_breaks;
        first.layout.set(9, 1, disk.fresh(1));
        first.layout.set_end(10);
        drop(first.try_pin(9, 1, Access::Write, &Mode::NoWait).unwrap());
        thread::sleep(Duration::from_millis(20));
        assert_eq!(disk.device.counters().busy_breaks, busy);
        cancel.cancel();
        let error = breaker.join().unwrap().unwrap_err();
        assert!(matches!(error, DaxError::Wait(WaitError::Cancelled)));
    });
    drop(pin);
}

#[test]
fn inv_49_one_file_twice_is_locked_once_and_both_ranges_are_broken() {
    let disk = Disk::new();
    let file = disk.file(1, 8);
    file.touch(0, 8, Access::Write);
    let part = |first| Target {
        mapping: &file.mapping,
        pages: pages(first, 2),
        fate: Fate::Kept,
    };
    let pin = file.pin(7, 1, Access::Read);
    let attempt = try_break_two(part(0), part(6)).unwrap();
    assert!(matches!(&attempt, Attempt::Busy(busy) if busy.page() == 7));
    assert_eq!(file.entries(8).len(), 8);
    drop((attempt, pin));
    let pair = break_two(part(0), part(6), &Mode::NoWait).unwrap();
    assert!(pair.covers(&file.mapping, pages(0, 2)) && pair.covers(&file.mapping, pages(6, 2)));
    assert!(!pair.covers(&file.mapping, pages(0, 8)));
    assert_eq!(file.entries(8).len(), 4);
}

#[test]
fn inv_50_after_a_retry_the_first_file_is_broken_again() {
    let disk = Disk::new();
    let (first, second) = (disk.file(1, 4), disk.file(2, 4));
    let pin = second.pin(0, 1, Access::Read);
    let block = |file: &Arc<File>| file.layout.block(0).unwrap();
    thread::scope(|scope| {
        let breaker = scope.spawn(|| break_two(target(&first), target(&second), &Mode::wait()).map(drop));
        until("it waits for the second", || {
            disk.device.block_waiters(block(&second)) == 1
        });
        // The first was idle when it was looked at; now it is pinned.
        let late = first.pin(0, 1, Access::Read);
        drop(pin);
        until("it waits for the first", || {
            disk.device.block_waiters(block(&first)) == 1
        });
        assert!(!breaker.is_finished());
        drop(late);
        breaker.join().unwrap().unwrap();
    });
}

#[test]
fn inv_51_files_that_are_no_pair_are_refused_with_no_lock_held() {
    let (disk, other) = (Disk::new(), Disk::new());
    let file = disk.file(1, 4);
    for stranger in [other.file(2, 4), disk.file(1, 4)] {
        let result = break_two(target(&file), target(&stranger), &Mode::wait());
        assert!(matches!(result.map(drop), Err(DaxError::NotAPair)));
        file.punch(0, 1, &Mode::NoWait).unwrap();
        stranger.punch(0, 1, &Mode::NoWait).unwrap();
    }
}

#[test]
fn inv_52_every_lock_is_released_on_every_error() {
    let disk = Disk::new();
    let (first, second) = (disk.file(1, 4), disk.file(2, 4));
    for busy in [&first, &second] {
        let pin = busy.pin(0, 1, Access::Read);
        let soon = Mode::deadline(Instant::now() + Duration::from_millis(5));
        for mode in [Mode::NoWait, soon] {
            assert!(break_two(target(&first), target(&second), &mode).is_err());
        }
        drop(pin);
        // Exclusively, without waiting: nobody holds either.
        first.touch(1, 1, Access::Write);
        second.touch(1, 1, Access::Write);
        assert!(first.mapping.try_break(pages(1, 1), Fate::Kept).is_ok());
        assert!(second.mapping.try_break(pages(1, 1), Fate::Kept).is_ok());
        // Nor is a range still held back.
        drop(first.try_pin(0, 4, Access::Read, &Mode::NoWait).unwrap());
        drop(second.try_pin(0, 4, Access::Read, &Mode::NoWait).unwrap());
    }
}
