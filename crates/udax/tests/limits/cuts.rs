//! Truncations that damage stops halfway: what they leave behind the end is never seen.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use udax::{AllocateMode, File, Filesystem};
use udax_media::{BLOCK_SIZE, node};

use crate::pool::{MIB, READ_WRITE, TestPool, new_inode, open, report};

/// More than are kept in memory, so that the file's extents are not all read when it is opened.
const ISLANDS: u64 = 6000;
const SIZE: u64 = ISLANDS * 8192;

/// A byte of the pool that can be flipped to damage a node, and back.
struct Flip {
    pool: std::fs::File,
    at: u64,
}

impl Flip {
    fn flip(&self) {
        let mut byte = [0];
        self.pool.read_exact_at(&mut byte, self.at).unwrap();
        byte[0] ^= 0x55;
        self.pool.write_all_at(&byte, self.at).unwrap();
    }
}

/// A value in the leaf of the highest keys of an extent tree. There must be one such tree.
fn last_leaf(pool: &TestPool) -> Flip {
    let bytes = std::fs::read(&pool.path).unwrap();
    let word = |block: usize, at: usize| {
        u64::from_le_bytes(*bytes[block * BLOCK_SIZE + at..].first_chunk::<8>().unwrap())
    };
    let leaves = (0..bytes.len() / BLOCK_SIZE).filter(|block| {
        let is_node = bytes[block * BLOCK_SIZE..].starts_with(&node::MAGIC.to_le_bytes());
        let state = word(*block, node::STATE_OFFSET).to_le_bytes();
        is_node && state[0] == 0 && state[1] == 1 && word(*block, 16) != 0
    });
    let leaf = leaves
        .max_by_key(|block| word(*block, node::SLOTS_START))
        .unwrap();
    Flip {
        pool: OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pool.path)
            .unwrap(),
        at: u64::try_from(leaf * BLOCK_SIZE + BLOCK_SIZE - 1).unwrap(),
    }
}

/// A file of [`SIZE`] bytes and [`ISLANDS`] extents in a pool that has just been opened, with its last leaf damaged.
fn damaged_file() -> (TestPool, Filesystem, File, Flip) {
    let pool = TestPool::new(64 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    for island in 0..ISLANDS {
        file.write_at(b"old data", island * 8192).unwrap();
    }
    drop(file);
    fs.close().unwrap();
    let flip = last_leaf(&pool);
    let fs = pool.open();
    flip.flip();
    let file = fs.open_file("/f", READ_WRITE, new_inode()).unwrap();
    let _ = file.truncate(4096).unwrap_err();
    assert_eq!(file.stat().unwrap().size, 4096);
    (pool, fs, file, flip)
}

fn make_longer(file: &File) -> [udax::Result<()>; 6] {
    [
        file.truncate(SIZE),
        file.write_at(b"new data", SIZE).map(drop),
        file.append(&[1; 9000]).map(drop),
        file.allocate(AllocateMode::Allocate, SIZE, 4096),
        file.allocate(AllocateMode::ZeroRange, SIZE, 4096),
        file.allocate(AllocateMode::Insert, 0, 4096),
    ]
}

#[track_caller]
fn assert_zeros(file: &File) {
    for island in 1..ISLANDS {
        let mut bytes = [1; 8];
        let count = file.read_at(&mut bytes, island * 8192).unwrap();
        assert!(
            bytes[..count].iter().all(|byte| *byte == 0),
            "island {island}: {bytes:?}"
        );
    }
}

#[test]
fn a_file_whose_truncation_failed_does_not_become_longer_until_it_is_finished() {
    let (pool, fs, file, flip) = damaged_file();
    for result in make_longer(&file) {
        let _ = result.unwrap_err();
        assert_eq!(file.stat().unwrap().size, 4096);
    }
    flip.flip();
    file.truncate(SIZE).unwrap();
    assert_zeros(&file);
    assert!(file.stat().unwrap().blocks < 10);
    drop(file);
    fs.close().unwrap();
    pool.check();
}

#[test]
fn each_way_to_make_a_file_longer_finishes_its_truncation_first() {
    for way in 0..6 {
        let (pool, fs, file, flip) = damaged_file();
        flip.flip();
        match way {
            0 => file.write_at(b"new data", SIZE).map(drop),
            1 => file.append(&[0; 9000]).map(drop),
            2 => file.allocate(AllocateMode::Allocate, SIZE, 4096),
            3 => file.allocate(AllocateMode::ZeroRange, SIZE, 4096),
            4 => file.allocate(AllocateMode::Insert, 0, 4096),
            _ => file.truncate(2 * SIZE),
        }
        .unwrap();
        assert!(file.stat().unwrap().blocks < 10);
        file.truncate(2 * SIZE).unwrap();
        if way != 4 {
            assert_zeros(&file);
        }
        drop(file);
        fs.close().unwrap();
        pool.check();
    }
}

#[test]
fn a_file_whose_truncation_failed_is_removed_whole() {
    let (pool, fs, file, flip) = damaged_file();
    drop(file);
    flip.flip();
    fs.unlink("/f").unwrap();
    assert_eq!(fs.stat_filesystem().inodes, 1);
    pool.check();
    // Its number is another file's now, which the next mount must not take for an orphan.
    open(&fs, "/g").append(&[1; 9000]).unwrap();
    fs.close().unwrap();
    let fs = pool.open();
    assert_eq!(fs.stat("/g").unwrap().size, 9000);
}

#[test]
fn a_mount_leaves_a_truncation_that_damage_hinders_and_a_later_one_finishes_it() {
    let (pool, fs, file, flip) = damaged_file();
    drop(file);
    fs.close().unwrap();
    // The file is not to be made longer, the others are not to suffer.
    let fs = pool.open();
    open(&fs, "/g").append(&[1; 9000]).unwrap();
    let file = fs.open_file("/f", READ_WRITE, new_inode()).unwrap();
    for result in make_longer(&file) {
        let _ = result.unwrap_err();
    }
    drop(file);
    fs.close().unwrap();
    assert!(!report(&pool.path).problems.is_empty());
    flip.flip();
    let fs = pool.open();
    let file = fs.open_file("/f", READ_WRITE, new_inode()).unwrap();
    file.truncate(SIZE).unwrap();
    assert_zeros(&file);
    drop(file);
    fs.close().unwrap();
    pool.check();
}
