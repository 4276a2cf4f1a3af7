//! What a crash leaves of `fallocate` operations, and their limits.

use std::collections::BTreeSet;
use std::path::Path;

use udax::{AllocateMode, Error, File, Filesystem, MountOptions};

use crate::crash::{CopyingRecorder, open_recorded};
use crate::pool::{MIB, READ_WRITE, TestPool, check, new_inode, open};

const BLOCK: u64 = 4096;

fn content(file: &File) -> Vec<u8> {
    let size = file.stat().unwrap().size;
    let mut bytes = vec![1; usize::try_from(size).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

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

#[test]
fn a_shift_of_too_many_extents_is_refused_and_changes_nothing() {
    let pool = TestPool::new(128 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    for island in 0..6000 {
        file.write_at(&island_content(island), island * 2 * BLOCK)
            .unwrap();
    }
    let before = file.stat().unwrap();
    for mode in [AllocateMode::Collapse, AllocateMode::Insert] {
        let refused = file.allocate(mode, BLOCK, BLOCK);
        assert!(matches!(refused, Err(Error::NotSupported(_))), "{refused:?}");
    }
    let after = file.stat().unwrap();
    assert_eq!((after.size, after.blocks), (before.size, before.blocks));
    for island in 0..6000 {
        let mut back = [0; 8];
        file.read_at(&mut back, island * 2 * BLOCK).unwrap();
        assert_eq!(back, island_content(island));
    }
    drop(file);
    fs.close().unwrap();
    pool.check();
}

fn island_content(island: u64) -> [u8; 8] {
    (island + 1).to_le_bytes()
}
