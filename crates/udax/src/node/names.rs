//! Names in a directory that is known by its number.
//!
//! As for operations by path: inodes are found without locks, and what was found is looked at again under them; an
//! operation whose name meanwhile leads elsewhere begins anew. A directory that is gone has no names: `NotFound`.

use std::sync::Arc;

use udax_media::inode::FileKind;

use super::Node;
use crate::error::{Error, Result};
use crate::file::{self, File};
use crate::namespace::MAX_RETRIES;
use crate::namespace::cache::InodeRef;
use crate::namespace::create::Creation;
use crate::namespace::directory::check_name;
use crate::namespace::path::{Last, Resolved, ShortName};
use crate::namespace::remove::Removal;
use crate::options::{NewInode, OpenFlags, RenameMode};

/// A file that was opened by name, and whether it was made for that.
#[derive(Debug)]
pub struct Created {
    /// The inode.
    pub node: Node,
    /// The open file.
    pub file: File,
    /// It did not exist before.
    pub is_new: bool,
}

impl Node {
    /// What `name` in this directory is. `.` and `..` are names like any other here: see [`Node::parent`].
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NameTooLong`; a damaged directory.
    pub fn lookup(&self, name: &[u8]) -> Result<Self> {
        self.check_name_in(name)?;
        for _ in 0..MAX_RETRIES {
            let target = self.pool.lookup(self.reference(), name)?.ok_or(Error::NotFound)?;
            match self
                .pool
                .inode(target)
                .and_then(|inode| Self::new(&self.pool, inode))
            {
                Err(Error::Stale(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    /// The directory above this one; the root's is itself.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn parent(&self) -> Result<Self> {
        self.check_directory()?;
        let parent = {
            let _state = self.inode.read()?;
            self.pool.inode_parent(&self.inode)?
        };
        Self::new(&self.pool, self.pool.inodes.get(&self.pool, parent)?)
    }

    /// Opens the file `name` in this directory, and makes it when it does not exist; with `EXCLUSIVE` it must not.
    ///
    /// # Errors
    /// As [`crate::Filesystem::open_file`].
    ///
    /// # Durability
    /// A file that is made is durable on return: one fence.
    pub fn create_file(&self, name: &[u8], flags: OpenFlags, new: NewInode) -> Result<Created> {
        for _ in 0..MAX_RETRIES {
            let made = self.make(name, Creation::File, new, |inode| {
                inode.count_open();
                (Self::of_newborn(&self.pool, inode), Arc::clone(inode))
            });
            match made {
                Ok((node, inode)) => {
                    return Ok(Created {
                        node,
                        file: File::of_counted(&self.pool, inode, flags),
                        is_new: true,
                    });
                }
                Err(Error::Exists) if !flags.contains(OpenFlags::EXCLUSIVE) => {}
                Err(error) => return Err(error),
            }
            let opened = self.lookup(name).and_then(|node| {
                let file = file::open_inode(&self.pool, Arc::clone(&node.inode), flags)?;
                Ok(Created {
                    node,
                    file,
                    is_new: false,
                })
            });
            match opened {
                Err(Error::NotFound | Error::Stale(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    /// Makes the directory `name` in this one (`mkdir`).
    ///
    /// # Errors
    /// As [`crate::Filesystem::create_dir`].
    ///
    /// # Durability
    /// Durable on return: one fence. So are the operations below.
    pub fn create_dir(&self, name: &[u8], new: NewInode) -> Result<Self> {
        self.make_node_of(name, Creation::Directory, new)
    }

    /// Makes the symbolic link `name` to `target`.
    ///
    /// # Errors
    /// As [`crate::Filesystem::symlink`].
    pub fn symlink(&self, name: &[u8], target: &[u8], new: NewInode) -> Result<Self> {
        self.make_node_of(name, Creation::Symlink(target), new)
    }

    /// Makes a regular file without opening it, a fifo, a socket or a device node (`mknod`).
    ///
    /// # Errors
    /// As [`crate::Filesystem::make_node`].
    pub fn make_node(&self, name: &[u8], kind: FileKind, rdev: u64, new: NewInode) -> Result<Self> {
        let creation = match kind {
            FileKind::Regular => Creation::File,
            kind => Creation::Node(kind, rdev),
        };
        self.make_node_of(name, creation, new)
    }

    /// Gives the inode `existing` the further name `name` in this directory (`link`).
    ///
    /// # Errors
    /// As [`crate::Filesystem::link_file`].
    pub fn link(&self, existing: &Self, name: &[u8]) -> Result<()> {
        self.pool.check_writable()?;
        self.check_name_in(name)?;
        self.check_same_pool(existing)?;
        if existing.kind() == FileKind::Directory {
            return Err(Error::NotPermitted("a directory has one name"));
        }
        let linked = self
            .pool
            .retry_when_full(|| self.pool.link_in(&self.inode, name, &existing.inode));
        linked.map_err(|error| self.not_found_when_gone(error))
    }

    /// Removes the name of anything but a directory (`unlink`).
    ///
    /// # Errors
    /// As [`crate::Filesystem::unlink`].
    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        self.remove(name, Removal::File)
    }

    /// Removes the empty directory `name` (`rmdir`).
    ///
    /// # Errors
    /// As [`crate::Filesystem::remove_dir`].
    pub fn remove_dir(&self, name: &[u8]) -> Result<()> {
        self.remove(name, Removal::Directory)
    }

    /// Moves `name` of this directory to `new_name` of the directory `to` (`renameat2`).
    ///
    /// # Errors
    /// As [`crate::Filesystem::rename`].
    pub fn rename(&self, name: &[u8], to: &Self, new_name: &[u8], mode: RenameMode) -> Result<()> {
        self.pool.check_writable()?;
        self.check_name_in(name)?;
        to.check_name_in(new_name)?;
        self.check_same_pool(to)?;
        for _ in 0..MAX_RETRIES {
            let source = self.resolved(name, self.pool.lookup(self.reference(), name)?);
            let target = to.resolved(new_name, self.pool.lookup(to.reference(), new_name)?);
            match self.pool.rename_resolved(&source, &target, mode) {
                Err(Error::Stale(ino)) if ino != self.ino() && ino != to.ino() => {}
                other => {
                    return other.map_err(|error| to.not_found_when_gone(self.not_found_when_gone(error)));
                }
            }
        }
        Err(Error::NotFound)
    }

    fn remove(&self, name: &[u8], removal: Removal) -> Result<()> {
        self.pool.check_writable()?;
        self.check_name_in(name)?;
        for _ in 0..MAX_RETRIES {
            let target = self.pool.lookup(self.reference(), name)?.ok_or(Error::NotFound)?;
            let parent = self.reference();
            let removed = self
                .pool
                .in_steps(|limit| self.pool.remove_entry(parent, name, target, removal, limit));
            match removed {
                Err(Error::Stale(ino)) if ino != self.ino() => {}
                other => return other.map_err(|error| self.not_found_when_gone(error)),
            }
        }
        Err(Error::NotFound)
    }

    fn make_node_of(&self, name: &[u8], creation: Creation<'_>, new: NewInode) -> Result<Self> {
        self.make(name, creation, new, |inode| Self::of_newborn(&self.pool, inode))
    }

    /// Makes `name`, and lets `look` see it while the directory is locked.
    fn make<T>(
        &self,
        name: &[u8],
        creation: Creation<'_>,
        new: NewInode,
        look: impl Fn(&Arc<crate::inode::Inode>) -> T,
    ) -> Result<T> {
        self.pool.check_writable()?;
        creation.check()?;
        self.check_name_in(name)?;
        // Not looked up: whoever makes it looks under the directory's lock.
        let resolved = self.resolved(name, self.pool.dentries.get(self.reference(), name));
        let made = self
            .pool
            .create_resolved(&resolved, creation, new, |inode| Ok(look(inode)));
        made.map_err(|error| self.not_found_when_gone(error))
    }

    /// `name` in this directory as a path would be resolved.
    fn resolved(&self, name: &[u8], target: Option<InodeRef>) -> Resolved {
        Resolved {
            parent: self.reference(),
            last: Last::Name(ShortName::from_slice(name)),
            must_be_directory: false,
            target,
        }
    }

    fn check_name_in(&self, name: &[u8]) -> Result<()> {
        self.check_directory()?;
        check_name(name)?;
        if name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Error::Invalid("not a name of one component"));
        }
        Ok(())
    }

    fn check_same_pool(&self, other: &Self) -> Result<()> {
        if Arc::ptr_eq(&self.pool, &other.pool) {
            Ok(())
        } else {
            Err(Error::OtherPool)
        }
    }

    fn not_found_when_gone(&self, error: Error) -> Error {
        match error {
            Error::Stale(ino) if ino == self.ino() => Error::NotFound,
            other => other,
        }
    }
}
