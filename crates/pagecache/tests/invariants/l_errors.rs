//! L 102 to 108: who is told of a failed write, and how often.

use nix::errno::Errno;
use udax_pagecache::{CacheError, ErrorCursor, Flush, PAGE};

use crate::disk::{File, World, page_of};

/// fsync(2): the pass's error, or what this open file has not been told.
fn sync(file: &File, cursor: &mut ErrorCursor) -> Result<(), CacheError> {
    let written = file.sync();
    let told = file.mapping.check_errors(cursor);
    written.and(told)
}

fn dirty_with_fault(world: &World, errno: Errno) -> std::sync::Arc<File> {
    let file = world.file();
    file.write(0, &page_of(1));
    file.disk
        .with_faults(|faults| _ = faults.unwritable.insert(0, errno));
    file
}

#[test]
fn inv_102_every_open_file_is_told_once_and_what_failed_is_tried_again() {
    let world = World::with_pages(64);
    let file = dirty_with_fault(&world, Errno::EIO);
    let mut cursors = [file.mapping.errors().sample(); 3];
    assert!(file.pass(udax_pagecache::Control::background(100)).is_err());
    assert!(file.mapping.is_dirty(0));
    file.disk.with_faults(|faults| faults.unwritable.clear());
    for cursor in &mut cursors {
        assert_eq!(sync(&file, cursor).unwrap_err().errno(), Errno::EIO);
        sync(&file, cursor).unwrap();
    }
    assert_eq!(file.disk.durable(), page_of(1));
}

#[test]
fn inv_103_who_opens_after_an_error_that_nobody_was_told_is_told() {
    let world = World::with_pages(64);
    let file = dirty_with_fault(&world, Errno::EIO);
    file.pass(udax_pagecache::Control::full()).unwrap_err();
    file.disk.with_faults(|faults| faults.unwritable.clear());
    let mut first = file.mapping.errors().sample();
    assert!(sync(&file, &mut first).is_err());
    let mut later = file.mapping.errors().sample();
    sync(&file, &mut later).unwrap();
}

#[test]
fn inv_104_of_two_errors_the_last_is_told_unless_somebody_asked_in_between() {
    let world = World::with_pages(64);
    let file = world.file();
    let mut cursor = file.mapping.errors().sample();
    file.mapping.note_error(Errno::ENOSPC);
    file.mapping.note_error(Errno::EIO);
    assert_eq!(sync(&file, &mut cursor).unwrap_err().errno(), Errno::EIO);
    file.mapping.note_error(Errno::ENOSPC);
    assert_eq!(sync(&file, &mut cursor).unwrap_err().errno(), Errno::ENOSPC);
    sync(&file, &mut cursor).unwrap();
}

#[test]
fn inv_105_the_filesystem_tells_of_all_files_once_to_each() {
    let world = World::with_pages(64);
    let mut cursors = [world.cache.errors().sample(); 2];
    let file = dirty_with_fault(&world, Errno::EIO);
    world.cache.write_all().unwrap_err();
    for cursor in &mut cursors {
        assert_eq!(world.cache.errors().check_and_advance(cursor), Some(Errno::EIO));
        assert_eq!(world.cache.errors().check_and_advance(cursor), None);
    }
    // It is still told to who has this file open.
    let mut cursor = file.mapping.errors().sample();
    assert!(file.mapping.check_errors(&mut cursor).is_err());
}

#[test]
fn inv_106_without_an_open_file_eio_comes_before_enospc_and_is_told_once() {
    let world = World::with_pages(64);
    let file = world.file();
    file.mapping.note_error(Errno::ENOSPC);
    assert_eq!(file.mapping.peek_error(), Some(Errno::ENOSPC));
    file.mapping.note_error(Errno::EIO);
    assert_eq!(file.mapping.peek_error(), Some(Errno::EIO));
    assert_eq!(file.mapping.take_error(), Some(Errno::EIO));
    assert_eq!(
        (file.mapping.peek_error(), file.mapping.take_error()),
        (None, None)
    );
    // An fsync that tells it has told it: who invalidates the file is not told again.
    file.mapping.note_error(Errno::EIO);
    let mut cursor = ErrorCursor::default();
    file.mapping.check_errors(&mut cursor).unwrap_err();
    file.mapping
        .invalidate_inode(&mut file.disk.lend(), Flush::Write, 0..u64::MAX)
        .unwrap();
}

#[test]
fn inv_108_a_sync_does_not_wait_for_what_a_dead_medium_never_completes() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    file.write(2 * PAGE, &page_of(1));
    let mut pass = file
        .mapping
        .pass(udax_pagecache::Control::full(), file.disk.size());
    // Never completed while the sync below runs.
    let stuck = pass.next().unwrap();
    file.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    assert_eq!(file.sync().unwrap_err().errno(), Errno::EIO);
    drop(stuck);
    drop(pass);
    assert_eq!(file.mapping.dirty_pages(), 2);
    file.disk.with_faults(|faults| faults.is_dead = None);
    file.sync().unwrap();
}

#[test]
fn a_dropped_run_has_failed_and_its_pages_are_dirty_with_their_reservations() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    let mut cursor = file.mapping.errors().sample();
    assert_eq!(world.cache.reservations().blocks(), 1);
    drop(
        file.mapping
            .pass(udax_pagecache::Control::full(), PAGE)
            .next()
            .unwrap(),
    );
    assert!(file.mapping.is_dirty(0));
    assert_eq!(world.cache.reservations().blocks(), 1);
    assert!(file.mapping.check_errors(&mut cursor).is_err());
    file.sync().unwrap();
    assert_eq!(world.cache.reservations().blocks(), 0);
}

#[test]
fn a_page_written_to_while_a_write_of_it_fails_keeps_one_reservation() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    let run = file
        .mapping
        .pass(udax_pagecache::Control::full(), PAGE)
        .next()
        .unwrap();
    file.write(0, &page_of(2));
    assert_eq!(world.cache.reservations().blocks(), 2);
    run.complete(Err(Errno::EIO));
    assert_eq!(world.cache.reservations().blocks(), 1);
    file.sync().unwrap();
    assert_eq!(world.cache.reservations().blocks(), 0);
    assert_eq!(file.disk.durable(), page_of(2));
}
