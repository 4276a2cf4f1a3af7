//! The roots block, the inode table and the other trees that belong to no inode.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use std::collections::btree_map::Entry;

use udax_media::geometry::ROOTS;
use udax_media::inode::{self, INODE_SIZE, InodeSlot, MAX_CHUNK};
use udax_media::node::{self, NodeIdentity, TreeKind, TreeRoot};
use udax_media::pool_tree::{Shared, decode_chunk, encode_bad, encode_chunk};
use udax_media::roots::{self, PoolTree};
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, InodeNo, Place};

use super::build::Builder;
use super::log::Write;
use super::lost_and_found::empty_directory;
use super::space::Space;
use super::{Failure, Mender};
use crate::content::{ClaimKind, View, walk_inode};
use crate::finding::Fault;
use crate::ownership::Ownership;
use crate::pool::pool_identity;
use crate::scan::{Chunks, chunks, read_roots_unverified};
use crate::source::Block;
use crate::tree::{self, Visit};

/// The pool's trees after the inode table.
const OTHER_TREES: [TreeKind; 3] = [TreeKind::Orphans, TreeKind::Shared, TreeKind::BadBlocks];

/// Offset of a node's generation.
const GENERATION_OFFSET: usize = 24;
/// Permissions of a root directory that is made anew.
const ROOT_PERMISSIONS: u32 = 0o755;

/// Keeps what a damaged inode table still says.
struct Survivors<'s> {
    chunks: Chunks,
    ownership: &'s Ownership,
    total_blocks: u64,
}

impl Visit for Survivors<'_> {
    fn node(&mut self, block: BlockNo) {
        self.ownership.claim(BlockRange::new(block, 1));
    }
    fn entry(&mut self, key: u64, value: &[u8]) {
        if let Some(block) = decode_chunk(value, self.total_blocks)
            && key <= MAX_CHUNK
        {
            self.chunks.insert(key, block);
        }
    }
    fn lost(&mut self, _: Place, _: RangeInclusive<u64>, _: String) {}
}

/// Claims what an inode owns.
struct Claims<'c> {
    ownership: &'c Ownership,
}

impl View for Claims<'_> {
    fn claim(&mut self, range: BlockRange, _: ClaimKind) {
        self.ownership.claim(range);
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

impl Mender<'_, '_> {
    /// Makes the roots block and the inode table anew: surviving entries, and the chunks that lie in the pool.
    pub(super) fn rebuild_roots(&mut self) -> Result<(), Failure> {
        let mut roots = read_roots_unverified(&self.pool);
        let [table, others @ ..] = &mut roots;
        let ownership = Ownership::new(self.pool.reach());
        let mut survivors = Survivors {
            chunks: Chunks::new(),
            ownership: &ownership,
            total_blocks: self.pool.total_blocks,
        };
        tree::walk(
            &self.pool,
            *table,
            pool_identity(TreeKind::InodeTable),
            &mut survivors,
        );
        for (root, kind) in others.iter().zip(OTHER_TREES) {
            let mut nodes = Survivors {
                chunks: Chunks::new(),
                ..survivors
            };
            tree::walk(&self.pool, *root, pool_identity(kind), &mut nodes);
        }
        let mut chunks = survivors.chunks;
        for (chunk, block) in chunks::find(&self.pool, &chunks) {
            chunks.entry(chunk).or_insert(block);
        }
        self.claim_all(&chunks, &ownership);
        self.space = Space::new(&self.pool, Arc::new(ownership));
        for (root, kind) in others.iter_mut().zip(OTHER_TREES) {
            if !self.is_root(*root, pool_identity(kind)) {
                *root = TreeRoot::EMPTY;
            }
        }
        if chunks.is_empty() {
            let block = self.space.take().ok_or(Failure::NoSpace)?;
            self.log.store_new(block, &[0; BLOCK_SIZE])?;
            chunks.insert(0, block);
        }
        *table = self.build_table(&chunks)?;
        self.mark_taken()?;
        self.log.commit(&[Write::new(
            ROOTS.offset(),
            roots::format(self.pool.seed, roots).as_slice(),
        )])?;
        Ok(())
    }

    /// Claims what the inodes in `chunks` own, and what is the pool's: the rest may be written to.
    fn claim_all(&self, chunks: &Chunks, ownership: &Ownership) {
        for range in self.pool.geometry.own_ranges() {
            ownership.claim(range);
        }
        for (chunk, block) in chunks {
            ownership.claim(BlockRange::new(*block, 1));
            let Ok(bytes) = self.pool.read(*block) else {
                continue;
            };
            let first = chunk * inode::CHUNK_INODES;
            for ino in (first..first + inode::CHUNK_INODES).map(InodeNo) {
                if let Ok(InodeSlot::Used(inode)) = self.pool.slot(&bytes, ino) {
                    walk_inode(&self.pool, &inode, &mut Claims { ownership });
                }
            }
        }
    }

    fn is_root(&self, root: TreeRoot, identity: NodeIdentity) -> bool {
        let Some(block) = root.block() else { return false };
        self.pool.read(block).is_ok_and(|bytes| {
            let total_blocks = self.pool.total_blocks;
            node::verify(
                self.pool.seed,
                &bytes,
                block,
                identity,
                root.level(),
                total_blocks,
            )
            .is_ok()
        })
    }

    fn build_table(&mut self, chunks: &Chunks) -> Result<TreeRoot, Failure> {
        let mut builder = Builder::new(self.log, &mut self.space, pool_identity(TreeKind::InodeTable));
        for (chunk, block) in chunks {
            builder.push(*chunk, &encode_chunk(*block))?;
        }
        builder.finish()
    }

    /// Replaces the inode table.
    pub(super) fn write_table(&mut self, chunks: &Chunks) -> Result<(), Failure> {
        let root = self.build_table(chunks)?;
        self.switch_root(PoolTree::InodeTable, root)
    }

    fn switch_root(&mut self, tree: PoolTree, root: TreeRoot) -> Result<(), Failure> {
        self.mark_taken()?;
        self.log
            .commit(&[Write::new(tree.root_offset(), root.word().to_le_bytes())])?;
        Ok(())
    }

    /// Puts chunks that were found into the inode table.
    pub(super) fn restore_chunks(&mut self, found: &Chunks) -> Result<(), Failure> {
        // Nothing that their inodes own may be written to.
        self.claim_all(found, &self.scan.ownership);
        let mut chunks: Chunks = self.scan.table.chunks.iter().copied().collect();
        chunks.extend(found);
        self.write_table(&chunks)
    }

    /// Takes chunks out of the inode table. Chunk 0, which the root directory needs, is replaced by an empty one.
    pub(super) fn drop_chunks(&mut self, dropped: &BTreeSet<u64>) -> Result<(), Failure> {
        let known = self.scan.table.chunks.iter().copied();
        let mut chunks: Chunks = known.filter(|(chunk, _)| !dropped.contains(chunk)).collect();
        self.ensure_chunk_zero(&mut chunks, dropped)?;
        self.write_table(&chunks)
    }

    /// Puts chunk 0 into `chunks`: the one that lies in a block that nobody owns, or only one of the `dropped`; else an
    /// empty one.
    fn ensure_chunk_zero(&mut self, chunks: &mut Chunks, dropped: &BTreeSet<u64>) -> Result<(), Failure> {
        if chunks.contains_key(&0) {
            return Ok(());
        }
        let found = chunks::find(&self.pool, chunks).remove(&0).filter(|block| {
            let all = &self.scan.table.chunks;
            let is_dropped = all
                .iter()
                .any(|(chunk, of)| of == block && dropped.contains(chunk));
            is_dropped || self.scan.ownership.bits(*block) & 1 == 0
        });
        if let Some(block) = found {
            self.claim_all(&Chunks::from([(0, block)]), &self.scan.ownership);
            chunks.insert(0, block);
        }
        if let Entry::Vacant(vacant) = chunks.entry(0) {
            let block = self.space.take().ok_or(Failure::NoSpace)?;
            self.log.store_new(block, &[0; BLOCK_SIZE])?;
            vacant.insert(block);
        }
        Ok(())
    }

    /// Makes inode 1 a directory, with the names that it had if its tree can be found.
    pub(super) fn make_root(&mut self) -> Result<(), Failure> {
        let Some(chunk) = self.scan.table.chunk_of(inode::ROOT) else {
            let mut chunks: Chunks = self.scan.table.chunks.iter().copied().collect();
            self.ensure_chunk_zero(&mut chunks, &BTreeSet::new())?;
            return self.write_table(&chunks);
        };
        let mut root = empty_directory(inode::ROOT, ROOT_PERMISSIONS, self.pool.superblock.created);
        if let Some((tree, generation)) = self.find_root_tree(chunk)? {
            root.root = tree;
            root.generation = generation;
        }
        self.count(&mut root);
        let at = inode::offset_in_chunk(chunk, inode::ROOT);
        self.log.commit(&[Write::inode(at, &root, self.pool.seed)])?;
        Ok(())
    }

    /// The root directory's tree and generation: from the damaged inode when its tree is sound, else the highest
    /// sound node of such a tree in the pool.
    fn find_root_tree(&self, chunk: BlockNo) -> Result<Option<(TreeRoot, u64)>, Failure> {
        let bytes = self.read(chunk)?;
        let slot = bytes.as_chunks::<INODE_SIZE>().0.get(1);
        let word = slot.and_then(|slot| {
            let at = usize::try_from(inode::offset::ROOT).ok()?;
            Some(TreeRoot::from_word(u64::from_le_bytes(
                *slot.get(at..)?.first_chunk::<8>()?,
            )))
        });
        if let Some(root) = word
            && let Some(block) = root.block()
            && let Ok(bytes) = self.pool.read(block)
            && let Some((level, generation)) = self.as_root_directory(block, &bytes)
            && level == root.level()
        {
            return Ok(Some((root, generation)));
        }
        let mut best: Option<((bool, u8, u64), BlockNo)> = None;
        chunks::for_each_block(&self.pool, |block, bytes| {
            if let Some((level, generation)) = self.as_root_directory(block, bytes) {
                let score = (self.space.is_marked(block), level, generation);
                if best.is_none_or(|(known, _)| known < score) {
                    best = Some((score, block));
                }
            }
        });
        Ok(best.map(|((_, level, generation), block)| (TreeRoot::new(block, level), generation)))
    }

    /// Level and generation of a sound node of the root directory's tree.
    fn as_root_directory(&self, block: BlockNo, bytes: &Block) -> Option<(u8, u64)> {
        if !bytes.starts_with(&node::MAGIC.to_le_bytes()) {
            return None;
        }
        let generation = u64::from_le_bytes(*bytes.get(GENERATION_OFFSET..)?.first_chunk::<8>()?);
        let level = *bytes.get(node::STATE_OFFSET)?;
        let identity = NodeIdentity {
            kind: TreeKind::Directory,
            owner: inode::ROOT.raw(),
            generation,
        };
        let sound = node::verify(
            self.pool.seed,
            bytes,
            block,
            identity,
            level,
            self.pool.total_blocks,
        );
        sound.ok().map(|_| (level, generation))
    }

    /// Replaces the orphans' tree.
    pub(super) fn write_orphans(&mut self, orphans: &BTreeSet<u64>) -> Result<(), Failure> {
        let mut builder = Builder::new(self.log, &mut self.space, pool_identity(TreeKind::Orphans));
        for ino in orphans {
            builder.push(*ino, &[])?;
        }
        let root = builder.finish()?;
        self.switch_root(PoolTree::Orphans, root)
    }

    /// Replaces the shares' tree.
    pub(super) fn write_shared(&mut self, shared: &BTreeMap<u64, (u64, u64)>) -> Result<(), Failure> {
        let mut builder = Builder::new(self.log, &mut self.space, pool_identity(TreeKind::Shared));
        for (start, (length, count)) in shared {
            let shared = Shared {
                blocks: BlockRange::new(BlockNo(*start), *length),
                owners: *count,
            };
            builder.push(*start, &shared.encode())?;
        }
        let root = builder.finish()?;
        self.switch_root(PoolTree::Shared, root)
    }

    /// Replaces the tree of bad blocks.
    pub(super) fn write_bad_blocks(&mut self, list: &BTreeMap<u64, u64>) -> Result<(), Failure> {
        let mut builder = Builder::new(self.log, &mut self.space, pool_identity(TreeKind::BadBlocks));
        for (start, count) in list {
            builder.push(*start, &encode_bad(BlockRange::new(BlockNo(*start), *count)))?;
        }
        let root = builder.finish()?;
        self.switch_root(PoolTree::BadBlocks, root)
    }
}
