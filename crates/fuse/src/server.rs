//! The mounted pool: what all operations share, and the way from the kernel's numbers to nodes and files.

use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use udax::{DaxMode, File, FileKind, Filesystem, InodeNo, Node, Stat};
use udax_sync::OnceLock;

use crate::handles::Handles;
use crate::identity::{IdMap, NO_OWNER};
use crate::invalidator::Invalidator;
use crate::meter::Meters;
use crate::nodes::Nodes;
use crate::options::Options;
use crate::refusal::{Refusal, Result};
use crate::times;

/// Bytes of a block of the protocol's `blocks`.
const SECTORS_PER_BLOCK: u64 = 8;
const BLOCK_BYTES: u32 = 4096;

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

impl From<&fuser::Request> for Caller {
    fn from(request: &fuser::Request) -> Self {
        Self {
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
        }
    }
}

/// A mounted pool. Its operations are in the files of their families; `protocol` calls them.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) filesystem: Filesystem,
    pub(crate) nodes: Nodes,
    pub(crate) handles: Handles,
    pub(crate) users: IdMap,
    pub(crate) groups: IdMap,
    pub(crate) entry_timeout: Duration,
    pub(crate) attr_timeout: Duration,
    /// Whether files may have a page cache of the pool's.
    pub(crate) has_cache: bool,
    pub(crate) meters: Meters,
    /// Since the mount: the way to tell the kernel what changed without its doing.
    pub(crate) invalidator: Arc<OnceLock<Invalidator>>,
}

impl Server {
    /// # Errors
    /// A damaged root directory.
    pub(crate) fn new(
        filesystem: Filesystem,
        options: &Options,
        invalidator: Arc<OnceLock<Invalidator>>,
    ) -> std::result::Result<Self, udax::Error> {
        let nodes = Nodes::new();
        // The kernel knows the root without a lookup, and never forgets it.
        nodes.count(filesystem.root()?);
        let has_cache = options.dax != DaxMode::Always || filesystem.superblock().device.is_some();
        Ok(Self {
            filesystem,
            nodes,
            handles: Handles::new(),
            users: options.users.clone(),
            groups: options.groups.clone(),
            entry_timeout: options.entry_timeout,
            attr_timeout: options.attr_timeout,
            has_cache,
            meters: Meters::new(),
            invalidator,
        })
    }

    /// The inode that the kernel means.
    pub(crate) fn node(&self, ino: INodeNo) -> Result<Arc<Node>> {
        self.nodes.find(ino.0).ok_or(Refusal(Errno::ESTALE))
    }

    /// As [`Server::node`], also an inode that the kernel has forgotten and a client of NFS has not.
    pub(crate) fn node_of_old(&self, ino: INodeNo) -> Result<Node> {
        Ok(self.filesystem.node(InodeNo(ino.0))?)
    }

    /// The open file that the kernel means.
    pub(crate) fn file(&self, handle: fuser::FileHandle) -> Result<Arc<File>> {
        self.handles.find(handle.0).ok_or(Refusal(Errno::EBADF))
    }

    /// What is told of an inode.
    pub(crate) fn attributes_of(&self, stat: &Stat) -> FileAttr {
        FileAttr {
            ino: INodeNo(stat.ino.raw()),
            size: stat.size,
            blocks: stat.blocks.saturating_mul(SECTORS_PER_BLOCK),
            atime: times::to_system(stat.atime),
            mtime: times::to_system(stat.mtime),
            ctime: times::to_system(stat.ctime),
            crtime: times::to_system(stat.btime),
            kind: kind_of(stat.kind),
            perm: u16::try_from(stat.permissions).unwrap_or(0),
            nlink: stat.nlink,
            uid: self.users.to_mount(stat.uid).unwrap_or(NO_OWNER),
            gid: self.groups.to_mount(stat.gid).unwrap_or(NO_OWNER),
            // The kernel's 32-bit encoding has the same bits as `makedev` up to major 4095 and minor 2^20 - 1, which
            // is all that it has.
            rdev: u32::try_from(stat.rdev).unwrap_or(0),
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    /// The user of the pool that `uid` means.
    pub(crate) fn user(&self, uid: u32) -> Result<u32> {
        self.users.to_pool(uid).ok_or(Refusal(Errno::EOVERFLOW))
    }

    /// The group of the pool that `gid` means.
    pub(crate) fn group(&self, gid: u32) -> Result<u32> {
        self.groups.to_pool(gid).ok_or(Refusal(Errno::EOVERFLOW))
    }

    /// The kernel's attributes of `ino` are old: something changed that it did not ask for.
    pub(crate) fn forget_attributes(&self, ino: InodeNo) {
        if let Some(invalidator) = self.invalidator.get()
            && let Err(error) = invalidator.attributes(ino)
        {
            tracing::warn!(ino = ino.raw(), %error, "the kernel keeps old attributes");
        }
    }

    /// Nobody uses the mount any more.
    pub(crate) fn close_all(&self) {
        self.handles.clear();
        self.nodes.clear();
    }
}

/// The protocol's word for a kind.
pub(crate) fn kind_of(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}
