//! Finding data and holes (`lseek` with `SEEK_DATA` and `SEEK_HOLE`).

use udax_media::{BLOCK_BYTES, FileBlock};

use super::File;
use crate::error::{Error, Result};
use crate::extents::{self, Mapping};

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Data,
    Hole,
}

impl File {
    /// The first byte of data at or after `offset`. Blocks that were allocated but never written are holes.
    ///
    /// # Errors
    /// `NoSuchRange` (ENXIO) when there is none before the end of the file, or `offset` is not before it.
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        self.seek(offset, Wanted::Data)
    }

    /// The first byte of a hole at or after `offset`; the end of the file counts as one.
    ///
    /// # Errors
    /// `NoSuchRange` (ENXIO) when `offset` is not before the end of the file.
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        self.seek(offset, Wanted::Hole)
    }

    fn seek(&self, offset: u64, wanted: Wanted) -> Result<u64> {
        if self.inode.kind != udax_media::inode::FileKind::Regular {
            return Err(Error::Invalid("only a regular file has data and holes"));
        }
        let state = self.pool.read_flushed(&self.inode)?;
        let size = self.pool.inode_size(&self.inode)?;
        if offset >= size {
            return Err(Error::NoSuchRange);
        }
        let mut at = offset;
        while at < size {
            let block = FileBlock::holding(at);
            let mapping = extents::lookup(&self.pool, &self.inode, &state.extents, block)?;
            let (found, end) = match mapping {
                Mapping::Extent(extent) if extent.is_unwritten() => (Wanted::Hole, extent.end()),
                Mapping::Extent(extent) => (Wanted::Data, extent.end()),
                Mapping::Hole { until } => (Wanted::Hole, until),
            };
            if found == wanted {
                return Ok(at);
            }
            at = end.raw() * BLOCK_BYTES;
        }
        match wanted {
            Wanted::Hole => Ok(size),
            Wanted::Data => Err(Error::NoSuchRange),
        }
    }
}
