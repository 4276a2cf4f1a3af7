//! Where a file's pages are, for its mapping.

use udax_dax::{Access, Content, DaxError, Extent, Extents, Size};
use udax_media::{BLOCK_BYTES, FileBlock};

use crate::extents::{self, ExtentCache, Mapping};
use crate::inode::Inode;
use crate::pool::Pool;

/// A file's extents while its inode's lock is held, which makes what they say true.
pub(crate) struct LockedExtents<'e> {
    pub(crate) pool: &'e Pool,
    pub(crate) inode: &'e Inode,
    /// Loaded.
    pub(crate) cache: &'e ExtentCache,
}

impl Extents for LockedExtents<'_> {
    fn extent(&self, page: u64, _size: Size, _access: Access) -> Result<Extent, DaxError> {
        let failed = |error| DaxError::Extent {
            page,
            source: Box::new(error),
        };
        let size = self.pool.inode_size(self.inode).map_err(failed)?;
        if page >= size.div_ceil(BLOCK_BYTES) {
            return Err(DaxError::BeyondEnd { page });
        }
        let block = FileBlock(page);
        let mapping = extents::lookup(self.pool, self.inode, self.cache, block).map_err(failed)?;
        Ok(match mapping {
            Mapping::Hole { until } => Extent {
                content: Content::Hole,
                pages: until.raw() - page,
            },
            Mapping::Extent(extent) if extent.is_unwritten() => Extent {
                content: Content::Hole,
                pages: extent.end().raw() - page,
            },
            Mapping::Extent(extent) => Extent {
                content: Content::Mapped {
                    block: extent.start.raw() + (page - extent.first.raw()),
                    shared: extent.is_shared(),
                },
                pages: extent.end().raw() - page,
            },
        })
    }
}
