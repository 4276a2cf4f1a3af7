//! Records that change blocks which the medium has lost: what becomes of them.
//!
//! What a record changes in a lost block is lost with it, whether or not the record is applied; everything else that it
//! changes is not. So recovery leaves lost blocks out, as if the block had been lost a moment later. Only blocks that
//! the region knows as bad are: an access that failed for another reason may succeed the next time, and then nothing
//! may be missing.
//!
//! A checkpoint leaves out only lost blocks that nobody owns any more: [`is_free`], or given up by a transaction. One
//! that has an owner may be whole in the records, which the next open would store, so that no checkpoint may pass them.

use std::collections::BTreeSet;

use udax_media::record::Operation;
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, ByteOffset, Geometry};
use udax_pmem::{Region, RegionError};

use crate::JournalError;
use crate::apply::apply;

/// The blocks that were left out.
pub(crate) type LostBlocks = BTreeSet<BlockNo>;

/// As [`apply`], leaving out what is in lost blocks.
pub(crate) fn apply_around(
    region: &Region,
    geometry: &Geometry,
    operation: &Operation<'_>,
    lost: &mut LostBlocks,
) -> Result<(), JournalError> {
    let applied = apply(region, geometry, operation);
    if lost_block(region, &applied).is_none() {
        return applied;
    }
    // Piece by piece: what is behind the lost block is there.
    each_piece(operation, &mut |piece| {
        let applied = apply(region, geometry, &piece);
        match lost_block(region, &applied) {
            Some(block) => {
                lost.insert(block);
                Ok(())
            }
            None => applied,
        }
    })
}

/// The lost block that `result` failed at.
pub(crate) fn lost_block<T>(region: &Region, result: &Result<T, JournalError>) -> Option<BlockNo> {
    match result {
        Err(JournalError::Region(RegionError::Media { at })) if region.first_bad(*at, 1).is_some() => {
            Some(ByteOffset(*at).block())
        }
        _ => None,
    }
}

/// Whether the record that freed `block` is durable: its bit is cleared only after that. Nobody can have got the block
/// since, if a record after the last checkpoint touches it: it waits in the quarantine.
pub(crate) fn is_free(region: &Region, geometry: &Geometry, block: BlockNo) -> Result<bool, JournalError> {
    let blocks = BlockRange::new(block, 1);
    match geometry.bit_words(blocks).next() {
        Some(word) if !geometry.is_own(blocks) => Ok(region.read_u64(word.at.raw())? & word.mask == 0),
        _ => Ok(false),
    }
}

/// Calls `each` with parts of the operation that each change one block only.
fn each_piece(
    operation: &Operation<'_>,
    each: &mut dyn FnMut(Operation<'_>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    match operation {
        Operation::Write { at, bytes } => {
            let (mut at, mut rest) = (*at, *bytes);
            while !rest.is_empty() {
                let room = usize::try_from(BLOCK_BYTES - at.in_block()).unwrap_or(rest.len());
                let (bytes, after) = rest.split_at(room.min(rest.len()));
                each(Operation::Write { at, bytes })?;
                at = ByteOffset((at.block().raw() + 1) * BLOCK_BYTES);
                rest = after;
            }
            Ok(())
        }
        Operation::Allocate(range) => blocks(*range).try_for_each(|block| each(Operation::Allocate(block))),
        Operation::Free(range) => blocks(*range).try_for_each(|block| each(Operation::Free(block))),
        Operation::Zero(range) => blocks(*range).try_for_each(|block| each(Operation::Zero(block))),
    }
}

fn blocks(range: BlockRange) -> impl Iterator<Item = BlockRange> {
    (range.start.raw()..range.end().raw()).map(|block| BlockRange::new(BlockNo(block), 1))
}
