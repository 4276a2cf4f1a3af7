//! Bytes in use by address, and bytes that a write lends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use udax_pagecache::{Access, Control, PAGE, Stability, Until, WaitError, WriteFlags};

use crate::disk::{World, freed, page_of, until};

#[test]
fn a_pin_to_store_keeps_its_page_dirty_and_what_is_stored_is_written_after_it() {
    let world = World::with_pages(64);
    let file = world.file_of(4);
    let pin = file.mapping.pin(&mut file.disk.lend(), 2, Access::Write).unwrap();
    assert!(file.mapping.is_dirty(2) && !file.mapping.is_dirty(1));
    for byte in 10..15 {
        pin.store(7, &[byte]).unwrap();
        file.sync().unwrap();
        assert_eq!(file.disk.durable()[2 * 4096 + 7], byte);
        assert!(file.mapping.is_dirty(2));
    }
    pin.store(7, &[20]).unwrap();
    drop(pin);
    file.sync().unwrap();
    assert_eq!(
        (file.disk.durable()[2 * 4096 + 7], file.mapping.is_dirty(2)),
        (20, false)
    );
    // One to read keeps nothing dirty, and cannot store.
    let pin = file.mapping.pin(&mut file.disk.lend(), 0, Access::Read).unwrap();
    assert!(pin.store(0, &[1]).is_err());
    let mut bytes = [0; 2];
    pin.read(4094, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 1]);
    assert!(pin.read(4095, &mut bytes).is_err());
    assert!(!file.mapping.is_dirty(0));
}

#[test]
fn a_pin_keeps_its_memory_over_truncation_and_what_is_stored_there_reaches_no_file() {
    // Also where the page was part of a large folio that the truncation cuts.
    let world = World::with_pages(4096);
    let file = world.file();
    file.write(0, &[1; 32 * 4096]);
    let mut lent = file.disk.lend();
    let pin = file.mapping.pin(&mut lent, 5, Access::Write).unwrap();
    let stays = file.mapping.pin(&mut lent, 4, Access::Write).unwrap();
    file.punch(5 * PAGE..9 * PAGE);
    assert!(file.mapping.is_pinned());
    pin.store(0, &[7; 4096]).unwrap();
    stays.store(0, &[8; 10]).unwrap();
    assert_eq!(file.read(5 * PAGE, 4096), page_of(0));
    file.write(5 * PAGE, &[2]);
    pin.store(0, &[9; 4096]).unwrap();
    drop((pin, stays));
    file.sync().unwrap();
    let durable = file.disk.durable();
    assert_eq!(durable[5 * 4096..6 * 4096], [vec![2], vec![0; 4095]].concat());
    assert_eq!(durable[4 * 4096..][..11], [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 1]);
    assert_eq!(file.read(0, 4 * 4096), vec![1; 4 * 4096]);
}

#[test]
fn a_pin_of_a_page_of_a_large_folio_breaks_it_up_and_changes_nothing_else() {
    let world = World::with_pages(4096);
    let file = world.file();
    file.write(0, &[1; 64 * 4096]);
    file.sync().unwrap();
    file.write(3 * PAGE, &page_of(2));
    file.write(40 * PAGE, &page_of(3));
    freed(file.number());
    let before = world.counts();
    let pin = file.mapping.pin(&mut file.disk.lend(), 10, Access::Read).unwrap();
    assert_eq!(world.counts(), before);
    let gone = freed(file.number());
    assert!(!gone.is_empty() && gone.iter().all(|freed| freed.order > 0));
    let dirty: Vec<u64> = (0..64).filter(|page| file.mapping.is_dirty(*page)).collect();
    assert_eq!(dirty, [3, 40]);
    assert_eq!(file.pass(Control::background(100)).unwrap().pages, 2);
    assert_eq!(file.read(40 * PAGE, 8192), [page_of(3), page_of(1)].concat());
    drop(pin);
    assert!(!file.mapping.is_pinned());
}

#[test]
fn a_full_pass_finds_what_a_pin_breaks_up_in_front_of_it() {
    let world = World::with_pages(4096);
    let file = world.file();
    file.write(0, &page_of(1));
    file.write(16 * PAGE, &[2; 16 * 4096]);
    let mut pass = file.mapping.pass(Control::full(), file.disk.size());
    let first = pass.next().unwrap();
    drop(file.mapping.pin(&mut file.disk.lend(), 20, Access::Read).unwrap());
    let second = pass.next().unwrap();
    assert_eq!(second.pages(), 16);
    for run in [first, second] {
        file.disk.take(&run).unwrap();
        run.complete(Ok(()));
    }
}

#[test]
fn who_changes_what_a_file_is_waits_for_its_pins() {
    let world = World::with_pages(64);
    let file = world.file_of(4);
    let mut lent = file.disk.lend();
    file.mapping.wait_unpinned(&Until::forever()).unwrap();
    let pins = [0, 2, 2].map(|page| file.mapping.pin(&mut lent, page, Access::Read).unwrap());
    let soon = Until::deadline(Instant::now() + Duration::from_millis(30));
    assert_eq!(file.mapping.wait_unpinned(&soon), Err(WaitError::TimedOut));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| file.mapping.wait_unpinned(&Until::forever()));
        for pin in pins {
            assert!(!waiter.is_finished());
            drop(pin);
        }
        waiter.join().unwrap().unwrap();
    });
    assert!(!file.mapping.is_pinned());
}

#[test]
fn no_wait_for_pins_misses_the_last_one_that_goes() {
    let world = World::with_pages(64);
    let file = world.file_of(1);
    for _ in 0..2000 {
        let pin = file.mapping.pin(&mut file.disk.lend(), 0, Access::Read).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(pin));
            file.mapping.wait_unpinned(&Until::forever()).unwrap();
        });
    }
}

#[test]
fn reclaim_and_invalidation_leave_what_is_pinned() {
    let world = World::with_pages(16);
    let file = world.file_of(64);
    let pin = file.mapping.pin(&mut file.disk.lend(), 5, Access::Read).unwrap();
    let at = pin.address();
    for page in 0..64 {
        file.read(page * PAGE, 1);
    }
    assert!(world.cache.drop_clean() == 1 && file.mapping.is_cached(5));
    let again = file.mapping.pin(&mut file.disk.lend(), 5, Access::Read).unwrap();
    assert_eq!(again.address(), at);
}

#[test]
fn bytes_that_a_stable_write_lends_stay_as_they_are_while_writers_try() {
    let world = World::with_pages(64);
    let file = world.file_with(Stability::Stable);
    let is_done = AtomicBool::new(false);
    for round in 1..20_u8 {
        file.write(0, &[round; 2 * 4096]);
        let run = file
            .mapping
            .pass(Control::full(), file.disk.size())
            .next()
            .unwrap();
        is_done.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    file.write(100, &[200; 5000]);
                    assert!(is_done.load(Ordering::SeqCst), "stored while it was lent");
                });
            }
            scope.spawn(|| {
                file.mapping
                    .pin(&mut file.disk.lend(), 1, Access::Write)
                    .unwrap()
                    .store(0, &[201])
                    .unwrap();
                assert!(
                    is_done.load(Ordering::SeqCst),
                    "pinned to store while it was lent"
                );
            });
            for piece in run.pieces() {
                piece.with(|bytes| {
                    for _ in 0..50 {
                        assert!(bytes.iter().all(|byte| *byte == round));
                        std::thread::yield_now();
                    }
                });
            }
            is_done.store(true, Ordering::SeqCst);
            run.complete(Ok(()));
        });
    }
}

#[test]
fn a_write_while_a_loose_one_is_under_way_does_not_wait() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    let run = file.mapping.pass(Control::full(), PAGE).next().unwrap();
    file.write_with(0, &page_of(2), WriteFlags::NOWAIT).unwrap();
    assert!(file.mapping.is_dirty(0));
    run.complete(Ok(()));
    file.sync().unwrap();
    assert_eq!(file.disk.durable(), page_of(2));
    until("nothing is written", || world.cache.statistics().under_write == 0);
}
