//! Telling the kernel of changes that it did not ask for (`FUSE_NOTIFY_INVAL_INODE`, `FUSE_NOTIFY_INVAL_ENTRY`).

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;

use fuser::{INodeNo, Notifier};
use udax::InodeNo;

/// Tells the kernel of a mount what was changed beside it, through a clone of its filesystem: what it remembers it
/// asks for anew then. See [`crate::Mount::invalidator`].
///
/// Each of these waits for what the kernel has under way there, which may wait for answers of the mount: not for a
/// thread with a lock that a request could need, and not before the mount is served.
///
/// # Errors
/// Of all of them: what the kernel says; `ENOTCONN` when the mount is gone. What it does not remember is no error.
#[derive(Clone, Debug)]
pub struct Invalidator {
    notifier: Notifier,
}

impl Invalidator {
    pub(crate) fn new(notifier: Notifier) -> Self {
        Self { notifier }
    }

    /// Attributes of `ino` have changed: owner, permissions, times, links, extended attributes.
    ///
    /// # Errors
    /// See [`Invalidator`].
    pub fn attributes(&self, ino: InodeNo) -> io::Result<()> {
        // A negative offset means: its pages are as they were.
        self.notifier.inval_inode(INodeNo(ino.raw()), -1, 0)
    }

    /// Bytes of the file `ino` have changed, or its size: then up to `u64::MAX`. Attributes are meant too. What was
    /// stored there through a shared mapping and is not written back yet is written first.
    ///
    /// # Errors
    /// See [`Invalidator`].
    pub fn content(&self, ino: InodeNo, bytes: Range<u64>) -> io::Result<()> {
        let start = i64::try_from(bytes.start).unwrap_or(i64::MAX);
        // 0 means up to the end.
        let len = i64::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(0);
        self.notifier.inval_inode(INodeNo(ino.raw()), start, len)
    }

    /// The name `name` in the directory `parent` is new, gone, or another inode's. The listing of the directory is
    /// meant too; what happened to the inode itself (its links, or its end) is not.
    ///
    /// # Errors
    /// See [`Invalidator`].
    pub fn entry(&self, parent: InodeNo, name: &[u8]) -> io::Result<()> {
        let entry = self
            .notifier
            .inval_entry(INodeNo(parent.raw()), OsStr::from_bytes(name));
        // Listings are kept in the directory's pages, also where the name is not remembered.
        entry.and(self.content(parent, 0..u64::MAX))
    }
}
