//! M 109 to 112: every folio that leaves is told of once.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use udax_pagecache::{Access, Advice, Control, Flush, PAGE, ReadAhead, ReadFlags, WriteFlags};

use crate::disk::{World, freed, page_of, size};

/// The pages that were freed, ascending; each once.
fn freed_pages(number: u64) -> Vec<u64> {
    let mut pages: Vec<u64> = freed(number)
        .iter()
        .flat_map(|freed| freed.first..freed.first + (1 << freed.order))
        .collect();
    let all = pages.len();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(all, pages.len(), "a page was freed twice");
    pages
}

#[test]
fn inv_109_110_each_way_out_tells_of_each_folio_once_with_no_lock_and_a_failed_one_of_none() {
    let world = World::with_pages(64);
    let file = world.file_of(32);
    let number = file.number();
    file.watch();
    // Truncation of one, and of many at once.
    file.read(0, 32 * 4096);
    file.mapping.truncate(31 * PAGE..32 * PAGE);
    assert_eq!(freed_pages(number), [31]);
    file.mapping.truncate(10 * PAGE..31 * PAGE);
    assert_eq!(freed_pages(number), (10..31).collect::<Vec<_>>());
    // Invalidation: what is dirty stays, and nobody is told.
    file.write(3 * PAGE, &page_of(9));
    let mut lent = file.disk.lend();
    file.mapping
        .invalidate_inode(&mut lent, Flush::Keep, 0..u64::MAX)
        .unwrap();
    let gone = freed_pages(number);
    assert_eq!(gone, (0..10).filter(|page| *page != 3).collect::<Vec<_>>());
    file.mapping
        .invalidate_inode(&mut lent, Flush::Write, 0..u64::MAX)
        .unwrap();
    assert_eq!(freed_pages(number), [3]);
    // Pages in use by address stay.
    let pin = file.mapping.pin(&mut lent, 5, Access::Read).unwrap();
    assert!(!file.mapping.prepare_direct(&mut lent, 0..u64::MAX).unwrap());
    assert!(freed_pages(number).is_empty());
    drop(pin);
    // Dropbehind, of a read and of a write.
    file.read_with(8 * PAGE, 4096, &mut ReadAhead::new(), ReadFlags::DONTCACHE)
        .unwrap();
    assert_eq!(freed_pages(number), [8]);
    file.write_with(9 * PAGE, &page_of(1), WriteFlags::DONTCACHE)
        .unwrap();
    assert!(freed_pages(number).is_empty());
    file.mapping.write_behind(&mut lent, 9 * PAGE..10 * PAGE).unwrap();
    assert_eq!(freed_pages(number), [9]);
    // Advice, and reclaim.
    file.read(0, 2 * 4096);
    file.mapping.drop_unused(0..PAGE);
    assert_eq!(freed_pages(number), [0]);
    file.read(0, 2 * 4096);
    assert_eq!(world.cache.drop_clean(), 0);
    assert_eq!(freed_pages(number), [0, 1, 5]);
}

#[test]
fn inv_109_of_folios_that_are_replaced_too_and_their_reservations_move() {
    let world = World::with_pages(1024);
    let file = world.file();
    let number = file.number();
    for page in (0..8).rev() {
        file.write(page * PAGE, &page_of(1));
    }
    assert!(file.mapping.collapse(0, 3));
    let gone = freed(number);
    assert!(gone.iter().all(|freed| freed.reserved == 0 && freed.order == 0));
    assert_eq!(gone.len(), 8);
    assert_eq!(world.cache.reservations().blocks(), 8);
    // A pin of one page breaks it up.
    let pin = file.mapping.pin(&mut file.disk.lend(), 3, Access::Read).unwrap();
    let gone = freed(number);
    assert_eq!(gone.len(), 1);
    assert_eq!((gone[0].order, gone[0].reserved), (3, 0));
    drop(pin);
    file.truncate(2 * PAGE);
    let gone = freed(number);
    assert_eq!(gone.len(), 6);
    assert!(gone.iter().all(|freed| freed.reserved == 1));
    assert_eq!(world.cache.reservations().blocks(), 2);
}

#[test]
fn inv_110_111_a_mapping_that_goes_frees_its_folios_whatever_they_hold() {
    let world = World::with_pages(64);
    let file = world.file();
    let number = file.number();
    world.release(&file);
    for page in 0..4 {
        file.write(page * PAGE, &page_of(1));
    }
    file.sync().unwrap();
    file.write(PAGE, &page_of(2));
    file.write(9 * PAGE, &page_of(2));
    let pin = file.mapping.pin(&mut file.disk.lend(), 1, Access::Write).unwrap();
    file.truncate(9 * PAGE);
    file.sync().unwrap();
    assert_eq!(freed_pages(number), [9]);
    let mapping = std::sync::Arc::downgrade(&file.mapping);
    // Dirty because of the pin, the list of dirty files keeps it, until it is cut.
    drop(file);
    assert!(mapping.upgrade().is_some());
    mapping.upgrade().unwrap().truncate(PAGE..2 * PAGE);
    assert!(mapping.upgrade().is_none(), "who is clean is kept");
    assert_eq!(freed_pages(number), [0, 1, 2, 3]);
    // What is pinned is memory as before, of no file.
    pin.store(0, &[1, 2, 3]).unwrap();
    let mut read = [0; 3];
    pin.read(0, &mut read).unwrap();
    assert_eq!(read, [1, 2, 3]);
    drop(pin);
    assert_eq!(world.cache.statistics().dirty, 0);
}

#[test]
fn inv_111_reclaim_and_write_behind_race_with_the_end_of_the_mapping() {
    let world = World::with_pages(16);
    for round in 0..300_u64 {
        let file = world.file();
        let number = file.number();
        world.release(&file);
        for page in 0..6 {
            file.write_with(page * 2 * PAGE, &page_of(1), WriteFlags::DONTCACHE)
                .unwrap();
        }
        let mut runs = Vec::new();
        let mut pass = file.mapping.pass(Control::full(), file.disk.size());
        runs.extend(pass.by_ref());
        drop(pass);
        let mut later = file.disk.lend();
        let pin = (round % 2 == 0).then(|| file.mapping.pin(&mut later, 1, Access::Write).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| runs.into_iter().for_each(|run| run.complete(Ok(()))));
            scope.spawn(|| world.cache.drop_clean());
            scope.spawn(move || drop(pin));
            file.mapping.truncate(0..u64::MAX);
            drop(file);
        });
        let gone = freed(number);
        let pages: u64 = gone.iter().map(|freed| 1 << freed.order).sum();
        assert_eq!(pages, size(gone.len()));
        assert!((6..=7).contains(&pages), "{pages} pages freed");
    }
    assert_eq!(world.cache.statistics().cached, 0);
}

#[test]
fn inv_112_nothing_is_found_of_what_was_freed_while_others_look() {
    const READERS: u64 = 4;
    const EACH: u64 = 400;
    let world = World::with_pages(16);
    let file = world.file();
    file.disk.set_size(READERS * EACH * PAGE);
    // The callback looks for what it is told of: no page comes back, as each is read once, by one reader.
    file.watch();
    let readers_left = AtomicU64::new(READERS);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (file, readers_left) = (&file, &readers_left);
            scope.spawn(move || {
                let mut ahead = ReadAhead::new();
                ahead.advise(Advice::Random);
                for page in reader * EACH..(reader + 1) * EACH {
                    file.read_with(page * PAGE, 4096, &mut ahead, ReadFlags::empty())
                        .unwrap();
                }
                readers_left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // And folios are taken from under the readers and from reclaim.
        for way in 0..2 {
            let (file, world, readers_left) = (&file, &world, &readers_left);
            scope.spawn(move || {
                while readers_left.load(Ordering::SeqCst) > 0 {
                    match way {
                        0 => _ = world.cache.drop_clean(),
                        _ => file.mapping.truncate(0..u64::MAX),
                    }
                }
            });
        }
    });
    file.mapping.truncate(0..u64::MAX);
    assert_eq!(
        freed_pages(file.number()),
        (0..READERS * EACH).collect::<Vec<_>>()
    );
}

#[test]
fn a_write_that_fails_beyond_its_first_page_frees_nothing_and_keeps_its_reservation() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    file.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    for _ in 0..3 {
        file.sync().unwrap_err();
        assert_eq!(
            (file.mapping.dirty_pages(), world.cache.reservations().blocks()),
            (1, 1)
        );
    }
    assert!(freed(file.number()).is_empty());
}
