//! What belongs to no inode: superblocks, checkpoints, journal, roots, bitmaps, the pool's trees.

use std::ops::ControlFlow;

use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::{CHECKPOINTS, ROOTS, SUPERBLOCKS};
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockRange, ByteOffset, FormatError, Geometry, LINE_BYTES, LINE_SIZE, Place,
    Superblock, bitmap, roots, sum,
};
use udax_pmem::RegionError;

use super::sealed::Protection;
use super::{Scrub, ScrubKind};
use crate::error::{Error, Result};
use crate::sums::SUM_BLOCK;

/// Bytes read at once where nothing is verified.
pub(super) const READ_BYTES: usize = 64 * 1024;
/// Looks at a checkpoint slot, which may be stored just then.
const MAX_SLOT_LOOKS: usize = 3;

impl Scrub<'_> {
    pub(super) fn look_at_pool(&mut self) -> Result<ControlFlow<()>> {
        self.look_at_superblocks();
        self.look_at_checkpoints();
        let (seed, total) = (self.pool.seed, self.pool.total_blocks());
        let place = (ROOTS.offset().raw(), "the roots of the pool's trees");
        let found = self
            .sealed
            .verify_unit(place, Protection::Changing, |bytes: &[u8; BLOCK_SIZE]| {
                roots::verify(seed, bytes, total)
            });
        self.judge(None, found)?;
        for tree in [
            self.pool.shares.verify(&self.sealed),
            self.pool.orphans.verify(&self.sealed),
            self.pool.bad_blocks.verify(&self.sealed),
        ] {
            self.judge(None, tree)?;
        }
        let geometry = Geometry::new(&self.pool.superblock.read());
        for group in (0..geometry.group_count()).filter_map(|index| geometry.group(index)) {
            let place = (group.bitmap.offset().raw(), "an allocation bitmap");
            let found = self
                .sealed
                .verify_unit(place, Protection::Changing, |bytes: &[u8; BLOCK_SIZE]| {
                    bitmap::verify(seed, bytes, group.bitmap, group.covers)
                });
            self.judge(None, found)?;
            if self.pace.add(self.sealed.take_bytes()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for at in geometry.sum_blocks() {
            let place = (at.block.offset().raw(), SUM_BLOCK);
            let found = self
                .sealed
                .verify_unit(place, Protection::Changing, |bytes: &[u8; BLOCK_SIZE]| {
                    sum::verify(seed, bytes, at)
                });
            self.judge(None, found)?;
            if self.pace.add(self.sealed.take_bytes()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let journal = self.pool.superblock.read().journal_blocks();
        self.read_journal(journal)
    }

    fn look_at_superblocks(&mut self) {
        for (copy, block) in SUPERBLOCKS.into_iter().enumerate() {
            let what = {
                // Only growing changes it, with the lock held.
                let believed = self.pool.superblock.read();
                let mut bytes = [0; BLOCK_SIZE];
                match self.pool.region.read(block.offset().raw(), &mut bytes) {
                    Err(error) => Some(error.to_string()),
                    Ok(()) => match Superblock::decode(&bytes, copy, self.pool.region.len()) {
                        Err(error) => Some(error.to_string()),
                        Ok(found) if found.generation != believed.generation => Some(format!(
                            "superblock of generation {}, not {}",
                            found.generation, believed.generation
                        )),
                        Ok(_) => None,
                    },
                }
            };
            if let Some(what) = what {
                self.add((ScrubKind::Metadata, Place::Block(block)), None, what);
            }
        }
    }

    fn look_at_checkpoints(&mut self) {
        for copy in CHECKPOINTS {
            for slot in 0..2 {
                let at = ByteOffset(copy.offset().raw() + slot * LINE_BYTES);
                if let Some(what) = self.find_slot_damage(at) {
                    self.add((ScrubKind::Metadata, Place::Byte(at)), None, what);
                }
            }
        }
    }

    fn find_slot_damage(&self, at: ByteOffset) -> Option<String> {
        let mut what = None;
        for _ in 0..MAX_SLOT_LOOKS {
            let mut bytes = [0; LINE_SIZE];
            if let Err(error) = self.pool.region.read(at.raw(), &mut bytes) {
                return Some(error.to_string());
            }
            // A new pool has published one checkpoint: the other slot is still zero.
            if bytes == [0; LINE_SIZE] {
                return None;
            }
            match Checkpoint::decode(self.pool.seed, &bytes, at, self.pool.total_blocks()) {
                Ok(_) => return None,
                Err(error @ FormatError::Checksum { .. }) => what = Some(error.to_string()),
                Err(error) => return Some(error.to_string()),
            }
        }
        what
    }

    /// Reads the lanes: what is in them is verified when it is read back.
    fn read_journal(&mut self, journal: BlockRange) -> Result<ControlFlow<()>> {
        let mut buffer = vec![0; READ_BYTES];
        let (mut at, end) = (journal.start.offset().raw(), journal.end().offset().raw());
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let part = buffer.get_mut(..len).unwrap_or_default();
            let upto = at + u64::try_from(len).unwrap_or(0);
            let next = match self.pool.region.read(at, part) {
                Ok(()) => upto,
                Err(RegionError::Media { at: lost }) => {
                    let block = ByteOffset(lost).block();
                    self.add(
                        (ScrubKind::Metadata, Place::Block(block)),
                        None,
                        "journal: a block cannot be read".to_owned(),
                    );
                    block.offset().raw() + BLOCK_BYTES
                }
                Err(error) => return Err(Error::Region(error)),
            };
            if self.pace.add(next - at).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at = next;
        }
        Ok(ControlFlow::Continue(()))
    }
}
