//! The journal's head: the checkpoint slots in their two copies, and the counters they keep.

use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::CHECKPOINTS;
use udax_media::record::RecordHeader;
use udax_media::seal::Seed;
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockNo, ByteOffset, FormatError, LINE_BYTES, LINE_SIZE, Place, Sequence,
    Superblock,
};
use udax_pmem::{Region, RegionError};

use crate::JournalError;

/// The highest sequence number a record may have: more than any pool can use up, and far from overflow.
pub(crate) const MAX_SEQUENCE: Sequence = Sequence(u64::MAX >> 1);

/// The most bytes of journal that recovery reads into memory: what the largest pools are formatted with.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// Counts that every record changes and every checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Free blocks.
    pub free_blocks: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Sum of the changes of counters that records make.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deltas {
    free_blocks: i128,
    inodes: i128,
}

impl Deltas {
    pub(crate) fn add(&mut self, header: &RecordHeader) {
        self.free_blocks += i128::from(header.free_blocks_delta);
        self.inodes += i128::from(header.inodes_delta);
    }

    /// The counters after these changes.
    ///
    /// # Errors
    /// More free blocks than the pool has, or less than nothing: corruption, at the checkpoint that counts.
    pub(crate) fn applied_to(
        self,
        checkpoint: &Checkpoint,
        total_blocks: u64,
    ) -> Result<Counters, FormatError> {
        let bad = |field| FormatError::Field {
            what: "checkpoint with the records after it",
            place: Place::Byte(checkpoint.offset_in(CHECKPOINTS[0])),
            field,
            value: checkpoint.sequence.raw(),
        };
        let free_blocks = u64::try_from(i128::from(checkpoint.free_blocks) + self.free_blocks)
            .ok()
            .filter(|free| *free <= total_blocks)
            .ok_or_else(|| bad("free blocks out of range, after sequence"))?;
        let inodes = u64::try_from(i128::from(checkpoint.inodes) + self.inodes)
            .map_err(|_| bad("inodes in use out of range, after sequence"))?;
        Ok(Counters { free_blocks, inodes })
    }
}

/// The valid checkpoint with the highest number over both copies.
///
/// # Errors
/// When no slot of either copy is valid: what is wrong with the first. A media error counts as a damaged slot.
pub fn read_checkpoint(region: &Region, superblock: &Superblock) -> Result<Checkpoint, JournalError> {
    let mut best: Option<Checkpoint> = None;
    let mut first_error = None;
    for copy in CHECKPOINTS {
        for slot in 0..2 {
            let at = ByteOffset(copy.offset().raw() + slot * LINE_BYTES);
            match read_slot(region, superblock, at, slot) {
                Ok(found) => {
                    if best.is_none_or(|best| found.number > best.number) {
                        best = Some(found);
                    }
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
    }
    match (best, first_error) {
        (Some(best), _) => Ok(best),
        (None, Some(error)) => Err(error),
        (None, None) => Err(JournalError::Stopped),
    }
}

/// Nothing is to be done with a pool whose repair was interrupted but to repair it.
pub(crate) fn refuse_half_mended(checkpoint: &Checkpoint) -> Result<(), JournalError> {
    match checkpoint.is_half_mended {
        true => Err(JournalError::HalfMended {
            at: checkpoint.offset_in(CHECKPOINTS[0]),
        }),
        false => Ok(()),
    }
}

fn read_slot(
    region: &Region,
    superblock: &Superblock,
    at: ByteOffset,
    slot: u64,
) -> Result<Checkpoint, JournalError> {
    let mut bytes = [0; LINE_SIZE];
    region.read(at.raw(), &mut bytes)?;
    let found = Checkpoint::decode(superblock.seed(), &bytes, at, superblock.total_blocks())?;
    let bad = |field, value| {
        JournalError::from(FormatError::Field {
            what: "checkpoint",
            place: Place::Byte(at),
            field,
            value,
        })
    };
    if found.number % 2 != slot || found.number > MAX_SEQUENCE.raw() {
        return Err(bad("number", found.number));
    }
    if found.sequence > MAX_SEQUENCE {
        return Err(bad("sequence", found.sequence.raw()));
    }
    Ok(found)
}

/// Stores `checkpoint` in both copies, and fences. One copy suffices where the medium has lost the other.
///
/// # Durability
/// On return it is what recovery starts from. What it says must be durable before.
pub(crate) fn publish(region: &Region, seed: Seed, checkpoint: &Checkpoint) -> Result<(), JournalError> {
    let slot = checkpoint.encode(seed);
    let mut failed = None;
    for copy in CHECKPOINTS {
        if let Err(error) = publish_in(region, checkpoint, copy, &slot) {
            if failed.is_some() {
                return Err(error);
            }
            tracing::error!(%copy, %error, "a copy of the checkpoint is lost; the other one is used");
            failed = Some(copy);
        }
    }
    region.fence()?;
    Ok(())
}

/// Stores the slot in one copy. A copy that the medium has lost is stored as a whole, which makes it good again where
/// the medium can: its other slot is in the other copy.
fn publish_in(
    region: &Region,
    checkpoint: &Checkpoint,
    copy: BlockNo,
    slot: &[u8; LINE_SIZE],
) -> Result<(), JournalError> {
    let (start, at) = (copy.offset().raw(), checkpoint.offset_in(copy).raw());
    let stored = region.store_nontemporal(at, slot);
    if !matches!(stored, Err(RegionError::Media { .. })) || region.first_bad(start, BLOCK_BYTES).is_none() {
        return Ok(stored?);
    }
    let mut block = [0; BLOCK_SIZE];
    let from = usize::try_from(at - start).unwrap_or(BLOCK_SIZE);
    if let Some(to) = block.get_mut(from..from + LINE_SIZE) {
        to.copy_from_slice(slot);
    }
    Ok(region.store_nontemporal(start, &block)?)
}

/// Bytes of half a lane.
///
/// # Errors
/// [`FormatError::Field`] when the journal is larger than any that is formatted, or a lane too small.
pub(crate) fn half_bytes(superblock: &Superblock) -> Result<u64, FormatError> {
    let bytes = superblock.journal_blocks().count.saturating_mul(BLOCK_BYTES);
    if superblock.lane_count == 0 || superblock.lane_blocks < 2 || bytes > MAX_JOURNAL_BYTES {
        return Err(FormatError::Field {
            what: "superblock",
            place: Place::Block(udax_media::geometry::SUPERBLOCKS[0]),
            field: "journal size in bytes (at most 64 MiB)",
            value: bytes,
        });
    }
    Ok(u64::from(superblock.lane_blocks / 2) * BLOCK_BYTES)
}

/// A nonce that no earlier mount had.
pub(crate) fn fresh_nonce() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1 ^ uuid::Uuid::new_v4().as_u64_pair().0
}
