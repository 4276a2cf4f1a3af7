//! Pools crafted so that every checksum is right and structures contradict each other: what is found is an error that
//! changes nothing, and what harms nobody does not keep the pool closed.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use udax::{Error, FileExtent, Filesystem, InodeNo, MountOptions, OpenFlags};
use udax_check::{CheckOptions, Silent};
use udax_media::inode::{self, INODE_SIZE};
use udax_media::node::{self, SLOT_SIZE, SLOTS_START};
use udax_media::{BLOCK_SIZE, Superblock, seal};
use udax_pmem::{Region, RegionOptions};

use crate::pool::{MIB, READ_WRITE, TestPool, new_inode, open};

/// A closed pool's bytes, to be changed.
struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Image {
    fn read(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            bytes: std::fs::read(path).unwrap(),
        }
    }

    /// Where the field of the inode is.
    fn field(&self, ino: InodeNo, offset: u64) -> usize {
        let is_it = |at: &usize| {
            self.bytes[*at..].starts_with(&inode::MAGIC.to_le_bytes()) && self.word(at + 8) == ino.raw()
        };
        let found: Vec<usize> = (0..self.bytes.len()).step_by(INODE_SIZE).filter(is_it).collect();
        assert_eq!(found.len(), 1, "inode {ino}: {found:?}");
        found[0] + usize::try_from(offset).unwrap()
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn set_word(&mut self, at: usize, word: u64) {
        self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// The node that a root word refers to.
    fn node(&self, root: u64) -> usize {
        let at =
            usize::try_from(node::TreeRoot::from_word(root).block().unwrap().raw()).unwrap() * BLOCK_SIZE;
        assert!(self.bytes[at..].starts_with(&node::MAGIC.to_le_bytes()));
        at
    }

    /// Seals what is in the block of byte `at` and writes the image.
    fn write(&mut self, at: usize) {
        let superblock = Superblock::decode(
            self.bytes.first_chunk::<BLOCK_SIZE>().unwrap(),
            0,
            u64::try_from(self.bytes.len()).unwrap(),
        )
        .unwrap();
        let start = at / BLOCK_SIZE * BLOCK_SIZE;
        let block = self.bytes[start..].first_chunk_mut().unwrap();
        seal::seal_block(superblock.seed(), block, u64::MAX);
        std::fs::write(&self.path, &self.bytes).unwrap();
    }
}

/// Mends the pool; there must have been something to mend.
fn mend(path: &Path) {
    let region = Region::open(path, RegionOptions::default()).unwrap();
    let options = CheckOptions {
        repair: true,
        ..CheckOptions::default()
    };
    let report = udax_check::check(&region, &options, &Silent).unwrap();
    assert!(!report.problems.is_empty());
    assert!(
        report.problems.iter().all(|problem| problem.repair.is_some()),
        "{report:#?}"
    );
}

/// `action` fails because of the damage, and no block is free that was not.
#[track_caller]
fn assert_refused<T>(fs: &Filesystem, action: impl FnOnce(&Filesystem) -> udax::Result<T>) {
    let before = fs.stat_filesystem();
    match action(fs) {
        Ok(_) => panic!("it went well"),
        Err(error) => assert_eq!(error.errno(), Errno::EUCLEAN, "{error}"),
    }
    assert_eq!(fs.stat_filesystem(), before);
}

#[test]
fn blocks_that_a_file_has_twice_are_not_freed_twice() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/twice");
    // Apart in the file and in the pool.
    for block in [0, 8, 16] {
        file.write_at(&[1; 4096], block * 4096).unwrap();
        open(&fs, &format!("/{block}")).append(&[2; 4096]).unwrap();
    }
    let ino = file.stat().unwrap().ino;
    drop(file);
    fs.close().unwrap();

    let mut image = Image::read(&pool.path);
    let inline = image.field(ino, inode::offset::INLINE);
    let size = udax_media::extent::INLINE_SIZE;
    // The third extent gets the blocks of the first; where it is in the file stays.
    let first = image.bytes[inline + 8..inline + size].to_vec();
    image.bytes[inline + 2 * size + 8..inline + 3 * size].copy_from_slice(&first);
    image.write(inline);

    let fs = pool.open();
    assert_eq!(
        fs.open_file("/twice", READ_WRITE, new_inode())
            .unwrap()
            .extents(0, 9)
            .unwrap()
            .len(),
        3
    );
    assert_refused(&fs, |fs| fs.unlink("/twice"));
    assert_refused(&fs, |fs| fs.truncate("/twice", 0));
    fs.truncate("/twice", 9 * 4096).unwrap();
    fs.close().unwrap();
    mend(&pool.path);
    let fs = pool.open();
    fs.unlink("/twice").unwrap();
    fs.close().unwrap();
    pool.check();
}

#[test]
fn a_directory_whose_leaf_is_listed_twice_is_not_freed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let ino = fs.create_dir("/d", new_inode()).unwrap().ino;
    for number in 0..200 {
        drop(open(&fs, &format!("/d/{number}")));
    }
    fs.close().unwrap();

    let mut image = Image::read(&pool.path);
    let root = image.node(image.word(image.field(ino, inode::offset::ROOT)));
    let first = image.word(root + SLOTS_START + 8);
    image.set_word(root + SLOTS_START + SLOT_SIZE + 8, first);
    image.write(root);
    // As if it were empty.
    let size = image.field(ino, inode::offset::SIZE);
    image.set_word(size, 0);
    image.write(size);

    let fs = pool.open();
    assert_refused(&fs, |fs| fs.remove_dir("/d"));
    fs.close().unwrap();
    mend(&pool.path);
    drop(pool.open());
    pool.check();
}

#[test]
fn an_orphan_that_is_no_inode_keeps_no_pool_closed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let flags = READ_WRITE | OpenFlags::TEMPORARY;
    let orphan = fs.open_file("/", flags, new_inode()).unwrap();
    open(&fs, "/kept").append(b"something").unwrap();
    fs.sync().unwrap();
    let crashed = pool.crash_copy("crashed.pool");
    drop(orphan);
    fs.close().unwrap();

    for number in [0, 14, 5_000_000, 1 << 40, u64::MAX] {
        let mut image = Image::read(&crashed);
        image.path = pool.beside("crafted.pool");
        let roots = usize::try_from(udax_media::geometry::ROOTS.raw()).unwrap() * BLOCK_SIZE;
        let word = roots + usize::try_from(udax_media::roots::PoolTree::Orphans.root_offset().raw()).unwrap()
            - usize::try_from(udax_media::geometry::ROOTS.offset().raw()).unwrap();
        let leaf = image.node(image.word(word));
        image.set_word(leaf + SLOTS_START, number);
        image.write(leaf);
        let fs = Filesystem::open(&image.path, &MountOptions::default()).unwrap();
        assert_eq!(fs.stat("/kept").unwrap().size, 9, "orphan {number}");
        drop(open(&fs, "/new"));
        fs.close().unwrap();
        // Nothing of it is left to be met again; the inode that had been an orphan is found by the check.
        mend(&image.path);
        crate::pool::check(&image.path);
    }
}

#[test]
fn attributes_that_cannot_be_asked_for_are_not_listed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.set_xattr(b"user.one", b"1", udax::XattrMode::Create)
        .unwrap();
    file.set_xattr(b"trusted.two", b"2", udax::XattrMode::Create)
        .unwrap();
    let ino = file.stat().unwrap().ino;
    drop(file);
    fs.close().unwrap();
    let mut image = Image::read(&pool.path);
    let at = image.field(ino, inode::offset::MODE);
    // A socket.
    let mode = u32::from_le_bytes(image.bytes[at..at + 4].try_into().unwrap());
    image.bytes[at..at + 4].copy_from_slice(&(mode & 0o7777 | 0o140_000).to_le_bytes());
    image.write(at);
    let fs = pool.open();
    assert_eq!(fs.list_xattrs("/f").unwrap(), [b"trusted.two"]);
    assert_eq!(fs.xattr("/f", b"trusted.two").unwrap(), b"2");
    assert_eq!(fs.xattr("/f", b"user.one").unwrap_err().errno(), Errno::ENODATA);
}

#[test]
fn attributes_at_the_limits_of_a_node_are_stored() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    for name_len in [6, 100, 255] {
        let name = format!("user.{}", "n".repeat(name_len - 5));
        let inline = 1984 - 8 - name_len;
        for len in [inline - 1, inline, inline + 1, 4096, 4097, 65_536] {
            let value = vec![7; len];
            file.set_xattr(name.as_bytes(), &value, udax::XattrMode::Either)
                .unwrap();
            assert_eq!(file.xattr(name.as_bytes()).unwrap(), value, "{name_len}, {len}");
        }
        let error = file
            .set_xattr(name.as_bytes(), &[0; 65_537], udax::XattrMode::Either)
            .unwrap_err();
        assert!(matches!(error, Error::AttributeTooLarge { length: 65_537 }));
        assert_eq!(error.errno(), Errno::E2BIG);
    }
    drop(file);
    fs.close().unwrap();
    pool.check();
}

#[test]
fn an_orphan_that_the_medium_has_lost_keeps_no_pool_closed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let orphan = || {
        let flags = READ_WRITE | OpenFlags::TEMPORARY;
        fs.open_file("/", flags, new_inode()).unwrap()
    };
    open(&fs, "/kept").append(b"something").unwrap();
    let early = orphan();
    let mut late = orphan();
    // In a chunk of inodes behind the nodes that name them, and behind both superblocks.
    for number in 0..200 {
        open(&fs, &format!("/{number}")).append(&[1; 12_288]).unwrap();
        late = orphan();
    }
    let ino = late.stat().unwrap().ino;
    fs.sync().unwrap();
    let path = pool.crash_copy("crashed.pool");
    drop((early, late));
    fs.close().unwrap();

    let region = Region::open(&path, RegionOptions::default()).unwrap();
    let chunk = Image::read(&path).field(ino, 0) / BLOCK_SIZE * BLOCK_SIZE;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(u64::try_from(chunk).unwrap()).unwrap();
    let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
    assert_eq!(fs.stat("/kept").unwrap().size, 9);
    // The early one was freed.
    assert_eq!(fs.stat_filesystem().inodes, 1 + 1 + 200 + 1);
}

#[test]
fn a_copy_of_the_superblock_that_the_medium_has_lost_is_not_needed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/kept"));
    fs.close().unwrap();
    let region = Region::open(&pool.path, RegionOptions::default()).unwrap();
    let [_, copy] = udax_media::geometry::SUPERBLOCKS;
    let file = std::fs::OpenOptions::new().write(true).open(&pool.path).unwrap();
    file.set_len(copy.offset().raw()).unwrap();
    let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
    assert_eq!(fs.stat("/kept").unwrap().size, 0);
}

/// What makes the file's data, block by block, out of a node.
fn unsealed(node: &[u8]) -> Vec<u8> {
    let mut copy = node.to_vec();
    // Between slots and values: only the checksum tells.
    let free = copy.windows(8).position(|bytes| bytes == [0; 8]).unwrap();
    copy[free] ^= 1;
    copy
}

#[test]
fn data_where_a_verified_node_was_is_not_taken_for_a_node() {
    // The block may also become a node of the file's own: which one is given next depends on the processor.
    let (pool, fs, leaf, root_at) = (0..50).find_map(|_| data_in_place_of_a_leaf()).unwrap();
    // The directory gets a root that is that block, behind the back of the filesystem.
    let outside = std::fs::OpenOptions::new().write(true).open(&pool.path).unwrap();
    let root = node::TreeRoot::new(udax_media::BlockNo(leaf), 0).word();
    std::os::unix::fs::FileExt::write_all_at(&outside, &root.to_le_bytes(), u64::try_from(root_at).unwrap())
        .unwrap();
    for number in 0..200 {
        let error = fs.stat(format!("/d/{number}")).unwrap_err();
        assert_eq!(error.errno(), Errno::EUCLEAN, "{number}: {error}");
    }
}

/// A pool with data where a leaf of the directory `/d` was, which has been read as one: with that block, and where the
/// directory's root is. None if another file's data is not what came there.
fn data_in_place_of_a_leaf() -> Option<(TestPool, Filesystem, u64, usize)> {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let ino = fs.create_dir("/d", new_inode()).unwrap().ino;
    drop(open(&fs, "/kept"));
    for number in 0..200 {
        fs.link("/kept", format!("/d/{number}")).unwrap();
    }
    fs.sync().unwrap();
    let image = Image::read(&pool.path);
    let root_at = image.field(ino, inode::offset::ROOT);
    let root = image.node(image.word(root_at));
    // The second leaf is merged into the first.
    let leaf = image.word(root + SLOTS_START + SLOT_SIZE + 8);
    let leaf_at = usize::try_from(leaf).unwrap() * BLOCK_SIZE;
    let node = unsealed(&image.bytes[leaf_at..leaf_at + BLOCK_SIZE]);
    for number in 0..200 {
        fs.unlink(format!("/d/{number}")).unwrap();
    }
    fs.sync().unwrap();
    let file = open(&fs, "/data");
    let has_leaf = |extent: &FileExtent| {
        let start = extent.pool_offset / 4096;
        (start..start + extent.len / 4096).contains(&leaf)
    };
    while !file.extents(0, 10_000).unwrap().iter().any(has_leaf) {
        match file.append(&node) {
            Err(Error::NoSpace { .. }) => return None,
            result => result.unwrap(),
        };
    }
    Some((pool, fs, leaf, root_at))
}
