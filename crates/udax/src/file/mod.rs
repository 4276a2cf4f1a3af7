//! Open files and directories.
//!
//! A [`File`] keeps its inode alive: an unlinked file stays readable and writable until its last handle is dropped.
//! Every operation takes the inode's lock, shared to read, alone to change; operations on different files meet only
//! in the allocator and the journal, where they seldom share anything.

mod allocate;
mod clone;
mod copy;
mod edges;
mod exchange;
mod layout;
mod open;
mod pieces;
mod punch;
mod read;
mod seek;
mod shift;
mod truncate;
mod unshare;
mod write;

use std::sync::Arc;

use udax_media::inode::FileKind;
use udax_sync::atomic::AtomicBool;

use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::options::{DirEntry, OpenFlags, SetAttributes, Stat, XattrMode};
use crate::pool::Pool;

pub(crate) use open::open;

/// An open file or directory. `Send + Sync`; every operation names its offset, there is no file position.
#[derive(Debug)]
pub struct File {
    pool: Arc<Pool>,
    inode: Arc<Inode>,
    flags: OpenFlags,
    /// Something was read: the access time's age has been looked at.
    has_read: AtomicBool,
}

impl File {
    /// A handle of an inode whose open count includes it already.
    fn new(pool: Arc<Pool>, inode: Arc<Inode>, flags: OpenFlags) -> Self {
        Self {
            pool,
            inode,
            flags,
            has_read: AtomicBool::new(false),
        }
    }

    pub(crate) fn inode(&self) -> &Inode {
        &self.inode
    }

    pub(crate) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    fn check_readable(&self) -> Result<()> {
        if self.inode.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        if !self.flags.contains(OpenFlags::READ) {
            return Err(Error::BadHandle("reading"));
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        if !self.flags.contains(OpenFlags::WRITE) {
            return Err(Error::BadHandle("writing"));
        }
        self.pool.check_writable()
    }

    /// What `fstat` tells.
    ///
    /// # Errors
    /// A media error.
    pub fn stat(&self) -> Result<Stat> {
        let state = self.inode.read()?;
        self.pool.stat_inode(&self.inode, &state)
    }

    /// Makes lazy times durable. Data and sizes are durable already when a write returns (`fsync`).
    ///
    /// # Errors
    /// A media error.
    ///
    /// # Durability
    /// Everything done to the file before. No fence when there is nothing lazy; else one.
    pub fn sync(&self) -> Result<()> {
        let mut state = self.inode.write()?;
        // Every write has fenced its own stores.
        self.pool.flush_times(&self.inode, &mut state)
    }

    /// Changes attributes; gives the new ones (`fchmod`, `fchown`, `futimens`).
    ///
    /// # Errors
    /// `Invalid` for permission bits or nanoseconds out of their range; `ReadOnly`.
    ///
    /// # Durability
    /// Durable on return: one fence.
    pub fn set_attributes(&self, set: SetAttributes) -> Result<Stat> {
        self.pool.set_attributes(&self.inode, set)
    }

    /// At most `limit` entries of this directory after position `cookie` (0: from the start, with `.` and `..`). An
    /// empty answer is the end. Entries that exist throughout are given exactly once, whatever else changes.
    ///
    /// # Errors
    /// `NotDirectory`; a damaged directory.
    pub fn read_dir(&self, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        self.pool.read_dir(&self.inode, cookie, limit)
    }

    /// The value of extended attribute `name`.
    ///
    /// # Errors
    /// `NoAttribute`, `NotSupported` for an unknown namespace, `NameTooLong`; a damaged value.
    pub fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.pool.xattr(&self.inode, name)
    }

    /// Sets extended attribute `name`, atomically.
    ///
    /// # Errors
    /// As [`File::xattr`]; `Exists` or `NoAttribute` by `mode`; `AttributeTooLarge`; `NoSpace`.
    ///
    /// # Durability
    /// Durable on return.
    pub fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.pool.set_xattr(&self.inode, name, value, mode)
    }

    /// Removes extended attribute `name`.
    ///
    /// # Errors
    /// As [`File::xattr`].
    pub fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.pool.remove_xattr(&self.inode, name)
    }

    /// The full names of all extended attributes.
    ///
    /// # Errors
    /// A damaged attribute tree.
    pub fn list_xattrs(&self) -> Result<Vec<Vec<u8>>> {
        self.pool.collect_xattrs(&self.inode)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.inode.count_close()
            && let Err(error) = self.pool.last_close(&self.inode)
        {
            tracing::error!(ino = self.inode.ino.raw(), %error, "closing a file failed");
        }
    }
}

impl Pool {
    pub(crate) fn read_dir(&self, inode: &Inode, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        if inode.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        let _state = inode.read()?;
        self.collect_entries(inode, cookie, limit)
    }

    /// What the last close of an inode has to do: give back blocks taken ahead, write lazy times, free an orphan.
    fn last_close(&self, inode: &Inode) -> Result<()> {
        let mut state = match inode.write() {
            Err(Error::Stale(_)) => return Ok(()),
            other => other?,
        };
        // Somebody may have opened it while we waited: then the work is theirs.
        if inode.is_open() {
            return Ok(());
        }
        inode.clear_close_work();
        if let Some(window) = state.window.take() {
            self.space.give_back(window);
        }
        if self.check_writable().is_err() {
            return Ok(());
        }
        if self.inode_nlink(inode)? == 0 {
            return self.finish_orphan(inode, &mut state);
        }
        self.flush_times(inode, &mut state)
    }
}
