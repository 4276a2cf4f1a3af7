//! Media errors: what is lost with a page, and that nothing else is.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use udax::{
    Access, AllocateMode, Error, File, Filesystem, FormatOptions, Label, MountOptions, OpenFlags, RenameMode,
    Request, Term, XattrMode,
};
use udax_check::{CheckError, CheckOptions, Silent};
use udax_journal::JournalError;
use udax_media::geometry::{CHECKPOINTS, Geometry, ROOTS, SUPERBLOCKS};
use udax_media::{BLOCK_BYTES, BlockNo, Place, Superblock};
use udax_pmem::{Region, RegionError, RegionOptions};

use crate::pool::{CREATE, MIB, READ_WRITE, TestPool, check, content, new_inode, open};

const BLOCK: usize = 4096;

/// Opens the pool with these bytes poisoned.
fn open_poisoned(pool: &TestPool, ranges: &[(u64, u64)]) -> udax::Result<Filesystem> {
    Filesystem::open_region(poisoned(pool, ranges), &MountOptions::default())
}

fn poisoned(pool: &TestPool, ranges: &[(u64, u64)]) -> Region {
    let region = Region::open(&pool.path, RegionOptions::default()).unwrap();
    for (at, len) in ranges {
        region.poison(*at, *len).unwrap();
    }
    region
}

/// A closed pool with `/file` of these blocks, block `n` full of `n + 1`; and where its bytes are.
fn pool_with_file(blocks: u8) -> (TestPool, u64) {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/file");
    file.append(&pattern(blocks)).unwrap();
    let extents = file.extents(0, 1000).unwrap();
    assert_eq!(extents.len(), 1);
    let at = extents[0].pool_offset;
    drop(file);
    fs.close().unwrap();
    (pool, at)
}

fn pattern(blocks: u8) -> Vec<u8> {
    (0..blocks).flat_map(|block| [block + 1; BLOCK]).collect()
}

#[track_caller]
fn lost<T: std::fmt::Debug>(result: udax::Result<T>) -> (u64, u64) {
    match result {
        Err(error @ Error::LostData { offset, len, .. }) => {
            assert_eq!(error.errno(), Errno::EIO);
            (offset, len)
        }
        other => panic!("no lost data: {other:?}"),
    }
}

fn read(file: &File, offset: u64, len: usize) -> udax::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    let count = file.read_at(&mut bytes, offset)?;
    bytes.truncate(count);
    Ok(bytes)
}

#[test]
fn a_read_gives_what_is_before_lost_bytes_and_then_an_error_for_just_those() {
    let (pool, at) = pool_with_file(8);
    let fs = open_poisoned(&pool, &[(at + 3 * BLOCK_BYTES, 2 * BLOCK_BYTES)]).unwrap();
    let file = open(&fs, "/file");
    let whole = pattern(8);
    assert_eq!(read(&file, 100, 8 * BLOCK).unwrap(), whole[100..3 * BLOCK]);
    assert_eq!(lost(read(&file, 12_288, 8 * BLOCK)), (12_288, 8192));
    assert_eq!(lost(read(&file, 12_300, 100)), (12_300, 100));
    assert_eq!(lost(read(&file, 20_479, 1)), (20_479, 1));
    assert_eq!(read(&file, 20_480, 8 * BLOCK).unwrap(), whole[5 * BLOCK..]);
    let mut parts = [[0; BLOCK]; 4];
    let mut slices: Vec<_> = parts
        .iter_mut()
        .map(|part| std::io::IoSliceMut::new(part))
        .collect();
    assert_eq!(file.read_vectored_at(&mut slices, 4096).unwrap(), 2 * BLOCK);
    assert_eq!(
        lost(file.read_vectored_at(&mut slices, 12_288).map(|_| ())).0,
        12_288
    );
    // Not a matter of the whole pool.
    assert_eq!(fs.damage(), None);
    open(&fs, "/other").append(b"x").unwrap();
}

#[test]
fn copies_stop_before_lost_bytes_and_clones_share_them() {
    let (pool, at) = pool_with_file(4);
    let fs = open_poisoned(&pool, &[(at + 2 * BLOCK_BYTES, 1)]).unwrap();
    let (file, copy) = (open(&fs, "/file"), open(&fs, "/copy"));
    assert_eq!(file.copy_range(0, &copy, 0, 16_384).unwrap(), 8192);
    assert_eq!(content(&copy), pattern(2));
    assert_eq!(lost(file.copy_range(8192, &copy, 0, 16_384)).0, 8192);
    file.clone_range(0, &copy, 0, 16_384).unwrap();
    assert_eq!(read(&copy, 0, 8192).unwrap(), pattern(2));
    assert_eq!(lost(read(&copy, 8192, 1)), (8192, 1));
    // The one that is written gets a block of its own; the other one still has the lost one.
    copy.write_at(&[9; BLOCK], 8192).unwrap();
    assert_eq!(read(&copy, 8192, BLOCK).unwrap(), [9; BLOCK]);
    assert_eq!(lost(read(&file, 8192, 1)), (8192, 1));
    // Of a shared block a part cannot be written: the rest would be copied.
    file.clone_range(0, &copy, 0, 16_384).unwrap();
    assert_eq!(copy.write_at(b"x", 9000).unwrap_err().errno(), Errno::EIO);
    drop((file, copy));
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn dedupe_compares_nothing_that_was_not_read() {
    // Bytes are compared 64 KiB at a time: the second time, what is lost in one file is in the other what both had
    // there the first time.
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let (one, other) = (open(&fs, "/one"), open(&fs, "/other"));
    for file in [&one, &other] {
        file.append(&[7; 2 * 65_536]).unwrap();
    }
    let at = one.extents(0, 1).unwrap()[0].pool_offset + 65_536 + 3 * BLOCK_BYTES;
    drop((one, other));
    fs.close().unwrap();
    let fs = open_poisoned(&pool, &[(at, 1)]).unwrap();
    let (one, other) = (open(&fs, "/one"), open(&fs, "/other"));
    let result = one.dedupe_range(0, &other, 0, 2 * 65_536);
    assert_eq!(lost(result).0, 65_536 + 3 * BLOCK_BYTES);
    assert_eq!(content(&other), [7; 2 * 65_536]);
}

#[test]
fn a_write_of_whole_blocks_replaces_lost_bytes_and_one_of_a_part_fails_before_it_begins() {
    let (pool, at) = pool_with_file(8);
    let fs = open_poisoned(&pool, &[(at + 3 * BLOCK_BYTES, 3 * BLOCK_BYTES)]).unwrap();
    let file = open(&fs, "/file");
    assert_eq!(lost(file.write_at(&[9; 100], 12_300)), (12_300, 100));
    // Covers block 3, but only a part of block 4.
    assert_eq!(lost(file.write_at(&[9; BLOCK + 1], 12_288)).0, 16_384);
    assert_eq!(lost(read(&file, 12_288, 1)).0, 12_288);
    assert_eq!(file.write_at(&[9; 3 * BLOCK], 8192).unwrap(), 3 * BLOCK);
    let mut expected = pattern(8);
    expected[8192..8192 + 3 * BLOCK].fill(9);
    assert_eq!(read(&file, 0, 8 * BLOCK).unwrap(), expected[..5 * BLOCK]);
    assert_eq!(lost(read(&file, 20_480, 1)).0, 20_480);
    assert_eq!(file.write_at(&[9; BLOCK], 20_480).unwrap(), BLOCK);
    expected[20_480..][..BLOCK].fill(9);
    assert_eq!(content(&file), expected);
    assert_eq!(fs.bad_blocks().unwrap(), []);
}

#[test]
fn blocks_that_were_never_written_are_zeroed_as_a_whole_when_they_are_bad() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/file");
    file.allocate(AllocateMode::Allocate, 0, 16_384).unwrap();
    let at = file.extents(0, 1000).unwrap()[0].pool_offset;
    drop(file);
    fs.close().unwrap();
    let fs = open_poisoned(&pool, &[(at, 4 * BLOCK_BYTES)]).unwrap();
    let file = open(&fs, "/file");
    assert_eq!(read(&file, 0, 16_384).unwrap(), [0; 16_384]);
    file.write_at(b"hello", 5000).unwrap();
    let mut expected = vec![0; 16_384];
    expected[5000..5005].copy_from_slice(b"hello");
    assert_eq!(content(&file), expected);
}

#[test]
fn lost_bytes_are_not_pinned_but_those_beside_them_are() {
    let (pool, at) = pool_with_file(8);
    let fs = open_poisoned(&pool, &[(at + 3 * BLOCK_BYTES, 1)]).unwrap();
    let file = open(&fs, "/file");
    let request = Request {
        access: Access::Read,
        label: Label::new("test"),
        term: Term::Short,
    };
    let pin = file.pin(0, 12_288, request).unwrap();
    drop(pin);
    assert_eq!(file.pin(0, 16_384, request).unwrap_err().errno(), Errno::EIO);
    assert_eq!(file.pin(12_288, 1, request).unwrap_err().errno(), Errno::EIO);
    file.pin(16_384, 16_384, request).unwrap();
    file.write_at(&[9; BLOCK], 12_288).unwrap();
    file.pin(0, 32_768, request).unwrap();
}

#[test]
fn what_is_freed_while_bad_is_listed_and_not_used_again_after_a_remount() {
    let (pool, at) = pool_with_file(8);
    let fs = open_poisoned(
        &pool,
        &[(at + BLOCK_BYTES, 2 * BLOCK_BYTES), (at + 6 * BLOCK_BYTES, 1)],
    )
    .unwrap();
    let before = fs.stat_filesystem().free_blocks;
    let file = open(&fs, "/file");
    file.allocate(AllocateMode::PunchHole, 0, 8192).unwrap();
    file.truncate(12_288).unwrap();
    drop(file);
    let told = |fs: &Filesystem| -> Vec<(u64, u64, bool)> {
        let bad = fs.bad_blocks().unwrap().into_iter();
        bad.map(|range| {
            (
                (range.offset - at) / BLOCK_BYTES,
                range.len / BLOCK_BYTES,
                range.is_retired,
            )
        })
        .collect()
    };
    assert_eq!(told(&fs), [(1, 1, true), (2, 1, false), (6, 1, true)]);
    fs.unlink("/file").unwrap();
    assert_eq!(told(&fs), [(1, 2, true), (6, 1, true)]);
    fs.close().unwrap();
    check(&pool.path);

    // The medium tells nothing now: the list does.
    let fs = pool.open();
    assert_eq!(told(&fs), [(1, 2, true), (6, 1, true)]);
    // Five of eight came back, one went into the list.
    assert_eq!(fs.stat_filesystem().free_blocks, before + 5 - 1);
    let file = open(&fs, "/all");
    while file.append(&[7; 64 * 1024]).is_ok() {}
    for extent in file.extents(0, 1000).unwrap() {
        for bad in fs.bad_blocks().unwrap() {
            assert!(
                extent.pool_offset >= bad.offset + bad.len || extent.pool_offset + extent.len <= bad.offset
            );
        }
    }
    drop(file);
    fs.unlink("/all").unwrap();
    assert_eq!(fs.reuse_bad_blocks().unwrap(), 3 * BLOCK_BYTES);
    assert_eq!(told(&fs), []);
    assert_eq!(fs.stat_filesystem().free_blocks, before + 8);
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn bad_blocks_that_are_free_are_never_handed_out() {
    let pool = TestPool::new(16 * MIB);
    let superblock = Filesystem::open(&pool.path, &MountOptions::default())
        .unwrap()
        .superblock();
    let first = superblock.journal_blocks().end().offset().raw() + 64 * BLOCK_BYTES;
    // Every third block of the next 600.
    let bad: Vec<(u64, u64)> = (0..200)
        .map(|index| (first + index * 3 * BLOCK_BYTES, 1))
        .collect();
    let fs = open_poisoned(&pool, &bad).unwrap();
    fs.create_dir("/d", new_inode()).unwrap();
    for number in 0..200_u8 {
        let file = open(&fs, &format!("/d/{number}"));
        file.append(&vec![number; 1000 + 50 * usize::from(number)])
            .unwrap();
        file.set_xattr(b"user.large", &[number; 5000], XattrMode::Create)
            .unwrap();
    }
    let file = open(&fs, "/large");
    file.append(&vec![3; 4 << 20]).unwrap();
    for number in 0..200_u8 {
        let file = open(&fs, &format!("/d/{number}"));
        assert_eq!(content(&file), vec![number; 1000 + 50 * usize::from(number)]);
        assert_eq!(file.xattr(b"user.large").unwrap(), [number; 5000]);
    }
    assert_eq!(content(&file), vec![3; 4 << 20]);
    drop(file);
    assert_eq!(fs.damage(), None);
    fs.sync().unwrap();
    let retired = fs.bad_blocks().unwrap();
    assert!(
        retired.iter().filter(|range| range.is_retired).count() >= 190,
        "{retired:?}"
    );
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn a_full_pool_with_bad_blocks_says_no_space() {
    let pool = TestPool::new(16 * MIB);
    let superblock = Filesystem::open(&pool.path, &MountOptions::default())
        .unwrap()
        .superblock();
    let first = superblock.journal_blocks().end().offset().raw() + 200 * BLOCK_BYTES;
    let fs = open_poisoned(&pool, &[(first, 500 * BLOCK_BYTES)]).unwrap();
    let file = open(&fs, "/file");
    let error = loop {
        if let Err(error) = file.append(&[7; 256 * 1024]) {
            break error;
        }
    };
    assert_eq!(error.errno(), Errno::ENOSPC);
    drop(file);
    fs.unlink("/file").unwrap();
    open(&fs, "/again").append(&[8; 1 << 20]).unwrap();
    fs.close().unwrap();
    check(&pool.path);
}

/// The blocks of the pool, but for its journal, that hold `bytes`.
fn find(pool: &TestPool, bytes: &[u8]) -> Vec<u64> {
    let whole = std::fs::read(&pool.path).unwrap();
    let superblock = Superblock::decode(whole.first_chunk().unwrap(), 0, 16 * MIB).unwrap();
    let blocks = (0_u64..).zip(whole.as_chunks::<BLOCK>().0);
    blocks
        .filter(|(_, block)| block.windows(bytes.len()).any(|window| window == bytes))
        .filter(|(number, _)| !superblock.journal_blocks().contains(BlockNo(*number)))
        .map(|(number, _)| number * BLOCK_BYTES)
        .collect()
}

/// A closed pool with two directories, one with `/d/victim…`, and where that one's node is.
fn pool_with_directory() -> (TestPool, u64) {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    fs.create_dir("/sound", new_inode()).unwrap();
    open(&fs, "/d/victim-of-the-medium").append(&[5; 100]).unwrap();
    open(&fs, "/sound/file").append(&[6; 100]).unwrap();
    fs.close().unwrap();
    let at = find(&pool, b"victim-of-the-medium");
    (pool, *at.last().unwrap())
}

#[test]
fn lost_metadata_makes_the_pool_read_only_and_leaves_the_rest_readable() {
    let (pool, node) = pool_with_directory();
    let fs = open_poisoned(&pool, &[(node, 1)]).unwrap();
    let file = fs.open_file("/sound/file", READ_WRITE, new_inode()).unwrap();
    file.append(&[7; 100]).unwrap();
    assert_eq!(fs.damage(), None);
    let error = fs.stat("/d/victim-of-the-medium").unwrap_err();
    assert_eq!(error.errno(), Errno::EIO);
    let block = BlockNo(node / BLOCK_BYTES);
    let named = matches!(error, Error::LostMetadata { place: udax::Place::Block(at), .. } if at == block);
    assert!(named, "{error}");
    let damage = fs.damage().unwrap();
    assert_eq!(damage.place, udax::Place::Block(block));
    assert!(damage.to_string().contains("node of a tree"), "{damage}");
    // Nothing changes any more.
    let refused = [
        file.append(b"x").map(|_| ()),
        file.truncate(0),
        fs.create_dir("/new", new_inode()).map(|_| ()),
        fs.unlink("/sound/file"),
        fs.rename("/sound/file", "/file", RenameMode::Replace),
        file.set_xattr(b"user.x", b"x", XattrMode::Either),
        fs.sync(),
        fs.grow(32 * MIB),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().errno(), Errno::EROFS);
    }
    assert_eq!(
        read(&file, 0, 300).unwrap(),
        [vec![6; 100], vec![7; 100]].concat()
    );
    assert_eq!(fs.stat("/sound/file").unwrap().size, 200);
    // The first loss is what is told.
    assert!(fs.read_dir("/d", 0, 10).is_err());
    assert_eq!(fs.damage(), Some(damage));
    drop(file);
    let _ = fs.close();
}

#[test]
fn every_block_of_metadata_may_be_lost_without_a_panic() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    for number in 0..300 {
        open(&fs, &format!("/d/{number:0>60}")).append(b"x").unwrap();
    }
    let islands = open(&fs, "/islands");
    for at in 0..300 {
        islands.write_at(b"island", at * 8192).unwrap();
    }
    islands
        .set_xattr(b"user.large", &[9; 9000], XattrMode::Create)
        .unwrap();
    islands
        .clone_range(0, &open(&fs, "/clone"), 0, 299 * 8192)
        .unwrap();
    fs.symlink(&[b'y'; 500], "/long", new_inode()).unwrap();
    let superblock = fs.superblock();
    drop(islands);
    fs.close().unwrap();
    let bytes = std::fs::read(&pool.path).unwrap();
    let is_metadata = |block: &u64| {
        let at = usize::try_from(block * BLOCK_BYTES).unwrap();
        [b"uROO", b"uNOD", b"uINO", b"uBMP"].iter().any(|magic| bytes[at..].starts_with(*magic))
            // Slot 0 of the first chunk is never used.
            || bytes[at + 256..].starts_with(b"uINO")
    };
    let journal = superblock.journal_blocks();
    let blocks: Vec<u64> = (2..4096)
        .filter(|block| !journal.contains(BlockNo(*block)) && is_metadata(block))
        .collect();
    assert!(blocks.contains(&ROOTS.raw()));
    assert!(blocks.len() > 30, "{}", blocks.len());
    for block in blocks {
        std::fs::write(&pool.path, &bytes).unwrap();
        let fs = match open_poisoned(&pool, &[(block * BLOCK_BYTES, 1)]) {
            Ok(fs) => fs,
            Err(error) => {
                assert_eq!(error.errno(), Errno::EIO, "{block}: {error}");
                continue;
            }
        };
        let mut errors = Vec::new();
        let mut note = |result: udax::Result<()>| errors.extend(result.err());
        for number in 0..300 {
            note(fs.stat(format!("/d/{number:0>60}")).map(|_| ()));
        }
        for path in ["/islands", "/clone", "/new"] {
            let file = fs.open_file(path, CREATE, new_inode());
            note(file.and_then(|file| {
                file.read_at(&mut [0; 5000], 8192 * 200)?;
                file.list_xattrs()?;
                file.write_at(&[1; 9000], 8192 * 299)?;
                file.truncate(100)
            }));
        }
        note(fs.read_link("/long").map(|_| ()));
        note(fs.unlink("/islands"));
        note(fs.sync());
        for error in &errors {
            assert!(
                [Errno::EIO, Errno::EROFS].contains(&error.errno()),
                "{block}: {error}"
            );
        }
        assert_eq!(errors.is_empty(), fs.damage().is_none(), "{block}: {errors:?}");
        let _ = fs.close();
    }
}

#[test]
fn a_lost_copy_of_the_superblock_is_replaced_when_the_pool_is_opened_for_writing() {
    for (copy, block) in SUPERBLOCKS.into_iter().enumerate() {
        let (pool, _) = pool_with_file(2);
        let region = poisoned(&pool, &[(block.offset().raw(), 1)]);
        let read_only = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        let fs = Filesystem::open_region(region, &read_only).unwrap();
        assert_eq!(
            content(&fs.open_file("/file", OpenFlags::READ, new_inode()).unwrap()),
            pattern(2)
        );
        fs.close().unwrap();
        let fs = open_poisoned(&pool, &[(block.offset().raw(), 1)]).unwrap();
        assert_eq!(content(&open(&fs, "/file")), pattern(2));
        assert_eq!(fs.bad_blocks().unwrap(), []);
        fs.close().unwrap();
        let bytes = std::fs::read(&pool.path).unwrap();
        let at = usize::try_from(block.offset().raw()).unwrap();
        let whole = bytes[at..].first_chunk::<BLOCK>().unwrap();
        Superblock::decode(whole, copy, 16 * MIB).unwrap();
        check(&pool.path);
    }
    let (pool, _) = pool_with_file(2);
    let both = SUPERBLOCKS.map(|block| (block.offset().raw(), 1));
    let error = open_poisoned(&pool, &both).unwrap_err();
    assert_eq!(error.errno(), Errno::EIO, "{error}");
}

#[test]
fn one_copy_of_each_head_structure_is_enough_where_the_other_is_lost_for_good() {
    for block in SUPERBLOCKS.into_iter().chain(CHECKPOINTS) {
        let region = Region::anonymous(16 * MIB, None).unwrap();
        Filesystem::format_region(&region, &FormatOptions::default()).unwrap();
        region.poison_medium(block.offset().raw(), 1).unwrap();
        let repair = CheckOptions {
            repair: true,
            ..CheckOptions::default()
        };
        for _ in 0..2 {
            let report = udax_check::check(&region, &repair, &Silent).unwrap();
            let told: Vec<_> = report
                .problems
                .iter()
                .map(|problem| (problem.place, problem.repair.is_some()))
                .collect();
            assert_eq!(told, [(Place::Block(block), false)], "{report:#?}");
        }
        let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
        open(&fs, "/file").append(&pattern(2)).unwrap();
        fs.sync().unwrap();
        assert_eq!(content(&open(&fs, "/file")), pattern(2));
        assert_eq!(fs.damage(), None);
        if SUPERBLOCKS.contains(&block) {
            // Both are written in turn: a crash would leave none.
            let error = fs.grow(32 * MIB).unwrap_err();
            assert!(matches!(error, Error::LostMetadata { .. }), "{error}");
        }
        fs.close().unwrap();
    }
}

#[test]
fn a_lost_copy_of_the_checkpoint_is_replaced() {
    for block in CHECKPOINTS {
        let (pool, _) = pool_with_file(2);
        let fs = open_poisoned(&pool, &[(block.offset().raw(), 1)]).unwrap();
        assert_eq!(content(&open(&fs, "/file")), pattern(2));
        assert_eq!(fs.bad_blocks().unwrap(), []);
        // Lost again while it is open.
        open(&fs, "/more").append(b"x").unwrap();
        fs.sync().unwrap();
        fs.close().unwrap();
        check(&pool.path);
    }
    let (pool, _) = pool_with_file(2);
    let both = CHECKPOINTS.map(|block| (block.offset().raw(), 1));
    assert_eq!(open_poisoned(&pool, &both).unwrap_err().errno(), Errno::EIO);
}

#[test]
fn a_lost_lane_matters_only_where_records_are_to_be_replayed() {
    let (pool, _) = pool_with_file(2);
    let superblock = Filesystem::open(&pool.path, &MountOptions::default())
        .unwrap()
        .superblock();
    let lane = superblock.lane(0).start.offset().raw();
    // Closed cleanly: opening reads no lane, but a commit stops at the lost one.
    let fs = open_poisoned(&pool, &[(lane, superblock.lane(0).count * BLOCK_BYTES)]).unwrap();
    assert_eq!(content(&open(&fs, "/file")), pattern(2));
    drop(fs);
    // Not closed cleanly.
    let fs = pool.open();
    open(&fs, "/file2").append(b"x").unwrap();
    let crashed = pool.crash_copy("crashed.pool");
    fs.close().unwrap();
    let region = Region::open(&crashed, RegionOptions::default()).unwrap();
    region
        .poison(lane, superblock.lane(0).count * BLOCK_BYTES)
        .unwrap();
    let error = Filesystem::open_region(region, &MountOptions::default()).unwrap_err();
    assert_eq!(error.errno(), Errno::EIO, "{error}");
}

#[test]
fn a_replay_leaves_lost_blocks_out_and_completes_all_others() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    fs.create_dir("/sound", new_inode()).unwrap();
    // A node that a record makes would be stored as a whole, and so made good again.
    open(&fs, "/d/first").append(&[4; 100]).unwrap();
    fs.sync().unwrap();
    open(&fs, "/d/victim-of-the-medium").append(&[5; 100]).unwrap();
    for number in 0..50 {
        open(&fs, &format!("/sound/{number}")).append(&[6; 100]).unwrap();
    }
    let crashed = pool.crash_copy("crashed.pool");
    let node = *find(&pool, b"victim-of-the-medium").last().unwrap();
    fs.close().unwrap();
    // Not changed by looking at it, either.
    let read_only = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let region = Region::open(&crashed, read_only).unwrap();
    region.poison(node, 1).unwrap();
    let report = udax_check::check(&region, &CheckOptions::default(), &Silent).unwrap();
    assert!(report.replayed > 100, "{}", report.replayed);
    assert!(
        report
            .problems
            .iter()
            .all(|problem| !problem.what.contains("journal")),
        "{:#?}",
        report.problems
    );
    drop(region);

    let region = Region::open(&crashed, RegionOptions::default()).unwrap();
    region.poison(node, 1).unwrap();
    let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
    assert_eq!((fs.recovery().lost_blocks, fs.damage()), (1, None));
    for number in 0..50 {
        assert_eq!(content(&open(&fs, &format!("/sound/{number}"))), [6; 100]);
    }
    assert_eq!(
        fs.stat("/d/victim-of-the-medium").unwrap_err().errno(),
        Errno::EIO
    );
    assert!(fs.damage().is_some());
}

#[test]
fn a_commit_that_meets_a_lost_lane_makes_the_pool_read_only() {
    let (pool, _) = pool_with_file(2);
    let superblock = Filesystem::open(&pool.path, &MountOptions::default())
        .unwrap()
        .superblock();
    let journal = superblock.journal_blocks();
    let fs = open_poisoned(
        &pool,
        &[(journal.start.offset().raw(), journal.count * BLOCK_BYTES)],
    )
    .unwrap();
    let error = fs.create_dir("/d", new_inode()).unwrap_err();
    assert_eq!(error.errno(), Errno::EIO, "{error}");
    assert!(fs.damage().unwrap().what.contains("journal"));
    assert_eq!(
        fs.create_dir("/d", new_inode()).unwrap_err().errno(),
        Errno::EROFS
    );
    assert_eq!(
        content(&fs.open_file("/file", OpenFlags::READ, new_inode()).unwrap()),
        pattern(2)
    );
}

#[test]
fn a_page_that_the_kernel_takes_away_is_an_error_of_its_bytes_only() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/file");
    // Up to the end of the pool, as far as its reserve allows.
    while file.append(&[7; 256 * 1024]).is_ok() {}
    let extents = file.extents(0, 1000).unwrap();
    let last = extents.iter().max_by_key(|extent| extent.pool_offset).unwrap();
    let lost_from = last.offset + last.len - 3 * BLOCK_BYTES;
    let place = last.pool_offset + last.len - 3 * BLOCK_BYTES;
    // A real SIGBUS: the file behind the mapping is cut short.
    let raw = OpenOptions::new().write(true).open(&pool.path).unwrap();
    raw.set_len(place).unwrap();
    let error = read(&file, lost_from + 5, 1).unwrap_err();
    let named = matches!(error, Error::UnreachableData { offset, at, .. } if (offset, at) == (lost_from + 5, place + 5));
    assert!(named && error.errno() == Errno::EIO, "{error:?}");
    let before = read(&file, lost_from - 100, 5000).unwrap();
    assert_eq!(before, [7; 100]);
    assert_eq!(
        file.write_at(&[9; 10], lost_from + 50).unwrap_err().errno(),
        Errno::EIO
    );
    assert_eq!(fs.damage(), None);
    raw.set_len(16 * MIB).unwrap();
    // It is back, if not what it held.
    assert_eq!(read(&file, lost_from, BLOCK).unwrap(), [0; BLOCK]);
}

#[test]
fn fsck_tells_what_lost_blocks_belonged_to_and_lists_those_that_are_free() {
    let (pool, at) = pool_with_file(8);
    let superblock = Filesystem::open(&pool.path, &MountOptions::default())
        .unwrap()
        .superblock();
    let geometry = Geometry::new(&superblock);
    let free = geometry.total_blocks() * BLOCK_BYTES - 10 * BLOCK_BYTES;
    let lane = superblock.lane(1).start.offset().raw();
    let bad = [
        (at + 2 * BLOCK_BYTES, 2 * BLOCK_BYTES),
        (free, 3 * BLOCK_BYTES),
        (lane, 1),
    ];
    let options = |repair| CheckOptions {
        repair,
        bad_blocks: true,
        ..CheckOptions::default()
    };
    let region = poisoned(&pool, &bad);
    let quick = udax_check::check(&region, &CheckOptions::default(), &Silent).unwrap();
    // What is known is told without reading everything, but for data.
    let places: Vec<_> = quick.problems.iter().map(|problem| problem.place).collect();
    let block = |at: u64| udax::Place::Block(BlockNo(at / BLOCK_BYTES));
    assert_eq!(places, [block(lane), block(free)]);
    let report = udax_check::check(&region, &options(false), &Silent).unwrap();
    let told: Vec<_> = report
        .problems
        .iter()
        .map(|problem| {
            (
                problem.place.to_string(),
                problem.path.clone(),
                problem.lost.clone(),
            )
        })
        .collect();
    let place = |at: u64| udax::Place::Block(BlockNo(at / BLOCK_BYTES)).to_string();
    assert_eq!(
        told,
        [
            (place(lane), None, None),
            (
                place(at + 2 * BLOCK_BYTES),
                Some(b"/file".to_vec()),
                Some("bytes 8192+8192".to_owned())
            ),
            (place(free), None, None),
        ]
    );
    assert_eq!(report.exit_code(), 4);
    let mended = udax_check::check(&region, &options(true), &Silent).unwrap();
    let repaired: Vec<_> = mended
        .problems
        .iter()
        .map(|problem| problem.repair.is_some())
        .collect();
    assert_eq!(repaired, [true, false, true], "{:#?}", mended.problems);
    drop(region);
    // What is left to tell is the file, as long as the medium says so.
    let region = poisoned(&pool, &bad[..2]);
    let again = udax_check::check(&region, &options(false), &Silent).unwrap();
    assert_eq!(again.problems.len(), 1, "{:#?}", again.problems);
    drop(region);
    check(&pool.path);
    let fs = pool.open();
    let listed = fs.bad_blocks().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].offset, listed[0].len), (free, 3 * BLOCK_BYTES));
    fs.close().unwrap();
}

#[test]
fn listed_blocks_that_can_be_read_again_are_found_by_who_reads_all() {
    let (pool, _) = pool_with_file(8);
    let free = 16 * MIB - 10 * BLOCK_BYTES;
    let repair = |bad: (u64, u64), bad_blocks| {
        let options = CheckOptions {
            repair: true,
            bad_blocks,
            ..CheckOptions::default()
        };
        let region = poisoned(&pool, &[bad]);
        udax_check::check(&region, &options, &Silent).unwrap()
    };
    assert_eq!(repair((free, 3 * BLOCK_BYTES), false).bad_blocks, 3);
    // Two of them come back.
    let left = (free + BLOCK_BYTES, 1);
    assert_eq!(repair(left, false).bad_blocks, 3);
    let report = repair(left, true);
    assert_eq!((report.bad_blocks, report.exit_code()), (1, 1), "{report:#?}");
    check(&pool.path);
    let fs = pool.open();
    assert_eq!(fs.bad_blocks().unwrap()[0].offset, free + BLOCK_BYTES);
    fs.close().unwrap();
}

#[test]
fn fsck_mends_a_pool_whose_metadata_is_lost() {
    let (pool, node) = pool_with_directory();
    let superblock = Filesystem::open(&pool.path, &MountOptions::default())
        .unwrap()
        .superblock();
    let geometry = Geometry::new(&superblock);
    let bitmap = geometry.group(0).unwrap().bitmap.offset().raw();
    let places = [
        node,
        bitmap,
        ROOTS.offset().raw(),
        superblock.lane(0).start.offset().raw(),
        CHECKPOINTS[0].offset().raw(),
        CHECKPOINTS[1].offset().raw(),
        SUPERBLOCKS[0].offset().raw(),
    ];
    for (at, bad_blocks) in places.into_iter().flat_map(|at| [(at, false), (at, true)]) {
        let pool = TestPool::copy_of(&pool);
        let region = poisoned(&pool, &[(at, 1)]);
        let options = CheckOptions {
            repair: true,
            bad_blocks,
            ..CheckOptions::default()
        };
        let report = udax_check::check(&region, &options, &Silent).unwrap();
        assert_eq!(report.exit_code(), 1, "{at}: {report:#?}");
        assert_eq!(
            udax_check::check(&region, &options, &Silent).unwrap().problems,
            [],
            "{at}"
        );
        // What is lost still is nobody's, and is on the list.
        let listed: u64 = region
            .bad_ranges()
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        let report = udax_check::check(&region, &CheckOptions::default(), &Silent).unwrap();
        assert_eq!(report.bad_blocks * BLOCK_BYTES, listed, "{at}");
        drop(region);
        check(&pool.path);
        let fs = pool.open();
        assert_eq!(content(&open(&fs, "/sound/file")), [6; 100]);
        fs.close().unwrap();
    }
}

/// Cuts the pool's file at `len` under a region, and repairs it: that must refuse, and change nothing that is told to
/// be lost. Then the file has its bytes back.
fn repair_cut_at(pool: &TestPool, len: u64, bad_blocks: bool) {
    let before = std::fs::read(&pool.path).unwrap();
    let region = Region::open(&pool.path, RegionOptions::default()).unwrap();
    let raw = OpenOptions::new().write(true).open(&pool.path).unwrap();
    raw.set_len(len).unwrap();
    for repair in [false, true] {
        let options = CheckOptions {
            repair,
            bad_blocks,
            ..CheckOptions::default()
        };
        let error = udax_check::check(&region, &options, &Silent).unwrap_err();
        let reason = match &error {
            CheckError::Region(error) | CheckError::Journal(JournalError::Region(error)) => error,
            other => panic!("{other:?}"),
        };
        assert!(
            matches!(reason, RegionError::Unreachable { at } if *at >= len),
            "{error:?}"
        );
    }
    drop(region);
    let kept = usize::try_from(len).unwrap();
    raw.write_all_at(&before[kept..], len).unwrap();
}

#[test]
fn a_repair_takes_nothing_for_lost_that_it_cannot_reach_now() {
    let (pool, node) = pool_with_directory();
    repair_cut_at(&pool, node, false);
    check(&pool.path);
    // Free blocks are not bad because the file has no place for them.
    repair_cut_at(&pool, 15 * MIB, true);
    check(&pool.path);
    let fs = pool.open();
    assert_eq!(fs.bad_blocks().unwrap(), []);
    assert_eq!(content(&open(&fs, "/sound/file")), [6; 100]);

    // Records that cannot be replayed are not thrown away.
    open(&fs, "/late").append(&[8; 10_000]).unwrap();
    let crashed = TestPool::copy_of(&pool);
    let journal = fs.superblock().journal_blocks();
    fs.close().unwrap();
    repair_cut_at(&crashed, journal.end().offset().raw(), false);
    let fs = crashed.open();
    assert_eq!(content(&open(&fs, "/late")), [8; 10_000]);
    fs.close().unwrap();
    check(&crashed.path);
}

#[test]
fn making_a_pool_replaces_what_is_lost() {
    let region = Region::anonymous(16 * MIB, None).unwrap();
    region.poison(0, 1024 * BLOCK_BYTES).unwrap();
    Filesystem::format_region(&region, &FormatOptions::default()).unwrap();
    let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
    open(&fs, "/file").append(&[7; 100_000]).unwrap();
    assert_eq!(content(&open(&fs, "/file")), [7; 100_000]);
    assert_eq!(fs.damage(), None);
}
