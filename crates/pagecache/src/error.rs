//! What the page cache cannot do.

use nix::errno::Errno;

use crate::{BackingError, WaitError};

/// Why a read, a write or a write-back failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// It would wait, and was told not to.
    #[error("page {page} is not at hand: {what}")]
    WouldBlock {
        /// The page.
        page: u64,
        /// For what.
        what: &'static str,
    },
    /// The wait ended first.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// There is no memory for a folio.
    #[error("no memory to cache page {page}")]
    NoMemory {
        /// The page.
        page: u64,
    },
    /// The range has no byte, or reaches beyond what a file can have.
    #[error("no valid range of bytes")]
    BadRange,
    /// The filesystem could not read, reserve or write.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// A write-back before this call failed; this open file had not been told.
    #[error("a write to the medium has failed: {}", .errno.desc())]
    WriteBack {
        /// Why.
        errno: Errno,
    },
}

impl CacheError {
    /// The errno that says it best.
    pub fn errno(&self) -> Errno {
        match self {
            Self::WouldBlock { .. } => Errno::EAGAIN,
            Self::Wait(WaitError::TimedOut) => Errno::ETIMEDOUT,
            Self::Wait(WaitError::Cancelled) => Errno::EINTR,
            Self::NoMemory { .. } => Errno::ENOMEM,
            Self::BadRange => Errno::EINVAL,
            Self::Backing(error) => error.errno(),
            Self::WriteBack { errno } => *errno,
        }
    }
}
