//! Values in the trees of the pool itself: where inode chunks are, who shares blocks, which blocks are bad.
//!
//! Orphans have a tree, too, whose values are empty.

use crate::{BlockNo, BlockRange};

/// The value of an inode chunk in the inode table: the block that it is in.
pub const fn encode_chunk(block: BlockNo) -> [u8; 8] {
    block.raw().to_le_bytes()
}

/// The block that an inode chunk is in, in a pool of `total_blocks`; `None` where the value is impossible.
pub fn decode_chunk(value: &[u8], total_blocks: u64) -> Option<BlockNo> {
    let block = u64::from_le_bytes(value.try_into().ok()?);
    (1..total_blocks).contains(&block).then_some(BlockNo(block))
}

/// Blocks with the same number of owners: an entry of the tree of share counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared {
    /// The blocks; the first one's number is the key.
    pub blocks: BlockRange,
    /// How many extents have each of them: at least 2.
    pub owners: u64,
}

impl Shared {
    /// The value under the first block's number.
    pub fn encode(&self) -> [u8; 16] {
        let mut value = [0; 16];
        let (count, owners) = value.split_at_mut(8);
        count.copy_from_slice(&self.blocks.count.to_le_bytes());
        owners.copy_from_slice(&self.owners.to_le_bytes());
        value
    }

    /// The entry with this key and value; `None` where they are impossible. That the blocks are there is for the caller
    /// to say, who knows of which part of a pool they may be.
    pub fn decode(key: u64, value: &[u8]) -> Option<Self> {
        let ([count, owners], []) = value.as_chunks::<8>() else {
            return None;
        };
        let (count, owners) = (u64::from_le_bytes(*count), u64::from_le_bytes(*owners));
        // A block's number has 48 bits: sums of such stay far from overflow.
        let is_possible = count > 0 && owners >= 2 && key.max(count) >> 48 == 0;
        is_possible.then_some(Self {
            blocks: BlockRange::new(BlockNo(key), count),
            owners,
        })
    }
}

/// The value of a run of bad blocks, under the number of its first one.
pub const fn encode_bad(blocks: BlockRange) -> [u8; 8] {
    blocks.count.to_le_bytes()
}

/// A run of bad blocks of a pool of `total_blocks`; `None` where key or value are impossible. The data device's bad
/// blocks are not kept.
pub fn decode_bad(key: u64, value: &[u8], total_blocks: u64) -> Option<BlockRange> {
    let count = u64::from_le_bytes(value.try_into().ok()?);
    let end = key.checked_add(count)?;
    (count > 0 && end <= total_blocks).then_some(BlockRange::new(BlockNo(key), count))
}
