//! Names: `LOOKUP`, `FORGET`, `MKNOD`, `MKDIR`, `SYMLINK`, `LINK`, `UNLINK`, `RMDIR`, `RENAME2`, `READLINK`.

use std::sync::Arc;

use fuser::{Errno, FileAttr, INodeNo, RenameFlags};
use udax::{FileKind, NewInode, Node, OpenFlags, Owner, RenameMode, Stat};

use crate::refusal::{Refusal, Result};
use crate::server::{Caller, Server};
use crate::times;

/// What a reply tells of an inode that it names. Its lookup is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) attributes: FileAttr,
    pub(crate) generation: u64,
}

/// Where a rename takes a name from, or to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'p> {
    pub(crate) directory: INodeNo,
    pub(crate) name: &'p [u8],
}

impl Server {
    /// `None`: there is no such name, and the kernel may remember that.
    pub(crate) fn lookup(&self, parent: INodeNo, name: &[u8]) -> Result<Option<Entry>> {
        let node = match name {
            // How a client of NFS comes back (`FUSE_EXPORT_SUPPORT`).
            b"." => self.node_of_old(parent)?,
            b".." => self.node_of_old(parent)?.parent()?,
            name => match self.node(parent)?.lookup(name) {
                Err(udax::Error::NotFound) => return Ok(None),
                other => other?,
            },
        };
        self.tell(node).map(Some)
    }

    /// What a reply tells of `node`; counts the lookup.
    pub(crate) fn tell(&self, node: Node) -> Result<Entry> {
        let stat = node.stat()?;
        let generation = node.generation();
        self.nodes.count(node);
        Ok(Entry {
            attributes: self.attributes_of(&stat),
            generation,
        })
    }

    pub(crate) fn make_node(
        &self,
        caller: Caller,
        place: Place<'_>,
        (mode, umask): (u32, u32),
        rdev: u32,
    ) -> Result<Entry> {
        let kind = FileKind::of_mode(mode).ok_or(Refusal(Errno::EINVAL))?;
        let parent = self.node(place.directory)?;
        let birth = self.plan_birth(caller, &parent, kind, (mode, umask))?;
        let rdev = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => u64::from(rdev),
            _ => 0,
        };
        let node = parent.make_node(place.name, kind, rdev, birth.new)?;
        self.endow(&birth, &parent, place.name, &node)?;
        self.tell(node)
    }

    pub(crate) fn make_directory(
        &self,
        caller: Caller,
        place: Place<'_>,
        mode_and_umask: (u32, u32),
    ) -> Result<Entry> {
        let parent = self.node(place.directory)?;
        let birth = self.plan_birth(caller, &parent, FileKind::Directory, mode_and_umask)?;
        let node = parent.create_dir(place.name, birth.new)?;
        self.endow(&birth, &parent, place.name, &node)?;
        self.tell(node)
    }

    pub(crate) fn make_link(&self, caller: Caller, place: Place<'_>, target: &[u8]) -> Result<Entry> {
        let parent = self.node(place.directory)?;
        let new = NewInode {
            permissions: 0o777,
            owner: Owner {
                uid: self.user(caller.uid)?,
                gid: self.group(caller.gid)?,
            },
        };
        self.tell(parent.symlink(place.name, target, new)?)
    }

    pub(crate) fn read_link(&self, ino: INodeNo) -> Result<Vec<u8>> {
        Ok(self.node(ino)?.read_link()?)
    }

    pub(crate) fn link(&self, ino: INodeNo, place: Place<'_>) -> Result<Entry> {
        let node = self.node(ino)?;
        self.node(place.directory)?.link(&node, place.name)?;
        self.tell(self.node_of_old(ino)?)
    }

    pub(crate) fn unlink(&self, place: Place<'_>) -> Result<()> {
        let parent = self.node(place.directory)?;
        self.noting_its_end(&parent, place.name, || Ok(parent.unlink(place.name)?))
    }

    pub(crate) fn remove_directory(&self, place: Place<'_>) -> Result<()> {
        let parent = self.node(place.directory)?;
        self.noting_its_end(&parent, place.name, || Ok(parent.remove_dir(place.name)?))
    }

    pub(crate) fn rename(&self, from: Place<'_>, to: Place<'_>, flags: RenameFlags) -> Result<()> {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            // A whiteout means something to overlayfs only, and only on filesystems that know it.
            return Err(Refusal(Errno::EINVAL));
        };
        let source = self.node(from.directory)?;
        let target = self.node(to.directory)?;
        if self.has_cache && mode == RenameMode::Replace && target.lookup(to.name).is_ok() {
            write_back(&source, from.name)?;
        }
        let rename = || Ok(source.rename(from.name, &target, to.name, mode)?);
        match mode {
            RenameMode::Replace => self.noting_its_end(&target, to.name, rename),
            RenameMode::NoReplace | RenameMode::Exchange => rename(),
        }
    }

    /// Does `remove`, which may end the inode that has `name` in `parent`: what the kernel may still ask of it is
    /// kept.
    fn noting_its_end(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let last = parent
            .lookup(name)
            .and_then(|node| node.stat().map(|stat| (node, stat)))
            .ok();
        remove()?;
        if let Some((node, stat)) = last {
            let stat = Stat {
                ctime: times::now(),
                ..stat
            };
            self.keep_ghost(INodeNo(node.ino().raw()), stat);
        }
        Ok(())
    }

    /// If the inode, which looked like `last`, is gone: what it looks like from now on.
    pub(crate) fn keep_ghost(&self, ino: INodeNo, last: Stat) {
        if let Some(node) = self.nodes.find(ino.0)
            && let Err(udax::Error::Stale(_)) = node.stat()
        {
            self.nodes.set_ghost(ino.0, Stat { nlink: 0, ..last });
        }
    }
}

/// Writes back what `name` has in its page cache, before it takes another file's place: a program that replaces a file
/// and does not sync loses neither content when the daemon dies (as ext4 does it, `auto_da_alloc`).
fn write_back(parent: &Node, name: &[u8]) -> Result<()> {
    match parent.lookup(name) {
        Ok(node) if node.kind() == FileKind::Regular => Ok(node.open(OpenFlags::READ)?.sync()?),
        // What cannot be renamed the rename tells.
        _ => Ok(()),
    }
}
