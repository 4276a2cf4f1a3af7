//! Sums: the checksums of blocks of file data, in the pool's sum blocks.
//!
//! An extent that is *summed* ([`ExtentFlags::SUMMED`](udax_media::extent::ExtentFlags)) has a sum for each of its
//! blocks, and none of them is ever stored to in place: whoever writes takes other blocks, makes them durable, and
//! publishes extents and sums in one record. So the two never disagree, whenever power fails. The sums belong to blocks
//! of the pool, not to places in files: an extent that is cloned, exchanged or moved takes them along.
//!
//! Words of blocks without a summed extent are left over and mean nothing; what takes a block anew writes its word with
//! the extent.
//!
//! Locks: a word belongs to whoever may change the extents that own its block. Looking at a sum block for the first
//! time since the pool was opened takes [`SumBlocks::first_look`] (rank Sums).

use std::sync::Arc;

use udax_media::geometry::SumBlock;
use udax_media::sum::{self, Sum};
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Geometry, Place};
use udax_sync::{Mutex, Rank};

use crate::error::{Error, Result};
use crate::pool::Pool;

/// What sum blocks are called where they are lost.
pub(crate) const SUM_BLOCK: &str = "a block of checksums of data";
/// The most blocks that get sums in one record: a quarter of the largest one.
pub(crate) const SUMS_PER_RECORD: u64 = 4096;

/// The sum blocks of an open pool.
#[derive(Debug)]
pub(crate) struct SumBlocks {
    /// Who verifies a sum block has this: nobody changes it between its being read and its being known as verified.
    first_look: Mutex<()>,
}

impl SumBlocks {
    pub(crate) fn new() -> Self {
        Self {
            first_look: Mutex::new(Rank::Sums, ()),
        }
    }
}

/// Sums as they are found: remembers where the last one was.
#[derive(Debug)]
pub(crate) struct Sums<'p> {
    pool: &'p Pool,
    geometry: Arc<Geometry>,
    last: Option<SumBlock>,
}

impl<'p> Sums<'p> {
    pub(crate) fn of(pool: &'p Pool) -> Self {
        Self {
            pool,
            geometry: pool.space.geometry(),
            last: None,
        }
    }

    /// The sum block of `block`, verified.
    ///
    /// # Errors
    /// `Inconsistent` where the pool has none; a damaged sum block.
    fn block_of(&mut self, block: BlockNo) -> Result<SumBlock> {
        if let Some(last) = self.last.filter(|last| last.covers.contains(block)) {
            return Ok(last);
        }
        let found = self.geometry.sum_block_of(block).ok_or(Error::Inconsistent {
            place: Place::Block(block),
            what: "an extent says that it has a checksum, and the pool has none",
        })?;
        self.pool.verify_sum_block(found)?;
        self.last = Some(found);
        Ok(found)
    }

    /// The sum of `block`, which a summed extent owns.
    ///
    /// # Errors
    /// A damaged sum block.
    pub(crate) fn read(&mut self, block: BlockNo) -> Result<Sum> {
        let at = self.block_of(block)?.place(block);
        let word = self.pool.region.read_u64(at.raw());
        Ok(Sum::from_word(self.pool.health.note(SUM_BLOCK, word)?))
    }

    /// Where the sums of the first blocks of `blocks` are, and how many are there one after another.
    pub(crate) fn place(&mut self, blocks: BlockRange) -> Result<(ByteOffset, u64)> {
        let found = self.block_of(blocks.start)?;
        let count = found.covers.end().min(blocks.end()).raw() - blocks.start.raw();
        Ok((found.place(blocks.start), count))
    }
}

impl Pool {
    /// The sum of a block that holds `bytes`.
    pub(crate) fn sum_of(&self, bytes: &[u8]) -> Sum {
        Sum::of(self.seed, bytes)
    }

    #[inline]
    fn verify_sum_block(&self, at: SumBlock) -> Result<()> {
        if self.verified.contains(at.block) {
            return Ok(());
        }
        self.verify_sum_block_now(at)
    }

    #[cold]
    fn verify_sum_block_now(&self, at: SumBlock) -> Result<()> {
        let _first = self.sum_blocks.first_look.lock();
        if self.verified.contains(at.block) {
            return Ok(());
        }
        let mut bytes = [0; BLOCK_SIZE];
        let read = self.region.read(at.block.offset().raw(), &mut bytes);
        self.health.note(SUM_BLOCK, read)?;
        sum::verify(self.seed, &bytes, at)?;
        self.verified.insert(at.block);
        Ok(())
    }
}
