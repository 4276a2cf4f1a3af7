//! Why a data device could not do what it was asked for.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Why a data device could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// It cannot be opened, or is neither a block device nor a file.
    #[error("data device {}: {what}: {source}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("data device {} is in use", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// Its logical blocks are larger than the pool's.
    #[error("data device {} has logical blocks of {bytes} bytes: at most 4096 are supported", path.display())]
    LargeBlocks {
        /// Where.
        path: PathBuf,
        /// Bytes of a block.
        bytes: u64,
    },
    /// A request failed: the device's own error.
    #[error("data device: {what} of byte {at}: {source}")]
    Failed {
        /// What was asked for.
        what: &'static str,
        /// From where on.
        at: u64,
        /// Why not.
        source: io::Error,
    },
    /// A flush that somebody else asked for has failed since something was written.
    #[error("data device: what was written before a flush that failed may be lost")]
    FlushedBefore,
    /// A request beyond the end of the device.
    #[error("data device: {len} bytes at {at} are beyond its {bytes}")]
    Outside {
        /// From where on.
        at: u64,
        /// How many bytes.
        len: u64,
        /// The device has so many.
        bytes: u64,
    },
}

impl DiskError {
    /// As a device says it that has lost what it was asked for: what media for tests say.
    pub(crate) fn lost(what: &'static str, at: u64) -> Self {
        Self::Failed {
            what,
            at,
            source: Errno::EIO.into(),
        }
    }

    pub(crate) fn open(path: &Path, what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Open {
            path: path.to_owned(),
            what,
            source: source.into(),
        }
    }

    /// Whether the medium has lost what was asked for, as `blk_status_to_errno` tells it. Other failures say nothing of
    /// the data: the device may have gone, or there was no memory for the request.
    pub fn is_lost_data(&self) -> bool {
        const LOST: [Errno; 5] = [
            Errno::EIO,
            Errno::ENODATA,
            Errno::EREMOTEIO,
            Errno::EILSEQ,
            Errno::EBADMSG,
        ];
        let Self::Failed { source, .. } = self else {
            return false;
        };
        let errno = source.raw_os_error().map(Errno::from_raw);
        errno.is_some_and(|errno| LOST.contains(&errno))
    }

    /// What is wrong, without the path, for who tells of it himself.
    pub fn reason(&self) -> String {
        match self {
            Self::Open { what, source, .. } => format!("{what}: {source}"),
            Self::Busy { .. } => "it is in use".to_owned(),
            Self::LargeBlocks { bytes, .. } => {
                format!("it has logical blocks of {bytes} bytes: at most 4096 are supported")
            }
            Self::Failed { .. } | Self::FlushedBefore | Self::Outside { .. } => self.to_string(),
        }
    }

    /// The POSIX number. What the device fails in is `EIO`, whatever it says itself.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Open { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
            Self::Busy { .. } => Errno::EBUSY,
            Self::LargeBlocks { .. } => Errno::EOPNOTSUPP,
            Self::Failed { .. } | Self::FlushedBefore | Self::Outside { .. } => Errno::EIO,
        }
    }
}
