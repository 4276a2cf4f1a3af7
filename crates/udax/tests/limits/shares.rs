//! Blocks that several files own: sharing, copying on write, counting.

use std::sync::Arc;

use udax::{AllocateMode, Error, File, Filesystem, OpenFlags};

use crate::crash::{CopyingRecorder, open_recorded};
use crate::pool::{MIB, READ_WRITE, TestPool, check, new_inode, open};

const BLOCK: u64 = 4096;

/// Bytes that differ from block to block and with `salt`.
fn pattern(blocks: u64, salt: u8) -> Vec<u8> {
    (0..blocks)
        .flat_map(|block| {
            let mut bytes = [salt; 4096];
            bytes[..8].copy_from_slice(&block.to_le_bytes());
            bytes
        })
        .collect()
}

fn content(file: &File) -> Vec<u8> {
    let size = usize::try_from(file.stat().unwrap().size).unwrap();
    let mut bytes = vec![1; size];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), size);
    bytes
}

fn free(fs: &Filesystem) -> u64 {
    fs.sync().unwrap();
    fs.stat_filesystem().free_blocks
}

/// `/one` with `blocks` blocks, and `/two` that shares them all.
fn two_files(fs: &Filesystem, blocks: u64) -> (File, File) {
    let (one, two) = (open(fs, "/one"), open(fs, "/two"));
    one.write_at(&pattern(blocks, 7), 0).unwrap();
    one.clone_range(0, &two, 0, 0).unwrap();
    (one, two)
}

fn pool_blocks(file: &File) -> Vec<u64> {
    let extents = file.extents(0, usize::MAX).unwrap();
    extents
        .iter()
        .flat_map(|extent| (extent.pool_offset..extent.pool_offset + extent.len).step_by(4096))
        .collect()
}

#[test]
fn a_clone_costs_no_data_blocks_and_a_write_to_it_those_that_are_written() {
    let pool = TestPool::new(64 * MIB);
    let fs = pool.open();
    let (one, two) = (open(&fs, "/one"), open(&fs, "/two"));
    one.write_at(&pattern(1000, 7), 0).unwrap();
    let before = free(&fs);
    one.clone_range(0, &two, 0, 0).unwrap();
    let metadata = before - free(&fs);
    assert!(metadata <= 2, "{metadata} blocks");
    assert_eq!(pool_blocks(&one), pool_blocks(&two));
    assert_eq!(two.stat().unwrap().blocks, one.stat().unwrap().blocks);
    pool.check();

    let before = free(&fs);
    two.write_at(&[9; 100], 5 * BLOCK + 50).unwrap();
    assert_eq!(before - free(&fs), 1);
    let mut expected = pattern(1000, 7);
    assert_eq!(content(&one), expected);
    expected[5 * 4096 + 50..5 * 4096 + 150].fill(9);
    assert_eq!(content(&two), expected);
    pool.check();

    // The other one is the last owner of that block now, and writes in place.
    let place = pool_blocks(&one);
    let before = free(&fs);
    one.write_at(&[3; 4096], 5 * BLOCK).unwrap();
    assert_eq!((pool_blocks(&one), free(&fs)), (place, before));
    assert_eq!(content(&two), expected);
    drop((one, two));
    fs.close().unwrap();
    pool.check();
}

#[test]
fn owners_are_counted_to_the_last() {
    let pool = TestPool::new(64 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/stays"));
    let empty = free(&fs);
    let names: Vec<String> = (0..5).map(|number| format!("/file{number}")).collect();
    let files: Vec<File> = names.iter().map(|name| open(&fs, name)).collect();
    files[0].write_at(&pattern(300, 1), 0).unwrap();
    for (number, file) in (1..).zip(&files[1..]) {
        // Each a part, so that the numbers of owners differ from block to block.
        let at = number * 40 * BLOCK;
        files[0].clone_range(at, file, 0, 100 * BLOCK).unwrap();
        pool.check();
    }
    // Within one file.
    files[0]
        .clone_range(0, &files[0], 400 * BLOCK, 50 * BLOCK)
        .unwrap();
    pool.check();
    let shared = pattern(300, 1);
    drop(files);
    for (number, name) in names.iter().enumerate() {
        fs.unlink(name).unwrap();
        pool.check();
        for (later, name) in names.iter().enumerate().skip(number + 1) {
            let at = later * 40 * 4096;
            let file = fs.open_file(name, READ_WRITE, new_inode()).unwrap();
            assert_eq!(content(&file), shared[at..at + 100 * 4096]);
        }
    }
    assert!(empty - free(&fs) <= 1);
    fs.close().unwrap();
    pool.check();
}

#[test]
fn what_one_file_makes_of_shared_blocks_leaves_the_other_alone() {
    type Change = (&'static str, fn(&File) -> udax::Result<()>);
    let changes: [Change; 11] = [
        ("write", |file| file.write_at(&[5; 10_000], 3000).map(drop)),
        ("append", |file| file.append(&[5; 10_000]).map(drop)),
        ("cut and extend", |file| {
            file.truncate(100)?;
            file.truncate(20_000)
        }),
        ("cut and write behind the end", |file| {
            file.truncate(100)?;
            file.write_at(&[5; 10], 30_000).map(drop)
        }),
        ("cut and write in the last block", |file| {
            file.truncate(100)?;
            file.write_at(&[5; 10], 1000).map(drop)
        }),
        ("cut and allocate", |file| {
            file.truncate(100)?;
            file.allocate(AllocateMode::Allocate, 0, 9000)
        }),
        ("cut and zero", |file| {
            file.truncate(100)?;
            file.allocate(AllocateMode::ZeroRange, 50, 9000)
        }),
        ("punch", |file| file.allocate(AllocateMode::PunchHole, 100, 9000)),
        ("zero", |file| file.allocate(AllocateMode::ZeroRange, 100, 30_000)),
        ("collapse", |file| {
            file.allocate(AllocateMode::Collapse, 4096, 8192)
        }),
        ("insert", |file| file.allocate(AllocateMode::Insert, 4096, 8192)),
    ];
    let pool = TestPool::new(32 * MIB);
    for (name, change) in changes {
        let fs = pool.open();
        let before = free(&fs);
        let (one, two) = two_files(&fs, 10);
        let plain = open(&fs, "/plain");
        plain.write_at(&pattern(10, 7), 0).unwrap();
        change(&plain).unwrap();
        change(&two).unwrap();
        assert_eq!(content(&one), pattern(10, 7), "{name}");
        assert_eq!(content(&two), content(&plain), "{name}");
        pool.check();
        // And written again, when some of it is its own.
        two.write_at(&[8; 5000], 2000).unwrap();
        plain.write_at(&[8; 5000], 2000).unwrap();
        assert_eq!(content(&one), pattern(10, 7), "{name}");
        assert_eq!(content(&two), content(&plain), "{name}");
        drop((one, two, plain));
        for path in ["/one", "/two", "/plain"] {
            fs.unlink(path).unwrap();
        }
        assert!(before - free(&fs) <= 1, "{name}");
        fs.close().unwrap();
        pool.check();
    }
}

#[test]
fn a_clone_replaces_what_was_there_and_its_end_may_be_inside_a_block() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (one, two) = (open(&fs, "/one"), open(&fs, "/two"));
    one.write_at(&pattern(3, 1), 0).unwrap();
    one.truncate(10_000).unwrap();
    two.write_at(&pattern(2, 2), 0).unwrap();
    two.truncate(5000).unwrap();
    // Behind the end of the other: what is between reads as zeros.
    one.clone_range(4096, &two, 3 * BLOCK, 0).unwrap();
    let mut expected = pattern(2, 2)[..5000].to_vec();
    expected.resize(3 * 4096, 0);
    expected.extend_from_slice(&pattern(3, 1)[4096..10_000]);
    assert_eq!(content(&two), expected);
    // Over what it has; holes become holes.
    one.allocate(AllocateMode::PunchHole, 0, 4096).unwrap();
    one.clone_range(0, &two, 0, 8192).unwrap();
    expected[..4096].fill(0);
    expected[4096..8192].copy_from_slice(&pattern(3, 1)[4096..8192]);
    assert_eq!(content(&two), expected);
    assert_eq!(two.seek_data(0).unwrap(), 4096);
    // It grows later: the bytes of the block behind its end were zeroed for it alone.
    two.truncate(40_000).unwrap();
    expected.resize(40_000, 0);
    assert_eq!(content(&two), expected);
    one.truncate(12_000).unwrap();
    assert_eq!(content(&one)[10_000..], [0; 2000]);
    // A third file has the block in which the second ends before it grows by a clone.
    let third = open(&fs, "/third");
    two.clone_range(0, &third, 0, 0).unwrap();
    let whole = content(&third);
    two.truncate(4096 + 100).unwrap();
    one.clone_range(0, &two, 3 * BLOCK, 4096).unwrap();
    assert_eq!(content(&third), whole);
    assert_eq!(content(&two)[4096 + 100..], [0; 3 * 4096 - 100]);
    two.clone_range(0, &third, 0, 4096).unwrap();
    pool.check();

    // What cannot be shared.
    let invalid = |result: udax::Result<()>| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    invalid(one.clone_range(1, &two, 0, 4096));
    invalid(one.clone_range(0, &two, 1, 4096));
    invalid(one.clone_range(0, &two, 0, 5000));
    invalid(one.clone_range(0, &two, 0, 16_384));
    invalid(one.clone_range(0, &one, 4096, 8192));
    // Up to the end inside a block, but the other file goes on.
    invalid(one.clone_range(8192, &two, 0, 12_000 - 8192));
    let reader = fs.open_file("/two", OpenFlags::READ, new_inode()).unwrap();
    assert!(matches!(
        one.clone_range(0, &reader, 0, 4096),
        Err(Error::BadHandle(_))
    ));
    let other_pool = TestPool::new(16 * MIB);
    let other = other_pool.open();
    let foreign = open(&other, "/f");
    assert!(matches!(
        one.clone_range(0, &foreign, 0, 4096),
        Err(Error::OtherPool)
    ));
}

#[test]
fn equal_ranges_are_deduplicated_and_others_left_alone() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (one, two) = (open(&fs, "/one"), open(&fs, "/two"));
    one.write_at(&pattern(200, 1), 0).unwrap();
    two.write_at(&pattern(200, 1), 0).unwrap();
    two.write_at(&[1], 150 * BLOCK + 77).unwrap();
    two.write_at(&[9], 150 * BLOCK + 78).unwrap();
    let before = free(&fs);
    let times = two.stat().unwrap();
    assert!(one.dedupe_range(0, &two, 0, 150 * BLOCK).unwrap());
    assert!(
        !one.dedupe_range(150 * BLOCK, &two, 150 * BLOCK, 50 * BLOCK)
            .unwrap()
    );
    let gained = free(&fs) - before;
    assert!((147..=150).contains(&gained), "{gained} blocks");
    assert_eq!(two.stat().unwrap().mtime, times.mtime);
    let mut expected = pattern(200, 1);
    assert_eq!(content(&one), expected);
    expected[150 * 4096 + 78] = 9;
    assert_eq!(content(&two), expected);
    // Again: nothing to gain, nothing lost.
    assert!(one.dedupe_range(0, &two, 0, 150 * BLOCK).unwrap());
    pool.check();
    let beyond = one.dedupe_range(0, &two, 100 * BLOCK, 150 * BLOCK);
    assert!(matches!(beyond, Err(Error::Invalid(_))), "{beyond:?}");
}

#[test]
fn unsharing_makes_later_writes_need_no_space() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (one, two) = two_files(&fs, 1000);
    two.allocate(AllocateMode::Unshare, 100 * BLOCK, 800 * BLOCK)
        .unwrap();
    assert_eq!(content(&two), pattern(1000, 7));
    let (of_one, of_two) = (pool_blocks(&one), pool_blocks(&two));
    let alike = of_one.iter().zip(&of_two).filter(|(one, two)| one == two).count();
    assert_eq!(alike, 200);
    pool.check();
    // Nothing is left to take, and the part is written all the same; the rest is not.
    let ballast = open(&fs, "/ballast");
    fs.sync().unwrap();
    let rest = fs.stat_filesystem().available_blocks;
    ballast.allocate(AllocateMode::KeepSize, 0, rest * BLOCK).unwrap();
    two.write_at(&pattern(800, 9), 100 * BLOCK).unwrap();
    let refused = two.write_at(&[1; 4096], 0);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    assert_eq!(content(&one), pattern(1000, 7));
    pool.check();
}

/// `/one` has one extent of `blocks`; `/two` shared it and has written every second block: as many share counts.
fn riddled(fs: &Filesystem, blocks: u64) -> (File, File) {
    let (one, two) = two_files(fs, blocks);
    for block in (0..blocks).step_by(2) {
        two.write_at(&[6; 4096], block * BLOCK).unwrap();
    }
    assert_eq!(one.extents(0, usize::MAX).unwrap().len(), 1);
    (one, two)
}

#[test]
fn one_extent_with_more_share_counts_than_a_record_holds_is_freed_cut_and_cloned() {
    const BLOCKS: u64 = 4000;
    let changes: [fn(&File) -> udax::Result<()>; 5] = [
        |file| file.truncate(BLOCK),
        |file| file.allocate(AllocateMode::PunchHole, BLOCK, (BLOCKS - 2) * BLOCK),
        |file| file.allocate(AllocateMode::ZeroRange, BLOCK, (BLOCKS - 2) * BLOCK),
        |file| file.allocate(AllocateMode::Collapse, BLOCK, (BLOCKS - 2) * BLOCK),
        |file| file.clone_range(0, file, BLOCKS * BLOCK, 0),
    ];
    for change in changes {
        let pool = TestPool::new(128 * MIB);
        let fs = pool.open();
        drop(open(&fs, "/stays"));
        let empty = free(&fs);
        let (one, two) = riddled(&fs, BLOCKS);
        pool.check();
        let expected = content(&two);
        change(&one).unwrap();
        assert_eq!(content(&two), expected);
        pool.check();
        drop((one, two));
        fs.unlink("/one").unwrap();
        let two = fs.open_file("/two", READ_WRITE, new_inode()).unwrap();
        assert_eq!(content(&two), expected);
        pool.check();
        drop(two);
        fs.unlink("/two").unwrap();
        let lost = empty - free(&fs);
        assert!(lost <= 2, "{lost} blocks");
        fs.close().unwrap();
        pool.check();
    }
}

#[test]
fn a_crash_leaves_a_clone_or_a_write_to_it_before_or_after() {
    let pool = TestPool::new(16 * MIB);
    let recorder = CopyingRecorder::new(&pool.path, 1);
    let fs = open_recorded(&pool, &recorder);
    let (one, two) = (open(&fs, "/one"), open(&fs, "/two"));
    one.write_at(&pattern(20, 7), 0).unwrap();
    two.write_at(&pattern(20, 8), 0).unwrap();
    fs.sync().unwrap();
    type Step<'s> = (&'s str, Box<dyn Fn() + 's>);
    let steps: [Step<'_>; 4] = [
        (
            "clone",
            Box::new(|| one.clone_range(0, &two, BLOCK, 15 * BLOCK).unwrap()),
        ),
        (
            "write",
            Box::new(|| assert_eq!(two.write_at(&[3; 9000], 6000).unwrap(), 9000)),
        ),
        (
            "punch",
            Box::new(|| one.allocate(AllocateMode::PunchHole, 5000, 9000).unwrap()),
        ),
        (
            "unshare",
            Box::new(|| two.allocate(AllocateMode::Unshare, 0, 20 * BLOCK).unwrap()),
        ),
    ];
    for (name, step) in steps {
        let before = (content(&one), content(&two));
        let copies = recorder.during(step);
        let after = (content(&one), content(&two));
        let mut seen = Vec::new();
        for copy in &copies {
            check(copy);
            let crashed = Filesystem::open(copy, &udax::MountOptions::default()).unwrap();
            let files =
                ["/one", "/two"].map(|path| crashed.open_file(path, READ_WRITE, new_inode()).unwrap());
            let found = (content(&files[0]), content(&files[1]));
            drop(files);
            crashed.close().unwrap();
            check(copy);
            std::fs::remove_file(copy).unwrap();
            assert!(
                found == before || found == after,
                "{name}: a mixture in {}",
                copy.display()
            );
            seen.push(found == after);
        }
        assert!(seen.is_sorted(), "{name}: {seen:?}");
        assert!(copies.len() > 2, "{name}: {} copies", copies.len());
    }
}

#[test]
fn threads_that_share_and_write_leave_a_sound_pool() {
    let pool = TestPool::new(64 * MIB);
    let fs = Arc::new(pool.open());
    let base = open(&fs, "/base");
    base.write_at(&pattern(256, 1), 0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0_u8..4 {
            let (fs, base) = (Arc::clone(&fs), &base);
            scope.spawn(move || {
                let file = open(&fs, &format!("/clone{thread}"));
                for round in 0..60_u64 {
                    let at = (round * 37 + u64::from(thread) * 11) % 200;
                    base.clone_range(at * BLOCK, &file, at * BLOCK, 56 * BLOCK)
                        .unwrap();
                    file.write_at(&[thread; 5000], (at + 3) * BLOCK).unwrap();
                    base.write_at(&pattern(1, 1), 0).unwrap();
                    if round % 7 == 0 {
                        file.truncate(at * BLOCK).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(content(&base), pattern(256, 1));
    drop(base);
    pool.check();
}
