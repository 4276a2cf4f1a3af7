//! Where a file's pages are: for its mapping, and to flush them without one.

use std::cell::Cell;

use udax_dax::{Access, Content, DaxError, Extent, Extents, Size};
use udax_media::{BLOCK_BYTES, FileBlock};
use udax_pmem::RegionError;
use udax_sync::fault::{Fault, is_injected};

use crate::extents::{self, ExtentCache, Mapping, clip};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;

/// A file's extents while its inode's lock is held, which makes what they say true.
pub(crate) struct LockedExtents<'e> {
    pub(crate) pool: &'e Pool,
    pub(crate) inode: &'e Inode,
    /// Loaded.
    pub(crate) cache: &'e ExtentCache,
    /// The pages of the entry that was refused for writing because blocks have sums.
    pub(crate) refused: Cell<Option<(FileBlock, FileBlock)>>,
}

impl LockedExtents<'_> {
    /// How many of `pages` from `page` on, which is `block`, are there: nobody gets the address of lost bytes.
    fn good_pages(&self, page: u64, block: u64, pages: u64) -> crate::error::Result<u64> {
        let start = block * BLOCK_BYTES;
        match self.pool.region.first_bad(start, pages * BLOCK_BYTES) {
            None => Ok(pages),
            Some(at) if at >= start + BLOCK_BYTES => Ok((at - start) / BLOCK_BYTES),
            Some(at) => {
                let place = (start, page * BLOCK_BYTES);
                let error = RegionError::Media { at };
                Err(self.pool.lost_data(self.inode, place, BLOCK_BYTES, error))
            }
        }
    }
}

impl Extents for LockedExtents<'_> {
    fn extent(&self, page: u64, size: Size, access: Access) -> Result<Extent, DaxError> {
        let entry = (FileBlock(page), FileBlock(page + size.pages()));
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
            Mapping::Extent(extent) if extent.start.is_on_device() => {
                return Err(failed(crate::error::Error::Inconsistent {
                    place: udax_media::Place::Inode(self.inode.ino),
                    what: "a DAX file has blocks of the data device",
                }));
            }
            Mapping::Extent(extent)
                if extent.is_summed() && access == Access::Write && !is_injected(Fault::PinnedSum) =>
            {
                self.refused.set(Some(entry));
                return Err(DaxError::NeedsCopy { page });
            }
            Mapping::Extent(extent) => {
                let block = extent.start.raw() + (page - extent.first.raw());
                let pages = extent.end().raw() - page;
                Extent {
                    content: Content::Mapped {
                        block,
                        shared: extent.is_shared(),
                    },
                    pages: self.good_pages(page, block, pages).map_err(failed)?,
                }
            }
        })
    }
}

impl Pool {
    /// A change has failed that said of blocks `first..end`, when it broke them, that their bytes would be discarded
    /// (`Fate::Discarded`). They stay, but no entry tells any more which of them are not durable: all are made so.
    #[cold]
    pub(crate) fn save_undiscarded(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        blocks: (FileBlock, FileBlock),
    ) {
        if inode.mapping().is_some()
            && let Err(error) = self.flush_blocks(inode, state, blocks)
        {
            tracing::error!(ino = inode.ino.raw(), %error, "stores through pins may not be durable");
        }
    }

    fn flush_blocks(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (first, end): (FileBlock, FileBlock),
    ) -> crate::error::Result<()> {
        extents::load(self, inode, state)?;
        let mut at = first;
        while at < end {
            at = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Hole { until } => until,
                Mapping::Extent(extent) => {
                    if let Some(part) = clip(&extent, at, end) {
                        let place = part.start.offset().raw();
                        self.region.flush(place, part.count * BLOCK_BYTES)?;
                    }
                    extent.end()
                }
            };
        }
        Ok(self.region.fence()?)
    }
}
