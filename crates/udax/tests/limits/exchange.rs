//! Exchanged ranges: what they leave, also after a crash.

use udax::{AllocateMode, Error, File, Filesystem, MountOptions};

use crate::crash::{CopyingRecorder, open_recorded};
use crate::pins::BLOCK;
use crate::pool::{MIB, READ_WRITE, TestPool, check, content, new_inode, open};

/// Every other block of `count`, each an extent of its own.
fn islands(fs: &Filesystem, name: &str, count: u64, seed: u8) -> File {
    let file = open(fs, name);
    for island in 0..count {
        let byte = u8::try_from(island % 199).unwrap() + seed;
        file.write_at(&[byte; 4096], island * 2 * BLOCK).unwrap();
    }
    file
}

fn both_after_crash(copy: &std::path::Path) -> (Vec<u8>, Vec<u8>) {
    check(copy);
    let fs = Filesystem::open(copy, &MountOptions::default()).unwrap();
    let find = |name: &str| content(&fs.open_file(name, READ_WRITE, new_inode()).unwrap());
    let found = (find("/a"), find("/b"));
    fs.close().unwrap();
    check(copy);
    std::fs::remove_file(copy).unwrap();
    found
}

#[test]
fn a_crash_in_an_exchange_leaves_all_or_nothing_of_it() {
    // Spliced, and rebuilt beside.
    for (count, step) in [(3, 1), (60, 4), (700, 11)] {
        let pool = TestPool::new(32 * MIB);
        let recorder = CopyingRecorder::new(&pool.path, step);
        let fs = open_recorded(&pool, &recorder);
        let (a, b) = (islands(&fs, "/a", count, 1), islands(&fs, "/b", count * 2, 50));
        b.truncate(count * 4 * BLOCK - 100).unwrap();
        let old = (content(&a), content(&b));
        let blocks = a.stat().unwrap().blocks + b.stat().unwrap().blocks;
        let copies = recorder.during(|| a.exchange_range(0, &b, 0, 0).unwrap());
        assert!(copies.len() > 2, "{} copies", copies.len());
        assert!((content(&b), content(&a)) == old, "{count}");
        assert_eq!(a.stat().unwrap().size, count * 4 * BLOCK - 100);
        let (mut seen_old, mut seen_new) = (0, 0);
        for copy in &copies {
            let (one, other) = both_after_crash(copy);
            if (&one, &other) == (&old.0, &old.1) {
                seen_old += 1;
            } else if (&other, &one) == (&old.0, &old.1) {
                seen_new += 1;
            } else {
                panic!("{count}: neither old nor new");
            }
        }
        // With little to do the record is the first thing that is stored.
        let is_long = count > 500;
        assert!(
            (!is_long || seen_old > 0) && seen_new > 0,
            "{seen_old} {seen_new}"
        );
        // A tree of the same extents has nearly as many nodes as before.
        let blocks_after = a.stat().unwrap().blocks + b.stat().unwrap().blocks;
        assert!(blocks_after.abs_diff(blocks) <= 8 * 40, "{blocks} {blocks_after}");
        drop((a, b));
        fs.close().unwrap();
        check(&pool.path);
    }
}

#[test]
fn a_part_of_one_file_is_exchanged_with_a_part_of_another_and_of_itself() {
    for count in [20, 900] {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        let (a, b) = (islands(&fs, "/a", count, 1), islands(&fs, "/b", count, 50));
        let (old_a, old_b) = (content(&a), content(&b));
        let len = (count - 4) * BLOCK;
        let (from, to) = (3 * BLOCK, 6 * BLOCK);
        let part = |start: u64| usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
        a.exchange_range(from, &b, to, len).unwrap();
        let (mut new_a, mut new_b) = (old_a.clone(), old_b.clone());
        new_a[part(from)].copy_from_slice(&old_b[part(to)]);
        new_b[part(to)].copy_from_slice(&old_a[part(from)]);
        assert!((content(&a), content(&b)) == (new_a, new_b), "{count}");
        pool.check();
        // Back again, and inside one file.
        a.exchange_range(from, &b, to, len).unwrap();
        assert!((content(&a), content(&b)) == (old_a.clone(), old_b), "{count}");
        let to = (count + 1) * BLOCK;
        let part = |start: u64| usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
        a.exchange_range(from, &a, to, len).unwrap();
        let mut new_a = old_a.clone();
        new_a[part(from)].copy_from_slice(&old_a[part(to)]);
        new_a[part(to)].copy_from_slice(&old_a[part(from)]);
        assert!(content(&a) == new_a, "{count}");
        pool.check();
    }
}

#[test]
fn exchanged_ends_read_as_zeros_when_the_files_grow() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (a, b) = (open(&fs, "/a"), open(&fs, "/b"));
    for (file, byte, size) in [(&a, 7, 5000), (&b, 9, 10_000)] {
        file.write_at(&[byte; 20_000], 0).unwrap();
        file.truncate(size).unwrap();
        file.allocate(AllocateMode::KeepSize, 0, 30_000).unwrap();
    }
    a.exchange_range(0, &b, BLOCK, 0).unwrap();
    let sizes = (a.stat().unwrap().size, b.stat().unwrap().size);
    assert_eq!(sizes, (10_000 - BLOCK, 5000 + BLOCK));
    a.truncate(12_000).unwrap();
    b.append(&[1; 100]).unwrap();
    b.truncate(12_000).unwrap();
    let (mut expected_a, mut expected_b) = (vec![0; 12_000], vec![0; 12_000]);
    expected_a[..5904].fill(9);
    expected_b[..4096].fill(9);
    expected_b[4096..9096].fill(7);
    expected_b[9096..9196].fill(1);
    assert!(content(&a) == expected_a);
    assert!(content(&b) == expected_b);
    drop((a, b, fs));
    pool.check();
}

#[test]
fn shared_blocks_are_exchanged_as_shared() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (a, b) = (islands(&fs, "/a", 10, 1), islands(&fs, "/b", 10, 50));
    let clone = open(&fs, "/clone");
    a.clone_range(0, &clone, 0, 0).unwrap();
    let old = content(&a);
    a.exchange_range(0, &b, 0, 0).unwrap();
    b.write_at(&[200; 40_000], 0).unwrap();
    assert!(content(&clone) == old);
    drop(clone);
    fs.unlink("/clone").unwrap();
    pool.check();
}

#[test]
fn what_cannot_be_exchanged_is_refused() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (a, b) = (islands(&fs, "/a", 10, 1), islands(&fs, "/b", 8, 50));
    let old = (content(&a), content(&b));
    let refused = [
        a.exchange_range(1, &b, 0, BLOCK),
        a.exchange_range(0, &b, 100, BLOCK),
        a.exchange_range(0, &b, 0, 100),
        a.exchange_range(0, &b, 8 * BLOCK, 8 * BLOCK),
        a.exchange_range(20 * BLOCK, &b, 0, 0),
        a.exchange_range(0, &a, 3 * BLOCK, 4 * BLOCK),
        a.exchange_range(0, &a, 0, 0),
        a.exchange_range(u64::MAX - 4095, &b, 0, BLOCK),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    }
    let read_only = fs.open_file("/b", udax::OpenFlags::READ, new_inode()).unwrap();
    assert!(matches!(
        a.exchange_range(0, &read_only, 0, BLOCK),
        Err(Error::BadHandle(_))
    ));
    assert!((content(&a), content(&b)) == old);
    pool.check();
}
