//! Pools that are damaged: by cut files, foreign content, flipped bytes, impossible fields with a right checksum, and
//! by somebody who writes to the file while it is open. Errors or results, never a panic or a hang.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{AllocateMode, Error, FileKind, Filesystem, MountOptions, OpenFlags, RenameMode, XattrMode};
use udax_media::geometry::{CHECKPOINTS, Geometry, SUPERBLOCKS};
use udax_media::seal::{self, Seed};
use udax_media::{BLOCK_SIZE, Superblock, bitmap, inode, node, roots};

use crate::pool::{CREATE, MIB, READ_WRITE, TestPool, entries, new_inode, open};

/// What one damaged pool may take; a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Names and bytes looked at in one damaged pool, so that a circle of directories ends.
const MAX_LOOKS: usize = 3000;

/// A closed pool with something of every structure in it, as bytes.
fn sample() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let pool = TestPool::new(16 * MIB);
        let fs = pool.open();
        fill(&fs);
        fs.close().unwrap();
        std::fs::read(&pool.path).unwrap()
    })
}

fn fill(fs: &Filesystem) {
    let new = new_inode();
    fs.create_dir("/d", new).unwrap();
    fs.create_dir("/d/sub", new).unwrap();
    for number in 0..120 {
        let file = open(fs, &format!("/d/{number:0>40}"));
        if number % 10 == 0 {
            file.append(&[7; 5000]).unwrap();
        }
    }
    let file = open(fs, "/fragmented");
    for at in 0..300 {
        file.write_at(b"island", at * 8192).unwrap();
    }
    let inline = open(fs, "/inline");
    inline.append(&[1; 10_000]).unwrap();
    inline.allocate(AllocateMode::Allocate, 20_480, 8192).unwrap();
    for number in 0..20_u8 {
        let name = format!("user.{number}");
        inline
            .set_xattr(name.as_bytes(), &[number; 150], XattrMode::Create)
            .unwrap();
    }
    inline
        .set_xattr(b"user.large", &[9; 6000], XattrMode::Create)
        .unwrap();
    fs.symlink(b"d/sub", "/short", new).unwrap();
    fs.symlink(&[b'y'; 500], "/long", new).unwrap();
    fs.make_node("/fifo", FileKind::Fifo, 0, new).unwrap();
    fs.link("/inline", "/d/hard").unwrap();
}

/// Looks at everything and changes a little of it. Errors are fine.
fn exercise(fs: &Filesystem) {
    let mut looks = 0;
    walk(fs, "", 0, &mut looks);
    let _ = fs.create_dir("/new", new_inode());
    for number in 0..40 {
        if let Ok(file) = fs.open_file(format!("/d/new{number}"), CREATE, new_inode()) {
            let _ = file.append(&[1; 5000]);
            let _ = file.set_xattr(b"user.new", &[1; 3000], XattrMode::Either);
        }
    }
    if let Ok(file) = fs.open_file("/fragmented", READ_WRITE, new_inode()) {
        let _ = file.write_at(&[2; 20_000], 4096);
        let _ = file.allocate(AllocateMode::PunchHole, 0, 100_000);
        let _ = file.allocate(AllocateMode::Collapse, 409_600, 409_600);
        let _ = file.truncate(8192 * 100);
        let _ = file.append(b"end");
    }
    if let Ok(file) = fs.open_file("/inline", READ_WRITE, new_inode()) {
        let _ = file.append(&[3; 5000]);
        let _ = file.set_xattr(b"user.3", &[1; 200], XattrMode::Replace);
        let _ = file.remove_xattr(b"user.4");
        let _ = file.truncate(100);
    }
    let _ = fs.rename("/short", "/d/sub/short", RenameMode::Replace);
    let _ = fs.rename("/d/sub", "/d/bus", RenameMode::Replace);
    let _ = fs.rename("/inline", "/fragmented", RenameMode::Exchange);
    let _ = fs.link("/fragmented", "/d/more");
    for entry in entries(fs, "/d").unwrap_or_default().iter().take(200) {
        let path = format!("/d/{}", String::from_utf8_lossy(&entry.name));
        let _ = fs.unlink(&path);
        let _ = fs.remove_dir(&path);
    }
    for name in ["/fragmented", "/inline", "/long", "/fifo"] {
        let _ = fs.unlink(name);
    }
    let _ = fs.grow(24 * MIB);
    let _ = fs.sync();
}

fn walk(fs: &Filesystem, path: &str, depth: usize, looks: &mut usize) {
    let listed = if path.is_empty() { "/" } else { path };
    let mut cookie = 0;
    while let Ok(batch) = fs.read_dir(listed, cookie, 100) {
        let Some(last) = batch.last() else { break };
        assert!(last.cookie > cookie, "positions go up");
        cookie = last.cookie;
        for entry in batch {
            *looks += 1;
            if *looks > MAX_LOOKS {
                return;
            }
            let Ok(name) = String::from_utf8(entry.name) else {
                continue;
            };
            let below = format!("{path}/{name}");
            let _ = fs.stat_link(&below);
            let _ = fs.read_link(&below);
            for attribute in fs.list_xattrs(&below).unwrap_or_default().iter().take(50) {
                let _ = fs.xattr(&below, attribute);
            }
            if entry.kind == FileKind::Directory && depth < 20 && name != "." && name != ".." {
                walk(fs, &below, depth + 1, looks);
            } else {
                read(fs, &below);
            }
        }
    }
}

fn read(fs: &Filesystem, path: &str) {
    let Ok(file) = fs.open_file(path, OpenFlags::READ | OpenFlags::NO_FOLLOW, new_inode()) else {
        return;
    };
    let mut buffer = vec![0; 30_000];
    for at in [0, 4000, 1 << 20, 1 << 40, u64::MAX / 2] {
        let _ = file.read_at(&mut buffer, at);
        let _ = file.seek_data(at);
        let _ = file.seek_hole(at);
    }
}

/// Opens and uses the pool `path`, writing and before that read-only; it must come to an end in time.
fn survive(path: &Path, what: &dyn Fn() -> String) {
    let from = Instant::now();
    let survived = std::panic::catch_unwind(|| {
        for read_only in [true, false] {
            let options = MountOptions {
                read_only,
                ..MountOptions::default()
            };
            match Filesystem::open(path, &options) {
                Ok(fs) => {
                    exercise(&fs);
                    let _ = fs.close();
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
    assert!(survived.is_ok(), "panic with {}", what());
    assert!(from.elapsed() < PATIENCE, "{:?} with {}", from.elapsed(), what());
}

/// A file for damaged pools.
struct Victim {
    directory: tempfile::TempDir,
}

impl Victim {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir_in("/dev/shm").unwrap(),
        }
    }

    fn survive(&self, bytes: &[u8], what: &dyn Fn() -> String) {
        let path = self.directory.path().join("damaged.pool");
        std::fs::write(&path, bytes).unwrap();
        survive(&path, what);
    }
}

#[test]
fn files_that_are_no_pools_are_refused_with_a_reason() {
    let victim = Victim::new();
    let path = victim.directory.path().join("no.pool");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = Filesystem::open(&path, &MountOptions::default()).unwrap_err();
        assert!(!error.to_string().is_empty(), "{what}");
        error
    };
    let sample = sample();
    for len in [
        0,
        1,
        511,
        4095,
        4096,
        8192,
        511 * 4096,
        2 << 20,
        (16 << 20) - 4096,
        (16 << 20) - 1,
    ] {
        refused(&sample[..len], &format!("cut to {len}"));
    }
    let zeroed = refused(&vec![0; 16 << 20], "zeros");
    assert_eq!(zeroed.errno(), Errno::EUCLEAN, "{zeroed}");
    let mut random = vec![0; 16 << 20];
    SmallRng::seed_from_u64(1).fill(random.as_mut_slice());
    assert_eq!(refused(&random, "random bytes").errno(), Errno::EUCLEAN);
    // An ext4 superblock's magic number and an ELF file's.
    let mut foreign = vec![0; 16 << 20];
    foreign[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    assert_eq!(refused(&foreign, "ext4").errno(), Errno::EUCLEAN);
    foreign[..4].copy_from_slice(b"\x7fELF");
    assert_eq!(refused(&foreign, "ELF").errno(), Errno::EUCLEAN);
    // What holds something is not made a pool without force.
    std::fs::write(&path, &foreign).unwrap();
    let error = Filesystem::format(&path, &udax::FormatOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NotBlank { .. }), "{error}");
    // Longer than it says is fine: a device may be.
    let mut longer = sample.to_vec();
    longer.resize(sample.len() + 12_345, 0);
    victim.survive(&longer, &|| "a longer file".to_owned());
}

/// The blocks of the sample that hold metadata.
fn metadata_blocks() -> Vec<usize> {
    let sample = sample();
    let own = [SUPERBLOCKS, CHECKPOINTS]
        .concat()
        .into_iter()
        .map(|block| usize::try_from(block.raw()).unwrap());
    let magics = [node::MAGIC, bitmap::MAGIC, roots::MAGIC, inode::MAGIC].map(u32::to_le_bytes);
    let found = (0..sample.len() / BLOCK_SIZE).filter(|block| {
        let start = &sample[block * BLOCK_SIZE..][..4];
        // Slot 0 of chunk 0 is never used: its chunk begins with zeros and goes on with inode 1.
        let second = &sample[block * BLOCK_SIZE + 256..][..4];
        magics.iter().any(|magic| magic == start) || second == inode::MAGIC.to_le_bytes()
    });
    let mut blocks: Vec<usize> = own.chain(found).collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// How many damages a test tries; more on request.
fn rounds(usual: u64) -> u64 {
    let factor = std::env::var("UDAX_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    usual * factor.unwrap_or(1)
}

#[test]
fn flipped_bytes_of_metadata_are_survived() {
    let victim = Victim::new();
    let blocks = metadata_blocks();
    for seed in 0..rounds(150) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bytes = sample().to_vec();
        for _ in 0..random.random_range(1..4) {
            let block = blocks[random.random_range(0..blocks.len())];
            let at = block * BLOCK_SIZE + random.random_range(0..BLOCK_SIZE);
            bytes[at] ^= random.random_range(1..=255_u8);
        }
        victim.survive(&bytes, &|| format!("seed {seed}"));
    }
}

/// Values that code is tempted to add to, multiply or allocate.
const EXTREMES: &[u64] = &[
    0,
    1,
    2,
    7,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    4095,
    4096,
    4097,
    (1 << 47) - 1,
    1 << 48,
    (1 << 51) - 1,
    1 << 52,
    (1 << 58) - 1,
    1 << 58,
    1 << 62,
    i64::MAX.unsigned_abs(),
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Seals every unit of `block` again.
fn reseal(sample: &Superblock, bytes: &mut [u8], index: usize) {
    let seed: Seed = sample.seed();
    let block = &mut bytes[index * BLOCK_SIZE..][..BLOCK_SIZE];
    let number = u64::try_from(index).unwrap();
    if SUPERBLOCKS.iter().any(|one| one.raw() == number) {
        seal::seal(seed, block);
    } else if CHECKPOINTS.iter().any(|one| one.raw() == number) {
        block
            .chunks_mut(64)
            .take(2)
            .for_each(|slot| seal::seal(seed, slot));
    } else {
        seal::seal_block(seed, block.first_chunk_mut().unwrap(), u64::MAX);
    }
}

#[test]
fn impossible_fields_with_right_checksums_are_survived() {
    let victim = Victim::new();
    let superblock = Superblock::decode(sample()[..BLOCK_SIZE].first_chunk().unwrap(), 0, 16 * MIB).unwrap();
    assert_eq!(Geometry::new(&superblock).total_blocks(), 4096);
    let blocks = metadata_blocks();
    for seed in 0..rounds(400) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bytes = sample().to_vec();
        let mut changes = Vec::new();
        for _ in 0..random.random_range(1..3) {
            let block = blocks[random.random_range(0..blocks.len())];
            let width = 1 << random.random_range(0..4);
            // Mostly where blocks have their fields.
            let limit = if random.random() { 512 } else { BLOCK_SIZE };
            let at = random.random_range(0..limit / width) * width;
            let value = EXTREMES[random.random_range(0..EXTREMES.len())];
            let place = block * BLOCK_SIZE + at;
            bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
            changes.push((block, at, width, value));
            reseal(&superblock, &mut bytes, block);
            // Both copies, so that neither saves the other.
            for pair in [SUPERBLOCKS, CHECKPOINTS] {
                let [first, second] = pair.map(|one| usize::try_from(one.raw()).unwrap());
                if block == first {
                    bytes.copy_within(first * BLOCK_SIZE..(first + 1) * BLOCK_SIZE, second * BLOCK_SIZE);
                }
            }
        }
        victim.survive(&bytes, &|| {
            format!("seed {seed}: (block, offset, bytes, value) {changes:?}")
        });
    }
}

/// Words of the heads of all blocks (fields of superblock, checkpoint, roots, nodes and inodes) with extreme values: a
/// sample of all pairs, larger with `UDAX_TEST_ROUNDS`.
#[test]
fn every_field_out_of_range_is_survived() {
    let victim = Victim::new();
    let superblock = Superblock::decode(sample()[..BLOCK_SIZE].first_chunk().unwrap(), 0, 16 * MIB).unwrap();
    let blocks = metadata_blocks();
    let mut cases = Vec::new();
    for block in blocks {
        for at in (8..512).step_by(8) {
            for (which, _) in EXTREMES.iter().enumerate() {
                cases.push((block, at, which));
            }
        }
    }
    let wanted = usize::try_from(rounds(400)).unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..wanted {
        let (block, at, which) = cases[random.random_range(0..cases.len())];
        let mut bytes = sample().to_vec();
        let place = block * BLOCK_SIZE + at;
        bytes[place..place + 8].copy_from_slice(&EXTREMES[which].to_le_bytes());
        reseal(&superblock, &mut bytes, block);
        victim.survive(&bytes, &|| {
            format!("block {block}, offset {at}, value {:#x}", EXTREMES[which])
        });
    }
}

#[test]
fn a_pool_changed_behind_our_back_is_survived() {
    let blocks = metadata_blocks();
    for seed in 0..rounds(60) {
        let mut random = SmallRng::seed_from_u64(seed);
        let victim = Victim::new();
        let path = victim.directory.path().join("changed.pool");
        std::fs::write(&path, sample()).unwrap();
        let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
        if random.random() {
            // Everything has been verified when it changes.
            walk(&fs, "", 0, &mut 0);
        }
        let outside = OpenOptions::new().write(true).open(&path).unwrap();
        for _ in 0..random.random_range(1..40) {
            let block = u64::try_from(blocks[random.random_range(0..blocks.len())]).unwrap();
            let at = block * 4096 + random.random_range(0..512) * 8;
            let value = if random.random() {
                random.random()
            } else {
                EXTREMES[random.random_range(0..EXTREMES.len())]
            };
            outside.write_all_at(&value.to_le_bytes(), at).unwrap();
        }
        let from = Instant::now();
        let survived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            exercise(&fs);
            drop(fs);
        }));
        assert!(survived.is_ok(), "panic with seed {seed}");
        assert!(from.elapsed() < PATIENCE, "seed {seed}");
        survive(&path, &|| format!("seed {seed}, opened again"));
    }
}

#[test]
fn words_of_all_inodes_changed_behind_our_back_are_survived() {
    for at in (24..256).step_by(8) {
        let victim = Victim::new();
        let path = victim.directory.path().join("changed.pool");
        std::fs::write(&path, sample()).unwrap();
        let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
        walk(&fs, "", 0, &mut 0);
        let outside = OpenOptions::new().write(true).open(&path).unwrap();
        for slot in (0..sample().len()).step_by(inode::INODE_SIZE) {
            if sample()[slot..].starts_with(&inode::MAGIC.to_le_bytes()) {
                let place = u64::try_from(slot + at).unwrap();
                outside.write_all_at(&u64::MAX.to_le_bytes(), place).unwrap();
            }
        }
        exercise(&fs);
        drop(fs);
        survive(&path, &|| format!("byte {at} of all inodes changed"));
    }
}

#[test]
fn a_file_cut_short_under_an_open_pool_gives_errors() {
    let victim = Victim::new();
    let path = victim.directory.path().join("cut.pool");
    for blocks in [0, 1, 3, 100, 520, 1000, 3000] {
        std::fs::write(&path, sample()).unwrap();
        let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(blocks * 4096)
            .unwrap();
        exercise(&fs);
        drop(fs);
        survive(&path, &|| format!("cut to {blocks} blocks"));
    }
}
