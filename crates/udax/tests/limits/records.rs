//! What one journal record cannot hold, and what a full pool cannot.

use udax::{AllocateMode, File, Filesystem};

use crate::pool::{MIB, TestPool, open};

const BLOCK: u64 = 4096;

/// Leaves of a full extent tree, one hole in each: as many splits in the one record that fills the holes.
#[test]
fn holes_in_many_full_leaves_are_allocated() {
    let pool = TestPool::new(128 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    const PART: u64 = 126;
    const PARTS: u64 = 64;
    for part in 0..PARTS {
        file.allocate(AllocateMode::KeepSize, part * PART * BLOCK, (PART - 1) * BLOCK)
            .unwrap();
        for block in (0..PART - 1).step_by(2) {
            file.write_at(&[1], (part * PART + block) * BLOCK).unwrap();
        }
    }
    let extents = file.extents(0, usize::MAX).unwrap().len();
    let result = file.allocate(AllocateMode::KeepSize, 0, PART * PARTS * BLOCK);
    assert!(result.is_ok(), "{extents} extents: {result:?}");
    drop(file);
    fs.close().unwrap();
    pool.check();
}

/// `/a` has all blocks, `/b` shares every second, so that the share counts fill leaves; one run in each leaf is three
/// blocks long, the middle one of which is `/d`'s: freeing `/d` splits each leaf.
fn scattered(fs: &Filesystem, leaves: u64) -> (File, File, File) {
    const RUNS: u64 = 126;
    let (a, b, d) = (open(fs, "/a"), open(fs, "/b"), open(fs, "/d"));
    let blocks = leaves * (RUNS * 2 + 2);
    let bytes = vec![7; 1 << 20];
    let mut at = 0;
    while at < blocks * BLOCK {
        a.write_at(&bytes, at).unwrap();
        at += 1 << 20;
    }
    assert!(a.extents(0, usize::MAX).unwrap().len() < 10);
    let mut block = 0;
    let mut in_d = 0;
    for run in 0..leaves * RUNS {
        let share =
            |to: &File, from: u64, at: u64| a.clone_range(from * BLOCK, to, at * BLOCK, BLOCK).unwrap();
        share(&b, block, block);
        if run % RUNS == RUNS / 2 {
            share(&d, block + 1, in_d);
            in_d += 1;
            share(&b, block + 2, block + 2);
            block += 2;
        }
        block += 2;
    }
    (a, b, d)
}

#[test]
fn a_file_whose_blocks_are_in_many_leaves_of_share_counts_is_unlinked() {
    let pool = TestPool::new(256 * MIB);
    let fs = pool.open();
    let (a, b, d) = scattered(&fs, 64);
    assert_eq!(d.extents(0, usize::MAX).unwrap().len(), 64);
    drop(d);
    let result = fs.unlink("/d");
    assert!(result.is_ok(), "{result:?}");
    drop((a, b));
    fs.close().unwrap();
    pool.check();
}

#[test]
fn an_open_file_whose_blocks_are_in_many_leaves_of_share_counts_is_freed_when_closed() {
    let pool = TestPool::new(256 * MIB);
    let fs = pool.open();
    let (a, b, d) = scattered(&fs, 64);
    fs.unlink("/d").unwrap();
    drop((a, b, d));
    fs.close().unwrap();
    // Freeing it failed when it was closed; the mount tries again, and must not keep the pool closed if it fails, too.
    let fs = Filesystem::open(&pool.path, &udax::MountOptions::default());
    assert!(fs.is_ok(), "the pool cannot be opened any more: {:?}", fs.err());
}

/// Writes into each of many leaves of share counts in one record.
#[test]
fn a_file_whose_blocks_are_in_many_leaves_of_share_counts_is_written() {
    let pool = TestPool::new(256 * MIB);
    let fs = pool.open();
    let (a, b, d) = scattered(&fs, 64);
    let result = d.write_at(&[3; 64 * 4096], 0);
    assert!(result.is_ok(), "{result:?}");
    drop((a, b, d));
    fs.close().unwrap();
    pool.check();
}

#[test]
fn a_file_whose_blocks_are_in_many_leaves_of_share_counts_is_unshared() {
    let pool = TestPool::new(256 * MIB);
    let fs = pool.open();
    let (_a, _b, d) = scattered(&fs, 64);
    d.allocate(AllocateMode::Unshare, 0, 64 * BLOCK).unwrap();
}

#[test]
fn a_file_whose_blocks_are_in_many_leaves_of_share_counts_is_cloned() {
    let pool = TestPool::new(256 * MIB);
    let fs = pool.open();
    let (_a, _b, d) = scattered(&fs, 64);
    d.clone_range(0, &open(&fs, "/e"), 0, 0).unwrap();
}

/// Nodes that were freed wait for a checkpoint: those who need them make one.
/// What punches take of the reserve they do not free when others own the block: it is for those who free.
#[test]
fn punches_inside_shared_blocks_leave_the_reserve_to_removals() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (one, two, gone) = (open(&fs, "/one"), open(&fs, "/two"), open(&fs, "/gone"));
    one.write_at(&vec![7; 1000 * 4096], 0).unwrap();
    one.clone_range(0, &two, 0, 0).unwrap();
    let ballast = open(&fs, "/ballast");
    fs.sync().unwrap();
    let rest = fs.stat_filesystem().available_blocks;
    ballast
        .allocate(AllocateMode::KeepSize, 0, (rest - 8) * BLOCK)
        .unwrap();
    let before = fs.stat_filesystem();
    let mut punched = 0;
    while punched < 1000
        && two
            .allocate(AllocateMode::PunchHole, punched * BLOCK + 5, 1)
            .is_ok()
    {
        punched += 1;
    }
    let after = fs.stat_filesystem();
    let (before, after) = (before.free_blocks, after.free_blocks);
    assert!(
        after > before / 2,
        "{punched} punches have left {after} of {before} free blocks"
    );
    fs.unlink("/gone").unwrap();
    drop(gone);
}

/// Free space that is one run may be longer than an extent can be.
#[test]
#[ignore = "takes 1 GiB of memory"]
fn an_allocation_longer_than_an_extent_can_be_is_several() {
    let pool = TestPool::new(16 * MIB);
    std::fs::File::create(&pool.path)
        .unwrap()
        .set_len(17 << 40)
        .unwrap();
    Filesystem::format(&pool.path, &udax::FormatOptions::default()).unwrap();
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.allocate(AllocateMode::KeepSize, 0, (16 << 40) + (1 << 38))
        .unwrap();
    drop(file);
    fs.close().unwrap();
    let fs = pool.open();
    let extents = open(&fs, "/f").extents(0, usize::MAX);
    assert!(extents.is_ok(), "{extents:?}");
}

/// A write that fails has changed nothing, also where the file's own blocks could be written in place.
#[test]
fn a_write_that_no_record_can_hold_changes_nothing() {
    let pool = TestPool::new(256 * MIB);
    let fs = pool.open();
    let (_a, _b, d) = scattered(&fs, 64);
    d.write_at(&[5; 4096], 64 * BLOCK).unwrap();
    if d.write_at(&[3; 65 * 4096], 0).is_err() {
        let mut found = [0; 4096];
        d.read_at(&mut found, 64 * BLOCK).unwrap();
        assert!(found == [5; 4096], "the write failed, and is there");
    }
}

#[test]
fn a_full_pool_makes_a_checkpoint_before_a_clone_or_an_extension_fails() {
    type Change = (&'static str, fn(&File, &File) -> udax::Result<()>);
    let changes: [Change; 5] = [
        ("allocate", |_, two| {
            two.allocate(AllocateMode::Allocate, 64 * BLOCK, BLOCK)
        }),
        ("clone", |one, two| {
            one.clone_range(10 * BLOCK, two, 64 * BLOCK, 20 * BLOCK)
        }),
        ("truncate", |_, two| two.truncate(30 * BLOCK)),
        ("write", |_, two| two.write_at(&[1; 10], 30 * BLOCK).map(drop)),
        ("dedupe", |one, two| {
            one.dedupe_range(32 * BLOCK, two, 0, BLOCK).map(|_| ())
        }),
    ];
    let mut failures = Vec::new();
    for (name, change) in changes {
        let pool = TestPool::new(16 * MIB);
        let fs = pool.open();
        let (one, two) = (open(&fs, "/one"), open(&fs, "/two"));
        for block in 0..17 {
            one.write_at(&[7; 4096], block * 2 * BLOCK).unwrap();
        }
        one.clone_range(0, &two, 0, 9 * BLOCK).unwrap();
        two.truncate(8 * BLOCK + 100).unwrap();
        for number in 0..40 {
            let file = open(&fs, &format!("/tree{number}"));
            for block in 0..8 {
                file.write_at(&[1], block * 2 * BLOCK).unwrap();
            }
        }
        let files: Vec<File> = (0..8)
            .map(|number| open(&fs, &format!("/more{number}")))
            .collect();
        let ballast = open(&fs, "/ballast");
        fs.sync().unwrap();
        let rest = fs.stat_filesystem().available_blocks;
        ballast
            .allocate(AllocateMode::KeepSize, 0, (rest - 8) * BLOCK)
            .unwrap();
        for number in 0..40 {
            fs.unlink(format!("/tree{number}")).unwrap();
        }
        let rest = fs.stat_filesystem().available_blocks;
        ballast
            .allocate(AllocateMode::KeepSize, 1 << 30, (rest - 16) * BLOCK)
            .unwrap();
        'all: for file in &files {
            for block in 0..4 {
                if fs.stat_filesystem().available_blocks == 0 {
                    break 'all;
                }
                file.allocate(AllocateMode::KeepSize, block * 2 * BLOCK, BLOCK)
                    .unwrap();
            }
        }
        assert_eq!(fs.stat_filesystem().available_blocks, 0);
        if let Err(error) = change(&one, &two) {
            fs.sync().unwrap();
            failures.push((
                name,
                error,
                fs.stat_filesystem().available_blocks,
                change(&one, &two),
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
