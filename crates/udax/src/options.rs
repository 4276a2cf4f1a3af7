//! How pools are made and opened, and how files are opened.

use std::path::PathBuf;
use std::sync::Arc;

use udax_dax::Mode;
use udax_disk::Disk;
use udax_media::{InodeNo, Timestamp};
use udax_pmem::Recorder;

/// Where a pool's data device is.
#[derive(Clone, Debug)]
pub enum DataSource {
    /// A block device or file.
    Path(PathBuf),
    /// Open already: for tests, with a disk in memory.
    Disk(Arc<Disk>),
}

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
    /// Room for checksums of file data: 8 bytes for each block of 4096. The root directory has [`Checksums::On`], and
    /// what is made below inherits that.
    pub data_checksums: bool,
    /// A data device: the data of files without the DAX flag is there. It is overwritten, as the pool is.
    pub data: Option<DataSource>,
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
    /// Never renew access times of directories.
    pub no_directory_atime: bool,
    /// Which files are reached by memory access.
    pub dax: DaxMode,
    /// Bytes of memory for files without DAX. 0: 256 MiB.
    pub cache_bytes: u64,
    /// Bytes of these that may wait to be written. 0: a fifth.
    pub dirty_bytes: u64,
    /// Bytes of one file that may wait to be written. 0: as many as of all files.
    pub file_dirty_bytes: u64,
    /// No thread for write-back: what is dirty is written by who syncs, closes the pool, or would make more dirty than
    /// may be.
    pub no_flusher: bool,
    /// Where the pool's data device is; else where it was last. A pool that is opened to be written keeps it.
    pub data: Option<DataSource>,
    /// Sees every store.
    pub recorder: Option<Arc<dyn Recorder>>,
}

/// Which files are reached by memory access: the mount option `dax=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DaxMode {
    /// All; in a pool with a data device as `Inode`.
    #[default]
    Always,
    /// Those whose inode has the flag ([`crate::File::set_dax`]); the others through the page cache.
    Inode,
    /// None. Refused in a pool with a data device.
    Never,
}

/// The DAX flag of an inode (`FS_XFLAG_DAX`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dax {
    /// It has it not.
    #[default]
    Off,
    /// It has it.
    On,
}

bitflags::bitflags! {
    /// What is asked of one read (preadv2).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct ReadFlags: u32 {
        /// What the read brings into the page cache does not stay there (`RWF_DONTCACHE`). `NotSupported` for DAX
        /// files.
        const DONTCACHE = 1 << 0;
        /// What would wait, for the medium or for who uses the file, is `EAGAIN` (`RWF_NOWAIT`).
        const NOWAIT = 1 << 1;
    }
}

/// The most bytes of a write with [`WriteFlags::ATOMIC`]: one journal record maps them, however they lie.
pub const MAX_ATOMIC_BYTES: u64 = 1 << 20;

bitflags::bitflags! {
    /// What is asked of one write (pwritev2).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct WriteFlags: u32 {
        /// What the write brings into the page cache is written at once and does not stay there (`RWF_DONTCACHE`). That
        /// promises no durability, and errors are told by the next sync. `NotSupported` for DAX files.
        const DONTCACHE = 1 << 0;
        /// What would wait is `EAGAIN` (`RWF_NOWAIT`).
        const NOWAIT = 1 << 1;
        /// Data and size are durable on return (`RWF_DSYNC`), as always for DAX files.
        const DSYNC = 1 << 2;
        /// At the end of the file, wherever that is (`RWF_APPEND`); the offset is not looked at.
        const APPEND = 1 << 3;
        /// All of it or nothing, also if power fails (`RWF_ATOMIC`): a power of two of bytes, at most
        /// [`MAX_ATOMIC_BYTES`], at a multiple of that. `Invalid` for others, and where free space is too scattered.
        /// It goes past the page cache, as with [`OpenFlags::DIRECT`], where `RWF_ATOMIC` is refused without that.
        const ATOMIC = 1 << 4;
    }
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
    /// How a file is opened: for reading, for writing, or both; neither is refused (`Invalid`).
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
        /// Reads and writes go past the page cache (`O_DIRECT`), at any offset and length. DAX files have none anyhow.
        const DIRECT = 1 << 9;
    }
}

/// How a file is opened, with what [`OpenFlags`] cannot say.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// For what.
    pub flags: OpenFlags,
    /// What a new file gets.
    pub new: NewInode,
    /// Whether the cut by `TRUNCATE` waits for pins and leases, and the operations of the new handle do, as for
    /// [`File::waiting`](crate::File::waiting).
    pub wait: Mode,
}

impl OpenOptions {
    /// These flags; waits however long it takes.
    pub fn new(flags: OpenFlags, new: NewInode) -> Self {
        Self {
            flags,
            new,
            wait: Mode::wait(),
        }
    }

    /// The same, waiting as `mode` says.
    #[must_use]
    pub fn waiting(mut self, mode: Mode) -> Self {
        self.wait = mode;
        self
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

/// Whether the data of a file gets checksums, which reads verify ([`crate::File::set_checksums`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksums {
    /// It gets none. Of what is in place by memory access and overwritten in place this is the faster way.
    #[default]
    Off,
    /// All that is written gets some; of a directory: what is made in it has this.
    On,
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
    /// Whether what is written to it, or is made in it, gets checksums.
    pub checksums: Checksums,
    /// Whether it has the DAX flag.
    pub dax: Dax,
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
    /// Blocks of the data device; 0 without one.
    pub device_blocks: u64,
    /// Free blocks of it, which all may be taken.
    pub device_free_blocks: u64,
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
