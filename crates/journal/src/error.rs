//! Why the journal refuses or fails.

use udax_disk::DiskError;
use udax_media::{ByteOffset, FormatError};
use udax_pmem::RegionError;

/// Why a transaction, a checkpoint or a recovery failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The medium failed. The journal has stopped if this comes from a commit or a checkpoint.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The data device failed. The journal goes on.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The journal or what it describes is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The transaction does not fit in a record. Nothing was written; the journal goes on.
    #[error("transaction of {bytes} bytes does not fit in a journal record of {limit} bytes")]
    TooLarge {
        /// What it needs.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// The transaction changes bytes that are not in the pool. Nothing was written; the journal goes on.
    #[error("transaction changes bytes up to {end} of a pool of {pool_bytes} bytes")]
    OutsidePool {
        /// The end of the furthest change.
        end: u64,
        /// Bytes of the pool.
        pool_bytes: u64,
    },
    /// The pool was not closed cleanly: its journal must be replayed, which a read-only open cannot.
    #[error("the pool was not closed cleanly; open it for writing once, so that its journal is replayed")]
    Unclean,
    /// A repair was interrupted: names may lead to what is free, and what is made in the pool would be shown in their
    /// place.
    #[error(
        "checkpoint at {at}: a repair of the pool was interrupted; finish it with fsck before anything else"
    )]
    HalfMended {
        /// Where the checkpoint is that says so.
        at: ByteOffset,
    },
    /// An earlier failure left the journal unusable: nothing more is written.
    #[error("the journal has stopped after a media error")]
    Stopped,
}
