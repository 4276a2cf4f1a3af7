//! What pins, breaks and write-back cannot do.

use nix::errno::Errno;
use udax_pmem::RegionError;

use crate::WaitError;

/// Why a page could not be reached, a layout broken, or a range written back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaxError {
    /// It would wait, and was told not to.
    #[error("page {page} is in use: {what}")]
    WouldBlock {
        /// The page.
        page: u64,
        /// By what.
        what: &'static str,
    },
    /// The wait ended first.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The page is a hole or unwritten: the filesystem allocates it, zeroed, and comes again.
    #[error("page {page} is not allocated")]
    NeedsAllocation {
        /// The page.
        page: u64,
    },
    /// The page's block is shared: the filesystem makes a copy, and comes again.
    #[error("the block of page {page} is shared")]
    NeedsCopy {
        /// The page.
        page: u64,
    },
    /// The page is beyond the file's end.
    #[error("page {page} is beyond the end of the file")]
    BeyondEnd {
        /// The page.
        page: u64,
    },
    /// No page, or more than there can be.
    #[error("no valid range of pages")]
    BadRange,
    /// The filesystem named a block that the device does not have.
    #[error("block {block} of page {page} is outside the device")]
    BadBlock {
        /// The page.
        page: u64,
        /// The block.
        block: u64,
    },
    /// The page has more pins than can be counted.
    #[error("page {page} has too many pins")]
    TooManyPins {
        /// The page.
        page: u64,
    },
    /// The filesystem changed the block of a pinned page without breaking its layout.
    #[error("page {page} moved to another block while it was pinned")]
    Moved {
        /// The page.
        page: u64,
    },
    /// A pin for reading cannot be stored through.
    #[error("the pin is for reading")]
    ReadOnly,
    /// The two mappings are not two files of one device.
    #[error("not two files of one device")]
    NotAPair,
    /// The filesystem could not say where the page is.
    #[error("page {page}: {source}")]
    Extent {
        /// The page.
        page: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The memory could not be accessed or flushed.
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl DaxError {
    /// The errno that says it best.
    pub fn errno(&self) -> Errno {
        match self {
            Self::WouldBlock { .. } => Errno::EAGAIN,
            Self::Wait(WaitError::TimedOut) => Errno::ETIMEDOUT,
            Self::Wait(WaitError::Cancelled) => Errno::EINTR,
            Self::NeedsAllocation { .. } => Errno::ENXIO,
            Self::NeedsCopy { .. } | Self::Moved { .. } => Errno::EBUSY,
            Self::BeyondEnd { .. } => Errno::EFAULT,
            Self::BadRange | Self::NotAPair => Errno::EINVAL,
            Self::ReadOnly => Errno::EACCES,
            Self::BadBlock { .. } | Self::Extent { .. } => Errno::EIO,
            Self::TooManyPins { .. } => Errno::ENOMEM,
            Self::Region(error) => error.errno(),
        }
    }
}
