//! The roots block: where the trees that belong to no inode begin.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::geometry::ROOTS;
use crate::kinds::{BlockNo, ByteOffset};
use crate::node::TreeRoot;
use crate::seal::{self, Prefix, Seed};
use crate::{BLOCK_SIZE, LINE_SIZE};

/// `uROO`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uROO");

/// A tree that belongs to the pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PoolTree {
    /// Chunk number to the block of the inode chunk.
    InodeTable,
    /// Inode number to nothing: unlinked or half-truncated inodes that the next mount must finish.
    Orphans,
    /// First block of a shared extent to its length and count.
    Shared,
    /// First block of a run that the medium has lost, and that nobody uses, to its length.
    BadBlocks,
}

/// The roots block as it is on media.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawRoots {
    /// Magic number and checksum of the block.
    pub prefix: Prefix,
    /// The block this is.
    pub own_block: U64,
    /// Zero.
    pub reserved0: [u8; 48],
    /// Root node of each [`PoolTree`] (0 when empty), each in a word of its own; then zeros.
    pub roots: [U64; 4],
    /// Zero.
    pub reserved1: [u8; 4000],
}
const _: () = assert!(size_of::<RawRoots>() == BLOCK_SIZE);
const _: () = assert!(std::mem::offset_of!(RawRoots, roots) == LINE_SIZE);

impl PoolTree {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::InodeTable, Self::Orphans, Self::Shared, Self::BadBlocks];

    const fn index(self) -> u64 {
        match self {
            Self::InodeTable => 0,
            Self::Orphans => 1,
            Self::Shared => 2,
            Self::BadBlocks => 3,
        }
    }

    /// Where the tree's root word is: an aligned word that holds a [`TreeRoot`].
    pub const fn root_offset(self) -> ByteOffset {
        ByteOffset(ROOTS.offset().raw() + crate::LINE_BYTES + self.index() * 8)
    }

    /// The kind of the tree's nodes.
    pub const fn kind(self) -> crate::node::TreeKind {
        match self {
            Self::InodeTable => crate::node::TreeKind::InodeTable,
            Self::Orphans => crate::node::TreeKind::Orphans,
            Self::Shared => crate::node::TreeKind::Shared,
            Self::BadBlocks => crate::node::TreeKind::BadBlocks,
        }
    }
}

/// A roots block with these roots in the order of [`PoolTree::ALL`], sealed.
pub fn format(seed: Seed, trees: [TreeRoot; 4]) -> Box<[u8; BLOCK_SIZE]> {
    let mut raw = RawRoots::new_zeroed();
    raw.prefix.magic = U32::new(MAGIC);
    raw.own_block = U64::new(ROOTS.raw());
    raw.roots = trees.map(|root| U64::new(root.word()));
    let mut bytes = Box::new([0; BLOCK_SIZE]);
    bytes.copy_from_slice(raw.as_bytes());
    seal::seal(seed, bytes.as_mut_slice());
    bytes
}

/// Verifies the roots block of a pool of `total_blocks` and gives the roots in the order of [`PoolTree::ALL`].
///
/// # Errors
/// A wrong magic number or checksum, or a root outside the pool.
pub fn verify(seed: Seed, bytes: &[u8; BLOCK_SIZE], total_blocks: u64) -> Result<[TreeRoot; 4], FormatError> {
    const WHAT: &str = "roots block";
    let place = Place::Block(ROOTS);
    seal::verify(seed, bytes, MAGIC, WHAT, place)?;
    let raw = RawRoots::ref_from_bytes(bytes).map_err(|_| FormatError::Field {
        what: WHAT,
        place,
        field: "length",
        value: 0,
    })?;
    let mut roots = [TreeRoot::EMPTY; 4];
    for (root, word) in roots.iter_mut().zip(raw.roots) {
        *root = TreeRoot::from_word(word.get());
        if root
            .block()
            .is_some_and(|block: BlockNo| block.raw() >= total_blocks)
        {
            return Err(FormatError::Field {
                what: WHAT,
                place,
                field: "root",
                value: word.get(),
            });
        }
    }
    Ok(roots)
}
