//! Reads: how many and how large the medium's are, what an unreadable page costs, and what NOWAIT may do.

use nix::errno::Errno;
use udax_pagecache::{Advice, PAGE, ReadAhead, ReadFlags, WriteFlags};

use crate::disk::{File, World, page_of, until};

fn filled(world: &World, pages: u64) -> std::sync::Arc<File> {
    let file = world.file();
    let bytes: Vec<u8> = (0..pages)
        .flat_map(|page| page_of(u8::try_from(page % 251).unwrap()))
        .collect();
    file.disk.store(0, &bytes);
    file
}

fn lengths(file: &File) -> Vec<u64> {
    file.disk
        .take_reads()
        .iter()
        .map(|pages| pages.end - pages.start)
        .collect()
}

#[test]
fn sequential_reads_cause_few_and_large_reads_of_the_medium_and_none_twice() {
    let world = World::with_pages(1 << 14);
    let file = filled(&world, 4096);
    let mut ahead = ReadAhead::new();
    for at in (0..4096 * PAGE).step_by(1000) {
        let count = 1000.min(usize::try_from(4096 * PAGE - at).unwrap());
        let bytes = file.read_with(at, count, &mut ahead, ReadFlags::empty()).unwrap();
        assert_eq!(bytes[0], u8::try_from(at / PAGE % 251).unwrap());
    }
    let reads = lengths(&file);
    assert_eq!(reads.iter().sum::<u64>(), 4096);
    assert!(reads.len() <= 16, "{reads:?}");
    assert!(reads.iter().filter(|len| **len == 512).count() >= 6, "{reads:?}");
    // Said beforehand, they are large at once.
    file.mapping.drop_unused(0..u64::MAX);
    let mut told = ReadAhead::new();
    told.advise(Advice::Sequential);
    file.read_with(0, 1, &mut told, ReadFlags::empty()).unwrap();
    assert_eq!(lengths(&file), [512]);
}

#[test]
fn random_reads_cause_exactly_what_is_asked_for() {
    let world = World::with_pages(1 << 14);
    let file = filled(&world, 4096);
    let mut ahead = ReadAhead::new();
    for page in [4000, 17, 2048, 333, 1, 999] {
        file.read_with(page * PAGE, 4096, &mut ahead, ReadFlags::empty())
            .unwrap();
    }
    assert_eq!(lengths(&file), [1; 6]);
    file.read_with(3000 * PAGE + 1, 5 * 4096, &mut ahead, ReadFlags::empty())
        .unwrap();
    assert_eq!(lengths(&file), [6]);
    let mut told = ReadAhead::new();
    told.advise(Advice::Random);
    for page in 0..4 {
        file.read_with(page * PAGE, 4096, &mut told, ReadFlags::empty())
            .unwrap();
    }
    // Page 1 is there.
    assert_eq!(lengths(&file), [1; 3]);
}

#[test]
fn an_unreadable_page_costs_only_itself() {
    let world = World::with_pages(1 << 14);
    let file = filled(&world, 64);
    file.disk.with_faults(|faults| _ = faults.unreadable.insert(9));
    for page in 0..64 {
        let bytes = file.read_with(page * PAGE, 4096, &mut ReadAhead::new(), ReadFlags::empty());
        match bytes {
            Err(error) => assert_eq!((page, error.errno()), (9, Errno::EIO)),
            Ok(bytes) => assert_eq!(bytes, page_of(u8::try_from(page).unwrap())),
        }
    }
    // One read of many: what is before it is told first.
    file.mapping.drop_unused(0..u64::MAX);
    assert_eq!(file.read(4 * PAGE, 20 * 4096).len(), 5 * 4096);
    // A write of a part of it needs what cannot be read; one of all of it does not.
    let error = file
        .write_with(9 * PAGE + 1, &[1], WriteFlags::empty())
        .unwrap_err();
    assert_eq!(error.errno(), Errno::EIO);
    file.write(9 * PAGE, &page_of(200));
    assert_eq!(file.read(9 * PAGE, 4096), page_of(200));
    // And it can be read when the medium can.
    file.disk.with_faults(|faults| faults.unreadable.clear());
    file.sync().unwrap();
    assert_eq!(file.read(0, 64 * 4096).len(), 64 * 4096);
}

#[test]
fn nowait_neither_reads_nor_waits() {
    let world = World::with_pages(1 << 12);
    let file = filled(&world, 64);
    let read = |at, count| file.read_with(at, count, &mut ReadAhead::new(), ReadFlags::NOWAIT);
    assert_eq!(read(0, 1).unwrap_err().errno(), Errno::EAGAIN);
    assert!(lengths(&file).is_empty());
    file.read(0, 4 * 4096);
    lengths(&file);
    // What is there, as far as it is there: four pages were read ahead.
    assert_eq!(read(2 * PAGE, 10 * 4096).unwrap().len(), 6 * 4096);
    assert!(lengths(&file).is_empty());
    assert_eq!(read(64 * PAGE, 1).unwrap(), []);
    // A read under way is not waited for.
    file.disk.with_faults(|faults| faults.holds_reads = true);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| file.read(40 * PAGE, 1));
        until("it reads", || file.disk.held_reads() > 0);
        assert_eq!(read(40 * PAGE, 1).unwrap_err().errno(), Errno::EAGAIN);
        let error = file.write_with(40 * PAGE, &page_of(1), WriteFlags::NOWAIT);
        assert_eq!(error.unwrap_err().errno(), Errno::EAGAIN);
        file.disk.complete_reads();
        assert_eq!(reader.join().unwrap(), [40]);
    });
    // A part of a page that must be read first.
    let error = file.write_with(50 * PAGE + 1, &[1], WriteFlags::NOWAIT);
    assert_eq!(error.unwrap_err().errno(), Errno::EAGAIN);
    file.write_with(51 * PAGE, &page_of(1), WriteFlags::NOWAIT)
        .unwrap();
    file.disk.with_faults(|faults| faults.holds_reads = false);
}

#[test]
fn two_readers_of_a_page_wait_for_one_read() {
    let world = World::with_pages(1 << 12);
    let file = filled(&world, 64);
    file.disk.with_faults(|faults| faults.holds_reads = true);
    std::thread::scope(|scope| {
        let readers = [(); 4].map(|()| scope.spawn(|| file.read(7 * PAGE, 4096)));
        until("one reads", || file.disk.held_reads() > 0);
        file.disk.complete_reads();
        file.disk.with_faults(|faults| faults.holds_reads = false);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), page_of(7));
        }
    });
    assert_eq!(lengths(&file), [1]);
}

#[test]
fn a_read_larger_than_the_cache_is_made_in_pieces_within_its_budget() {
    let world = World::with_pages(64);
    let file = filled(&world, 3000);
    let bytes = file.read(0, 3000 * 4096);
    for (page, bytes) in bytes.chunks(4096).enumerate() {
        assert!(
            bytes.iter().all(|byte| usize::from(*byte) == page % 251),
            "page {page}"
        );
    }
    let statistics = world.cache.statistics();
    assert_eq!((statistics.over_budget, statistics.cached), (0, 64));
    assert!(lengths(&file).iter().all(|len| *len <= 8));
}

#[test]
fn a_read_run_that_is_dropped_or_filled_in_part_leaves_nothing_behind() {
    let world = World::with_pages(1 << 12);
    let file = filled(&world, 8);
    file.disk.with_faults(|faults| faults.holds_reads = true);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| file.read(0, 1));
        until("it reads", || file.disk.held_reads() > 0);
        file.disk.drop_reads();
        // It asks for its own page again, and for that alone.
        until("it reads again", || file.disk.held_reads() > 0);
        file.disk.with_faults(|faults| faults.holds_reads = false);
        file.disk.complete_reads();
        assert_eq!(reader.join().unwrap(), [0]);
    });
    assert_eq!(lengths(&file), [4, 1]);
    assert!(!file.mapping.is_cached(1));
    // A hole: the pieces are left as they are, which is zeros.
    file.disk.set_size(16 * PAGE);
    assert_eq!(file.read(7 * PAGE, 2 * 4096), [page_of(7), page_of(0)].concat());
}
