//! Inodes by number, for front ends whose clients name them so (FUSE, NFS): the operations of [`crate::Filesystem`]
//! without paths.
//!
//! A [`Node`] holds an inode's number, not the inode: the last name and the last handle free it as ever, and then its
//! operations give `Stale`. But while a node exists nobody gets the number for a new inode, so that a late request of
//! a client can never reach another one. The hold is in memory only.
//!
//! `names` makes, finds, moves and removes names in a directory; this file is the rest.
//!
//! Locks: making a node takes its inode's lock shared, dropping one shared or, to write an access time, alone; no other
//! lock of the pool may be held.

mod names;

use std::sync::Arc;

use udax_dax::Mode;
use udax_media::InodeNo;
use udax_media::inode::FileKind;

use crate::error::{Error, Result};
use crate::file::{self, File};
use crate::filesystem::Filesystem;
use crate::inode::Inode;
use crate::namespace::cache::InodeRef;
use crate::options::{Dax, DirEntry, OpenFlags, SetAttributes, Stat, XattrMode};
use crate::pool::Pool;

pub use names::Created;

/// An inode that somebody knows by its number, which stays its own meanwhile. `Send + Sync`.
///
/// It keeps the pool open ([`Filesystem::close`]).
#[derive(Debug)]
pub struct Node {
    pool: Arc<Pool>,
    inode: Arc<Inode>,
}

impl Filesystem {
    /// The root directory.
    ///
    /// # Errors
    /// A damaged inode.
    pub fn root(&self) -> Result<Node> {
        self.node(udax_media::inode::ROOT)
    }

    /// The inode with number `ino`, also one that is open and has no name any more.
    ///
    /// # Errors
    /// `Stale` when there is none; a damaged inode.
    pub fn node(&self, ino: InodeNo) -> Result<Node> {
        let pool = self.pool();
        Node::new(pool, pool.inodes.get(pool, ino)?)
    }
}

impl Node {
    /// Holds the number of `inode`, of which the caller has no lock.
    fn new(pool: &Arc<Pool>, inode: Arc<Inode>) -> Result<Self> {
        {
            // Under its lock nobody frees it without seeing the hold.
            let _state = inode.read()?;
            inode.count_hold();
        }
        Ok(Self {
            pool: Arc::clone(pool),
            inode,
        })
    }

    /// As [`Node::new`], of an inode that has just been made, whose directory is still locked.
    fn of_newborn(pool: &Arc<Pool>, inode: &Arc<Inode>) -> Self {
        inode.count_hold();
        Self {
            pool: Arc::clone(pool),
            inode: Arc::clone(inode),
        }
    }

    fn reference(&self) -> InodeRef {
        InodeRef::from(&*self.inode)
    }

    /// Its number.
    pub fn ino(&self) -> InodeNo {
        self.inode.ino
    }

    /// Higher than that of any inode that has had the number before.
    pub fn generation(&self) -> u64 {
        self.inode.generation
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.inode.kind
    }

    /// What `fstat` tells.
    ///
    /// # Errors
    /// `Stale`; a media error.
    pub fn stat(&self) -> Result<Stat> {
        let state = self.inode.read()?;
        self.pool.stat_inode(&self.inode, &state)
    }

    /// As [`File::set_attributes`].
    ///
    /// # Errors
    /// As [`File::set_attributes`]; `Stale`.
    ///
    /// # Durability
    /// Durable on return: one fence.
    pub fn set_attributes(&self, set: SetAttributes) -> Result<Stat> {
        self.pool.set_attributes(&self.inode, set)
    }

    /// Takes set-user-id and, where it means the right of a group, set-group-id from a regular file, as a write by
    /// somebody without `CAP_FSETID` does (write(2); the kernel's `file_remove_privs`); whether it had any.
    ///
    /// # Durability
    /// Durable when it returns.
    ///
    /// # Errors
    /// `ReadOnly`; `Stale`; a media error.
    pub fn clear_set_id(&self) -> Result<bool> {
        self.pool.clear_set_id(&self.inode)
    }

    /// As [`File::set_dax`], whoever has it open.
    ///
    /// # Errors
    /// As [`File::set_dax`]; `Stale`.
    ///
    /// # Durability
    /// As [`File::set_dax`].
    pub fn set_dax(&self, dax: Dax) -> Result<()> {
        self.pool.set_dax(&self.inode, dax, &Mode::wait())
    }

    /// As [`File::truncate`], whoever has it open.
    ///
    /// # Errors
    /// As [`File::truncate`], `IsDirectory`; `Stale`.
    ///
    /// # Durability
    /// As [`File::truncate`].
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.pool.truncate(&self.inode, size, &Mode::wait())
    }

    /// Opens it for what `flags` say; `CREATE`, `EXCLUSIVE`, `NO_FOLLOW` and `TEMPORARY` mean nothing here.
    ///
    /// # Errors
    /// As [`Filesystem::open_file`]; `Stale`.
    pub fn open(&self, flags: OpenFlags) -> Result<File> {
        file::open_inode(&self.pool, Arc::clone(&self.inode), flags)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `Invalid` when it is none; `Stale`.
    pub fn read_link(&self) -> Result<Vec<u8>> {
        self.pool.read_link(&self.inode)
    }

    /// As [`File::read_dir`].
    ///
    /// # Errors
    /// As [`File::read_dir`]; `Stale`.
    pub fn read_dir(&self, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        self.pool.read_dir(&self.inode, cookie, limit)
    }

    /// As [`File::xattr`].
    ///
    /// # Errors
    /// As [`File::xattr`]; `Stale`.
    pub fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.pool.xattr(&self.inode, name)
    }

    /// As [`File::set_xattr`].
    ///
    /// # Errors
    /// As [`File::set_xattr`]; `Stale`.
    ///
    /// # Durability
    /// Durable on return.
    pub fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.pool.set_xattr(&self.inode, name, value, mode)
    }

    /// As [`File::remove_xattr`].
    ///
    /// # Errors
    /// As [`File::xattr`]; `Stale`.
    ///
    /// # Durability
    /// Durable on return.
    pub fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.pool.remove_xattr(&self.inode, name)
    }

    /// As [`File::list_xattrs`].
    ///
    /// # Errors
    /// As [`File::list_xattrs`]; `Stale`.
    pub fn list_xattrs(&self) -> Result<Vec<Vec<u8>>> {
        self.pool.collect_xattrs(&self.inode)
    }

    fn check_directory(&self) -> Result<()> {
        if self.inode.kind == FileKind::Directory {
            Ok(())
        } else {
            Err(Error::NotDirectory)
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A number that is buried while it is held is given back by the last holder: one of the two sees the other,
        // as both have the inode's lock. In the same way whoever renews a time that only a holder or a close can write
        // sees none, or is seen here.
        if self.inode.count_release() {
            self.pool.give_number_back(self.inode.ino);
        } else {
            self.pool.finish_use(&self.inode);
        }
    }
}
