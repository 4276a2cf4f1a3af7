//! Bad blocks: what the medium has lost and nobody uses is not used again.
//!
//! They are in a tree of the pool: first block of a run to its length. A bad block that is freed goes there instead of
//! to the free space; one that is free when it is found is set aside by the allocator ([`Space`](crate::space::Space)),
//! and listed here by the next sync or close. They are in use in the allocation bitmaps, so that nothing else need know
//! of the tree. It is changed when an update commits, after all else that the update locks.

use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::pool_tree::{decode_bad, encode_bad};
use udax_media::roots::PoolTree;
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, Place};
use udax_sync::{Mutex, MutexGuard, Rank};

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::tree::{Cursor, NodeSource, NodeStore, Tree};
use crate::update::Update;

const IDENTITY: NodeIdentity = NodeIdentity {
    kind: PoolTree::BadBlocks.kind(),
    owner: 0,
    generation: 0,
};

/// The bad blocks of an open pool that nobody uses.
#[derive(Debug)]
pub(crate) struct BadBlocks {
    root: Mutex<TreeRoot>,
}

/// A change of them within an update. Holds the tree's lock: commit the update, then call [`BadBlocksChange::done`];
/// dropping it otherwise forgets the change.
#[derive(Debug)]
#[must_use]
pub(crate) struct BadBlocksChange<'b> {
    root: MutexGuard<'b, TreeRoot>,
    tree: Tree,
}

impl BadBlocks {
    pub(crate) fn new(root: TreeRoot) -> Self {
        Self {
            root: Mutex::new(Rank::BadBlocks, root),
        }
    }

    /// Verifies every node, as `source` does that, with the tree's lock held.
    pub(crate) fn verify(&self, source: &impl NodeSource<Error = Error>) -> Result<()> {
        let root = self.root.lock();
        Tree::new(IDENTITY, *root).for_each_node(source, |_, _| Ok(()))
    }

    pub(crate) fn change(&self) -> BadBlocksChange<'_> {
        let root = self.root.lock();
        let tree = Tree::new(IDENTITY, *root);
        BadBlocksChange { root, tree }
    }

    /// All of them, ascending.
    pub(crate) fn collect(&self, pool: &Pool) -> Result<Vec<BlockRange>> {
        let root = self.root.lock();
        let tree = Tree::new(IDENTITY, *root);
        let mut cursor = Cursor::starting_at(0);
        let mut all: Vec<BlockRange> = Vec::new();
        while let Some(batch) = cursor.next_batch(&tree, pool)? {
            for (key, value) in batch.iter() {
                let run = decode(key, value, pool.total_blocks())?;
                if all.last().is_some_and(|last| last.end() > run.start) {
                    return Err(impossible(run.start.raw()));
                }
                all.push(run);
            }
        }
        Ok(all)
    }
}

impl BadBlocksChange<'_> {
    /// Adds `blocks`, which are in no run yet.
    pub(crate) fn insert<S: NodeStore<Error = Error>>(
        &mut self,
        store: &mut S,
        blocks: BlockRange,
    ) -> Result<()> {
        if let Some((key, value)) = self.tree.floor(store, blocks.start.raw())? {
            let before = decode(key, &value.bytes, u64::MAX)?;
            if before.end() > blocks.start {
                return Err(impossible(key));
            }
            if before.end() == blocks.start {
                let both = BlockRange::new(before.start, before.count + blocks.count);
                self.tree.replace(store, key, &encode_bad(both))?;
                return Ok(());
            }
        }
        self.tree
            .insert_new(store, blocks.start.raw(), &encode_bad(blocks))
    }

    /// Whether run `blocks` is listed, as [`BadBlocks::collect`] gave it.
    fn has<S: NodeSource<Error = Error>>(&self, source: &S, blocks: BlockRange) -> Result<bool> {
        let found = self.tree.get(source, blocks.start.raw())?;
        Ok(found.is_some_and(|value| value.bytes.as_slice() == encode_bad(blocks)))
    }

    /// Takes run `blocks` out, as [`BadBlocks::collect`] gave it.
    pub(crate) fn remove<S: NodeStore<Error = Error>>(
        &mut self,
        store: &mut S,
        blocks: BlockRange,
    ) -> Result<()> {
        if !self.has(store, blocks)? {
            return Err(Error::Busy("the list of bad blocks has changed"));
        }
        self.tree.remove(store, blocks.start.raw())?;
        Ok(())
    }

    /// The root, if it is another one now.
    pub(crate) fn new_root(&self) -> Option<TreeRoot> {
        (self.tree.root != *self.root).then_some(self.tree.root)
    }

    /// The update has committed.
    pub(crate) fn done(mut self) {
        *self.root = self.tree.root;
    }
}

/// A run of bad blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub struct BadRange {
    /// Its first byte in the pool, a multiple of 4096.
    pub offset: u64,
    /// Bytes, a multiple of 4096.
    pub len: u64,
    /// Whether nobody uses it, so that nothing is lost with it; else a file or the pool itself does.
    pub is_retired: bool,
}

impl Pool {
    /// All that are known.
    pub(crate) fn collect_bad(&self) -> Result<Vec<BadRange>> {
        let mut retired = self.bad_blocks.collect(self)?;
        retired.extend(self.space.collect_aside());
        retired.sort_unstable_by_key(|run| run.start);
        let is_retired = |block: BlockNo| {
            let after = retired.partition_point(|run| run.start <= block);
            after > 0 && retired.get(after - 1).is_some_and(|run| run.contains(block))
        };
        let of = |blocks: &BlockRange, is_retired| BadRange {
            offset: blocks.start.offset().raw(),
            len: blocks.count * BLOCK_BYTES,
            is_retired,
        };
        let mut all: Vec<BadRange> = retired.iter().map(|blocks| of(blocks, true)).collect();
        for known in self.region.bad_ranges() {
            let (start, end) = (known.start / BLOCK_BYTES, known.end.div_ceil(BLOCK_BYTES));
            let mut first = start;
            // What is retired is told already.
            for block in start..=end {
                if is_retired(BlockNo(block)) || block == end {
                    if first < block {
                        all.push(of(&BlockRange::new(BlockNo(first), block - first), false));
                    }
                    first = block + 1;
                }
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Stores zeros to every listed block as a whole, which makes those good that the medium can mend, and frees the
    /// runs in which all are good then; gives the number of blocks freed.
    pub(crate) fn reuse_bad_blocks(&self) -> Result<u64> {
        self.check_writable()?;
        self.list_bad_blocks()?;
        let mut freed = 0;
        for run in self.bad_blocks.collect(self)? {
            if !self.mend_listed(run)? {
                continue;
            }
            let mut update = Update::freeing(self);
            match update.reinstate(run).and_then(|()| update.commit()) {
                Ok(()) => freed += run.count,
                // Somebody frees a bad block beside it meanwhile.
                Err(Error::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(freed)
    }

    /// Stores zeros to all blocks of `run`; whether they can be stored to and read now. Not if the run is no longer
    /// listed: somebody else has mended it, and what it holds may be a file's. Nobody takes it off the list meanwhile.
    fn mend_listed(&self, run: BlockRange) -> Result<bool> {
        let listed = self.bad_blocks.change();
        if !listed.has(self, run)? {
            return Ok(false);
        }
        let mut is_good = true;
        for block in (run.start.raw()..run.end().raw()).map(BlockNo) {
            let at = block.offset().raw();
            let is_stored = || self.region.zero_nontemporal(at, BLOCK_BYTES).is_ok();
            // The first store may be what finds out; only the next one knows that the medium is to be mended.
            is_good &=
                (is_stored() || is_stored()) && self.region.compare(at, &[0; BLOCK_SIZE]).unwrap_or(false);
        }
        self.region.fence()?;
        Ok(is_good)
    }

    /// Lists what the allocator has set aside since the last time. Without space for the list it stays set aside, and
    /// is met again after the next open.
    pub(crate) fn list_bad_blocks(&self) -> Result<()> {
        let aside = self.space.take_aside();
        if aside.is_empty() {
            return Ok(());
        }
        let mut update = Update::freeing(self);
        aside.iter().for_each(|run| update.retire_free(*run));
        let listed = update.commit();
        if listed.is_err() {
            self.space.put_aside(aside);
        }
        listed
    }
}

fn decode(key: u64, value: &[u8], total_blocks: u64) -> Result<BlockRange> {
    decode_bad(key, value, total_blocks).ok_or_else(|| impossible(key))
}

fn impossible(key: u64) -> Error {
    Error::Inconsistent {
        place: Place::Block(BlockNo(key)),
        what: "its run of bad blocks is impossible",
    }
}

#[cfg(test)]
mod tests {
    use udax_media::ByteOffset;
    use udax_pmem::Region;

    use super::*;
    use crate::{File, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};

    fn open(fs: &Filesystem, path: &str) -> File {
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        fs.open_file(path, flags, NewInode::with_permissions(0o600))
            .unwrap()
    }

    fn anonymous() -> Filesystem {
        let region = Region::anonymous(16 << 20, None).unwrap();
        Filesystem::format_region(&region, &FormatOptions::default()).unwrap();
        Filesystem::open_region(region, &MountOptions::default()).unwrap()
    }

    #[test]
    fn what_somebody_else_has_mended_and_given_away_is_left_alone() {
        let fs = anonymous();
        let pool = fs.pool();
        let file = open(&fs, "/file");
        file.append(&[1; BLOCK_SIZE]).unwrap();
        let at = file.extents(0, 1).unwrap()[0].pool_offset;
        pool.region.poison(at, 1).unwrap();
        file.truncate(0).unwrap();
        let listed = pool.bad_blocks.collect(pool).unwrap();
        assert_eq!(listed, [BlockRange::new(ByteOffset(at).block(), 1)]);
        assert_eq!(pool.reuse_bad_blocks().unwrap(), 1);
        // Its next owner's. Who has collected the list before this goes on.
        pool.region.store(at, b"somebody's").unwrap();
        assert!(!pool.mend_listed(listed[0]).unwrap());
        let mut found = [0; 10];
        pool.region.read(at, &mut found).unwrap();
        assert_eq!(&found, b"somebody's");
    }

    /// A chunk of inodes that nobody uses. The records that have changed it are not behind a checkpoint.
    fn empty_chunk(fs: &Filesystem) -> BlockNo {
        let name = |number: u32| format!("/{number}");
        (0..200).for_each(|number| drop(open(fs, &name(number))));
        let ino = fs.stat(name(100)).unwrap().ino;
        let chunk = fs.pool().inode_table.locate(fs.pool(), ino).unwrap().block();
        (0..200).for_each(|number| fs.unlink(name(number)).unwrap());
        chunk
    }

    #[test]
    fn metadata_that_is_lost_when_nobody_owns_it_any_more_leaves_the_pool_writable() {
        for is_freed_first in [true, false] {
            let fs = anonymous();
            let pool = fs.pool();
            let chunk = empty_chunk(&fs);
            let lose = || pool.region.poison(chunk.offset().raw(), 1).unwrap();
            if is_freed_first {
                pool.inode_table.free_empty_chunks(pool).unwrap();
                lose();
            } else {
                lose();
                pool.inode_table.free_empty_chunks(pool).unwrap();
            }
            fs.sync().unwrap();
            assert_eq!(fs.damage(), None);
            assert_eq!(pool.space.is_free(chunk), is_freed_first);
            // It is not given to anybody.
            let file = open(&fs, "/all");
            while file.append(&[7; 64 << 10]).is_ok() {}
            let is_there = |extent: &crate::FileExtent| {
                (extent.pool_offset..extent.pool_offset + extent.len).contains(&chunk.offset().raw())
            };
            assert!(!file.extents(0, 1000).unwrap().iter().any(is_there));
            drop(file);
            fs.sync().unwrap();
            assert_eq!(
                pool.bad_blocks.collect(pool).unwrap(),
                [BlockRange::new(chunk, 1)]
            );
            fs.close().unwrap();
        }
    }

    #[test]
    fn metadata_that_is_lost_while_it_has_an_owner_makes_the_pool_read_only() {
        let fs = anonymous();
        let chunk = empty_chunk(&fs);
        fs.pool().region.poison(chunk.offset().raw(), 1).unwrap();
        assert!(fs.sync().is_err());
        assert_eq!(fs.damage().unwrap().place, Place::Block(chunk));
    }

    #[test]
    fn what_was_metadata_is_free_when_no_record_can_change_it_any_more() {
        let fs = anonymous();
        let pool = fs.pool();
        let chunk = empty_chunk(&fs);
        pool.region.poison(chunk.offset().raw(), 1).unwrap();
        pool.inode_table.free_empty_chunks(pool).unwrap();
        assert_eq!(pool.reuse_bad_blocks().unwrap(), 1);
        assert!(!pool.space.is_free(chunk), "a replay would change it");
        fs.sync().unwrap();
        assert!(pool.space.is_free(chunk));
    }
}
