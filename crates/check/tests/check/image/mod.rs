//! Builds pools from media structures alone, and reads them back: what the checker is tested against.

mod reading;

use std::collections::{BTreeMap, BTreeSet};

use udax_media::checkpoint::Checkpoint;
use udax_media::dentry::{self, Dentry};
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::geometry::{CHECKPOINTS, ROOTS, SUPERBLOCKS};
use udax_media::inode::{FileKind, INLINE_BYTES, INODE_SIZE, Inode, InodeFlags, ROOT};
use udax_media::node::{self, NodeIdentity, NodeState, SLOT_SIZE, SLOTS_START, Slot, TreeKind, TreeRoot};
use udax_media::xattr::{Xattr, XattrValue, fits_inline};
use udax_media::{
    BLOCK_SIZE, BlockNo, BlockRange, FileBlock, Geometry, InodeNo, Sequence, Superblock, Timestamp, bitmap,
    name, roots, seal,
};
use udax_pmem::Region;

pub(crate) use reading::{Content, read_contents, read_paths};

/// Whose a metadata block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Pool,
    Chunk(u64),
    Inode(u64),
}

/// A name, its inode and what that is.
pub(crate) type Name = (Vec<u8>, u64, FileKind);

/// A pool in the making. Everything can be changed until [`Image::write`].
pub(crate) struct Image {
    pub(crate) superblock: Superblock,
    pub(crate) inodes: BTreeMap<u64, Inode>,
    /// Directory to (key to (name, inode, kind)).
    pub(crate) names: BTreeMap<u64, BTreeMap<u64, Name>>,
    /// File to extents.
    pub(crate) extents: BTreeMap<u64, Vec<Extent>>,
    /// Inode to (key to bytes).
    pub(crate) xattrs: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    pub(crate) orphans: BTreeSet<u64>,
    pub(crate) shared: BTreeMap<u64, (u64, u64)>,
    pub(crate) bad_blocks: BTreeMap<u64, u64>,
    /// Most entries of a node, to make trees high with few of them.
    pub(crate) fanout: usize,
    pub(crate) used: BTreeSet<u64>,
    pub(crate) metadata: Vec<(BlockNo, Owner)>,
    pub(crate) counters: Option<(u64, u64)>,
    /// Added to the inode's count of blocks that the builder works out.
    pub(crate) extra_blocks: BTreeMap<u64, u64>,
    data: BTreeMap<u64, Vec<u8>>,
    next: u64,
    next_ino: u64,
}

pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: 7,
    }
}

impl Image {
    pub(crate) fn new(total_blocks: u64) -> Self {
        let uuid = uuid::Uuid::from_u128(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
        let superblock = Superblock::plan(total_blocks, uuid, *b"0123456789abcdef", "test", time(1)).unwrap();
        let geometry = Geometry::new(&superblock);
        let own = geometry.own_ranges();
        let used = own
            .iter()
            .flat_map(|range| range.start.raw()..range.end().raw())
            .collect();
        let mut image = Self {
            superblock,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            extents: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            orphans: BTreeSet::new(),
            shared: BTreeMap::new(),
            bad_blocks: BTreeMap::new(),
            fanout: 1000,
            used,
            metadata: vec![],
            counters: None,
            extra_blocks: BTreeMap::new(),
            data: BTreeMap::new(),
            next: 3,
            next_ino: 1,
        };
        assert_eq!(image.make(FileKind::Directory), ROOT.raw());
        image.inode(1).parent = ROOT;
        image
    }

    pub(crate) fn inode(&mut self, ino: u64) -> &mut Inode {
        self.inodes.get_mut(&ino).unwrap()
    }

    fn make(&mut self, kind: FileKind) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        let now = time(i64::try_from(ino).unwrap());
        let inode = Inode {
            ino: InodeNo(ino),
            generation: 3,
            kind,
            permissions: 0o644,
            flags: InodeFlags::empty(),
            uid: 1000,
            gid: 100,
            rdev: 0,
            btime: now,
            size: 0,
            blocks: 0,
            mtime: now,
            ctime: now,
            atime: now,
            nlink: if kind == FileKind::Directory { 2 } else { 0 },
            change: 1,
            xattr_root: TreeRoot::EMPTY,
            parent: InodeNo(0),
            root: TreeRoot::EMPTY,
            inline_count: 0,
            target_checksum: 0,
            inline: [0; INLINE_BYTES],
        };
        self.inodes.insert(ino, inode);
        if kind == FileKind::Directory {
            self.names.insert(ino, BTreeMap::new());
        }
        ino
    }

    pub(crate) fn allocate(&mut self, count: u64) -> BlockNo {
        while (self.next..self.next + count).any(|block| self.used.contains(&block)) {
            self.next += 1;
        }
        let start = self.next;
        self.used.extend(start..start + count);
        self.next += count;
        assert!(
            self.next < self.superblock.total_blocks(),
            "the test's pool is too small"
        );
        BlockNo(start)
    }

    pub(crate) fn skip_inodes(&mut self, count: u64) {
        self.next_ino += count;
    }

    pub(crate) fn free_key(&self, directory: u64, name: &[u8]) -> u64 {
        let keys = name::keys(&self.superblock.hash_key, name);
        (keys.first..=keys.last)
            .find(|key| !self.names[&directory].contains_key(key))
            .unwrap()
    }

    pub(crate) fn link(&mut self, directory: u64, name: &str, ino: u64) -> u64 {
        let key = self.free_key(directory, name.as_bytes());
        let kind = self.inodes[&ino].kind;
        self.names
            .get_mut(&directory)
            .unwrap()
            .insert(key, (name.into(), ino, kind));
        self.inode(directory).size += 1;
        if kind == FileKind::Directory {
            self.inode(directory).nlink += 1;
            self.inode(ino).parent = InodeNo(directory);
        } else {
            self.inode(ino).nlink += 1;
        }
        key
    }

    pub(crate) fn mkdir(&mut self, directory: u64, name: &str) -> u64 {
        let ino = self.make(FileKind::Directory);
        self.link(directory, name, ino);
        ino
    }

    /// A file with `(first file block, blocks)` extents, filled with its inode number.
    pub(crate) fn file(&mut self, directory: u64, name: &str, runs: &[(u64, u64)]) -> u64 {
        let ino = self.unnamed(runs);
        self.link(directory, name, ino);
        ino
    }

    pub(crate) fn unnamed(&mut self, runs: &[(u64, u64)]) -> u64 {
        let ino = self.make(FileKind::Regular);
        let mut extents = vec![];
        for (first, count) in runs {
            let start = self.allocate(*count);
            for block in start.raw()..start.raw() + count {
                self.data.insert(block, ino.to_le_bytes().repeat(512));
            }
            extents.push(Extent {
                first: FileBlock(*first),
                start,
                count: *count,
                flags: ExtentFlags::empty(),
            });
        }
        self.inode(ino).size = runs.last().map_or(0, |(first, count)| (first + count) * 4096 - 5);
        self.extents.insert(ino, extents);
        ino
    }

    pub(crate) fn symlink(&mut self, directory: u64, name: &str, target: &[u8]) -> u64 {
        let ino = self.make(FileKind::Symlink);
        if target.len() > INLINE_BYTES {
            let start = self.allocate(1);
            let mut bytes = target.to_vec();
            bytes.resize(BLOCK_SIZE, 0);
            self.data.insert(start.raw(), bytes);
            let extent = Extent {
                first: FileBlock(0),
                start,
                count: 1,
                flags: ExtentFlags::empty(),
            };
            self.extents.insert(ino, vec![extent]);
        }
        let inode = self.inode(ino);
        inode.size = u64::try_from(target.len()).unwrap();
        inode.target_checksum = crc32c::crc32c(target);
        if target.len() <= INLINE_BYTES {
            inode.inline[..target.len()].copy_from_slice(target);
        }
        self.link(directory, name, ino);
        ino
    }

    pub(crate) fn special(&mut self, directory: u64, name: &str, kind: FileKind) -> u64 {
        let ino = self.make(kind);
        self.link(directory, name, ino);
        ino
    }

    pub(crate) fn xattr(&mut self, ino: u64, name: &str, value: &[u8]) -> u64 {
        let key = name::keys(&self.superblock.hash_key, name.as_bytes()).first;
        let stored = if fits_inline(name.len(), value.len()) {
            XattrValue::Inline(value)
        } else {
            let blocks = value.len().div_ceil(BLOCK_SIZE);
            let runs: Vec<BlockRange> = value
                .chunks(BLOCK_SIZE)
                .map(|part| {
                    let block = self.allocate(1);
                    let mut bytes = part.to_vec();
                    bytes.resize(BLOCK_SIZE, 0);
                    self.data.insert(block.raw(), bytes);
                    BlockRange::new(block, 1)
                })
                .collect();
            assert_eq!(runs.len(), blocks);
            XattrValue::External {
                length: u32::try_from(value.len()).unwrap(),
                checksum: crc32c::crc32c(value),
                runs,
            }
        };
        let bytes = Xattr {
            name: name.as_bytes(),
            value: stored,
        }
        .encode();
        self.xattrs.entry(ino).or_default().insert(key, bytes);
        key
    }

    /// Makes an unlinked inode that is still open.
    pub(crate) fn orphan(&mut self, ino: u64) {
        self.orphans.insert(ino);
    }

    #[expect(clippy::too_many_lines, reason = "the format of a tree, in one piece")]
    fn tree(
        &mut self,
        region: &Region,
        identity: NodeIdentity,
        owner: Owner,
        entries: &[(u64, Vec<u8>)],
    ) -> (TreeRoot, u64) {
        let seed = self.superblock.seed();
        let mut count = 0;
        let mut level = 0;
        let mut nodes: Vec<(u64, BlockNo)> = vec![];
        let mut rest = entries;
        let mut put = |image: &mut Self, mut bytes: [u8; BLOCK_SIZE], state: NodeState| {
            let block = image.allocate(1);
            bytes[..64].copy_from_slice(&node::encode_header(block, identity, state));
            seal::seal(seed, &mut bytes);
            region.store(block.offset().raw(), &bytes).unwrap();
            image.metadata.push((block, owner));
            count += 1;
            block
        };
        while !rest.is_empty() {
            let mut bytes = [0; BLOCK_SIZE];
            let mut top = BLOCK_SIZE;
            let mut taken = 0;
            for (key, value) in rest {
                let capacity = value.len().next_multiple_of(8);
                let slot_end = SLOTS_START + (taken + 1) * SLOT_SIZE;
                if taken == self.fanout || slot_end + capacity > top {
                    break;
                }
                top -= capacity;
                let slot = Slot {
                    key: *key,
                    offset: u16::try_from(if capacity == 0 { 0 } else { top }).unwrap(),
                    capacity: u16::try_from(capacity).unwrap(),
                    length: u16::try_from(value.len()).unwrap(),
                    is_used: true,
                };
                bytes[slot_end - SLOT_SIZE..slot_end].copy_from_slice(&slot.encode());
                bytes[top..top + value.len()].copy_from_slice(value);
                taken += 1;
            }
            let state = NodeState {
                level: 0,
                kind: identity.kind,
                count: u16::try_from(taken).unwrap(),
                heap_top: u16::try_from(top).unwrap(),
            };
            let block = put(self, bytes, state);
            nodes.push((rest[0].0, block));
            rest = &rest[taken..];
        }
        while nodes.len() > 1 {
            level += 1;
            let mut above = vec![];
            for children in nodes.chunks(self.fanout.clamp(2, 200)) {
                let mut bytes = [0; BLOCK_SIZE];
                for (index, (key, child)) in children.iter().enumerate() {
                    let at = SLOTS_START + index * SLOT_SIZE;
                    bytes[at..at + 8].copy_from_slice(&key.to_le_bytes());
                    bytes[at + 8..at + 16].copy_from_slice(&child.raw().to_le_bytes());
                }
                let state = NodeState {
                    level,
                    kind: identity.kind,
                    count: u16::try_from(children.len()).unwrap(),
                    heap_top: 4096,
                };
                above.push((children[0].0, put(self, bytes, state)));
            }
            nodes = above;
        }
        (
            nodes
                .first()
                .map_or(TreeRoot::EMPTY, |(_, block)| TreeRoot::new(*block, level)),
            count,
        )
    }

    fn write_inode_trees(&mut self, region: &Region, ino: u64) {
        let inode = self.inodes[&ino].clone();
        let identity = |kind| NodeIdentity {
            kind,
            owner: ino,
            generation: inode.generation,
        };
        let mut blocks = self.extra_blocks.get(&ino).copied().unwrap_or(0);
        if let Some(names) = self.names.get(&ino) {
            let entries: Vec<_> = names
                .iter()
                .map(|(key, (name, ino, kind))| {
                    let ino = InodeNo(*ino);
                    let dentry = Dentry {
                        ino,
                        kind: *kind,
                        name,
                    };
                    (*key, dentry.encode(&mut [0; dentry::MAX_SIZE]).to_vec())
                })
                .collect();
            let (root, nodes) = self.tree(region, identity(TreeKind::Directory), Owner::Inode(ino), &entries);
            self.inode(ino).root = root;
            blocks += nodes;
        }
        if let Some(extents) = self.extents.get(&ino).cloned() {
            blocks += extents.iter().map(|extent| extent.count).sum::<u64>();
            if extents.len() > 4 {
                let entries: Vec<_> = extents
                    .iter()
                    .map(|extent| (extent.first.raw(), extent.encode().to_vec()))
                    .collect();
                let (root, nodes) =
                    self.tree(region, identity(TreeKind::Extents), Owner::Inode(ino), &entries);
                let inode = self.inode(ino);
                inode.root = root;
                inode.flags |= InodeFlags::EXTENT_TREE;
                blocks += nodes;
            } else {
                let inode = self.inode(ino);
                inode.inline_count = u32::try_from(extents.len()).unwrap();
                for (index, extent) in extents.iter().enumerate() {
                    inode.inline[index * 24..index * 24 + 24].copy_from_slice(&extent.encode_inline());
                }
            }
        }
        if let Some(xattrs) = self.xattrs.get(&ino).cloned() {
            let total = self.superblock.total_blocks();
            for bytes in xattrs.values() {
                if let Some(Xattr {
                    value: XattrValue::External { runs, .. },
                    ..
                }) = Xattr::decode(bytes, total)
                {
                    blocks += runs.iter().map(|run| run.count).sum::<u64>();
                    self.metadata
                        .extend(runs.iter().map(|run| (run.start, Owner::Inode(ino))));
                }
            }
            let entries: Vec<_> = xattrs.into_iter().collect();
            let (root, nodes) = self.tree(region, identity(TreeKind::Xattrs), Owner::Inode(ino), &entries);
            self.inode(ino).xattr_root = root;
            blocks += nodes;
        }
        if self.inodes[&ino].kind == FileKind::Symlink && inode.size > 96 {
            let start = self.extents[&ino][0].start;
            self.metadata.push((start, Owner::Inode(ino)));
        }
        self.inode(ino).blocks = blocks;
    }

    fn write_pool_tree(&mut self, region: &Region, kind: TreeKind, entries: &[(u64, Vec<u8>)]) -> TreeRoot {
        let identity = NodeIdentity {
            kind,
            owner: 0,
            generation: 0,
        };
        self.tree(region, identity, Owner::Pool, entries).0
    }

    /// Writes the pool, closed cleanly.
    pub(crate) fn write(&mut self) -> Region {
        let region = Region::anonymous(self.superblock.total_blocks() * 4096, None).unwrap();
        self.write_to(&region);
        region
    }

    pub(crate) fn write_to(&mut self, region: &Region) {
        let seed = self.superblock.seed();
        let inos: Vec<u64> = self.inodes.keys().copied().collect();
        for ino in &inos {
            self.write_inode_trees(region, *ino);
        }
        let numbers: BTreeSet<u64> = inos.iter().map(|ino| ino / 16).collect();
        let mut table = vec![];
        for chunk in numbers {
            let block = self.allocate(1);
            self.metadata.push((block, Owner::Chunk(chunk)));
            for ino in chunk * 16..chunk * 16 + 16 {
                if let Some(inode) = self.inodes.get(&ino) {
                    let mut bytes: [u8; INODE_SIZE] = inode.encode();
                    seal::seal(seed, &mut bytes);
                    region
                        .store(block.offset().raw() + ino % 16 * 256, &bytes)
                        .unwrap();
                }
            }
            table.push((chunk, block.raw().to_le_bytes().to_vec()));
        }
        let table = self.write_pool_tree(region, TreeKind::InodeTable, &table);
        let orphans: Vec<_> = self.orphans.iter().map(|ino| (*ino, vec![])).collect();
        let orphans = self.write_pool_tree(region, TreeKind::Orphans, &orphans);
        let shared: Vec<_> = self
            .shared
            .iter()
            .map(|(start, (length, count))| (*start, [length.to_le_bytes(), count.to_le_bytes()].concat()))
            .collect();
        let shared = self.write_pool_tree(region, TreeKind::Shared, &shared);
        let bad_blocks: Vec<_> = self
            .bad_blocks
            .iter()
            .map(|(start, count)| (*start, count.to_le_bytes().to_vec()))
            .collect();
        let bad_blocks = self.write_pool_tree(region, TreeKind::BadBlocks, &bad_blocks);
        let block = roots::format(seed, [table, orphans, shared, bad_blocks]);
        region.store(ROOTS.offset().raw(), block.as_slice()).unwrap();
        self.metadata.push((ROOTS, Owner::Pool));
        for (block, bytes) in &self.data {
            region.store(block * 4096, bytes).unwrap();
        }
        self.write_head(region);
    }

    fn write_head(&mut self, region: &Region) {
        let seed = self.superblock.seed();
        let geometry = Geometry::new(&self.superblock);
        let mut free = 0;
        for group in (0..geometry.group_count()).filter_map(|index| geometry.group(index)) {
            let mut block = bitmap::format(seed, group.bitmap, group.covers);
            for offset in 0..group.covers.count {
                if self.used.contains(&(group.covers.start.raw() + offset)) {
                    block[64 + usize::try_from(offset / 8).unwrap()] |= 1 << (offset % 8);
                } else {
                    free += 1;
                }
            }
            seal::seal(seed, block.as_mut_slice());
            region
                .store(group.bitmap.offset().raw(), block.as_slice())
                .unwrap();
            self.metadata.push((group.bitmap, Owner::Pool));
        }
        for copy in SUPERBLOCKS {
            region
                .store(copy.offset().raw(), self.superblock.encode().as_slice())
                .unwrap();
            self.metadata.push((copy, Owner::Pool));
        }
        let inodes = u64::try_from(self.inodes.len()).unwrap();
        let (free_blocks, inodes) = self.counters.unwrap_or((free, inodes));
        for number in [4, 5] {
            let checkpoint = Checkpoint {
                number,
                sequence: Sequence(40),
                nonce: 99,
                free_blocks,
                inodes,
                is_clean: number == 5,
                is_half_mended: false,
            };
            for copy in CHECKPOINTS {
                region
                    .store(checkpoint.offset_in(copy).raw(), &checkpoint.encode(seed))
                    .unwrap();
            }
        }
        self.metadata
            .extend(CHECKPOINTS.map(|block| (block, Owner::Pool)));
    }
}

/// A pool with one of everything.
pub(crate) fn rich(total_blocks: u64) -> Image {
    let mut image = Image::new(total_blocks);
    image.fanout = 3;
    let docs = image.mkdir(1, "docs");
    let deep = image.mkdir(docs, "deep");
    image.mkdir(deep, "empty");
    for index in 0..20 {
        image.file(docs, &format!("file {index}"), &[(0, 1)]);
    }
    image.file(1, "nothing", &[]);
    let sparse = image.file(deep, "sparse", &[(3, 2), (1 << 40, 1)]);
    let runs: Vec<(u64, u64)> = (0..15).map(|index| (index * 10, 2)).collect();
    let long = image.file(deep, "many extents", &runs);
    image.link(1, "hard link", long);
    image.link(docs, "another", long);
    let kept = image.file(1, "keep size", &[(0, 4)]);
    image.inode(kept).size = 10;
    image.extents.get_mut(&kept).unwrap()[0].flags = ExtentFlags::UNWRITTEN;
    image.symlink(1, "short", b"docs/deep");
    image.symlink(1, "long", &b"x/".repeat(300));
    image.special(1, "pipe", FileKind::Fifo);
    let device = image.special(1, "device", FileKind::CharDevice);
    image.inode(device).rdev = 0x501;
    image.xattr(sparse, "user.comment", b"hello");
    image.xattr(sparse, "user.large", &[7; 9000]);
    image.xattr(docs, "trusted.small", b"");
    for index in 0..8 {
        image.xattr(device, &format!("security.label{index}"), &[index; 100]);
    }
    image.skip_inodes(100);
    let open = image.unnamed(&[(0, 3)]);
    image.orphan(open);
    image.orphan(kept);
    image
}
