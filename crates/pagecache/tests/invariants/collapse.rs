//! Many small folios made one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use udax_pagecache::{Access, Control, Integrity, PAGE, Span};

use crate::disk::{World, freed, page_of, until};

#[test]
fn bytes_dirty_pages_marks_and_reservations_are_as_before() {
    let world = World::with_pages(1 << 12);
    let file = world.file();
    // Downward, so that each has a folio of its own.
    for page in (0..64).rev() {
        file.write(page * PAGE, &page_of(u8::try_from(page).unwrap()));
    }
    file.sync().unwrap();
    file.write(5 * PAGE + 3, &[200]);
    file.write(64 * PAGE, &page_of(64));
    file.disk.set_size(128 * PAGE);
    file.read(65 * PAGE, 63 * 4096);
    let before = world.counts();
    assert_eq!((before.dirty, before.reserved), (2, 1));
    assert!(file.mapping.collapse(0, 6) && file.mapping.collapse(127 * PAGE, 6));
    assert_eq!(world.counts(), before);
    assert!(file.mapping.is_dirty(5) && file.mapping.is_dirty(64) && !file.mapping.is_dirty(6));
    for page in 0..65 {
        let bytes = file.read(page * PAGE, 4096);
        assert_eq!(bytes[1], u8::try_from(page).unwrap());
    }
    file.disk.take_runs();
    file.sync().unwrap();
    let segments = file.disk.take_runs().concat();
    assert_eq!(segments, [5 * PAGE..6 * PAGE, 64 * PAGE..65 * PAGE]);
    // Twice is once.
    assert!(!file.mapping.collapse(0, 6));
    assert!(freed(file.number()).len() >= 64);
    world.cache.drop_clean();
    assert_eq!(file.read(5 * PAGE, 5), [5, 5, 5, 200, 5]);
}

#[test]
fn nothing_is_done_where_a_page_is_missing_pinned_being_written_or_too_many_are_asked_for() {
    let world = World::with_pages(1 << 12);
    let file = world.file();
    for page in (0..8).rev() {
        file.write(page * PAGE, &page_of(1));
    }
    for order in [0, 7, 9, 10, 63] {
        assert!(!file.mapping.collapse(0, order), "order {order}");
    }
    assert!(!file.mapping.collapse(u64::MAX, 3) && !file.mapping.collapse(8 * PAGE, 3));
    let run = file
        .mapping
        .pass(Control::background(8), file.disk.size())
        .next()
        .unwrap();
    assert!(!file.mapping.collapse(0, 3));
    run.complete(Err(Errno::EIO));
    let pin = file.mapping.pin(&mut file.disk.lend(), 3, Access::Read).unwrap();
    assert!(!file.mapping.collapse(0, 3) && file.mapping.collapse(4 * PAGE, 2));
    drop(pin);
    file.punch(2 * PAGE..3 * PAGE);
    assert!(!file.mapping.collapse(0, 3));
    // A folio of which a page is not uptodate.
    file.write(2 * PAGE, &page_of(1));
    file.punch(5 * PAGE..6 * PAGE);
    assert!(!file.mapping.collapse(0, 3));
    file.read(5 * PAGE, 1);
    assert!(file.mapping.collapse(0, 3));
    file.sync().unwrap();
}

#[test]
fn a_full_pass_writes_what_is_collapsed_in_front_of_it() {
    let world = World::with_pages(1 << 12);
    let file = world.file();
    for page in (0..16).rev().filter(|page| *page != 7) {
        file.write(page * PAGE, &page_of(1));
    }
    file.disk.set_size(16 * PAGE);
    let mut pass = file.mapping.pass(Control::full(), file.disk.size());
    let run = pass.next().unwrap();
    assert_eq!(run.pages(), 7);
    file.disk.take(&run).unwrap();
    run.complete(Ok(()));
    assert!(file.mapping.collapse(8 * PAGE, 3));
    let run = pass.next().unwrap();
    assert_eq!(run.pages(), 8);
    file.disk.take(&run).unwrap();
    run.complete(Ok(()));
}

#[test]
fn readers_writers_and_passes_notice_nothing() {
    let world = World::with_pages(1 << 12);
    let file = world.file();
    let (stop, collapsed) = (AtomicBool::new(false), AtomicU64::new(0));
    for page in (0..64).rev() {
        file.write(page * PAGE, &page_of(0));
    }
    std::thread::scope(|scope| {
        let (file, stop, world, collapsed) = (&file, &stop, &world, &collapsed);
        let writers: Vec<_> = (0..2_u64)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..600_u64 {
                        for page in (0..64).filter(|page| page % 2 == thread).step_by(5) {
                            let at = page * PAGE + round % 500 * 8;
                            file.write(at, &round.to_le_bytes());
                            assert_eq!(file.read(at, 8), round.to_le_bytes(), "page {page}");
                        }
                    }
                })
            })
            .collect();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let control = Control {
                    integrity: Integrity::Background,
                    span: Span::Pages(0..u64::MAX),
                    most: u64::MAX,
                };
                file.pass(control).unwrap();
                file.sync().unwrap();
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for order in [2, 4, 6] {
                    for at in (0..64).step_by(1 << order) {
                        let did = file.mapping.collapse(at * PAGE, order);
                        collapsed.fetch_add(u64::from(did), Ordering::Relaxed);
                    }
                }
                // Broken up again.
                for page in (0..64).step_by(3) {
                    let pin = file.mapping.pin(&mut file.disk.lend(), page, Access::Read);
                    drop(pin.unwrap());
                }
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                file.read(0, 64 * 4096);
                world.cache.drop_clean();
            }
        });
        let done: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        until("some are collapsed", || collapsed.load(Ordering::Relaxed) > 20);
        stop.store(true, Ordering::Relaxed);
        assert!(done.iter().all(Result::is_ok));
    });
    file.sync().unwrap();
    assert_eq!(file.read(0, 64 * 4096), file.disk.durable());
}
