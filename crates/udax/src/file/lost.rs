//! Bytes of a file that the medium has lost: naming them.

use udax_media::{BLOCK_BYTES, FileBlock};
use udax_pmem::RegionError;

use crate::error::Error;
use crate::extents::{self, Mapping};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;

impl Pool {
    /// The error of an access to `inode`, whose byte `offset` is byte `start` of the pool: if it is about one of `len`
    /// bytes from there, it is one of the file.
    #[cold]
    pub(crate) fn lost_data(
        &self,
        inode: &Inode,
        (start, offset): (u64, u64),
        len: u64,
        error: RegionError,
    ) -> Error {
        let (RegionError::Media { at } | RegionError::Unreachable { at }) = error else {
            return Error::Region(error);
        };
        let Some(before) = at.checked_sub(start).filter(|before| *before < len) else {
            return Error::Region(error);
        };
        if matches!(error, RegionError::Unreachable { .. }) {
            return Error::UnreachableData {
                ino: inode.ino,
                offset: offset + before,
                at,
            };
        }
        // Blocks are lost as a whole, one after another.
        let mut end = at - at % BLOCK_BYTES + BLOCK_BYTES;
        while end < start + len && self.region.first_bad(end, 1).is_some() {
            end += BLOCK_BYTES;
        }
        Error::LostData {
            ino: inode.ino,
            offset: offset + before,
            len: end.min(start + len) - at,
            at,
        }
    }

    /// As [`Pool::lost_data`], of a write to bytes `offset..end` of the file that failed somewhere: what else was
    /// accessed stays as it is told. The caller has the inode's lock, with its extents loaded.
    #[cold]
    pub(super) fn lost_in_write(
        &self,
        inode: &Inode,
        state: &InodeState,
        (offset, end): (u64, u64),
        error: Error,
    ) -> Error {
        let Error::Region(error) = error else {
            return error;
        };
        let (RegionError::Media { at } | RegionError::Unreachable { at }) = error else {
            return Error::Region(error);
        };
        let first = FileBlock::holding(offset);
        let last = FileBlock(end.div_ceil(BLOCK_BYTES));
        let mut block = first;
        while block < last {
            let extent = match extents::lookup(self, inode, &state.extents, block) {
                Ok(Mapping::Extent(extent)) => extent,
                Ok(Mapping::Hole { until }) => {
                    block = until;
                    continue;
                }
                Err(_) => return Error::Region(error),
            };
            let start = extent.start.offset().raw();
            if (start..extent.blocks().end().offset().raw()).contains(&at) {
                let place = (start, extent.first.raw() * BLOCK_BYTES);
                // What is beside the bytes written, in the same block, may be what failed.
                let upto = end
                    .max(place.1 + (at - start) + 1)
                    .min(extent.end().raw() * BLOCK_BYTES);
                let len = upto.saturating_sub(place.1);
                return self.lost_data(inode, place, len, error);
            }
            block = extent.end();
        }
        Error::Region(error)
    }
}
