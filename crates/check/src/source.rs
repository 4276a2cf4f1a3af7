//! Where blocks are read from.
//!
//! A check that must not change the pool reads through [`Replayed`]: the blocks that the journal's replay would
//! change are taken from memory. A repair replays the journal first and then reads the region itself.

use std::collections::BTreeMap;

use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, LINE_BYTES};
use udax_pmem::{Region, RegionError};

/// A block's bytes.
pub(crate) type Block = [u8; BLOCK_SIZE];

/// Gives blocks of the pool.
pub(crate) trait BlockSource: Sync {
    /// Copies block `block` into `to`.
    fn read_block(&self, block: BlockNo, to: &mut Block) -> Result<(), RegionError>;

    /// The blocks that are known to be lost, because somebody has said so or met them.
    fn lost_blocks(&self) -> Vec<BlockRange>;
}

impl BlockSource for Region {
    fn read_block(&self, block: BlockNo, to: &mut Block) -> Result<(), RegionError> {
        self.read(block.offset().raw(), to)
    }

    fn lost_blocks(&self) -> Vec<BlockRange> {
        let of_bytes = |bytes: std::ops::Range<u64>| {
            let start = ByteOffset(bytes.start).block();
            BlockRange::new(start, bytes.end.div_ceil(BLOCK_BYTES) - start.raw())
        };
        self.bad_ranges().into_iter().map(of_bytes).collect()
    }
}

/// The region, with other content for some blocks.
#[derive(Debug)]
pub(crate) struct Replayed<'r> {
    /// The region below.
    pub(crate) region: &'r Region,
    /// What counts instead.
    pub(crate) blocks: BTreeMap<BlockNo, Box<Block>>,
}

impl BlockSource for Replayed<'_> {
    fn read_block(&self, block: BlockNo, to: &mut Block) -> Result<(), RegionError> {
        match self.blocks.get(&block) {
            Some(bytes) => to.copy_from_slice(bytes.as_slice()),
            None => self.region.read_block(block, to)?,
        }
        Ok(())
    }

    fn lost_blocks(&self) -> Vec<BlockRange> {
        self.region.lost_blocks()
    }
}

/// The lines of a block, one bit each, that `length` bytes from `in_block` touch.
pub(crate) fn touched_lines(in_block: u64, length: u64) -> u64 {
    if length == 0 {
        return 0;
    }
    let first = in_block / LINE_BYTES;
    let last = ((in_block + length - 1) / LINE_BYTES).min(63);
    (u64::MAX << first.min(63)) & (u64::MAX >> (63 - last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_lines_covers_the_range() {
        assert_eq!(touched_lines(0, 4096), u64::MAX);
        assert_eq!(touched_lines(60, 8), 0b11);
        assert_eq!(touched_lines(4088, 8), 1 << 63);
        assert_eq!(touched_lines(64, 0), 0);
    }
}
