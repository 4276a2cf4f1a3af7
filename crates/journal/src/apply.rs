//! Doing in place what an operation says. Used by commit, for what is durable, and by recovery.

use udax_media::record::Operation;
use udax_media::{BLOCK_BYTES, Geometry};
use udax_pmem::Region;

use crate::JournalError;

/// Applies one operation with plain stores. Doing it again changes nothing more.
#[inline]
pub(crate) fn apply(
    region: &Region,
    geometry: &Geometry,
    operation: &Operation<'_>,
) -> Result<(), JournalError> {
    match operation {
        Operation::Write { at, bytes } => region.store(at.raw(), bytes)?,
        Operation::Allocate(range) => {
            for word in geometry.bit_words(*range) {
                region.set_bits(word.at.raw(), word.mask)?;
            }
        }
        Operation::Free(range) => {
            for word in geometry.bit_words(*range) {
                region.clear_bits(word.at.raw(), word.mask)?;
            }
        }
        Operation::Zero(range) => {
            region.zero(
                range.start.offset().raw(),
                range.count.saturating_mul(BLOCK_BYTES),
            )?;
        }
    }
    Ok(())
}
