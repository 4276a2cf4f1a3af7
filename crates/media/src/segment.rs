//! Segments: the pool's space, one from its format and one more for each growth.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::bitmap::GROUP_BLOCKS;
use crate::kinds::{BlockNo, BlockRange};
use crate::sum::SUMS_PER_BLOCK;

/// The most segments a pool has: its format and 63 growths.
pub const MAX_SEGMENTS: usize = 64;

/// A segment as it is in the superblock (32 bytes).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSegment {
    /// First block.
    pub first_block: U64,
    /// Number of blocks.
    pub block_count: U64,
    /// First of the segment's allocation bitmaps, one block for each group.
    pub bitmap_start: U64,
    /// First of the segment's sum blocks, one for each 504 blocks; 0 in a pool without sums.
    pub sum_start: U64,
}
const _: () = assert!(size_of::<RawSegment>() == 32);

/// A run of blocks with its own allocation bitmaps, which lie inside it, one after another; so do its sum blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The blocks of the segment.
    pub blocks: BlockRange,
    /// The first bitmap block.
    pub bitmap_start: BlockNo,
    /// The first sum block; `None` when the pool has no sums.
    pub sum_start: Option<BlockNo>,
}

impl Segment {
    /// How many groups of [`GROUP_BLOCKS`] blocks the segment has; the last may be shorter.
    pub const fn group_count(self) -> u64 {
        self.blocks.count.div_ceil(GROUP_BLOCKS)
    }

    /// The blocks that hold its bitmaps.
    pub const fn bitmaps(self) -> BlockRange {
        BlockRange::new(self.bitmap_start, self.group_count())
    }

    /// The blocks that hold the sums of its blocks: none when the pool has no sums.
    pub const fn sums(self) -> BlockRange {
        match self.sum_start {
            Some(start) => BlockRange::new(start, self.blocks.count.div_ceil(SUMS_PER_BLOCK)),
            None => BlockRange::new(self.bitmaps().end(), 0),
        }
    }

    /// The same with sum blocks behind its bitmaps.
    #[must_use]
    pub const fn with_sums(self) -> Self {
        Self {
            sum_start: Some(self.bitmaps().end()),
            ..self
        }
    }
}
