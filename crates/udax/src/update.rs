//! One atomic change of the pool: a journal transaction, the blocks it takes and those it frees.
//!
//! An [`Update`] that is dropped without [`Update::commit`] has changed nothing: its transaction was only a list, and
//! the blocks it took are given back. On commit everything is durable; freed data blocks become available at once,
//! freed metadata blocks after the next checkpoint.
//!
//! The caller holds the locks of all that the update changes until `commit` has returned.

use std::cell::RefCell;

use smallvec::SmallVec;
use udax_journal::{Committed, Durable, Transaction};
use udax_media::extent::Extent;
use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::pool_tree::Shared;
use udax_media::roots::PoolTree;
use udax_media::sum::Sum;
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Place};
use udax_sync::fault::{Fault, is_injected};

use crate::bad_blocks::BadBlocksChange;
use crate::error::{Error, Result};
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::pool::Pool;
use crate::shares::SharesChange;
use crate::space::{Placement, Priority, Request};
use crate::sums::Sums;
use crate::tree::{NodeSource, NodeStore};

/// What nodes are called where they are lost.
const NODE: &str = "a node of a tree";

/// How often others may go on between the two steps that [`Fault::EarlyDataReuse`] has in the wrong order.
const WINDOW: u32 = 2000;

/// A node and its bytes as they will be.
type Image = (BlockNo, Box<[u8; BLOCK_SIZE]>);

/// One atomic change of the pool.
#[derive(Debug)]
pub(crate) struct Update<'p> {
    pub(crate) pool: &'p Pool,
    transaction: Transaction<'p>,
    blocks: Blocks<'p>,
    priority: Priority,
    /// The most extents that it may free or map.
    limit: usize,
    /// Where the search for metadata blocks begins.
    goal: BlockNo,
    /// Blocks allocated as metadata here, less those freed: what an inode's block count changes by.
    metadata_delta: i64,
    /// Nodes that this update changes, and those of them that it has read again, as they will be.
    touched: SmallVec<[BlockNo; 8]>,
    images: RefCell<SmallVec<[Image; 2]>>,
    /// The share counts, once they were needed.
    shares: Option<SharesChange<'p>>,
    /// Blocks to be listed as bad.
    retired: SmallVec<[BlockRange; 1]>,
    /// The tree of bad blocks, once it was needed: taken last.
    bad: Option<BadBlocksChange<'p>>,
    /// Why a node could not be freed: `commit` fails with it.
    failure: Option<Error>,
    /// Sums that an injected fault keeps for a record of their own.
    late_sums: Vec<(ByteOffset, SmallVec<[u8; 64]>)>,
}

/// The blocks that an update takes and frees. Dropped without a commit, it gives back what was taken.
#[derive(Debug)]
struct Blocks<'p> {
    pool: &'p Pool,
    taken: SmallVec<[BlockRange; 4]>,
    /// Ascending, as are the next.
    freed_data: SmallVec<[BlockRange; 4]>,
    freed_metadata: SmallVec<[BlockRange; 4]>,
}

impl<'p> Update<'p> {
    /// An update that fails when only the reserve is left.
    pub(crate) fn new(pool: &'p Pool) -> Self {
        Self::with_priority(pool, Priority::Ordinary)
    }

    /// An update that may use the reserve, because it frees space in the end.
    pub(crate) fn freeing(pool: &'p Pool) -> Self {
        Self::with_priority(pool, Priority::Freeing)
    }

    fn with_priority(pool: &'p Pool, priority: Priority) -> Self {
        let blocks = Blocks {
            pool,
            taken: SmallVec::new(),
            freed_data: SmallVec::new(),
            freed_metadata: SmallVec::new(),
        };
        Self {
            pool,
            transaction: pool.journal.begin(),
            blocks,
            priority,
            limit: EXTENTS_PER_RECORD,
            goal: BlockNo(0),
            metadata_delta: 0,
            touched: SmallVec::new(),
            images: RefCell::default(),
            shares: None,
            retired: SmallVec::new(),
            bad: None,
            failure: None,
            late_sums: Vec::new(),
        }
    }

    /// The same, to free or map at most `limit` extents.
    pub(crate) fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Who its blocks are for.
    pub(crate) fn priority(&self) -> Priority {
        self.priority
    }

    /// The most extents that it may free or map.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether its record has room for all that was added and `more` bytes.
    ///
    /// # Errors
    /// As [`Update::commit`] when it has none.
    pub(crate) fn check_room(&self, more: usize) -> Result<()> {
        Ok(self.transaction.check_room(more)?)
    }

    /// The bytes at `at` will be `bytes`; both multiples of 8.
    pub(crate) fn write(&mut self, at: ByteOffset, bytes: &[u8]) {
        self.transaction.write(at, bytes);
    }

    /// The word at `at` will be `value`.
    pub(crate) fn write_u64(&mut self, at: ByteOffset, value: u64) {
        self.transaction.write_u64(at, value);
    }

    /// The number of inodes in use changes by `delta`.
    pub(crate) fn count_inodes(&mut self, delta: i64) {
        self.transaction.count_inodes(delta);
    }

    /// Gives blocks that were taken back if the update is dropped without a commit.
    pub(crate) fn guard(&mut self, taken: BlockRange) {
        self.blocks.taken.push(taken);
    }

    /// Allocates guarded data blocks whose content is durable.
    pub(crate) fn allocate_data(&mut self, blocks: &Durable<impl AsRef<[BlockRange]>>) {
        if !is_injected(Fault::UnmarkedData) {
            self.transaction.allocate(blocks);
        }
    }

    /// Allocates guarded data blocks that read as zeros because their extent says so.
    pub(crate) fn allocate_unwritten(&mut self, blocks: BlockRange) {
        self.transaction.allocate_unwritten(blocks);
    }

    /// The blocks of `blocks`, whose content is durable, will have `sums`: in the record with the extent that says so.
    ///
    /// # Errors
    /// A damaged sum block: nothing is changed in it.
    pub(crate) fn set_sums(&mut self, blocks: BlockRange, sums: &[Sum]) -> Result<()> {
        let mut places = Sums::of(self.pool);
        let (mut rest, mut left) = (blocks, sums);
        while rest.count > 0 {
            let (at, count) = places.place(rest)?;
            let (now, after) = left
                .split_at_checked(usize::try_from(count).unwrap_or(usize::MAX))
                .ok_or(Error::Invalid("fewer sums than blocks"))?;
            let words: SmallVec<[u8; 64]> = now.iter().flat_map(|sum| sum.word().to_le_bytes()).collect();
            if is_injected(Fault::SplitSum) {
                self.late_sums.push((at, words));
            } else {
                self.transaction.write(at, &words);
            }
            left = after;
            rest = BlockRange::new(BlockNo(rest.start.raw() + count), rest.count - count);
        }
        Ok(())
    }

    /// The blocks of `to` will have the sums of those of `from`, as many.
    ///
    /// # Errors
    /// As [`Update::set_sums`].
    pub(crate) fn copy_sums(&mut self, from: BlockRange, to: BlockRange) -> Result<()> {
        let mut places = Sums::of(self.pool);
        let blocks = from.start.raw()..from.end().raw();
        let sums: Result<Vec<Sum>> = blocks.map(|block| places.read(BlockNo(block))).collect();
        self.set_sums(to, &sums?)
    }

    /// Takes and allocates one zeroed metadata block.
    pub(crate) fn allocate_metadata(&mut self, goal: BlockNo) -> Result<BlockNo> {
        let request = Request {
            goal,
            count: 1,
            placement: Placement::Any,
            priority: self.priority,
        };
        let run = self.pool.space.take(request)?;
        self.blocks.taken.push(run);
        self.transaction.allocate_metadata(run);
        self.pool.verified.insert(run.start);
        self.metadata_delta += 1;
        Ok(run.start)
    }

    /// Frees data blocks: available when the update has committed.
    pub(crate) fn free_data(&mut self, blocks: BlockRange) -> Result<()> {
        let space = self.pool.space_of(blocks.start);
        space.prepare_free(blocks)?;
        for part in space.parts(blocks) {
            if part.is_bad {
                self.retire(part.blocks)?;
                continue;
            }
            check_unfreed(&self.blocks.freed_metadata, part.blocks)?;
            let at = check_unfreed(&self.blocks.freed_data, part.blocks)?;
            self.blocks.freed_data.insert(at, part.blocks);
            self.transaction.free(part.blocks);
        }
        Ok(())
    }

    /// Lists `blocks`, which the operation gives up, as bad instead of freeing them.
    #[cold]
    fn retire(&mut self, blocks: BlockRange) -> Result<()> {
        let at = check_unfreed(&self.retired, blocks)?;
        self.retired.insert(at, blocks);
        self.transaction.give_up(blocks);
        Ok(())
    }

    /// Lists blocks that are bad, were free and have been taken.
    pub(crate) fn retire_free(&mut self, blocks: BlockRange) {
        self.transaction.allocate_unwritten(blocks);
        self.retired.push(blocks);
    }

    /// Frees what a file has in `extent`: blocks with other owners lose one, the rest is available when the update has
    /// committed. Takes the lock of the share counts if the extent may be shared.
    pub(crate) fn free_extent(&mut self, extent: &Extent) -> Result<()> {
        if !extent.is_shared() {
            return self.free_data(extent.blocks());
        }
        if is_injected(Fault::UncountedShare) {
            return Ok(());
        }
        let free = self.with_shares(|shares, update| shares.release(update, extent.blocks()))?;
        free.into_iter().try_for_each(|blocks| self.free_data(blocks))
    }

    /// Gives `blocks`, which are a file's data, one more owner.
    pub(crate) fn share(&mut self, blocks: BlockRange) -> Result<()> {
        self.with_shares(|shares, update| shares.add(update, blocks))
    }

    /// The first segments of a shared extent's blocks by number of owners, at most `limit`.
    pub(crate) fn owners(&mut self, extent: &Extent, limit: usize) -> Result<Vec<Shared>> {
        self.with_shares(|shares, update| shares.segments(update, extent.blocks(), limit))
    }

    /// Whether it has locked the share counts.
    pub(crate) fn holds_shares(&self) -> bool {
        self.shares.is_some()
    }

    fn with_shares<T>(
        &mut self,
        work: impl FnOnce(&mut SharesChange<'p>, &mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut shares = self.shares.take().unwrap_or_else(|| self.pool.shares.change());
        // The tree's blocks belong to the pool, not to the inode that the update changes.
        let delta = self.metadata_delta;
        let result = work(&mut shares, self);
        self.metadata_delta = delta;
        self.shares = Some(shares);
        result
    }

    /// Frees a metadata block: available when a checkpoint has passed the update.
    pub(crate) fn free_metadata(&mut self, block: BlockNo) -> Result<()> {
        let blocks = BlockRange::new(block, 1);
        self.pool.space.prepare_free(blocks)?;
        check_unfreed(&self.blocks.freed_data, blocks)?;
        self.metadata_delta -= 1;
        if self.pool.space.is_bad(blocks) {
            return self.retire(blocks);
        }
        self.free_late(blocks)
    }

    /// Frees blocks that are available when a checkpoint has passed the update.
    fn free_late(&mut self, blocks: BlockRange) -> Result<()> {
        let at = check_unfreed(&self.blocks.freed_metadata, blocks)?;
        self.blocks.freed_metadata.insert(at, blocks);
        self.transaction.free(blocks);
        Ok(())
    }

    /// Metadata blocks allocated less those freed since the last call.
    pub(crate) fn take_metadata_delta(&mut self) -> i64 {
        std::mem::take(&mut self.metadata_delta)
    }

    /// The root of one of the pool's trees will be `root`.
    pub(crate) fn set_pool_root(&mut self, tree: PoolTree, root: TreeRoot) {
        self.transaction.write_u64(tree.root_offset(), root.word());
    }

    /// Makes everything durable with one fence. On an error nothing has changed.
    pub(crate) fn commit(mut self) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if let Some(root) = self.shares.as_ref().and_then(SharesChange::new_root) {
            self.set_pool_root(PoolTree::Shared, root);
        }
        self.list_retired()?;
        // It may have freed a node.
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if is_injected(Fault::EarlyDataReuse) {
            self.blocks.give_data_back();
            // Others run on another processor, or have this one for a moment.
            (0..WINDOW).for_each(|_| udax_sync::thread::yield_now());
        }
        let committed = self.pool.note_journal(self.transaction.commit())?;
        if let Some(shares) = self.shares {
            shares.done();
        }
        if let Some(bad) = self.bad {
            bad.done();
        }
        self.retired
            .iter()
            .for_each(|blocks| self.pool.verified.remove(*blocks));
        self.blocks.settle(committed);
        if !self.late_sums.is_empty() {
            let mut late = self.pool.journal.begin();
            for (at, words) in &self.late_sums {
                late.write(*at, words);
            }
            self.pool.note_journal(late.commit())?;
        }
        Ok(())
    }

    /// Adds what is given up and bad to the tree of bad blocks, after everything else: its lock is taken last.
    fn list_retired(&mut self) -> Result<()> {
        if !self.retired.is_empty() {
            let retired = self.retired.clone();
            self.with_bad(|bad, update| retired.iter().try_for_each(|blocks| bad.insert(update, *blocks)))?;
        }
        if let Some(root) = self.bad.as_ref().and_then(BadBlocksChange::new_root) {
            self.set_pool_root(PoolTree::BadBlocks, root);
        }
        Ok(())
    }

    /// Takes a run of the list of bad blocks, which are good now, off the list and frees them: available when a
    /// checkpoint has passed the update, as records before it may change what was metadata once.
    pub(crate) fn reinstate(&mut self, blocks: BlockRange) -> Result<()> {
        self.with_bad(|bad, update| bad.remove(update, blocks))?;
        self.pool.space.prepare_free(blocks)?;
        for part in self.pool.space.parts(blocks) {
            match part.is_bad {
                true => self.retire(part.blocks)?,
                false => self.free_late(part.blocks)?,
            }
        }
        Ok(())
    }

    fn with_bad<T>(
        &mut self,
        work: impl FnOnce(&mut BadBlocksChange<'p>, &mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut bad = self.bad.take().unwrap_or_else(|| self.pool.bad_blocks.change());
        let result = work(&mut bad, self);
        self.bad = Some(bad);
        result
    }

    fn note_touched(&mut self, block: BlockNo) {
        if !self.touched.contains(&block) {
            self.touched.push(block);
        }
    }

    /// Runs `look` on the node as it will be, which this update has changed.
    fn with_image<T>(&self, block: BlockNo, look: impl FnOnce(&[u8; BLOCK_SIZE]) -> T) -> Result<T> {
        let mut images = self.images.borrow_mut();
        if let Some((_, image)) = images.iter().find(|(of, _)| *of == block) {
            return Ok(look(image));
        }
        let mut image = Box::new([0; BLOCK_SIZE]);
        if !self.transaction.pending_into(block, &mut image)? {
            let read = self.pool.region.read(block.offset().raw(), image.as_mut_slice());
            self.pool.health.note(NODE, read)?;
        }
        let seen = look(&image);
        images.push((block, image));
        Ok(seen)
    }
}

impl Blocks<'_> {
    /// What was freed becomes available, now or after the next checkpoint.
    fn settle(mut self, committed: Committed) {
        self.taken.clear();
        for blocks in self.freed_data.iter().chain(&self.freed_metadata) {
            self.pool.verified.remove(*blocks);
        }
        self.give_data_back();
        for blocks in self.freed_metadata.drain(..) {
            if is_injected(Fault::EarlyReuse) {
                self.pool.give_back(blocks);
                continue;
            }
            self.pool
                .space
                .quarantine(committed, blocks, self.pool.journal.checkpointed());
        }
    }

    fn give_data_back(&mut self) {
        for blocks in self.freed_data.drain(..) {
            self.pool.give_back(blocks);
        }
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        for blocks in self.taken.drain(..) {
            self.pool.verified.remove(blocks);
            self.pool.give_back(blocks);
        }
    }
}

impl NodeSource for Pool {
    type Error = Error;

    #[inline]
    fn word(&self, block: BlockNo, at: usize) -> Result<u64> {
        self.health.note(NODE, self.region.read_u64(place(block, at)))
    }

    #[inline]
    fn read(&self, block: BlockNo, at: usize, to: &mut [u8]) -> Result<()> {
        self.health.note(NODE, self.region.read(place(block, at), to))
    }

    #[inline]
    fn verify(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<()> {
        self.verify_node(block, identity, level)
    }
}

impl NodeSource for Update<'_> {
    type Error = Error;

    fn word(&self, block: BlockNo, at: usize) -> Result<u64> {
        if !self.touched.contains(&block) {
            return NodeSource::word(self.pool, block, at);
        }
        let bytes = self.with_image(block, |image| {
            image.get(at..).and_then(|rest| rest.first_chunk::<8>().copied())
        })?;
        Ok(u64::from_le_bytes(bytes.ok_or(outside(block))?))
    }

    fn read(&self, block: BlockNo, at: usize, to: &mut [u8]) -> Result<()> {
        if !self.touched.contains(&block) {
            return NodeSource::read(self.pool, block, at, to);
        }
        self.with_image(block, |image| {
            let from = image.get(at..).and_then(|rest| rest.get(..to.len()))?;
            to.copy_from_slice(from);
            Some(())
        })?
        .ok_or(outside(block))
    }

    fn verify(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<()> {
        self.pool.verify_node(block, identity, level)
    }
}

impl NodeStore for Update<'_> {
    fn write(&mut self, block: BlockNo, at: usize, bytes: &[u8]) -> Result<()> {
        self.note_touched(block);
        if let Some((_, image)) = self.images.get_mut().iter_mut().find(|(of, _)| *of == block) {
            let to = image.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
            to.ok_or(outside(block))?.copy_from_slice(bytes);
        }
        self.transaction.write(ByteOffset(place(block, at)), bytes);
        Ok(())
    }

    fn allocate(&mut self) -> Result<BlockNo> {
        let block = self.allocate_metadata(self.goal)?;
        self.note_touched(block);
        Ok(block)
    }

    fn free(&mut self, block: BlockNo) {
        if let Err(error) = self.free_metadata(block) {
            self.failure.get_or_insert(error);
        }
    }
}

fn place(block: BlockNo, at: usize) -> u64 {
    block
        .offset()
        .raw()
        .saturating_add(u64::try_from(at).unwrap_or(u64::MAX))
}

/// Where `blocks` belong among what is freed already, none of which they may be: a damaged pool may list them twice.
fn check_unfreed(freed: &[BlockRange], blocks: BlockRange) -> Result<usize> {
    let at = freed.partition_point(|other| other.end() <= blocks.start);
    match freed.get(at) {
        Some(other) if other.start < blocks.end() => Err(Error::Inconsistent {
            place: Place::Block(blocks.start),
            what: "a block is to be freed twice",
        }),
        _ => Ok(at),
    }
}

fn outside(block: BlockNo) -> Error {
    Error::Inconsistent {
        place: Place::Block(block),
        what: "a node refers beyond its block",
    }
}
