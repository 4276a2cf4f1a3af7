//! What a region cannot do.

use std::path::Path;

use nix::errno::Errno;

/// What a region cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The range is not inside the region.
    #[error("bytes {at}+{len} are outside the mapping of {region_len} bytes")]
    OutOfBounds {
        /// Offset.
        at: u64,
        /// Length.
        len: u64,
        /// Length of the region.
        region_len: u64,
    },
    /// An offset or length that must be a multiple of `align` is not.
    #[error("offset {at} is not a multiple of {align}")]
    Misaligned {
        /// Offset.
        at: u64,
        /// The alignment needed.
        align: u64,
    },
    /// The medium has lost the bytes: they are in [`crate::Region::bad_ranges`].
    #[error("media error at byte {at}")]
    Media {
        /// The first byte that could not be read or written.
        at: u64,
    },
    /// SIGBUS, but for another reason than lost bytes: they may be there the next time.
    #[error(
        "byte {at} cannot be reached: the file was cut short, or the filesystem that it is on has no space"
    )]
    Unreachable {
        /// The first byte that could not be read or written.
        at: u64,
    },
    /// A store into a region that was opened read-only.
    #[error("{path}: opened read-only")]
    ReadOnly {
        /// The file or device.
        path: String,
    },
    /// The file or device has fewer bytes than asked for.
    #[error("{path}: has {len} bytes, {needed} are needed")]
    TooSmall {
        /// The file or device.
        path: String,
        /// Bytes there are.
        len: u64,
        /// Bytes asked for.
        needed: u64,
    },
    /// It cannot grow so far in place.
    #[error("{path}: opened with room for {reserved} bytes, {needed} are needed: open it again with more")]
    Unreserved {
        /// The file or device.
        path: String,
        /// Bytes of address space that were reserved.
        reserved: u64,
        /// Bytes asked for.
        needed: u64,
    },
    /// Another process or handle has the file or device open.
    #[error("{path}: in use{holder}")]
    Busy {
        /// The file or device.
        path: String,
        /// `" by process 123 (name)"` where that could be found out, else empty.
        holder: String,
    },
    /// The file or device cannot be mapped, grown or written back.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The file or device.
        path: String,
        /// What failed.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl RegionError {
    /// `what` failed on `path`.
    pub(crate) fn io(path: &Path, what: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            path: path.display().to_string(),
            what,
            source: source.into(),
        }
    }

    /// The errno that says it best.
    pub fn errno(&self) -> Errno {
        match self {
            Self::OutOfBounds { .. } | Self::Misaligned { .. } => Errno::EINVAL,
            Self::Media { .. } | Self::Unreachable { .. } => Errno::EIO,
            Self::ReadOnly { .. } => Errno::EROFS,
            Self::TooSmall { .. } | Self::Unreserved { .. } => Errno::ENOSPC,
            Self::Busy { .. } => Errno::EBUSY,
            Self::Io { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        }
    }
}
