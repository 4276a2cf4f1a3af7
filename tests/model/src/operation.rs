//! What can be done to a file system, and what comes back.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use udax::{
    AllocateMode, Dax, FileKind, MAX_ATOMIC_BYTES, NewInode, OpenFlags, RenameMode, SetAttributes, Timestamp,
    WriteFlags, XattrMode,
};

/// How many files a sequence can have open at a time.
pub const SLOTS: usize = 12;

/// A path, a name or a link target: any bytes, printed escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// As a path of the standard library.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// Bytes to write, made from a number, so that an operation prints short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// What they are made from.
    pub seed: u64,
    /// How many.
    pub len: usize,
}

impl Data {
    /// The bytes: 8-byte words that differ from each other and from those of other seeds.
    pub fn bytes(self) -> Vec<u8> {
        let mut state = self.seed;
        let mut bytes = Vec::with_capacity(self.len.next_multiple_of(8));
        while bytes.len() < self.len {
            // SplitMix64: any seed gives well mixed words.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((word ^ (word >> 31)).to_le_bytes());
        }
        bytes.truncate(self.len);
        bytes
    }
}

/// One operation.
#[derive(Clone, PartialEq, Debug)]
#[expect(
    missing_docs,
    reason = "each field is the argument of that name of the library's operation"
)]
pub enum Operation {
    /// Opens into a slot, closing what was open there.
    Open {
        slot: usize,
        path: Text,
        flags: OpenFlags,
        new: NewInode,
    },
    /// Closes a slot.
    Close { slot: usize },
    /// On an open file.
    File { slot: usize, what: FileOperation },
    /// Between two open files.
    CopyRange {
        from: usize,
        offset: u64,
        to: usize,
        to_offset: u64,
        len: u64,
    },
    /// Gives two open files other blocks.
    Remap {
        how: Remap,
        from: usize,
        offset: u64,
        to: usize,
        to_offset: u64,
        len: u64,
    },
    /// Makes, removes or moves names.
    Name(NameOperation),
    /// On what a path names.
    Node { path: Text, what: NodeOperation },
    /// Syncs the pool.
    Sync,
    /// Closes all files and the pool, checks it, compares all of it, and opens it again.
    Remount,
    /// Goes on with a copy of the pool's bytes as they are, as after the death of the process.
    Crash,
}

/// How two files' blocks change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remap {
    /// The second file shares those of the first.
    Clone,
    /// The same, if the bytes are the same.
    Dedupe,
    /// Each gets the other's.
    Exchange,
}

/// An operation on an open file.
#[derive(Clone, PartialEq, Debug)]
#[expect(
    missing_docs,
    reason = "each field is the argument of that name of the library's operation"
)]
pub enum FileOperation {
    Read {
        offset: u64,
        len: usize,
    },
    ReadVectored {
        offset: u64,
        lens: Vec<usize>,
    },
    Write {
        offset: u64,
        data: Data,
    },
    /// As `Write`, but the bytes are stored through a pin of the range.
    StorePinned {
        offset: u64,
        data: Data,
    },
    /// Bytes that the file has are stored again through a pin, and persisted: never by a write.
    OverwritePinned {
        offset: u64,
        data: Data,
    },
    /// Bytes of blocks that the file has are stored through a pin, never written; when it is gone, the file is synced.
    SyncPinned {
        offset: u64,
        data: Data,
    },
    WriteVectored {
        offset: u64,
        parts: Vec<Data>,
    },
    /// As `Write`, in the way that the flags ask for (pwritev2). What is not cached ignores `DONTCACHE`.
    WriteWith {
        offset: u64,
        data: Data,
        flags: WriteFlags,
    },
    Append {
        data: Data,
    },
    Truncate {
        size: u64,
    },
    Allocate {
        mode: AllocateMode,
        offset: u64,
        len: u64,
    },
    SeekData {
        offset: u64,
    },
    SeekHole {
        offset: u64,
    },
    Stat,
    SetAttributes(SetAttributes),
    /// The whole directory, `limit` entries at a time.
    ReadDirectory {
        limit: usize,
    },
    /// The next `limit` entries of a listing that goes on while the directory changes.
    StreamDirectory {
        limit: usize,
    },
    Xattr {
        name: Text,
    },
    Sync,
    /// Sets or clears the DAX flag, which switches the file where the mount goes by it.
    SetDax {
        dax: Dax,
    },
    /// Takes the checksums of its data away, and gives it new ones, where it has some.
    RenewChecksums,
    /// Gives the file a (further) name.
    Link {
        path: Text,
    },
}

impl Operation {
    /// Whether a crash leaves all of its bytes or none, by what it asks for.
    pub fn is_atomic_write(&self) -> bool {
        matches!(
            self,
            Self::File { what: FileOperation::WriteWith { flags, .. }, .. } if flags.contains(WriteFlags::ATOMIC)
        )
    }
}

/// Whether a write of `len` bytes at `offset` can be atomic: as `RWF_ATOMIC` asks.
pub fn can_be_atomic(offset: u64, len: usize) -> bool {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    len.is_power_of_two() && len <= MAX_ATOMIC_BYTES && offset.is_multiple_of(len)
}

/// An operation that changes names.
#[derive(Clone, PartialEq, Debug)]
#[expect(
    missing_docs,
    reason = "each field is the argument of that name of the library's operation"
)]
pub enum NameOperation {
    CreateDir {
        path: Text,
        new: NewInode,
    },
    RemoveDir {
        path: Text,
    },
    Unlink {
        path: Text,
    },
    Rename {
        from: Text,
        to: Text,
        mode: RenameMode,
    },
    Link {
        existing: Text,
        new: Text,
    },
    Symlink {
        target: Text,
        path: Text,
        new: NewInode,
    },
    MakeNode {
        path: Text,
        kind: FileKind,
        rdev: u64,
        new: NewInode,
    },
}

/// An operation on what a path names.
#[derive(Clone, PartialEq, Debug)]
#[expect(
    missing_docs,
    reason = "each field is the argument of that name of the library's operation"
)]
pub enum NodeOperation {
    Stat,
    StatLink,
    ReadLink,
    SetAttributes(SetAttributes),
    Truncate {
        size: u64,
    },
    ReadDirectory {
        limit: usize,
    },
    Xattr {
        name: Text,
    },
    SetXattr {
        name: Text,
        value: Data,
        mode: XattrMode,
    },
    RemoveXattr {
        name: Text,
    },
    ListXattrs,
}

/// What `stat` told, of which the kernel does not tell all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Inode number.
    pub ino: u64,
    /// What tells inodes with the same number apart; 0 where it cannot be had.
    pub generation: u64,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub permissions: u32,
    /// Names.
    pub nlink: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation, where it can be had.
    pub btime: Option<Timestamp>,
    /// Number of changes, where it can be had.
    pub change: Option<u64>,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Name.
    pub name: Text,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
}

/// What an operation gave.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// Nothing but success.
    Done,
    /// A number of bytes or an offset.
    Count(u64),
    /// Content, a link target or an attribute's value.
    Bytes(Vec<u8>),
    /// Attributes.
    Stat(Box<View>),
    /// Directory entries.
    Entries(Vec<Entry>),
    /// Names of attributes.
    Names(Vec<Text>),
}

/// What an operation gave, or the number of its error.
pub type Outcome = Result<Reply, Errno>;
