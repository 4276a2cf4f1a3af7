//! A pool with small lanes, and what its blocks should hold.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use udax_journal::{Committed, Counters, Journal, JournalError, Transaction};
use udax_media::inode;
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Geometry, Superblock, Timestamp, bitmap,
    geometry, roots,
};
use udax_pmem::Region;

use super::medium::Image;

pub(crate) const POOL_BLOCKS: u64 = 4096;
/// Blocks that changes play with: free ones, as of the format.
pub(crate) const PLAY: BlockRange = BlockRange::new(BlockNo(600), 8);
/// Blocks whose bits changes play with.
pub(crate) const BITS: BlockRange = BlockRange::new(BlockNo(1000), 200);

pub(crate) type Block = Box<[u8; BLOCK_SIZE]>;

/// The superblock of a pool with `lanes` lanes of `lane_blocks` blocks.
pub(crate) fn superblock(lanes: u32, lane_blocks: u32) -> Superblock {
    let uuid = uuid::Uuid::from_u128(0x75da_7800_0000_0000_0000_0000_0000_0001);
    let created = Timestamp {
        seconds: 0,
        nanoseconds: 0,
    };
    let mut superblock = Superblock::plan(POOL_BLOCKS, uuid, [7; 16], "test", created).unwrap();
    assert!(lanes * lane_blocks <= superblock.lane_count * superblock.lane_blocks);
    superblock.lane_count = lanes;
    superblock.lane_blocks = lane_blocks;
    superblock
}

pub(crate) fn full_counters() -> Counters {
    Counters {
        free_blocks: 2000,
        inodes: 1,
    }
}

/// A formatted pool, as an image.
pub(crate) fn formatted(superblock: &Superblock) -> Image {
    let region = Region::anonymous(POOL_BLOCKS * BLOCK_BYTES, None).unwrap();
    let seed = superblock.seed();
    for block in geometry::SUPERBLOCKS {
        region
            .store(block.offset().raw(), superblock.encode().as_slice())
            .unwrap();
    }
    region
        .store(
            geometry::ROOTS.offset().raw(),
            roots::format(seed, [udax_media::node::TreeRoot::EMPTY; 4]).as_slice(),
        )
        .unwrap();
    let geometry = Geometry::new(superblock);
    for index in 0..geometry.group_count() {
        let group = geometry.group(index).unwrap();
        let block = bitmap::format(seed, group.bitmap, group.covers);
        region
            .store(group.bitmap.offset().raw(), block.as_slice())
            .unwrap();
    }
    Journal::format(&region, superblock, full_counters()).unwrap();
    Image::of(&region)
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { word: u64, values: Vec<u64> },
    Metadata(BlockRange),
    Allocate(BlockRange),
    Free(BlockRange),
    Inodes(i64),
}

/// Changes of words in [`PLAY`], and of bits in [`BITS`].
pub(crate) fn changes() -> impl Strategy<Value = Change> {
    let play_words = PLAY.count * BLOCK_BYTES / 8;
    prop_oneof![
        6 => (0..play_words - 40, prop::collection::vec(any::<u64>(), 1..40))
            .prop_map(|(word, values)| Change::Write { word, values }),
        1 => (0..PLAY.count - 1, 1..=2_u64)
            .prop_map(|(first, count)| Change::Metadata(BlockRange::new(BlockNo(PLAY.start.raw() + first), count))),
        2 => bit_range().prop_map(Change::Allocate),
        2 => bit_range().prop_map(Change::Free),
        1 => (0..3_i64).prop_map(Change::Inodes),
    ]
}

fn bit_range() -> impl Strategy<Value = BlockRange> {
    (0..BITS.count - 70, 1..70_u64)
        .prop_map(|(first, count)| BlockRange::new(BlockNo(BITS.start.raw() + first), count))
}

impl Change {
    pub(crate) fn add_to(&self, transaction: &mut Transaction<'_>) {
        match self {
            Self::Write { word, values } => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                transaction.write(play_offset(*word), &bytes);
            }
            Self::Metadata(range) => transaction.allocate_metadata(*range),
            Self::Allocate(range) => transaction.allocate_unwritten(*range),
            Self::Free(range) => transaction.free(*range),
            Self::Inodes(delta) => transaction.count_inodes(*delta),
        }
    }
}

/// The offset of a word of [`PLAY`].
pub(crate) fn play_offset(word: u64) -> ByteOffset {
    ByteOffset(PLAY.start.offset().raw() + word * 8)
}

pub(crate) fn commit(journal: &Journal, changes: &[Change]) -> Result<Committed, JournalError> {
    let mut transaction = journal.begin();
    for change in changes {
        change.add_to(&mut transaction);
    }
    transaction.commit()
}

/// What the pool should hold: the blocks that changes reach, and the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) blocks: BTreeMap<BlockNo, Block>,
    pub(crate) free_blocks: i64,
    pub(crate) inodes: i64,
    geometry: Geometry,
}

impl Model {
    pub(crate) fn new(superblock: &Superblock, region: &Region) -> Self {
        let geometry = Geometry::new(superblock);
        let mut blocks = BTreeMap::new();
        let bitmap_blocks = geometry.group(0).unwrap().bitmap.raw();
        for block in (PLAY.start.raw()..PLAY.end().raw()).chain([bitmap_blocks]) {
            blocks.insert(BlockNo(block), read_block(region, BlockNo(block)));
        }
        let counters = full_counters();
        Self {
            blocks,
            free_blocks: i64::try_from(counters.free_blocks).unwrap(),
            inodes: i64::try_from(counters.inodes).unwrap(),
            geometry,
        }
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { word, values } => {
                for (index, value) in (0_u64..).zip(values) {
                    self.put(play_offset(word + index), |_| *value);
                }
            }
            Change::Metadata(range) => {
                self.bits(*range, |word, mask| word | mask);
                self.free_blocks -= i64::try_from(range.count).unwrap();
                for block in range.start.raw()..range.end().raw() {
                    self.blocks.insert(BlockNo(block), Box::new([0; BLOCK_SIZE]));
                }
            }
            Change::Allocate(range) => {
                self.bits(*range, |word, mask| word | mask);
                self.free_blocks -= i64::try_from(range.count).unwrap();
            }
            Change::Free(range) => {
                self.bits(*range, |word, mask| word & !mask);
                self.free_blocks += i64::try_from(range.count).unwrap();
            }
            Change::Inodes(delta) => self.inodes += delta,
        }
    }

    pub(crate) fn apply_all(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply(change);
        }
    }

    fn bits(&mut self, range: BlockRange, change: impl Fn(u64, u64) -> u64) {
        let words: Vec<_> = self.geometry.bit_words(range).collect();
        for word in words {
            self.put(word.at, |before| change(before, word.mask));
        }
    }

    fn put(&mut self, at: ByteOffset, change: impl Fn(u64) -> u64) {
        let block = self.blocks.get_mut(&at.block()).unwrap();
        let from = usize::try_from(at.in_block()).unwrap();
        let word: &mut [u8; 8] = (&mut block[from..from + 8]).try_into().unwrap();
        *word = change(u64::from_le_bytes(*word)).to_le_bytes();
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            free_blocks: u64::try_from(self.free_blocks).unwrap(),
            inodes: u64::try_from(self.inodes).unwrap(),
        }
    }

    /// Whether the region holds this, seals apart.
    pub(crate) fn matches(&self, region: &Region) -> bool {
        self.blocks
            .iter()
            .all(|(block, expected)| unsealed(&read_block(region, *block)) == unsealed(expected))
    }
}

/// Whether every unit of the model's blocks that has a seal is sealed rightly.
pub(crate) fn assert_sealed(superblock: &Superblock, model: &Model, region: &Region) {
    let geometry = Geometry::new(superblock);
    let group = geometry.group(0).unwrap();
    let bits = read_block(region, group.bitmap);
    bitmap::verify(superblock.seed(), &bits, group.bitmap, group.covers).unwrap();
    for block in model.blocks.keys().filter(|block| **block != group.bitmap) {
        for unit in read_block(region, *block).as_chunks::<{ inode::INODE_SIZE }>().0 {
            if unit.starts_with(&inode::MAGIC.to_le_bytes()) {
                let place = udax_media::Place::Block(*block);
                udax_media::seal::verify(superblock.seed(), unit, inode::MAGIC, "inode", place).unwrap();
            }
        }
    }
}

pub(crate) fn read_block(region: &Region, block: BlockNo) -> Block {
    let mut bytes = Box::new([0; BLOCK_SIZE]);
    region.read(block.offset().raw(), bytes.as_mut_slice()).unwrap();
    bytes
}

fn unsealed(block: &[u8; BLOCK_SIZE]) -> Block {
    let mut block = Box::new(*block);
    if block.starts_with(&bitmap::MAGIC.to_le_bytes()) {
        block[4..8].fill(0);
    }
    for unit in block.as_chunks_mut::<{ inode::INODE_SIZE }>().0 {
        if unit.starts_with(&inode::MAGIC.to_le_bytes()) {
            unit[4..8].fill(0);
        }
    }
    block
}

/// Opens and gives the journal; panics on an error.
pub(crate) fn open(region: &Arc<Region>, superblock: &Superblock) -> Journal {
    Journal::open(Arc::clone(region), superblock).unwrap().0
}
