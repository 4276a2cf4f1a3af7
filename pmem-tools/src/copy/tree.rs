//! The two sides of a copy.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use udax::{FileKind, Owner, Timestamp};

/// What is known about a file without opening it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attributes {
    /// What it is.
    pub(crate) kind: FileKind,
    /// Permission bits.
    pub(crate) permissions: u32,
    /// Owner.
    pub(crate) owner: Owner,
    /// Device number of a device node.
    pub(crate) rdev: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Bytes that are stored: less than the size where there are holes.
    pub(crate) allocated: u64,
    /// Last read.
    pub(crate) atime: Timestamp,
    /// Last change of the content.
    pub(crate) mtime: Timestamp,
    /// Names.
    pub(crate) nlink: u64,
    /// Device and inode number: equal for two names of one file.
    pub(crate) identity: (u64, u64),
}

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Xattr {
    /// Full name.
    pub(crate) name: Vec<u8>,
    /// Value.
    pub(crate) value: Vec<u8>,
}

/// Whether an extended attribute could be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// It was.
    Yes,
    /// The filesystem has no such attributes, or this user may not set them.
    No,
}

/// The side that is read. Links are never followed at the end of a path.
pub(crate) trait Source: Sync {
    /// An open file.
    type File;

    /// The attributes of `path`.
    fn attributes(&self, path: &Path) -> Result<Attributes>;
    /// The names in the directory `path`, without `.` and `..`, sorted.
    fn names(&self, path: &Path) -> Result<Vec<OsString>>;
    /// What the symbolic link `path` holds.
    fn link_target(&self, path: &Path) -> Result<Vec<u8>>;
    /// The extended attributes of `path`, sorted by name.
    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>>;
    /// Opens the regular file `path`.
    fn open(&self, path: &Path) -> Result<Self::File>;
    /// Reads at `offset`; 0 at the end.
    fn read_at(&self, file: &Self::File, to: &mut [u8], offset: u64) -> Result<usize>;
    /// The first run of data at or after `offset`; `None` when only a hole follows.
    fn data_run(&self, file: &Self::File, offset: u64) -> Result<Option<Range<u64>>>;
}

/// The side that is written. Links are never followed at the end of a path, and nothing is replaced.
pub(crate) trait Target: Sync {
    /// An open file.
    type File;

    /// What `path` is; `None` when there is nothing.
    fn kind(&self, path: &Path) -> Result<Option<FileKind>>;
    /// Makes a directory that only its owner can use.
    fn create_dir(&self, path: &Path) -> Result<()>;
    /// Makes and opens a regular file that only its owner can use.
    fn create_file(&self, path: &Path) -> Result<Self::File>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> Result<()>;
    /// Sets the size.
    fn set_size(&self, file: &Self::File, size: u64) -> Result<()>;
    /// Makes a symbolic link that holds `content`.
    fn create_link(&self, content: &[u8], path: &Path) -> Result<()>;
    /// Makes a fifo, socket or device node.
    fn create_node(&self, path: &Path, kind: FileKind, rdev: u64) -> Result<()>;
    /// Gives `existing` another name.
    fn hard_link(&self, existing: &Path, path: &Path) -> Result<()>;
    /// Gives the file `from` the name `to`, in place of the file that has it.
    fn replace(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes what is no directory.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Sets the owner; before anything that a change of owner would clear.
    fn set_owner(&self, path: &Path, attributes: &Attributes) -> Result<()>;
    /// Sets an extended attribute.
    fn set_xattr(&self, path: &Path, xattr: &Xattr) -> Result<Kept>;
    /// Sets permissions and times; last.
    fn set_mode_and_times(&self, path: &Path, attributes: &Attributes) -> Result<()>;
}
