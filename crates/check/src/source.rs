//! Where blocks are read from.
//!
//! A check that must not change the pool reads through an [`Overlay`]: the journal's records are applied to copies of
//! the blocks they touch, in memory, and these are sealed as recovery would seal them. A repair replays the journal
//! first and then reads the region itself.

use std::collections::BTreeMap;

use udax_media::record::Operation;
use udax_media::seal::{self, Seed};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, Geometry, LINE_BYTES};
use udax_pmem::{Region, RegionError};

/// A block's bytes.
pub(crate) type Block = [u8; BLOCK_SIZE];

/// Gives blocks of the pool.
pub(crate) trait BlockSource: Sync {
    /// Copies block `block` into `to`.
    fn read_block(&self, block: BlockNo, to: &mut Block) -> Result<(), RegionError>;
}

impl BlockSource for Region {
    fn read_block(&self, block: BlockNo, to: &mut Block) -> Result<(), RegionError> {
        self.read(block.offset().raw(), to)
    }
}

/// A copied block, and which of its lines records touched.
#[derive(Debug)]
struct Patched {
    bytes: Box<Block>,
    touched: u64,
}

/// The region with journal records over it.
///
/// Zeroed ranges are kept as ranges, so that memory is bounded by what the records hold.
#[derive(Debug)]
pub(crate) struct Overlay<'r> {
    region: &'r Region,
    geometry: &'r Geometry,
    patched: BTreeMap<u64, Patched>,
    /// Start to end of ranges that a record zeroed; they neither touch nor overlap.
    zeroed: BTreeMap<u64, u64>,
}

impl<'r> Overlay<'r> {
    /// No records yet.
    pub(crate) fn new(region: &'r Region, geometry: &'r Geometry) -> Self {
        Self {
            region,
            geometry,
            patched: BTreeMap::new(),
            zeroed: BTreeMap::new(),
        }
    }

    /// Applies one record's operation.
    pub(crate) fn apply(&mut self, operation: &Operation<'_>) -> Result<(), RegionError> {
        match operation {
            Operation::Write { at, bytes } => self.write(*at, bytes),
            Operation::Allocate(range) => self.change_bits(*range, |word, mask| word | mask),
            Operation::Free(range) => self.change_bits(*range, |word, mask| word & !mask),
            Operation::Zero(range) => {
                self.zero(*range);
                Ok(())
            }
        }
    }

    /// Seals what the records touched.
    pub(crate) fn seal(&mut self, seed: Seed) {
        for patched in self.patched.values_mut() {
            seal::seal_block(seed, &mut patched.bytes, patched.touched);
        }
    }

    fn write(&mut self, at: ByteOffset, mut bytes: &[u8]) -> Result<(), RegionError> {
        let mut at = at.raw();
        while !bytes.is_empty() {
            let in_block = usize::try_from(at % BLOCK_BYTES).unwrap_or(0);
            let length = bytes.len().min(BLOCK_SIZE - in_block);
            let (now, rest) = bytes.split_at(length);
            let patched = self.patch(ByteOffset(at).block())?;
            if let Some(to) = patched.bytes.get_mut(in_block..in_block + length) {
                to.copy_from_slice(now);
            }
            let length = u64::try_from(length).unwrap_or(0);
            patched.touched |= touched_lines(at % BLOCK_BYTES, length);
            at += length;
            bytes = rest;
        }
        Ok(())
    }

    fn change_bits(&mut self, range: BlockRange, change: fn(u64, u64) -> u64) -> Result<(), RegionError> {
        let geometry = self.geometry;
        for word in geometry.bit_words(range) {
            let patched = self.patch(word.at.block())?;
            let at = usize::try_from(word.at.in_block()).unwrap_or(0);
            if let Some(bytes) = patched.bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<8>()) {
                *bytes = change(u64::from_le_bytes(*bytes), word.mask).to_le_bytes();
            }
            patched.touched |= touched_lines(word.at.in_block(), 8);
        }
        Ok(())
    }

    fn zero(&mut self, range: BlockRange) {
        let (mut start, mut end) = (range.start.raw(), range.end().raw());
        let mut after = self.patched.split_off(&start);
        self.patched.append(&mut after.split_off(&end));
        while let Some((&other, &other_end)) = self.zeroed.range(..=end).next_back()
            && other_end >= start
        {
            self.zeroed.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.zeroed.insert(start, end);
    }

    fn is_zeroed(&self, block: BlockNo) -> bool {
        let before = self.zeroed.range(..=block.raw()).next_back();
        before.is_some_and(|(_, end)| block.raw() < *end)
    }

    fn patch(&mut self, block: BlockNo) -> Result<&mut Patched, RegionError> {
        if !self.patched.contains_key(&block.raw()) {
            let mut bytes = Box::new([0; BLOCK_SIZE]);
            let mut touched = 0;
            if self.is_zeroed(block) {
                touched = u64::MAX;
            } else {
                self.region.read_block(block, &mut bytes)?;
            }
            self.patched.insert(block.raw(), Patched { bytes, touched });
        }
        Ok(self.patched.entry(block.raw()).or_insert_with(|| Patched {
            bytes: Box::new([0; BLOCK_SIZE]),
            touched: 0,
        }))
    }
}

impl BlockSource for Overlay<'_> {
    fn read_block(&self, block: BlockNo, to: &mut Block) -> Result<(), RegionError> {
        if let Some(patched) = self.patched.get(&block.raw()) {
            to.copy_from_slice(patched.bytes.as_slice());
        } else if self.is_zeroed(block) {
            to.fill(0);
        } else {
            self.region.read_block(block, to)?;
        }
        Ok(())
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
    use udax_media::Superblock;

    use super::*;

    #[test]
    fn overlay_orders_zeroes_and_writes() {
        let region = Region::anonymous(16 << 20, None).unwrap();
        region.store(1000 * BLOCK_BYTES, &[7; 16]).unwrap();
        let uuid = uuid::Uuid::from_u128(1);
        let superblock = Superblock::plan(4096, uuid, [0; 16], "", Default::default()).unwrap();
        let geometry = Geometry::new(&superblock);
        let mut overlay = Overlay::new(&region, &geometry);
        let range = |start, count| BlockRange::new(BlockNo(start), count);
        let write = |at, bytes| Operation::Write {
            at: ByteOffset(at),
            bytes,
        };
        overlay.apply(&write(1001 * BLOCK_BYTES - 8, &[1; 16])).unwrap();
        overlay.apply(&Operation::Zero(range(1001, 2))).unwrap();
        overlay.apply(&Operation::Zero(range(1003, 2))).unwrap();
        overlay.apply(&write(1002 * BLOCK_BYTES + 64, &[2; 8])).unwrap();
        let mut block = [9; BLOCK_SIZE];
        overlay.read_block(BlockNo(1000), &mut block).unwrap();
        assert_eq!((block[0], block[4087], block[4088]), (7, 0, 1));
        overlay.read_block(BlockNo(1001), &mut block).unwrap();
        assert!(block.iter().all(|byte| *byte == 0));
        overlay.read_block(BlockNo(1002), &mut block).unwrap();
        assert_eq!((block[63], block[64], block[72]), (0, 2, 0));
        assert_eq!(overlay.zeroed.len(), 1);
        let mut untouched = [0; 16];
        region.read(1001 * BLOCK_BYTES - 8, &mut untouched).unwrap();
        assert_eq!(untouched, [0; 16], "the region itself is never changed");
    }

    #[test]
    fn overlay_changes_bitmap_bits() {
        let region = Region::anonymous(16 << 20, None).unwrap();
        let uuid = uuid::Uuid::from_u128(1);
        let superblock = Superblock::plan(4096, uuid, [0; 16], "", Default::default()).unwrap();
        let geometry = Geometry::new(&superblock);
        let mut overlay = Overlay::new(&region, &geometry);
        overlay.apply(&Operation::Allocate(BlockRange::new(BlockNo(62), 4))).unwrap();
        overlay.apply(&Operation::Free(BlockRange::new(BlockNo(63), 1))).unwrap();
        let mut block = [0; BLOCK_SIZE];
        overlay.read_block(geometry.group(0).unwrap().bitmap, &mut block).unwrap();
        assert_eq!(&block[64..80], &[0, 0, 0, 0, 0, 0, 0, 0x40, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn touched_lines_covers_the_range() {
        assert_eq!(touched_lines(0, 4096), u64::MAX);
        assert_eq!(touched_lines(60, 8), 0b11);
        assert_eq!(touched_lines(4088, 8), 1 << 63);
        assert_eq!(touched_lines(64, 0), 0);
    }
}
