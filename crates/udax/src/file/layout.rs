//! Telling where a file's bytes are in the pool (as `FS_IOC_FIEMAP` does).

use udax_media::extent::Extent;
use udax_media::{BLOCK_BYTES, FileBlock};

use super::File;
use crate::error::{Error, Result};
use crate::extents::{self, END_OF_FILES};
use crate::options::FileExtent;

impl File {
    /// At most `limit` extents of a regular file, ascending, from the one that holds or follows byte `offset` on. What
    /// no extent covers is a hole. Go on at the end of the last one; an empty answer is the end.
    ///
    /// The answer is as of this call: a later write, truncation or punch may move or free the blocks.
    ///
    /// # Errors
    /// `Invalid` unless it is a regular file; a damaged extent tree.
    pub fn extents(&self, offset: u64, limit: usize) -> Result<Vec<FileExtent>> {
        if self.inode.kind != udax_media::inode::FileKind::Regular {
            return Err(Error::Invalid("only a regular file has extents"));
        }
        let state = self.pool.read_flushed(&self.inode)?;
        let range = (FileBlock::holding(offset), END_OF_FILES);
        let found = extents::list(&self.pool, &self.inode, &state.extents, range, limit)?;
        Ok(found.into_iter().map(of_bytes).collect())
    }
}

fn of_bytes(extent: Extent) -> FileExtent {
    FileExtent {
        offset: extent.first.raw() * BLOCK_BYTES,
        pool_offset: extent.start.offset().raw(),
        len: extent.count * BLOCK_BYTES,
        is_unwritten: extent.is_unwritten(),
    }
}
