//! A tree's nodes written outside the journal, for trees that are built anew and too large for a record.
//!
//! The nodes go to blocks that nothing refers to, sealed and past the cache, one after another; a record then
//! publishes the root. Like data, they are durable before that record. No record writes to them before it, so that
//! replay of older ones cannot touch them.

use udax_journal::{DataWriter, Durable};
use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, seal};
use udax_sync::fault::Fault;

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::tree::{NodeSource, NodeStore, Tree};

/// Blocks that become the nodes of new trees.
#[derive(Debug)]
pub(crate) struct FreshNodes<'p> {
    pool: &'p Pool,
    writer: DataWriter<'p>,
    /// What is left, the next block last.
    free: Vec<BlockRange>,
    used: u64,
    /// The node being written: the builder finishes one before it begins the next.
    current: Option<(BlockNo, Box<[u8; BLOCK_SIZE]>)>,
}

impl<'p> FreshNodes<'p> {
    /// Nodes in `blocks`, which are allocated or guarded and which nothing refers to.
    pub(crate) fn new(pool: &'p Pool, mut blocks: Vec<BlockRange>) -> Self {
        blocks.reverse();
        Self {
            pool,
            writer: DataWriter::new(&pool.region),
            free: blocks,
            used: 0,
            current: None,
        }
    }

    /// Builds a tree of `entries`, which must ascend; gives it and its number of nodes.
    ///
    /// # Errors
    /// `NoSpace` when the blocks do not suffice; a media error.
    pub(crate) fn build(
        &mut self,
        identity: NodeIdentity,
        entries: impl IntoIterator<Item = (u64, [u8; 16])>,
    ) -> Result<(TreeRoot, u64)> {
        let before = self.used;
        let tree = Tree::build(self, identity, entries)?;
        Ok((tree.root, self.used - before))
    }

    /// Makes the nodes durable with one fence; gives the blocks that are left.
    pub(crate) fn finish(mut self) -> Result<Durable<Vec<BlockRange>>> {
        self.store_current()?;
        let left = std::mem::take(&mut self.free);
        let written = self.writer.finish(left);
        Ok(written.fence_unless(&self.pool.region, Fault::UnfencedRebuild)?)
    }

    fn store_current(&mut self) -> Result<()> {
        if let Some((block, mut bytes)) = self.current.take() {
            seal::seal(self.pool.seed, bytes.as_mut_slice());
            self.writer.write(block.offset(), bytes.as_slice())?;
            self.pool.verified.insert(block);
        }
        Ok(())
    }
}

impl NodeSource for FreshNodes<'_> {
    type Error = Error;

    fn word(&self, block: BlockNo, at: usize) -> Result<u64> {
        NodeSource::word(self.pool, block, at)
    }

    fn read(&self, block: BlockNo, at: usize, to: &mut [u8]) -> Result<()> {
        NodeSource::read(self.pool, block, at, to)
    }

    fn verify(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<()> {
        NodeSource::verify(self.pool, block, identity, level)
    }
}

impl NodeStore for FreshNodes<'_> {
    fn write(&mut self, block: BlockNo, at: usize, bytes: &[u8]) -> Result<()> {
        if self.current.as_ref().is_none_or(|(current, _)| *current != block) {
            self.store_current()?;
            self.current = Some((block, Box::new([0; BLOCK_SIZE])));
        }
        let image = self.current.as_mut().map(|(_, image)| image);
        let to = image.and_then(|image| image.get_mut(at..)?.get_mut(..bytes.len()));
        to.ok_or(Error::Invalid("a node's write outside its block"))?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&mut self) -> Result<BlockNo> {
        let run = self.free.last_mut().ok_or(Error::no_room())?;
        let block = run.start;
        *run = BlockRange::new(BlockNo(block.raw() + 1), run.count - 1);
        if run.count == 0 {
            self.free.pop();
        }
        self.used += 1;
        Ok(block)
    }

    /// Never called: a tree that is built frees nothing.
    fn free(&mut self, block: BlockNo) {
        self.free.push(BlockRange::new(block, 1));
    }
}
