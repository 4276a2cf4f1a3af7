//! N 113 to 121: bytes that leave the cache as soon as they may. After Linux 6.14: the range of each write is written
//! back when all of it is in the cache. In the place of a counter of such pages (117), each write has its range
//! written, or kicks a flusher if it may not wait (118).

use std::time::Duration;

use nix::errno::Errno;
use udax_pagecache::{Access, CacheOptions, Control, Flusher, PAGE, ReadAhead, ReadFlags, WriteFlags};

use crate::disk::{File, World, comes, len, page_of, until};

fn read_uncached(file: &File, at: u64, count: usize) -> Vec<u8> {
    let mut ahead = ReadAhead::new();
    file.read_with(at, count, &mut ahead, ReadFlags::DONTCACHE)
        .unwrap()
}

fn write_uncached(file: &File, at: u64, bytes: &[u8]) {
    let written = file.write_with(at, bytes, WriteFlags::DONTCACHE).unwrap();
    assert_eq!(written, bytes.len());
}

fn write_behind(file: &File, bytes: std::ops::Range<u64>) {
    file.mapping.write_behind(&mut file.disk.lend(), bytes).unwrap();
}

#[test]
fn inv_113_what_is_dirty_or_written_again_before_it_would_go_stays_until_that_is_done() {
    let world = World::with_pages(64);
    let file = world.file();
    write_uncached(&file, 0, &page_of(1));
    let run = file.mapping.pass(Control::full(), PAGE).next().unwrap();
    write_uncached(&file, 0, &page_of(2));
    file.disk.take(&run).unwrap();
    run.complete(Ok(()));
    assert!(file.mapping.is_cached(0) && file.mapping.is_dirty(0));
    // Written once more, it goes.
    write_behind(&file, 0..PAGE);
    assert!(!file.mapping.is_cached(0));
    assert_eq!(file.disk.durable(), page_of(2));
}

#[test]
fn inv_114_what_others_cached_stays_and_a_use_by_others_keeps_it() {
    let world = World::with_pages(64);
    let file = world.file_of(8);
    file.read_with(PAGE, 4096, &mut ReadAhead::new(), ReadFlags::empty())
        .unwrap();
    read_uncached(&file, PAGE, 2 * 4096);
    assert!(file.mapping.is_cached(1) && !file.mapping.is_cached(2));
    // A write of what is cached keeps it; one of what is not goes.
    write_uncached(&file, PAGE, &vec![7; 2 * 4096]);
    write_behind(&file, PAGE..3 * PAGE);
    assert!(file.mapping.is_cached(1) && !file.mapping.is_cached(2));
    // Used in between: read, written, pinned.
    for (page, reach) in [(3_u64, 0), (4, 1), (5, 2)] {
        write_uncached(&file, page * PAGE, &page_of(7));
        match reach {
            0 => _ = file.read(page * PAGE, 1),
            1 => file.write(page * PAGE, &[8]),
            _ => drop(
                file.mapping
                    .pin(&mut file.disk.lend(), page, Access::Read)
                    .unwrap(),
            ),
        }
        write_behind(&file, page * PAGE..(page + 1) * PAGE);
        assert!(file.mapping.is_cached(page), "page {page}");
    }
}

#[test]
fn inv_115_whoever_writes_it_back_it_goes() {
    let world = World::with_pages(64);
    let file = world.file();
    write_uncached(&file, 0, &vec![1; 4 * 4096]);
    file.sync().unwrap();
    assert_eq!(file.mapping.pages(), 0);
    // A write that fails keeps it, dirty, until it is written.
    write_uncached(&file, 0, &page_of(2));
    file.disk
        .with_faults(|faults| _ = faults.unwritable.insert(0, Errno::EIO));
    file.sync().unwrap_err();
    assert!(file.mapping.is_dirty(0));
    file.disk.with_faults(|faults| faults.unwritable.clear());
    file.sync().unwrap();
    assert_eq!(file.mapping.pages(), 0);
}

#[test]
fn inv_116_the_end_of_a_write_that_drops_waits_for_no_folio_that_somebody_has() {
    let world = World::with_pages(128);
    let file = world.file_of(4);
    // A folio of two pages that is to go, of which one is being written and the other must be read first.
    write_uncached(&file, 2 * PAGE, &vec![7; 2 * 4096]);
    file.mapping.truncate(3 * PAGE..4 * PAGE);
    let run = file.mapping.pass(Control::full(), 4 * PAGE).next().unwrap();
    file.disk.take(&run).unwrap();
    file.disk.with_faults(|faults| faults.holds_reads = true);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_uncached(&file, 3 * PAGE + 10, &[9; 10]));
        until("the writer reads, and has the folio locked", || {
            file.disk.held_reads() == 1
        });
        let medium = scope.spawn(|| run.complete(Ok(())));
        let is_over = comes(|| medium.is_finished());
        // It is left to the writer, with its mark.
        let is_left = file.mapping.is_cached(2) && !file.mapping.is_dirty(2);
        file.disk.complete_reads();
        assert!(is_over, "the medium's thread has waited for the folio");
        assert!(is_left, "it went while it was locked");
        writer.join().unwrap();
    });
    assert!(file.mapping.is_dirty(3));
    write_behind(&file, 2 * PAGE..4 * PAGE);
    assert_eq!(file.mapping.pages(), 0);
    assert_eq!(file.disk.durable()[len(2 * PAGE)..len(3 * PAGE)], page_of(7));
    assert_eq!(
        file.disk.durable()[len(3 * PAGE) + 9..][..12],
        [4, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 4]
    );
}

#[test]
fn inv_117_118_of_many_at_once_none_is_forgotten_and_all_counts_return_to_nothing() {
    const PIECE: u64 = 5 * PAGE;
    let world = World::with_pages(4096);
    let file = world.file();
    // So that no piece lies behind the end that another one is about to move.
    file.disk.set_size(8 * 40 * PIECE);
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let file = &file;
            scope.spawn(move || {
                for piece in 0..40 {
                    let at = (u64::from(writer) * 40 + piece) * PIECE;
                    write_uncached(file, at, &vec![writer + 1; len(PIECE)]);
                    write_behind(file, at..at + PIECE);
                }
            });
        }
    });
    until("all is written and gone", || file.mapping.pages() == 0);
    let counts = world.counts();
    assert_eq!(
        (counts.dirty, counts.under_write, counts.reserved, counts.cached),
        (0, 0, 0, 0)
    );
    let durable = file.disk.durable();
    for (writer, bytes) in durable.chunks(len(40 * PIECE)).enumerate() {
        assert!(
            bytes.iter().all(|byte| usize::from(*byte) == writer + 1),
            "{writer}"
        );
    }
}

#[test]
fn inv_118_no_kick_is_lost_however_many_come_at_once() {
    // Else it would be written for other reasons.
    let hour = Duration::from_secs(3600);
    let options = CacheOptions {
        interval: hour,
        expire: hour,
        ..CacheOptions::default()
    };
    let world = World::new(&options, 1 << 16);
    let files: Vec<_> = (0..4).map(|_| world.file()).collect();
    let flusher = Flusher::start(&world.cache).unwrap();
    for round in 0..50 {
        std::thread::scope(|scope| {
            for file in &files {
                scope.spawn(move || {
                    write_uncached(file, round % 7 * PAGE, &page_of(1));
                    file.mapping.kick();
                });
            }
        });
        for file in &files {
            until("what was kicked is written and gone", || {
                file.mapping.pages() == 0
            });
        }
    }
    // Of a file that is clean there is nothing to write.
    files[0].mapping.kick();
    drop(flusher);
}

#[test]
fn inv_120_it_is_not_durable_before_a_sync_which_also_tells_what_failed() {
    let world = World::with_pages(64);
    let file = world.file();
    let mut cursor = file.mapping.errors().sample();
    write_uncached(&file, 0, &page_of(1));
    // The power goes here: nothing has reached the medium.
    assert_ne!(file.disk.durable(), page_of(1));
    file.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    let failed = file.mapping.write_behind(&mut file.disk.lend(), 0..PAGE);
    assert!(failed.is_err());
    file.disk.with_faults(|faults| faults.is_dead = None);
    file.sync().unwrap();
    assert_eq!(file.disk.durable(), page_of(1));
    assert!(file.mapping.check_errors(&mut cursor).is_err());
    file.mapping.check_errors(&mut cursor).unwrap();
}

#[test]
fn inv_121_nothing_is_written_back_before_the_write_has_ended() {
    let world = World::with_pages(4096);
    let file = world.file();
    let before = file.disk.take_runs().len();
    write_uncached(&file, 0, &vec![1; 4 << 20]);
    assert_eq!((before, file.disk.take_runs().len()), (0, 0));
    write_behind(&file, 0..4 << 20);
    assert_eq!(file.disk.take_runs().len(), 1);
    assert_eq!(file.mapping.pages(), 0);
}

#[test]
fn a_large_uncached_write_or_read_does_not_fill_the_cache() {
    let world = World::with_pages(1 << 14);
    let file = world.file();
    let mut most = 0;
    for piece in 0..64 {
        write_uncached(&file, piece << 20, &vec![1; 1 << 20]);
        most = most.max(file.mapping.pages());
        write_behind(&file, piece << 20..(piece + 1) << 20);
    }
    assert!(most <= (8 << 20) / PAGE, "{most} pages");
    assert_eq!(file.mapping.pages(), 0);
    let mut ahead = ReadAhead::new();
    file.disk.take_reads();
    for page in 0..16384_u64 {
        let bytes = file.read_with(page * PAGE, len(PAGE), &mut ahead, ReadFlags::DONTCACHE);
        assert_eq!(bytes.unwrap(), page_of(1));
        most = most.max(file.mapping.pages());
    }
    // No more than two windows; and each page was read once, in large pieces.
    assert!(most <= 1024 + 512, "{most} pages");
    assert_eq!(file.mapping.pages(), 0);
    let reads = file.disk.take_reads();
    assert_eq!(
        reads.iter().map(|pages| pages.end - pages.start).sum::<u64>(),
        16384
    );
    assert!(reads.len() < 64, "{} reads", reads.len());
}

#[test]
fn a_small_uncached_read_is_dropped_when_its_page_is_read_to_the_end() {
    let world = World::with_pages(64);
    let file = world.file_of(4);
    file.disk.set_size(3 * PAGE + 100);
    assert_eq!(read_uncached(&file, 2 * PAGE, 100), vec![3; 100]);
    assert!(file.mapping.is_cached(2));
    assert_eq!(read_uncached(&file, 2 * PAGE + 100, 3996), vec![3; 3996]);
    assert!(!file.mapping.is_cached(2));
    // The end of the file is one.
    assert_eq!(read_uncached(&file, 3 * PAGE, 5000), vec![4; 100]);
    assert!(!file.mapping.is_cached(3));
}
