//! Where in a pool the allocation bit of a block is, and which blocks are the pool's own.
//!
//! A [`Geometry`] is of the pool with its data device, or, for who keeps account of one place only, of one of them
//! ([`Geometry::of_pool`], [`Geometry::of_device`]): then blocks of the other have no group.

use crate::bitmap::GROUP_BLOCKS;
use crate::device::Reach;
use crate::kinds::{BlockNo, BlockRange, ByteOffset};
use crate::segment::Segment;
use crate::sum::SUMS_PER_BLOCK;
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

/// A sum block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumBlock {
    /// The block it is.
    pub block: BlockNo,
    /// The blocks whose sums it holds.
    pub covers: BlockRange,
}

impl SumBlock {
    /// Where the sum of `block`, which it covers, is.
    pub const fn place(&self, block: BlockNo) -> ByteOffset {
        let index = block.raw().saturating_sub(self.covers.start.raw());
        ByteOffset(self.block.raw() * BLOCK_BYTES + LINE_BYTES + index * 8)
    }
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
    /// The data device's blocks, and where their bitmaps are.
    device: Option<Segment>,
    part: Part,
}

/// Whose groups a geometry has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Both,
    Pool,
    Device,
}

impl Geometry {
    /// The geometry that a verified superblock describes.
    pub fn new(superblock: &Superblock) -> Self {
        Self {
            segments: superblock.segments.clone(),
            journal: superblock.journal_blocks(),
            device: superblock.device.as_ref().map(|device| Segment {
                blocks: device.range(),
                bitmap_start: device.bitmap_start,
                sum_start: None,
            }),
            part: Part::Both,
        }
    }

    /// The same with the groups of the pool's own blocks only.
    #[must_use]
    pub fn of_pool(&self) -> Self {
        Self {
            part: Part::Pool,
            ..self.clone()
        }
    }

    /// The same with the groups of the data device's blocks only; none without one.
    #[must_use]
    pub fn of_device(&self) -> Self {
        Self {
            part: Part::Device,
            ..self.clone()
        }
    }

    /// The segments whose groups it has: the device's last.
    fn listed(&self) -> impl Iterator<Item = &Segment> {
        let pool = self.segments.iter().filter(|_| self.part != Part::Device);
        pool.chain(self.device.iter().filter(|_| self.part != Part::Pool))
    }

    /// Blocks of its groups.
    pub fn block_count(&self) -> u64 {
        self.listed().map(|segment| segment.blocks.count).sum()
    }

    /// Which blocks there are, in both places.
    pub fn reach(&self) -> Reach {
        Reach {
            pool: self.total_blocks(),
            device: self.device.map_or(0, |device| device.blocks.count),
        }
    }

    /// Blocks in the pool, without its data device.
    pub fn total_blocks(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.blocks.end().raw())
    }

    /// The pool's segments, in ascending order without gaps.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The number of groups over all segments.
    pub fn group_count(&self) -> u64 {
        self.listed().map(|segment| segment.group_count()).sum()
    }

    /// Group `index`, counted over all segments; `None` past the last.
    pub fn group(&self, mut index: u64) -> Option<Group> {
        for segment in self.listed() {
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
        for segment in self.listed() {
            if segment.blocks.contains(block) {
                return Some(before + (block.raw() - segment.blocks.start.raw()) / GROUP_BLOCKS);
            }
            before += segment.group_count();
        }
        None
    }

    /// The sum block of `block`; `None` outside the pool, and in a pool without sums.
    pub fn sum_block_of(&self, block: BlockNo) -> Option<SumBlock> {
        let holds = |segment: &&Segment| segment.blocks.contains(block);
        let segment = self.segments.iter().find(holds)?;
        let index = (block.raw() - segment.blocks.start.raw()) / SUMS_PER_BLOCK;
        sum_block(segment, index)
    }

    /// All sum blocks, ascending in what they cover.
    pub fn sum_blocks(&self) -> impl Iterator<Item = SumBlock> + '_ {
        let of_segment = |segment: &'_ Segment| {
            let segment = *segment;
            (0..segment.sums().count).filter_map(move |index| sum_block(&segment, index))
        };
        self.segments.iter().flat_map(of_segment)
    }

    /// Whether all of `range` lies in the pool, or on its data device.
    pub fn contains(&self, range: BlockRange) -> bool {
        self.reach().contains(range)
    }

    /// The bitmap words and masks of `range`, ascending. Blocks outside the pool give none.
    pub fn bit_words(&self, range: BlockRange) -> impl Iterator<Item = BitWord> + '_ {
        let end = range.end().raw();
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

    /// The blocks that belong to the pool itself and are never freed: superblocks, checkpoints, roots, journal,
    /// bitmaps and sum blocks; and the data device's headers.
    pub fn own_ranges(&self) -> Vec<BlockRange> {
        let mut ranges: Vec<BlockRange> = SUPERBLOCKS
            .into_iter()
            .chain(CHECKPOINTS)
            .chain([ROOTS])
            .map(|block| BlockRange::new(block, 1))
            .collect();
        ranges.push(self.journal);
        ranges.extend(self.segments.iter().map(|segment| segment.bitmaps()));
        let sums = self.segments.iter().map(|segment| segment.sums());
        ranges.extend(sums.filter(|range| range.count > 0));
        ranges.extend(self.device.map(Segment::bitmaps));
        ranges.extend(self.headers());
        ranges.sort_unstable();
        ranges
    }

    /// Whether `range` touches one of [`Geometry::own_ranges`].
    pub fn is_own(&self, range: BlockRange) -> bool {
        let fixed = SUPERBLOCKS.into_iter().chain(CHECKPOINTS).chain([ROOTS]);
        fixed.into_iter().any(|block| range.contains(block))
            || range.intersects(self.journal)
            || self
                .device
                .is_some_and(|device| range.intersects(device.bitmaps()))
            || self.headers().any(|header| range.intersects(header))
            || self
                .segments
                .iter()
                .any(|segment| range.intersects(segment.bitmaps()) || range.intersects(segment.sums()))
    }

    /// Whether `range` touches what no record changes: the first superblock, the checkpoints, the journal.
    pub fn is_unlogged(&self, range: BlockRange) -> bool {
        let mut fixed = CHECKPOINTS.into_iter().chain([SUPERBLOCKS[0]]);
        fixed.any(|block| range.contains(block)) || range.intersects(self.journal)
    }

    /// The first and the last block of the data device.
    fn headers(&self) -> impl Iterator<Item = BlockRange> {
        self.device.into_iter().flat_map(|device| {
            let last = BlockNo(device.blocks.end().raw().saturating_sub(1));
            [device.blocks.start, last].map(|block| BlockRange::new(block, 1))
        })
    }

    /// The journal's blocks.
    pub fn journal(&self) -> BlockRange {
        self.journal
    }
}

/// Sum block `index` of `segment`.
fn sum_block(segment: &Segment, index: u64) -> Option<SumBlock> {
    let first = index * SUMS_PER_BLOCK;
    let count = segment.blocks.count.checked_sub(first).filter(|left| *left > 0)?;
    Some(SumBlock {
        block: BlockNo(segment.sum_start?.raw() + index),
        covers: BlockRange::new(
            BlockNo(segment.blocks.start.raw() + first),
            count.min(SUMS_PER_BLOCK),
        ),
    })
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
            for plan in [plan.clone(), plan.with_sums()] {
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
}
