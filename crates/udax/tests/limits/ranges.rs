//! What a crash leaves of `fallocate` operations, and their limits.

use std::collections::BTreeSet;
use std::path::Path;

use udax::{AllocateMode, Error, File, Filesystem, MountOptions};

use crate::crash::{CopyingRecorder, open_recorded};
use crate::pool::{MIB, READ_WRITE, TestPool, check, content, new_inode, open};

const BLOCK: u64 = 4096;

/// What a mount after a crash finds in `/f`; the pool must be sound before and after.
fn content_after_crash(copy: &Path) -> Vec<u8> {
    check(copy);
    let crashed = Filesystem::open(copy, &MountOptions::default()).unwrap();
    let file = crashed.open_file("/f", READ_WRITE, new_inode()).unwrap();
    let found = content(&file);
    drop(file);
    crashed.close().unwrap();
    check(copy);
    std::fs::remove_file(copy).unwrap();
    found
}

/// Zeros in `range` of `old`, grown to its end if `grows`.
fn zeroed(old: &[u8], range: std::ops::Range<usize>, grows: bool) -> Vec<u8> {
    let mut new = old.to_vec();
    if grows && new.len() < range.end {
        new.resize(range.end, 0);
    }
    let end = range.end.min(new.len());
    new[range.start.min(end)..end].fill(0);
    new
}

#[test]
fn a_crash_in_a_punch_or_a_zeroing_leaves_all_or_nothing_of_it() {
    let ranges = [
        100..9000,
        100..200,
        4000..4200,
        5000..12_000,
        8192..12_000,
        4097..30_000,
        1..8192,
    ];
    let modes = [
        AllocateMode::PunchHole,
        AllocateMode::ZeroRange,
        AllocateMode::ZeroRangeKeepSize,
    ];
    for (range, mode) in ranges
        .iter()
        .flat_map(|range| modes.map(|mode| (range.clone(), mode)))
    {
        let pool = TestPool::new(16 * MIB);
        let recorder = CopyingRecorder::new(&pool.path, 1);
        let fs = open_recorded(&pool, &recorder);
        let file = open(&fs, "/f");
        // Bytes of an older file behind the end, which must never be seen.
        file.append(&[0xEE; 40_960]).unwrap();
        file.truncate(12_100).unwrap();
        let old: Vec<u8> = (0..12_100_u16).map(|at| 1 + at.to_le_bytes()[0] % 200).collect();
        file.write_at(&old, 0).unwrap();
        let new = zeroed(&old, range.clone(), mode == AllocateMode::ZeroRange);
        let (start, end) = (
            u64::try_from(range.start).unwrap(),
            u64::try_from(range.end).unwrap(),
        );
        let copies = recorder.during(|| file.allocate(mode, start, end - start).unwrap());
        assert!(copies.len() > 2, "{} copies", copies.len());
        assert_eq!(content(&file), new, "{mode:?} {range:?}");
        let mut seen = BTreeSet::new();
        for copy in copies {
            let found = content_after_crash(&copy);
            assert!(
                found == old || found == new,
                "{mode:?} {range:?}: a mixture in {}",
                copy.display()
            );
            seen.insert(found == new);
        }
        assert!(
            seen.contains(&false),
            "{mode:?} {range:?}: no copy from before the record"
        );
        pool.check();
    }
}

#[test]
fn a_punched_edge_keeps_later_writes_in_place_over_a_crash() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.append(&[7; 8192]).unwrap();
    file.allocate(AllocateMode::PunchHole, 1000, 2000).unwrap();
    let blocks = file.stat().unwrap().blocks;
    file.write_at(b"later", 1500).unwrap();
    let copy = pool.crash_copy("crashed.pool");
    let found = content_after_crash(&copy);
    assert_eq!(found, content(&file));
    assert_eq!(
        (&found[999..1001], &found[1500..1505]),
        (&[7, 0][..], &b"later"[..])
    );
    assert_eq!(blocks, file.stat().unwrap().blocks);
}

/// A file of `islands` extents of a block each, with a hole behind each.
fn islands(fs: &Filesystem, islands: u64) -> File {
    let file = open(fs, "/f");
    for island in 0..islands {
        file.write_at(&island_content(island), island * 2 * BLOCK)
            .unwrap();
    }
    file
}

fn island_content(island: u64) -> [u8; 8] {
    (island + 1).to_le_bytes()
}

/// Which island begins in block `block` of `file`.
fn island_at(file: &File, block: u64) -> Option<u64> {
    let mut back = [0; 8];
    assert_eq!(file.read_at(&mut back, block * BLOCK).unwrap(), 8);
    u64::from_le_bytes(back).checked_sub(1)
}

#[test]
fn shifts_of_a_file_of_many_extents_lose_and_leak_nothing() {
    const ISLANDS: u64 = 200_000;
    let pool = TestPool::new(1024 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/stays"));
    fs.sync().unwrap();
    let free = fs.stat_filesystem();
    let file = islands(&fs, ISLANDS);
    let blocks = file.stat().unwrap().blocks;
    let size = file.stat().unwrap().size;
    file.allocate(AllocateMode::Insert, 2 * BLOCK, 7 * BLOCK).unwrap();
    assert_eq!(file.stat().unwrap().size, size + 7 * BLOCK);
    assert_eq!(
        (island_at(&file, 0), island_at(&file, 2), island_at(&file, 9)),
        (Some(0), None, Some(1))
    );
    assert_eq!(island_at(&file, (ISLANDS - 1) * 2 + 7), Some(ISLANDS - 1));
    pool.check();
    // Half of it, and the inserted hole.
    file.allocate(AllocateMode::Collapse, 2 * BLOCK, (ISLANDS + 7) * BLOCK)
        .unwrap();
    assert_eq!(file.stat().unwrap().size, size - ISLANDS * BLOCK);
    for island in 1..ISLANDS / 2 {
        assert_eq!(island_at(&file, island * 2), Some(island + ISLANDS / 2));
        assert_eq!(island_at(&file, island * 2 - 1), None);
    }
    assert_eq!(island_at(&file, 0), Some(0));
    let after = file.stat().unwrap().blocks;
    assert!(after <= blocks / 2 + 2, "{after} of {blocks} blocks");
    assert_eq!(fs.stat_filesystem().inodes, free.inodes + 1);
    pool.check();
    // It is a tree as any other.
    for island in 0..1000 {
        file.write_at(&island_content(island), island * 2 * BLOCK + BLOCK)
            .unwrap();
    }
    file.truncate(0).unwrap();
    drop(file);
    fs.unlink("/f").unwrap();
    fs.sync().unwrap();
    let now = fs.stat_filesystem();
    assert!(free.free_blocks - now.free_blocks <= 2, "{free:?} {now:?}");
    fs.close().unwrap();
    pool.check();
}

#[test]
fn a_crash_in_a_shift_of_many_extents_leaves_the_file_before_or_after_it() {
    const ISLANDS: u64 = 1500;
    for mode in [AllocateMode::Collapse, AllocateMode::Insert] {
        let pool = TestPool::new(24 * MIB);
        let recorder = CopyingRecorder::new(&pool.path, 41);
        let fs = open_recorded(&pool, &recorder);
        let file = islands(&fs, ISLANDS);
        fs.sync().unwrap();
        let free = fs.stat_filesystem().free_blocks;
        let old = content(&file);
        let (start, length) = (601 * BLOCK, 1200 * BLOCK);
        let copies = recorder.during(|| file.allocate(mode, start, length).unwrap());
        let new = content(&file);
        assert_ne!(old.len(), new.len());
        let mut seen = Vec::new();
        for copy in &copies {
            let found = content_after_crash(copy);
            assert!(
                found == old || found == new,
                "{mode:?}: a mixture in {}",
                copy.display()
            );
            seen.push(found == new);
        }
        assert!(
            seen.is_sorted() && seen.contains(&false) && seen.contains(&true),
            "{seen:?}"
        );
        // Nothing that the shift took stays taken.
        fs.sync().unwrap();
        let now = fs.stat_filesystem().free_blocks;
        let cut = if mode == AllocateMode::Collapse { 600 } else { 0 };
        assert!(now >= free + cut, "{mode:?}: {now} blocks are free, {free} were");
        pool.check();
    }
}

#[test]
fn a_shift_that_finds_no_space_changes_nothing() {
    let pool = TestPool::new(24 * MIB);
    let fs = pool.open();
    let file = islands(&fs, 2000);
    let ballast = open(&fs, "/ballast");
    fs.sync().unwrap();
    // Less than the new tree's nodes.
    let rest = fs.stat_filesystem().available_blocks - 8;
    ballast.allocate(AllocateMode::KeepSize, 0, rest * BLOCK).unwrap();
    let (before, free) = (file.stat().unwrap(), fs.stat_filesystem());
    for mode in [AllocateMode::Collapse, AllocateMode::Insert] {
        let refused = file.allocate(mode, BLOCK, BLOCK);
        assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
        let after = file.stat().unwrap();
        assert_eq!((after.size, after.blocks), (before.size, before.blocks));
        assert_eq!(fs.stat_filesystem().inodes, free.inodes);
        for island in 0..2000 {
            assert_eq!(island_at(&file, island * 2), Some(island));
        }
        pool.check();
    }
}
