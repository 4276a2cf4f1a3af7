//! Inodes: 256 bytes, sixteen to a chunk of one block.
//!
//! Inode number `n` is slot `n % 16` of chunk `n / 16`; the inode table gives the chunk's block, which never moves.
//! A slot that was never used is all zero; one that was used and is free has mode 0 and keeps its generation.
//!
//! Fields are grouped by what changes them: line 0 identity and owner, line 1 size and times (all that a write or a
//! change of a directory touches), lines 2 and 3 the roots and what is inline.

use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::device::Reach;
use crate::error::{FormatError, Place};
use crate::extent::{Extent, INLINE_SIZE};
use crate::kinds::{BlockNo, ByteOffset, InodeNo, Timestamp};
use crate::node::TreeRoot;
use crate::seal::{self, Prefix, Seed};
use crate::{MAX_FILE_BYTES, MAX_SYMLINK_BYTES};

/// `uINO`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uINO");
/// Bytes of an inode.
pub const INODE_SIZE: usize = 256;
/// Inodes in a chunk.
pub const CHUNK_INODES: u64 = 16;
/// The root directory. (Slot 0 of chunk 0 is never used: inode 0 is no inode.)
pub const ROOT: InodeNo = InodeNo(1);
/// The highest chunk number: inode numbers stay below 2^62.
pub const MAX_CHUNK: u64 = (1 << 58) - 1;
/// Bytes of the inline area: four extents or a short link target.
pub const INLINE_BYTES: usize = 96;
/// The most extents in an inode.
pub const MAX_INLINE_EXTENTS: usize = INLINE_BYTES / INLINE_SIZE;
/// Mode bits that are permissions, set-id bits and the sticky bit.
pub const PERMISSION_MASK: u32 = 0o7777;

const KIND_SHIFT: u32 = 12;

/// Offsets of the fields in an inode, for writing some of them.
pub mod offset {
    /// Generation.
    pub const GENERATION: u64 = 16;
    /// `mode` (4) and `flags` (4): one aligned word.
    pub const MODE: u64 = 24;
    /// `uid` (4) and `gid` (4): one aligned word.
    pub const OWNER: u64 = 32;
    /// Size.
    pub const SIZE: u64 = 64;
    /// Blocks.
    pub const BLOCKS: u64 = 72;
    /// Modification time's seconds.
    pub const MTIME: u64 = 80;
    /// Status change time's seconds.
    pub const CTIME: u64 = 88;
    /// Access time's seconds.
    pub const ATIME: u64 = 96;
    /// Nanoseconds of the modification (4) and status change times (4): one aligned word.
    pub const MTIME_CTIME_NANOSECONDS: u64 = 104;
    /// Nanoseconds of the access time (4) and the link count (4): one aligned word.
    pub const ATIME_NANOSECONDS_NLINK: u64 = 112;
    /// Change counter.
    pub const CHANGE: u64 = 120;
    /// Root of the attribute tree.
    pub const XATTR_ROOT: u64 = 128;
    /// Parent directory.
    pub const PARENT: u64 = 136;
    /// Root of the directory or extent tree.
    pub const ROOT: u64 = 144;
    /// Number of inline extents (4) and checksum of a link target (4): one aligned word.
    pub const INLINE_COUNT: u64 = 152;
    /// Inline area.
    pub const INLINE: u64 = 160;
}

/// What an inode is: the file type bits of its mode, shifted right by 12.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FileKind {
    /// A named pipe.
    Fifo = 1,
    /// A character device node.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device node.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileKind {
    /// The kind with this number.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Fifo),
            2 => Some(Self::CharDevice),
            4 => Some(Self::Directory),
            6 => Some(Self::BlockDevice),
            8 => Some(Self::Regular),
            10 => Some(Self::Symlink),
            12 => Some(Self::Socket),
            _ => None,
        }
    }

    /// Its number: the file type bits shifted right by 12.
    pub const fn raw(self) -> u8 {
        match self {
            Self::Fifo => 1,
            Self::CharDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
        }
    }

    /// The kind in a mode; `None` when the type bits are no kind.
    pub fn of_mode(mode: u32) -> Option<Self> {
        u8::try_from(mode >> KIND_SHIFT).ok().and_then(Self::from_raw)
    }

    /// The mode of this kind with these permissions.
    pub fn with_permissions(self, permissions: u32) -> u32 {
        (u32::from(self.raw()) << KIND_SHIFT) | (permissions & PERMISSION_MASK)
    }
}

bitflags::bitflags! {
    /// Properties of an inode.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct InodeFlags: u32 {
        /// The extents are in a tree; otherwise inline.
        const EXTENT_TREE = 1 << 0;
        /// What is written to the file gets sums; what is made in the directory gets this flag.
        const SUMMED = 1 << 1;
        /// The file is reached by memory access where the mount leaves that to inodes; what is made in the directory
        /// gets this flag.
        const DAX = 1 << 2;
    }
}

/// An inode as it is on media.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawInode {
    /// Magic number and checksum of the 256 bytes.
    pub prefix: Prefix,
    /// The inode's own number.
    pub ino: U64,
    /// Grows by one each time the number is used again.
    pub generation: U64,
    /// File type and permissions; 0 is a free inode.
    pub mode: U32,
    /// [`InodeFlags`].
    pub flags: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Device number of a device node (`makedev`).
    pub rdev: U64,
    /// When it was made: seconds.
    pub btime: I64,
    /// When it was made: nanoseconds.
    pub btime_nanoseconds: U32,
    /// Zero.
    pub reserved0: U32,
    /// Bytes of a file or link target; entries of a directory.
    pub size: U64,
    /// Blocks that it owns: data, trees and attributes.
    pub blocks: U64,
    /// Modification time: seconds.
    pub mtime: I64,
    /// Status change time: seconds.
    pub ctime: I64,
    /// Access time: seconds.
    pub atime: I64,
    /// Modification time: nanoseconds.
    pub mtime_nanoseconds: U32,
    /// Status change time: nanoseconds.
    pub ctime_nanoseconds: U32,
    /// Access time: nanoseconds.
    pub atime_nanoseconds: U32,
    /// Names of the inode; a directory's count is 2 and one for each subdirectory.
    pub nlink: U32,
    /// Grows with each change.
    pub change: U64,
    /// Root of the attribute tree.
    pub xattr_root: U64,
    /// A directory's parent; 0 otherwise.
    pub parent: U64,
    /// Root of the directory's tree, or of the extent tree.
    pub root: U64,
    /// Number of inline extents.
    pub inline_count: U32,
    /// CRC-32C of a link target.
    pub target_checksum: U32,
    /// Inline extents, or a link target of at most 96 bytes.
    pub inline: [u8; INLINE_BYTES],
}
const _: () = assert!(size_of::<RawInode>() == INODE_SIZE);
const _: () = assert!(std::mem::offset_of!(RawInode, mode) == 24);
const _: () = assert!(std::mem::offset_of!(RawInode, uid) == 32);
const _: () = assert!(std::mem::offset_of!(RawInode, size) == 64);
const _: () = assert!(std::mem::offset_of!(RawInode, blocks) == 72);
const _: () = assert!(std::mem::offset_of!(RawInode, mtime) == 80);
const _: () = assert!(std::mem::offset_of!(RawInode, ctime) == 88);
const _: () = assert!(std::mem::offset_of!(RawInode, atime) == 96);
const _: () = assert!(std::mem::offset_of!(RawInode, mtime_nanoseconds) == 104);
const _: () = assert!(std::mem::offset_of!(RawInode, atime_nanoseconds) == 112);
const _: () = assert!(std::mem::offset_of!(RawInode, change) == 120);
const _: () = assert!(std::mem::offset_of!(RawInode, xattr_root) == 128);
const _: () = assert!(std::mem::offset_of!(RawInode, parent) == 136);
const _: () = assert!(std::mem::offset_of!(RawInode, root) == 144);
const _: () = assert!(std::mem::offset_of!(RawInode, inline_count) == 152);
const _: () = assert!(std::mem::offset_of!(RawInode, inline) == 160);

/// An inode in use, verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Its number.
    pub ino: InodeNo,
    /// How often the number has been used.
    pub generation: u64,
    /// What it is.
    pub kind: FileKind,
    /// Permissions, set-id bits and the sticky bit.
    pub permissions: u32,
    /// Properties.
    pub flags: InodeFlags,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// When it was made.
    pub btime: Timestamp,
    /// Bytes of a file or link target; entries of a directory.
    pub size: u64,
    /// Blocks that it owns.
    pub blocks: u64,
    /// When its content changed.
    pub mtime: Timestamp,
    /// When it changed.
    pub ctime: Timestamp,
    /// When it was read.
    pub atime: Timestamp,
    /// Names.
    pub nlink: u32,
    /// Grows with each change.
    pub change: u64,
    /// Root of the attribute tree.
    pub xattr_root: TreeRoot,
    /// A directory's parent.
    pub parent: InodeNo,
    /// Root of the directory's tree, or of the extent tree.
    pub root: TreeRoot,
    /// Number of inline extents.
    pub inline_count: u32,
    /// CRC-32C of a link target.
    pub target_checksum: u32,
    /// Inline extents, or a short link target.
    pub inline: [u8; INLINE_BYTES],
}

/// What a slot of an inode chunk holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InodeSlot {
    /// No inode; the generation that the next one follows.
    Free {
        /// Generation of the last inode here, 0 when there was none.
        generation: u64,
    },
    /// An inode.
    Used(Box<Inode>),
}

/// The chunk and the slot of `ino`.
#[inline]
pub const fn chunk_and_slot(ino: InodeNo) -> (u64, u64) {
    (ino.raw() / CHUNK_INODES, ino.raw() % CHUNK_INODES)
}

/// Where `ino` is, given its chunk's block.
#[inline]
pub const fn offset_in_chunk(chunk: BlockNo, ino: InodeNo) -> ByteOffset {
    ByteOffset(chunk.offset().raw() + ino.raw() % CHUNK_INODES * 256)
}

impl Inode {
    /// The inode's bytes; the checksum is the checkpoint's to set.
    pub fn encode(&self) -> [u8; INODE_SIZE] {
        let raw = RawInode {
            prefix: Prefix {
                magic: U32::new(MAGIC),
                checksum: U32::new(0),
            },
            ino: U64::new(self.ino.raw()),
            generation: U64::new(self.generation),
            mode: U32::new(self.mode()),
            flags: U32::new(self.flags.bits()),
            uid: U32::new(self.uid),
            gid: U32::new(self.gid),
            rdev: U64::new(self.rdev),
            btime: I64::new(self.btime.seconds),
            btime_nanoseconds: U32::new(self.btime.nanoseconds),
            reserved0: U32::new(0),
            size: U64::new(self.size),
            blocks: U64::new(self.blocks),
            mtime: I64::new(self.mtime.seconds),
            ctime: I64::new(self.ctime.seconds),
            atime: I64::new(self.atime.seconds),
            mtime_nanoseconds: U32::new(self.mtime.nanoseconds),
            ctime_nanoseconds: U32::new(self.ctime.nanoseconds),
            atime_nanoseconds: U32::new(self.atime.nanoseconds),
            nlink: U32::new(self.nlink),
            change: U64::new(self.change),
            xattr_root: U64::new(self.xattr_root.word()),
            parent: U64::new(self.parent.raw()),
            root: U64::new(self.root.word()),
            inline_count: U32::new(self.inline_count),
            target_checksum: U32::new(self.target_checksum),
            inline: self.inline,
        };
        zerocopy::transmute!(raw)
    }

    /// File type and permissions.
    pub fn mode(&self) -> u32 {
        self.kind.with_permissions(self.permissions)
    }

    /// The inline extents of a regular file without a tree; `None` when one is impossible or they are out of order.
    pub fn collect_inline_extents(&self, reach: impl Into<Reach>) -> Option<Vec<Extent>> {
        let reach = reach.into();
        let count = usize::try_from(self.inline_count)
            .ok()
            .filter(|count| *count <= MAX_INLINE_EXTENTS)?;
        let mut extents: Vec<Extent> = Vec::with_capacity(count);
        for bytes in self.inline.as_chunks::<INLINE_SIZE>().0.iter().take(count) {
            let extent = Extent::decode_inline(bytes, reach)?;
            if extents.last().is_some_and(|last| last.end() > extent.first) {
                return None;
            }
            extents.push(extent);
        }
        Some(extents)
    }
}

/// Verifies the slot of inode `ino` of a pool that has the blocks of `reach`, checksum included.
///
/// # Errors
/// A wrong magic number or checksum, or the first field out of its range.
pub fn verify(
    seed: Seed,
    bytes: &[u8; INODE_SIZE],
    ino: InodeNo,
    reach: impl Into<Reach>,
) -> Result<InodeSlot, FormatError> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(InodeSlot::Free { generation: 0 });
    }
    seal::verify(seed, bytes, MAGIC, "inode", Place::Inode(ino))?;
    decode(bytes, ino, reach)
}

/// As [`verify`], for an inode whose checksum is stale: one changed since the last checkpoint.
///
/// # Errors
/// The first field out of its range.
pub fn decode(
    bytes: &[u8; INODE_SIZE],
    ino: InodeNo,
    reach: impl Into<Reach>,
) -> Result<InodeSlot, FormatError> {
    let place = Place::Inode(ino);
    let bad = |field, value| FormatError::Field {
        what: "inode",
        place,
        field,
        value,
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(InodeSlot::Free { generation: 0 });
    }
    let raw: RawInode = zerocopy::transmute!(*bytes);
    if raw.prefix.magic.get() != MAGIC {
        return Err(FormatError::Magic {
            what: "inode",
            place,
            found: raw.prefix.magic.get(),
            expected: MAGIC,
        });
    }
    if raw.ino.get() != ino.raw() {
        return Err(bad("own number", raw.ino.get()));
    }
    if raw.mode.get() == 0 {
        return Ok(InodeSlot::Free {
            generation: raw.generation.get(),
        });
    }
    let kind = FileKind::of_mode(raw.mode.get()).ok_or_else(|| bad("mode", u64::from(raw.mode.get())))?;
    let flags =
        InodeFlags::from_bits(raw.flags.get()).ok_or_else(|| bad("flags", u64::from(raw.flags.get())))?;
    let inode = Inode {
        ino,
        generation: raw.generation.get(),
        kind,
        permissions: raw.mode.get() & PERMISSION_MASK,
        flags,
        uid: raw.uid.get(),
        gid: raw.gid.get(),
        rdev: raw.rdev.get(),
        btime: Timestamp {
            seconds: raw.btime.get(),
            nanoseconds: raw.btime_nanoseconds.get(),
        },
        size: raw.size.get(),
        blocks: raw.blocks.get(),
        mtime: Timestamp {
            seconds: raw.mtime.get(),
            nanoseconds: raw.mtime_nanoseconds.get(),
        },
        ctime: Timestamp {
            seconds: raw.ctime.get(),
            nanoseconds: raw.ctime_nanoseconds.get(),
        },
        atime: Timestamp {
            seconds: raw.atime.get(),
            nanoseconds: raw.atime_nanoseconds.get(),
        },
        nlink: raw.nlink.get(),
        change: raw.change.get(),
        xattr_root: TreeRoot::from_word(raw.xattr_root.get()),
        parent: InodeNo(raw.parent.get()),
        root: TreeRoot::from_word(raw.root.get()),
        inline_count: raw.inline_count.get(),
        target_checksum: raw.target_checksum.get(),
        inline: raw.inline,
    };
    verify_fields(&inode, reach.into()).map_err(|(field, value)| bad(field, value))?;
    Ok(InodeSlot::Used(Box::new(inode)))
}

fn verify_fields(inode: &Inode, reach: Reach) -> Result<(), (&'static str, u64)> {
    for time in [inode.btime, inode.mtime, inode.ctime, inode.atime] {
        if time.nanoseconds >= 1_000_000_000 {
            return Err(("nanoseconds", u64::from(time.nanoseconds)));
        }
    }
    if inode.blocks > reach.total() {
        return Err(("blocks", inode.blocks));
    }
    for root in [inode.xattr_root, inode.root] {
        if root.block().is_some_and(|block| block.raw() >= reach.pool)
            || root.level() > crate::node::MAX_LEVEL
        {
            return Err(("tree root", root.word()));
        }
    }
    let has_tree = inode.kind == FileKind::Directory
        || (inode.kind == FileKind::Regular && inode.flags.contains(InodeFlags::EXTENT_TREE));
    if !has_tree && inode.root != TreeRoot::EMPTY {
        return Err(("tree root where none belongs", inode.root.word()));
    }
    let max_size = match inode.kind {
        FileKind::Symlink => u64::try_from(MAX_SYMLINK_BYTES).unwrap_or(0),
        _ => MAX_FILE_BYTES,
    };
    if inode.size > max_size || (inode.kind == FileKind::Symlink && inode.size == 0) {
        return Err(("size", inode.size));
    }
    let has_extents = matches!(inode.kind, FileKind::Regular | FileKind::Symlink) && !has_tree;
    let max_count = if has_extents { MAX_INLINE_EXTENTS } else { 0 };
    if usize::try_from(inode.inline_count).unwrap_or(usize::MAX) > max_count {
        return Err(("inline extent count", u64::from(inode.inline_count)));
    }
    let reach = match inode.kind {
        FileKind::Regular => reach,
        _ => reach.of_pool(),
    };
    if has_extents && inode.inline_count > 0 && inode.collect_inline_extents(reach).is_none() {
        return Err(("inline extents, count", u64::from(inode.inline_count)));
    }
    if inode.kind == FileKind::Directory && inode.parent.raw() == 0 {
        return Err(("parent", 0));
    }
    Ok(())
}

/// The checksum of a link target: its CRC-32C.
pub fn target_checksum(target: &[u8]) -> u32 {
    crc32c::crc32c(target)
}
