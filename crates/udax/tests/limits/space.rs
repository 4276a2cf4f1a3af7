//! Where files lie, how pools grow, and what a crash leaves of long operations.

use udax::{AllocateMode, Error, File, FileExtent, Filesystem, MountOptions};

use crate::crash::{CopyingRecorder, open_recorded};
use crate::pool::{MIB, READ_WRITE, TestPool, check, new_inode, open};

const HUGE: u64 = 2 * MIB;

/// All extents, which must be in order.
fn extents(file: &File) -> Vec<FileExtent> {
    let mut all: Vec<FileExtent> = Vec::new();
    loop {
        let from = all.last().map_or(0, |last| last.offset + last.len);
        let batch = file.extents(from, 100).unwrap();
        if batch.is_empty() {
            return all;
        }
        assert!(batch[0].offset >= from);
        all.extend(batch);
    }
}

#[test]
fn extents_tell_where_the_bytes_are() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    assert_eq!(extents(&file), []);
    file.write_at(&[7; 8192], 4096).unwrap();
    file.allocate(AllocateMode::Allocate, 40_960, 4096).unwrap();
    let found = extents(&file);
    let shape: Vec<_> = found
        .iter()
        .map(|one| (one.offset, one.len, one.is_unwritten))
        .collect();
    assert_eq!(shape, [(4096, 8192, false), (40_960, 4096, true)]);
    let bytes = std::fs::read(&pool.path).unwrap();
    let at = usize::try_from(found[0].pool_offset).unwrap();
    assert_eq!(bytes[at..at + 8192], [7; 8192]);
    // The extent that holds the offset, then the one that follows it, then none.
    assert_eq!(file.extents(5000, 1).unwrap(), found[..1]);
    assert_eq!(file.extents(12_288, 5).unwrap(), found[1..]);
    assert_eq!(file.extents(u64::MAX, 5).unwrap(), []);
    let directory = fs.open_file("/", udax::OpenFlags::READ, new_inode()).unwrap();
    assert!(matches!(directory.extents(0, 1), Err(Error::Invalid(_))));
}

#[test]
fn large_files_lie_on_2_mib_boundaries() {
    let pool = TestPool::new(64 * MIB);
    let fs = pool.open();
    // Small files before and between, so that the next free block is at no boundary.
    for number in 0..5 {
        open(&fs, &format!("/small{number}")).append(&[1; 5000]).unwrap();
    }
    let allocated = open(&fs, "/allocated");
    allocated.allocate(AllocateMode::Allocate, 0, 4 * HUGE).unwrap();
    open(&fs, "/between").append(&[1; 5000]).unwrap();
    let written = open(&fs, "/written");
    written.write_at(&vec![3; 8 << 20], 0).unwrap();
    for file in [&allocated, &written] {
        let found = extents(file);
        assert_eq!(found.iter().map(|one| one.len).sum::<u64>(), 4 * HUGE);
        for one in found {
            assert_eq!((one.offset % HUGE, one.pool_offset % HUGE), (0, 0), "{one:?}");
            assert_eq!(one.len % HUGE, 0, "{one:?}");
        }
    }
}

#[test]
fn appends_of_two_files_in_turn_make_few_extents() {
    let pool = TestPool::new(128 * MIB);
    let fs = pool.open();
    let files = [open(&fs, "/a"), open(&fs, "/b")];
    for _ in 0..4096 {
        for file in &files {
            file.append(&[1; 4096]).unwrap();
        }
    }
    for file in &files {
        let found = extents(file);
        assert_eq!(found.iter().map(|one| one.len).sum::<u64>() / 4096, 4096);
        // What is taken ahead is half of the size, up to 2 MiB: 14 steps to that, 7 more for the rest, and one block
        // alone where a chunk begins.
        assert!(found.len() <= 24, "{} extents", found.len());
    }
}

fn tail_of(fs: &Filesystem, len: u64) -> Vec<u8> {
    let file = fs.open_file("/large", READ_WRITE, new_inode()).unwrap();
    let size = file.stat().unwrap().size;
    let mut tail = vec![0; usize::try_from(len).unwrap()];
    assert_eq!(file.read_at(&mut tail, size - len).unwrap(), tail.len());
    tail
}

#[test]
fn a_grown_pool_uses_its_new_space_and_keeps_it() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let large = open(&fs, "/large");
    let error = large.allocate(AllocateMode::KeepSize, 0, 40 * MIB).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }));
    let before = fs.stat_filesystem();
    fs.grow(64 * MIB).unwrap();
    let after = fs.stat_filesystem();
    assert_eq!(after.total_blocks, 64 * MIB / 4096);
    // All but the bitmap of the new segment.
    assert_eq!(after.free_blocks - before.free_blocks, 48 * MIB / 4096 - 1);
    pool.check();
    large.append(&vec![6; 40 << 20]).unwrap();
    let copy = pool.crash_copy("crashed.pool");
    let crashed = Filesystem::open(&copy, &MountOptions::default()).unwrap();
    assert_eq!(tail_of(&crashed, MIB), vec![6; 1 << 20]);
    crashed.close().unwrap();
    check(&copy);
    drop(large);
    fs.close().unwrap();
    let fs = pool.open();
    assert_eq!(fs.stat_filesystem().total_blocks, 64 * MIB / 4096);
    assert_eq!(tail_of(&fs, MIB), vec![6; 1 << 20]);
    for wrong in [64 * MIB, 16 * MIB, 0] {
        assert!(matches!(fs.grow(wrong), Err(Error::Invalid(_))), "{wrong}");
    }
    assert!(matches!(fs.grow(1 << 51), Err(Error::FileTooLarge)));
    // A single block would hold nothing but its bitmap: that must not make the pool unusable.
    assert!(matches!(fs.grow(64 * MIB + 4096), Err(Error::Invalid(_))));
    fs.grow(64 * MIB + 8192).unwrap();
    pool.check();
    fs.close().unwrap();
    pool.open().close().unwrap();
}

const ISLANDS: u64 = 1500;

/// A file of many extents, each of one block.
fn fragmented(fs: &Filesystem, path: &str) -> File {
    let file = open(fs, path);
    for at in 0..ISLANDS {
        file.write_at(&at.to_le_bytes(), at * 8192).unwrap();
    }
    assert_eq!(extents(&file).len(), usize::try_from(ISLANDS).unwrap());
    file
}

#[test]
fn unlinked_open_files_of_many_extents_are_finished_by_the_next_mount() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/stays"));
    fs.sync().unwrap();
    let before = fs.stat_filesystem();
    let files: Vec<File> = (0..3)
        .map(|number| fragmented(&fs, &format!("/f{number}")))
        .collect();
    for number in 0..3 {
        fs.unlink(format!("/f{number}")).unwrap();
    }
    pool.check();
    let copy = pool.crash_copy("crashed.pool");
    drop(files);
    let crashed = Filesystem::open(&copy, &MountOptions::default()).unwrap();
    let after = crashed.stat_filesystem();
    assert_eq!(after.inodes, before.inodes);
    // Nodes that held the orphans' tree and names may still be in use, data is not.
    assert!(
        before.free_blocks - after.free_blocks <= 2,
        "{before:?} {after:?}"
    );
    crashed.close().unwrap();
    check(&copy);
}

#[test]
fn a_long_truncation_that_a_crash_interrupts_is_finished() {
    let pool = TestPool::new(32 * MIB);
    let recorder = CopyingRecorder::new(&pool.path, 97);
    let fs = open_recorded(&pool, &recorder);
    let file = fragmented(&fs, "/f");
    fs.sync().unwrap();
    let kept = 100;
    let copies = recorder.during(|| file.truncate(kept * 8192).unwrap());
    assert!(copies.len() > 5, "{} copies", copies.len());
    let mut sizes = std::collections::BTreeSet::new();
    for copy in copies {
        check(&copy);
        let crashed = Filesystem::open(&copy, &MountOptions::default()).unwrap();
        let file = crashed.open_file("/f", READ_WRITE, new_inode()).unwrap();
        let stat = file.stat().unwrap();
        let islands = match stat.size {
            size if size == kept * 8192 => kept,
            size if size == (ISLANDS - 1) * 8192 + 8 => ISLANDS,
            size => panic!("{}: {size} bytes", copy.display()),
        };
        sizes.insert(islands);
        let found = extents(&file);
        assert_eq!(
            found.len(),
            usize::try_from(islands).unwrap(),
            "{}",
            copy.display()
        );
        for at in 0..islands {
            let mut word = [0; 8];
            assert_eq!(file.read_at(&mut word, at * 8192).unwrap(), 8);
            assert_eq!(u64::from_le_bytes(word), at);
        }
        drop(file);
        crashed.close().unwrap();
        check(&copy);
        std::fs::remove_file(copy).unwrap();
    }
    assert!(sizes.contains(&kept), "no copy was made in the middle");
}

#[test]
fn a_growth_that_a_crash_interrupts_leaves_one_size_or_the_other() {
    let pool = TestPool::new(16 * MIB);
    let recorder = CopyingRecorder::new(&pool.path, 1);
    let fs = open_recorded(&pool, &recorder);
    open(&fs, "/f").append(b"kept").unwrap();
    let copies = recorder.during(|| fs.grow(20 * MIB).unwrap());
    assert!(copies.len() > 3);
    for copy in copies {
        let crashed = Filesystem::open(&copy, &MountOptions::default()).unwrap();
        let told = crashed.stat_filesystem();
        assert!(
            [16 * MIB / 4096, 20 * MIB / 4096].contains(&told.total_blocks),
            "{told:?}"
        );
        let mut content = [0; 4];
        let file = crashed.open_file("/f", READ_WRITE, new_inode()).unwrap();
        file.read_at(&mut content, 0).unwrap();
        assert_eq!(content, *b"kept");
        drop(file);
        // It can be grown again, or further.
        crashed.grow(24 * MIB).unwrap();
        crashed.close().unwrap();
        let report = check(&copy);
        assert_eq!(report.total_blocks, 24 * MIB / 4096);
        std::fs::remove_file(copy).unwrap();
    }
}

#[test]
fn what_is_given_back_in_a_full_part_of_the_pool_is_used_first() {
    let pool = TestPool::new(600 * MIB);
    let fs = pool.open();
    // Several groups of bitmaps, all full but for the last.
    for number in 0..5 {
        let file = open(&fs, &format!("/{number}"));
        file.allocate(AllocateMode::Allocate, 0, 100 * MIB).unwrap();
    }
    let place = |name: &str| -> u64 {
        let file = open(&fs, name);
        file.allocate(AllocateMode::Allocate, 0, 8 * MIB).unwrap();
        file.extents(0, 1).unwrap()[0].pool_offset
    };
    assert!(place("/behind all") >= 500 * MIB);
    fs.unlink("/1").unwrap();
    assert!((100 * MIB..204 * MIB).contains(&place("/in the gap")));
    fs.unlink("/0").unwrap();
    assert!(place("/at the front") < 104 * MIB);
    // What fits nowhere in one run takes all gaps.
    let whole = open(&fs, "/whole");
    let space = fs.stat_filesystem();
    whole
        .allocate(AllocateMode::Allocate, 0, (space.available_blocks - 16) * 4096)
        .unwrap();
    drop(whole);
    fs.close().unwrap();
    pool.check();
}

#[test]
fn a_write_that_finds_no_space_changes_nothing_of_the_blocks_that_are_there() {
    let pool = TestPool::new(24 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.write_at(&[1; 4096], 0).unwrap();
    file.write_at(&[1; 4096], 8192).unwrap();
    let ballast = open(&fs, "/ballast");
    fs.sync().unwrap();
    let rest = fs.stat_filesystem().available_blocks;
    ballast.allocate(AllocateMode::KeepSize, 0, rest * 4096).unwrap();
    // Into a block, and a hole behind it.
    let refused = file.write_at(&[2; 8192], 0);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    let mut bytes = [0; 4096];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 4096);
    assert_eq!(bytes, [1; 4096]);
}

/// Blocks that grow comes with may be used by others before it returns.
#[test]
fn files_are_read_and_written_while_the_pool_grows() {
    use std::sync::atomic::{AtomicBool, Ordering};
    for _ in 0..2 {
        let pool = TestPool::new(16 * MIB);
        let fs = pool.open();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let spawn = |thread| {
                let (fs, done) = (&fs, &done);
                scope.spawn(move || {
                    let file = open(fs, &format!("/{thread}"));
                    let mut at = 0;
                    while !done.load(Ordering::Relaxed) {
                        match file.write_at(&[1], at * 8192) {
                            Ok(_) => at += 1,
                            Err(Error::NoSpace { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            };
            let threads = [0, 1, 2, 3].map(spawn);
            for step in 1..60 {
                fs.grow((16 + step) * MIB).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done.store(true, Ordering::Relaxed);
            // A scope ends by a counter inside std, which the thread sanitizer does not see; it sees a join.
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

/// Whoever is slower to look at a group's bitmap for the first time may see what the faster one has changed.
#[test]
fn threads_take_their_first_blocks_of_a_pool_at_once() {
    let pool = TestPool::new(16 * MIB);
    for round in 0..400 {
        let fs = pool.open();
        let files: Vec<_> = (0..8).map(|thread| open(&fs, &format!("/{thread}"))).collect();
        let barrier = std::sync::Barrier::new(files.len());
        std::thread::scope(|scope| {
            let barrier = &barrier;
            let spawned = files.iter().map(|file| {
                scope.spawn(move || {
                    barrier.wait();
                    file.write_at(&[1; 4096], round % 50 * 4096).unwrap();
                })
            });
            let threads: Vec<_> = spawned.collect();
            // As above.
            for thread in threads {
                thread.join().unwrap();
            }
        });
        if round % 50 == 49 {
            files.iter().for_each(|file| file.truncate(0).unwrap());
        }
    }
}

#[test]
fn the_check_tells_of_files_that_the_next_mount_frees() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.append(&[1; 4096]).unwrap();
    assert_eq!(pool.check().orphans, 0);
    fs.unlink("/f").unwrap();
    assert_eq!(pool.check().orphans, 1);
    drop(file);
    assert_eq!(pool.check().orphans, 0);
}
