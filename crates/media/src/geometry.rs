//! Where in a pool the allocation bit of a block is, and which blocks are the pool's own.

use crate::bitmap::GROUP_BLOCKS;
use crate::kinds::{BlockNo, BlockRange, ByteOffset};
use crate::segment::Segment;
use crate::superblock::Superblock;
use crate::{BLOCK_BYTES, LINE_BYTES};

/// The superblock's block, and that of its copy (the last of the first 2 MiB).
pub const SUPERBLOCKS: [BlockNo; 2] = [BlockNo(0), BlockNo(511)];
/// The two copies of the journal's head, the checkpoint slots.
pub const CHECKPOINTS: [BlockNo; 2] = [BlockNo(1), BlockNo(510)];
/// The block of the tree roots.
pub const ROOTS: BlockNo = BlockNo(2);

/// A group of blocks that share a bitmap block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The blocks described.
    pub covers: BlockRange,
    /// The block of bits.
    pub bitmap: BlockNo,
}

/// One 64-bit word of an allocation bitmap, and the bits of it that a range of blocks covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitWord {
    /// Where the word is, 8-byte aligned.
    pub at: ByteOffset,
    /// The bits concerned.
    pub mask: u64,
}

/// The layout of a pool, from its superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Geometry {
    segments: Vec<Segment>,
    journal: BlockRange,
}

impl Geometry {
    /// The geometry that a verified superblock describes.
    pub fn new(superblock: &Superblock) -> Self {
        Self {
            segments: superblock.segments.clone(),
            journal: superblock.journal_blocks(),
        }
    }

    /// Blocks in the pool.
    pub fn total_blocks(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.blocks.end().raw())
    }

    /// The pool's segments, in ascending order without gaps.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The number of groups over all segments.
    pub fn group_count(&self) -> u64 {
        self.segments.iter().map(|segment| segment.group_count()).sum()
    }

    /// Group `index`, counted over all segments; `None` past the last.
    pub fn group(&self, mut index: u64) -> Option<Group> {
        for segment in &self.segments {
            if index < segment.group_count() {
                let first = index * GROUP_BLOCKS;
                let count = GROUP_BLOCKS.min(segment.blocks.count - first);
                return Some(Group {
                    covers: BlockRange::new(BlockNo(segment.blocks.start.raw() + first), count),
                    bitmap: BlockNo(segment.bitmap_start.raw() + index),
                });
            }
            index -= segment.group_count();
        }
        None
    }

    /// The index of the group that describes `block`; `None` outside the pool.
    pub fn group_of(&self, block: BlockNo) -> Option<u64> {
        let mut before = 0;
        for segment in &self.segments {
            if segment.blocks.contains(block) {
                return Some(before + (block.raw() - segment.blocks.start.raw()) / GROUP_BLOCKS);
            }
            before += segment.group_count();
        }
        None
    }

    /// Whether all of `range` lies in the pool.
    pub fn contains(&self, range: BlockRange) -> bool {
        range
            .start
            .raw()
            .checked_add(range.count)
            .is_some_and(|end| end <= self.total_blocks())
    }

    /// The bitmap words and masks of `range`, ascending. Blocks outside the pool give none.
    pub fn bit_words(&self, range: BlockRange) -> impl Iterator<Item = BitWord> + '_ {
        let end = range.end().raw().min(self.total_blocks());
        let mut next = range.start.raw();
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let group = self.group(self.group_of(BlockNo(next))?)?;
            let in_group = next - group.covers.start.raw();
            let bit = in_group % 64;
            let run = (64 - bit).min(end - next).min(group.covers.end().raw() - next);
            let mask = if run == 64 {
                u64::MAX
            } else {
                ((1 << run) - 1) << bit
            };
            let at = group.bitmap.raw() * BLOCK_BYTES + LINE_BYTES + in_group / 64 * 8;
            next += run;
            Some(BitWord {
                at: ByteOffset(at),
                mask,
            })
        })
    }

    /// The blocks that belong to the pool itself and are never freed: superblocks, checkpoints, roots, journal
    /// and bitmaps.
    pub fn own_ranges(&self) -> Vec<BlockRange> {
        let mut ranges: Vec<BlockRange> = SUPERBLOCKS
            .into_iter()
            .chain(CHECKPOINTS)
            .chain([ROOTS])
            .map(|block| BlockRange::new(block, 1))
            .collect();
        ranges.push(self.journal);
        ranges.extend(self.segments.iter().map(|segment| segment.bitmaps()));
        ranges.sort_unstable();
        ranges
    }

    /// Whether `range` touches one of [`Geometry::own_ranges`].
    pub fn is_own(&self, range: BlockRange) -> bool {
        let fixed = SUPERBLOCKS.into_iter().chain(CHECKPOINTS).chain([ROOTS]);
        fixed.into_iter().any(|block| range.contains(block))
            || range.intersects(self.journal)
            || self
                .segments
                .iter()
                .any(|segment| range.intersects(segment.bitmaps()))
    }

    /// The journal's blocks.
    pub fn journal(&self) -> BlockRange {
        self.journal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn own_blocks_are_those_of_the_own_ranges() {
        for blocks in [4096, 5000, 100_000] {
            let plan = Superblock::plan(
                blocks,
                uuid::Uuid::from_u128(7),
                [0; 16],
                "",
                Timestamp::default(),
            )
            .unwrap();
            let geometry = Geometry::new(&plan);
            let own = geometry.own_ranges();
            for block in (0..blocks).map(BlockNo) {
                let expected = own.iter().any(|range| range.contains(block));
                assert_eq!(
                    geometry.is_own(BlockRange::new(block, 1)),
                    expected,
                    "block {block} of {blocks}"
                );
            }
            assert!(geometry.is_own(BlockRange::new(BlockNo(3), blocks)));
        }
    }
}
