//! Why an operation of the filesystem failed.

use std::path::PathBuf;

use nix::errno::Errno;
use udax_dax::DaxError;
use udax_disk::DiskError;
use udax_journal::JournalError;
use udax_media::{BlockNo, FormatError, InodeNo, Place};
use udax_pagecache::CacheError;
use udax_pmem::RegionError;

use crate::dax::Conflict;
use crate::tree::TooLong;

/// Why an operation of the filesystem failed. [`Error::errno`] gives the POSIX number.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `ENOENT`: a component of the path does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`: the name is taken.
    #[error("file exists")]
    Exists,
    /// `ENOTDIR`: a component of the path is no directory.
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`: a directory where a file is needed.
    #[error("is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`: the directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// `ENOSPC`: no free blocks; nothing was changed.
    #[error("no space left {}: {needed} blocks needed, {free} free", place(*on_device))]
    NoSpace {
        /// Blocks that the operation needed.
        needed: u64,
        /// Blocks that were free.
        free: u64,
        /// It is the data device that is full.
        on_device: bool,
    },
    /// `ENAMETOOLONG`: a name of more than 255 bytes or a path or target of more than 4095.
    #[error("name or path of {length} bytes is too long (limit {limit})")]
    NameTooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// `EINVAL`: an argument is out of its range.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// `ELOOP`: too many symbolic links, or one where none may be.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    /// `EMLINK`: the inode has as many names as it can.
    #[error("too many links")]
    TooManyLinks,
    /// `EFBIG`: beyond the largest file.
    #[error("file too large")]
    FileTooLarge,
    /// `EXDEV`: the files are in two pools.
    #[error("files of two pools")]
    OtherPool,
    /// `EAGAIN`, `ETIMEDOUT`, `EINTR`, `EFAULT` and others: a pin or a lease could not be made, or one was in the way.
    #[error(transparent)]
    Dax(#[from] DaxError),
    /// `EAGAIN`, `ETIMEDOUT`, `EINTR`, `ENOMEM`: the page cache; `EIO` and others: a write-back has failed that this
    /// open file was not told of.
    #[error(transparent)]
    Cache(CacheError),
    /// Never given to callers: what the operation waits for before it begins anew.
    #[doc(hidden)]
    #[error("in use by a pin or a lease")]
    Conflict(Conflict),
    /// `EBADF`: the handle was not opened for this.
    #[error("file not opened for {0}")]
    BadHandle(&'static str),
    /// `EPERM`: the operation is not allowed on this kind of inode.
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// `EROFS`: the pool is opened read-only, or became so after a media error.
    #[error("read-only pool")]
    ReadOnly,
    /// `ENODATA`: no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// `EOPNOTSUPP`: not supported for this kind of inode or namespace.
    #[error("operation not supported: {0}")]
    NotSupported(&'static str),
    /// `ENXIO`: no data or hole at or after the offset.
    #[error("no such data or hole")]
    NoSuchRange,
    /// `E2BIG`: a value longer than 65536 bytes, or one that no node can hold.
    #[error("attribute value of {length} bytes is too large (limit 65536)")]
    AttributeTooLarge {
        /// Bytes given.
        length: usize,
    },
    /// `EBUSY`: the root directory, or something in use.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// `EUCLEAN`: what is on the medium does not follow the format.
    #[error("corrupt pool: {0}; run fsck")]
    Corrupt(#[from] FormatError),
    /// `EUCLEAN`: neither superblock can be believed, the pool has more bytes than there are, or it is of a newer
    /// version: the check cannot help.
    #[error("{0}")]
    NotPool(FormatError),
    /// `EUCLEAN`: structures disagree.
    #[error("corrupt pool: {place}: {what}; run fsck")]
    Inconsistent {
        /// Where.
        place: Place,
        /// What is wrong.
        what: &'static str,
    },
    /// `EIO`: the medium has lost bytes of a file. A write of whole blocks replaces them; all other files, and the
    /// file's other bytes, are as before.
    #[error("media error: bytes {offset}+{len} of inode {ino} are lost (byte {at} of the pool)")]
    LostData {
        /// The file.
        ino: InodeNo,
        /// The first byte in the file that was asked for and is lost.
        offset: u64,
        /// Bytes from there that are known to be lost, of those asked for; at least 1.
        len: u64,
        /// That byte in the pool.
        at: u64,
    },
    /// `EIO`: bytes of a file cannot be reached, though the medium has not lost them ([`RegionError::Unreachable`]).
    /// They may be there the next time.
    #[error(
        "byte {offset} of inode {ino} cannot be reached: the pool's file was cut short, or the filesystem that it is \
         on has no space (byte {at} of the pool)"
    )]
    UnreachableData {
        /// The file.
        ino: InodeNo,
        /// The first of them in the file.
        offset: u64,
        /// The first of them in the pool.
        at: u64,
    },
    /// `EIO`: a block of a file does not have its checksum: the medium has changed it. A write of the whole block
    /// replaces it; all other files, and the file's other blocks, are as before.
    #[error(
        "wrong data: bytes {offset}+4096 of inode {ino} do not have their checksum (block {block} of the pool)"
    )]
    WrongData {
        /// The file.
        ino: InodeNo,
        /// Where the block begins in the file.
        offset: u64,
        /// The block of the pool.
        block: BlockNo,
    },
    /// `EIO`: the medium has lost metadata. The pool is read-only from then on.
    #[error("media error in {what}: {place}; the pool is read-only from now on, run fsck")]
    LostMetadata {
        /// What it was.
        what: &'static str,
        /// Where.
        place: Place,
    },
    /// `EEXIST`: a pool would be made over something; `force` does it.
    #[error("it holds {found}; making a pool there takes `force`")]
    NotBlank {
        /// What it seems to be.
        found: &'static str,
    },
    /// `EEXIST`: a data device would be made of something; `force` does it.
    #[error("the data device {} holds {found}; making it one takes `force`", .device.display())]
    DeviceNotBlank {
        /// Which device or file.
        device: PathBuf,
        /// What it seems to be.
        found: &'static str,
    },
    /// `ESTALE`: the inode does not exist any more.
    #[error("inode {0} is gone")]
    Stale(InodeNo),
    /// `EIO` and others: the medium or its mapping failed.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// `EIO` and others: the data device failed, or cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// `ENODEV`: the pool's data device is not there, or what is there is not it.
    #[error(
        "data device {}: {why}; if it is elsewhere, a mount with data=PATH that writes says so, and the pool keeps it",
        path.display()
    )]
    NotDevice {
        /// Where it was looked for.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// `EINVAL`: what is to be a data device is too small or too large.
    #[error("data device {}: it has {bytes} bytes; 1 MiB to 1 PiB are possible", path.display())]
    DeviceSize {
        /// Where.
        path: std::path::PathBuf,
        /// What it has.
        bytes: u64,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(JournalError),
}

/// What operations give.
pub type Result<T> = std::result::Result<T, Error>;

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Region(region) => Self::Region(region),
            JournalError::Disk(error) => Self::Disk(error),
            JournalError::Format(format) => Self::Corrupt(format),
            JournalError::Stopped => Self::ReadOnly,
            other => Self::Journal(other),
        }
    }
}

impl From<TooLong> for Error {
    /// Only attributes have values of any length.
    fn from(TooLong(length): TooLong) -> Self {
        Self::AttributeTooLarge { length }
    }
}

fn place(on_device: bool) -> &'static str {
    match on_device {
        true => "on the data device",
        false => "in the pool",
    }
}

impl Error {
    /// There is no block, or number, to be had in the pool for one thing more.
    pub(crate) const fn no_room() -> Self {
        Self::NoSpace {
            needed: 1,
            free: 0,
            on_device: false,
        }
    }

    /// The POSIX error number.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NotFound => Errno::ENOENT,
            Self::Exists => Errno::EEXIST,
            Self::NotDirectory => Errno::ENOTDIR,
            Self::IsDirectory => Errno::EISDIR,
            Self::NotEmpty => Errno::ENOTEMPTY,
            Self::NoSpace { .. } => Errno::ENOSPC,
            Self::NameTooLong { .. } => Errno::ENAMETOOLONG,
            Self::Invalid(_) => Errno::EINVAL,
            Self::SymlinkLoop => Errno::ELOOP,
            Self::TooManyLinks => Errno::EMLINK,
            Self::FileTooLarge => Errno::EFBIG,
            Self::Dax(error) => error.errno(),
            Self::Cache(error) => error.errno(),
            Self::Conflict(_) => Errno::EAGAIN,
            Self::OtherPool => Errno::EXDEV,
            Self::BadHandle(_) => Errno::EBADF,
            Self::NotPermitted(_) => Errno::EPERM,
            Self::ReadOnly => Errno::EROFS,
            Self::NoAttribute => Errno::ENODATA,
            Self::NotSupported(_) => Errno::EOPNOTSUPP,
            Self::NoSuchRange => Errno::ENXIO,
            Self::AttributeTooLarge { .. } => Errno::E2BIG,
            Self::Busy(_) => Errno::EBUSY,
            Self::Corrupt(_)
            | Self::NotPool(_)
            | Self::Inconsistent { .. }
            | Self::Journal(JournalError::HalfMended { .. }) => Errno::EUCLEAN,
            Self::NotBlank { .. } | Self::DeviceNotBlank { .. } => Errno::EEXIST,
            Self::Stale(_) => Errno::ESTALE,
            Self::Region(RegionError::Busy { .. }) => Errno::EBUSY,
            Self::Disk(error) => error.errno(),
            Self::NotDevice { .. } => Errno::ENODEV,
            Self::DeviceSize { .. } => Errno::EINVAL,
            Self::Region(_)
            | Self::Journal(_)
            | Self::LostData { .. }
            | Self::UnreachableData { .. }
            | Self::WrongData { .. }
            | Self::LostMetadata { .. } => Errno::EIO,
        }
    }
}
