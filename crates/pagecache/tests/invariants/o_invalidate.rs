//! O 122 to 127: what is beneath has changed.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use udax_pagecache::{Access, CacheError, Flush, PAGE, Until, WriteFlags};

use crate::disk::{File, Sleeper, World, comes, freed, page_of, until};

fn invalidate(file: &File, flush: Flush, bytes: std::ops::Range<u64>) -> Result<(), CacheError> {
    file.mapping.invalidate_inode(&mut file.disk.lend(), flush, bytes)
}

#[test]
fn inv_122_nothing_comes_in_meanwhile_and_afterwards_the_medium_is_read() {
    let world = World::with_pages(64);
    let file = world.file_of(8);
    assert_eq!(file.read(0, 1), [1]);
    file.disk.store(0, &[9; 4096]);
    assert_eq!(file.read(0, 1), [1]);
    invalidate(&file, Flush::Write, 0..u64::MAX).unwrap();
    assert_eq!(file.read(0, 1), [9]);
    // A write of it is under way, for which the invalidation waits: a reader of another page waits too.
    file.write(0, &page_of(5));
    let run = file
        .mapping
        .pass(udax_pagecache::Control::full(), file.disk.size())
        .next()
        .unwrap();
    let is_done = AtomicBool::new(false);
    let sleeper = Sleeper::default();
    std::thread::scope(|scope| {
        let invalidation = scope.spawn(|| invalidate(&file, Flush::Write, 0..u64::MAX));
        until("it has the lock", || {
            file.write_with(40 * PAGE, &[1], WriteFlags::NOWAIT)
                .is_err_and(|error| error.errno() == Errno::EAGAIN)
        });
        let reader = scope.spawn(|| {
            sleeper.begins();
            let bytes = file.read(6 * PAGE, 1);
            assert!(is_done.load(Ordering::SeqCst), "read while it was invalidated");
            bytes
        });
        sleeper.until_asleep();
        file.disk.take(&run).unwrap();
        is_done.store(true, Ordering::SeqCst);
        run.complete(Ok(()));
        invalidation.join().unwrap().unwrap();
        assert_eq!(reader.join().unwrap(), [7]);
    });
    assert_eq!(file.read(0, 1), [5]);
}

#[test]
fn inv_123_pages_at_the_edges_go_whole_and_nothing_of_them_is_lost() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &vec![1; 4 * 4096]);
    invalidate(&file, Flush::Write, PAGE + 100..2 * PAGE + 1).unwrap();
    let cached = [0, 1, 2, 3].map(|page| file.mapping.is_cached(page));
    assert_eq!(cached, [true, false, false, true]);
    assert_eq!(file.read(0, 4 * 4096), vec![1; 4 * 4096]);
}

#[test]
fn inv_124_without_flush_only_what_is_clean_goes() {
    let world = World::with_pages(64);
    let file = world.file_of(4);
    file.read(0, 4 * 4096);
    file.write(PAGE, &page_of(9));
    invalidate(&file, Flush::Keep, 0..u64::MAX).unwrap();
    let cached = [0, 1, 2, 3].map(|page| file.mapping.is_cached(page));
    assert_eq!(cached, [false, true, false, false]);
    assert!(file.mapping.is_dirty(1));
    assert!(file.disk.take_runs().is_empty());
    invalidate(&file, Flush::Write, 0..u64::MAX).unwrap();
    assert_eq!((file.mapping.pages(), file.read(PAGE, 1)), (0, vec![9]));
}

#[test]
fn inv_125_an_empty_range_takes_no_lock_and_tells_what_is_to_be_told() {
    let world = World::with_pages(64);
    let file = world.file_of(1);
    file.disk.with_faults(|faults| faults.holds_reads = true);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| file.write_with(10, &[1; 10], WriteFlags::empty()));
        until("the writer reads, with the invalidate lock shared", || {
            file.disk.held_reads() == 1
        });
        file.mapping.note_error(Errno::EIO);
        let invalidation = scope.spawn(|| invalidate(&file, Flush::Write, 7..7));
        let is_over = comes(|| invalidation.is_finished());
        file.disk.complete_reads();
        assert!(is_over, "it has waited for the lock");
        let error = invalidation.join().unwrap().unwrap_err();
        assert_eq!(error.errno(), Errno::EIO);
        assert_eq!(writer.join().unwrap().unwrap(), 10);
    });
    invalidate(&file, Flush::Write, 7..7).unwrap();
    assert_eq!(file.mapping.pages(), 1);
}

#[test]
fn inv_125_an_empty_mapping_takes_no_lock_and_tells_what_is_to_be_told() {
    let world = World::with_pages(64);
    let file = world.file_of(1);
    file.read(0, 1);
    // Its last folio has just left it: who has truncated it has the lock alone.
    file.when_freed(|file, _| {
        assert_eq!(file.mapping.pages(), 0);
        file.mapping.note_error(Errno::ENOSPC);
        let other = std::sync::Arc::clone(file);
        let invalidation = std::thread::spawn(move || invalidate(&other, Flush::Write, 0..u64::MAX));
        let is_over = comes(|| invalidation.is_finished());
        assert!(is_over, "it has waited for the lock");
        let error = invalidation.join().unwrap().unwrap_err();
        assert_eq!(error.errno(), Errno::ENOSPC);
    });
    file.mapping.truncate(0..u64::MAX);
    assert_eq!(freed(file.number()).len(), 1);
    invalidate(&file, Flush::Write, 0..u64::MAX).unwrap();
}

#[test]
fn inv_126_what_becomes_dirty_between_flush_and_invalidation_stays() {
    let world = World::with_pages(64);
    let file = world.file_of(2);
    // A pin to store makes its page dirty again whenever it is written.
    let pin = file.mapping.pin(&mut file.disk.lend(), 0, Access::Write).unwrap();
    pin.store(0, &[7]).unwrap();
    invalidate(&file, Flush::Write, 0..u64::MAX).unwrap();
    assert_eq!(file.disk.durable()[0], 7);
    pin.store(0, &[8]).unwrap();
    drop(pin);
    assert!(file.mapping.is_dirty(0));
    invalidate(&file, Flush::Write, 0..u64::MAX).unwrap();
    assert_eq!((file.mapping.pages(), file.disk.durable()[0]), (0, 8));
    // And the same by writers, with content compared.
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..2000_u64 {
                file.write(0, &round.to_le_bytes());
                assert_eq!(file.read(0, 8), round.to_le_bytes());
            }
        });
        while !writer.is_finished() {
            invalidate(&file, Flush::Keep, 0..u64::MAX).unwrap();
            invalidate(&file, Flush::Write, 0..u64::MAX).unwrap();
        }
    });
}

#[test]
fn inv_127_what_cannot_be_taken_out_after_a_direct_write_is_an_error_of_the_next_sync() {
    let world = World::with_pages(64);
    let file = world.file_of(4);
    let mut cursor = file.mapping.errors().sample();
    file.write(0, &page_of(9));
    assert!(
        file.mapping
            .prepare_direct(&mut file.disk.lend(), 0..2 * PAGE)
            .unwrap()
    );
    assert!(!file.mapping.is_cached(0) && !file.mapping.is_cached(1));
    let pin = file.mapping.pin(&mut file.disk.lend(), 1, Access::Read).unwrap();
    assert!(
        !file
            .mapping
            .prepare_direct(&mut file.disk.lend(), 0..2 * PAGE)
            .unwrap()
    );
    file.disk.store(0, &[5; 8192]);
    file.mapping.finish_direct(2 * PAGE..4 * PAGE);
    file.mapping.check_errors(&mut cursor).unwrap();
    file.mapping.finish_direct(0..2 * PAGE);
    assert_eq!(
        file.mapping.check_errors(&mut cursor).unwrap_err().errno(),
        Errno::EIO
    );
    drop(pin);
    file.mapping.wait_unpinned(&Until::forever()).unwrap();
    file.mapping.finish_direct(0..2 * PAGE);
    assert_eq!(file.read(0, 8192), [5; 8192]);
    file.mapping.check_errors(&mut cursor).unwrap();
    // What cannot be written stops the direct write before it begins.
    file.write(0, &page_of(1));
    file.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    let failed = file.mapping.prepare_direct(&mut file.disk.lend(), 0..PAGE);
    assert_eq!(failed.unwrap_err().errno(), Errno::EIO);
    assert!(file.mapping.is_dirty(0));
}
