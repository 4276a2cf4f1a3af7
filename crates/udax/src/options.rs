//! How pools are made and opened, and how files are opened.

use std::sync::Arc;

use udax_media::{InodeNo, Timestamp};
use udax_pmem::Recorder;

/// How a pool is made.
#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    /// Bytes; rounded down to whole blocks. `None` takes the whole of an existing file or device.
    pub size: Option<u64>,
    /// A name for people, at most 64 bytes.
    pub label: String,
    /// Overwrite what looks like data.
    pub force: bool,
    /// As [`MountOptions::msync`].
    pub msync: bool,
    /// The pool's identity; `None` for a random one.
    pub uuid: Option<uuid::Uuid>,
    /// Owner of the root directory.
    pub owner: Owner,
    /// Sees every store.
    pub recorder: Option<Arc<dyn Recorder>>,
}

/// How a pool is opened.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Change nothing. Needs a pool that was closed cleanly; `private` shows any.
    pub read_only: bool,
    /// Change nothing on the medium: what is replayed and written stays in this process's memory, and is gone when the
    /// pool is closed. For looking at a pool that was not closed cleanly. DAX devices refuse it.
    pub private: bool,
    /// The most bytes that the pool can grow to without being opened again. 0: 64 GiB, or its size if that is more.
    pub reserve: u64,
    /// On a file that is not on persistent memory: let fences msync, so that they survive a power failure.
    pub msync: bool,
    /// Take all page faults of the pool at once, so that operations take none ([`udax_pmem::Region::populate`]): for
    /// emulated persistent memory, where each 4 KiB costs one.
    pub populate: bool,
    /// Do not update access times.
    pub no_atime: bool,
    /// Sees every store.
    pub recorder: Option<Arc<dyn Recorder>>,
}

/// User and group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// The effective user and group of this process.
    pub fn current() -> Self {
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }
}

/// What a new inode is given. A group is replaced by the directory's where that has its set-group-id bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewInode {
    /// Permission bits (07777); the caller has applied its umask.
    pub permissions: u32,
    /// Owner.
    pub owner: Owner,
}

impl NewInode {
    /// These permissions, owned by the effective user of this process.
    pub fn with_permissions(permissions: u32) -> Self {
        Self {
            permissions,
            owner: Owner::current(),
        }
    }
}

bitflags::bitflags! {
    /// How a file is opened.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct OpenFlags: u32 {
        /// For reading.
        const READ = 1 << 0;
        /// For writing.
        const WRITE = 1 << 1;
        /// Make it when it does not exist (`O_CREAT`).
        const CREATE = 1 << 2;
        /// Fail when it exists (`O_EXCL`).
        const EXCLUSIVE = 1 << 3;
        /// Cut it to nothing (`O_TRUNC`).
        const TRUNCATE = 1 << 4;
        /// Each write goes to the end (`O_APPEND`).
        const APPEND = 1 << 5;
        /// Fail unless it is a directory (`O_DIRECTORY`).
        const DIRECTORY = 1 << 6;
        /// Fail when the last component is a symbolic link (`O_NOFOLLOW`).
        const NO_FOLLOW = 1 << 7;
        /// The path names a directory; open a new file in it that has no name (`O_TMPFILE`).
        const TEMPORARY = 1 << 8;
    }
}

/// What happens to the destination of a rename.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RenameMode {
    /// It is replaced (POSIX).
    #[default]
    Replace,
    /// It must not exist (`RENAME_NOREPLACE`).
    NoReplace,
    /// The two names change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// What `File::allocate` does with its range (`fallocate(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocateMode {
    /// Blocks are allocated, and the file grows to the range's end.
    Allocate,
    /// Blocks are allocated; the size stays (`FALLOC_FL_KEEP_SIZE`).
    KeepSize,
    /// As `KeepSize`, and blocks that other files share are copied, so that later writes need none
    /// (`FALLOC_FL_UNSHARE_RANGE`).
    Unshare,
    /// The range becomes a hole; the size stays (`FALLOC_FL_PUNCH_HOLE`).
    PunchHole,
    /// The range reads as zeros and is allocated; the file grows (`FALLOC_FL_ZERO_RANGE`).
    ZeroRange,
    /// As `ZeroRange`; the size stays.
    ZeroRangeKeepSize,
    /// The range is cut out; what follows moves down (`FALLOC_FL_COLLAPSE_RANGE`). Whole blocks.
    Collapse,
    /// A hole is put in; what follows moves up (`FALLOC_FL_INSERT_RANGE`). Whole blocks.
    Insert,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The present (`UTIME_NOW`).
    Now,
    /// This time.
    To(Timestamp),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub permissions: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

/// How an extended attribute is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XattrMode {
    /// Whether it exists or not.
    #[default]
    Either,
    /// It must not exist (`XATTR_CREATE`).
    Create,
    /// It must exist (`XATTR_REPLACE`).
    Replace,
}

/// What `stat` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Inode number.
    pub ino: InodeNo,
    /// Higher than that of any inode that has had the number before.
    pub generation: u64,
    /// What it is.
    pub kind: udax_media::inode::FileKind,
    /// Permission bits.
    pub permissions: u32,
    /// Names.
    pub nlink: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes (a directory: 4096 for each of its tree's blocks).
    pub size: u64,
    /// Blocks of 4096 bytes that it owns.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Grows with each change.
    pub change: u64,
}

/// What `statfs` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilesystemStat {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the pool.
    pub total_blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Blocks that ordinary writes may still take (a small reserve is kept so that deleting always works).
    pub available_blocks: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// The longest name.
    pub max_name: u32,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Where the directory continues after this entry; stays valid while the directory changes.
    pub cookie: u64,
    /// The inode.
    pub ino: InodeNo,
    /// What it is.
    pub kind: udax_media::inode::FileKind,
    /// The name.
    pub name: Vec<u8>,
}

/// A run of a file's bytes that lie together in the pool. All are multiples of the block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileExtent {
    /// The first byte in the file.
    pub offset: u64,
    /// That byte in the pool.
    pub pool_offset: u64,
    /// Bytes; the last extent may reach beyond the end of the file.
    pub len: u64,
    /// Allocated, but never written: reads as zeros, whatever the pool holds there.
    pub is_unwritten: bool,
}
