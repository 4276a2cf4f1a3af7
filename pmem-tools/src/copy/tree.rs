//! The two sides of a copy.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use udax::{FileKind, Owner, Timestamp};
use udax_sync::atomic::{AtomicU64, Ordering};

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

/// Something to make that is no directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Thing<'t> {
    /// An empty regular file that only its owner can use.
    File,
    /// A symbolic link that holds these bytes.
    Link(&'t [u8]),
    /// A fifo, socket or device node, with its device number.
    Node(FileKind, u64),
    /// Another name of the file that has this one.
    Name(&'t Path),
}

/// The side that is read. Links are never followed at the end of a path.
pub(crate) trait Source: Sync {
    /// An open file.
    type File;

    /// The path as messages name it.
    fn shown(&self, path: &Path) -> String;
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

/// The side that is written. Links are never followed at the end of a path.
///
/// What is new and would replace something, and every new file, has no name or another one until it is published: it is
/// whole then. Dropped before, it goes away.
pub(crate) trait Target: Sync {
    /// Something new, or a directory that is there.
    type New;

    /// The path as messages name it.
    fn shown(&self, path: &Path) -> String;
    /// What `path` is; `None` when there is nothing.
    fn kind(&self, path: &Path) -> Result<Option<FileKind>>;
    /// Makes a directory that only its owner can use.
    fn create_dir(&self, path: &Path) -> Result<()>;
    /// The directory `path`, whose attributes are to be set.
    fn directory(&self, path: &Path) -> Self::New;
    /// Makes what is to get the name `path`.
    fn create(&self, path: &Path, thing: Thing<'_>) -> Result<Self::New>;
    /// Writes all of `bytes` at `offset` of a regular file.
    fn write_at(&self, new: &Self::New, bytes: &[u8], offset: u64) -> Result<()>;
    /// Sets the size of a regular file.
    fn set_size(&self, new: &Self::New, size: u64) -> Result<()>;
    /// Sets the owner; before anything that a change of owner would clear.
    fn set_owner(&self, new: &Self::New, attributes: &Attributes) -> Result<()>;
    /// Sets an extended attribute.
    fn set_xattr(&self, new: &Self::New, xattr: &Xattr) -> Result<Kept>;
    /// Sets permissions and times; last.
    fn set_mode_and_times(&self, new: &Self::New, attributes: &Attributes) -> Result<()>;
    /// Gives it the name `path`, in place of what is no directory and has the name.
    fn publish(&self, new: Self::New, path: &Path) -> Result<()>;
}

/// Another name in the directory of `path`, which no other thread and no other program uses.
pub(crate) fn beside(path: &Path) -> PathBuf {
    /// Longer names are left out: with what is added they would be too long.
    const LONGEST: usize = 200;
    // Relaxed: only the number counts.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default();
    let name = if name.len() > LONGEST {
        OsStr::new("")
    } else {
        name
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    hidden.push(format!(".udax-{}-{number}", std::process::id()));
    path.with_file_name(hidden)
}
