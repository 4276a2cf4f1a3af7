//! Extents: runs of a file's blocks that are consecutive in the pool.
//!
//! In the extent tree the key is the first file block and the value 16 bytes; up to four extents of a file without a
//! tree are in its inode, each with its key before the value (24 bytes).

use crate::device::Reach;
use crate::kinds::{BlockNo, BlockRange, FileBlock};

/// Bytes of an extent as a tree's value.
pub const VALUE_SIZE: usize = 16;
/// Bytes of an extent in an inode.
pub const INLINE_SIZE: usize = 24;
/// The most blocks of one extent.
pub const MAX_EXTENT_BLOCKS: u64 = 1 << 32;

const BLOCK_MASK: u64 = (1 << 47) - 1;

bitflags::bitflags! {
    /// What is special about an extent: the upper bits of its first word.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct ExtentFlags: u64 {
        /// Allocated, but reads as zeros: nothing has been written.
        const UNWRITTEN = 1 << 60;
        /// May also belong to another file: written only after a copy.
        const SHARED = 1 << 61;
        /// The sum table has the checksum of each of its blocks, which are never stored to in place.
        const SUMMED = 1 << 62;
    }
}

impl ExtentFlags {
    /// These, of blocks that read as zeros: such have no sums.
    #[must_use]
    pub const fn as_unwritten(self) -> Self {
        self.difference(Self::SUMMED).union(Self::UNWRITTEN)
    }
}

/// A run of a file's blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// The first file block.
    pub first: FileBlock,
    /// The first pool block.
    pub start: BlockNo,
    /// How many blocks, 1 to [`MAX_EXTENT_BLOCKS`].
    pub count: u64,
    /// What is special about it.
    pub flags: ExtentFlags,
}

impl Extent {
    /// The pool blocks.
    pub const fn blocks(&self) -> BlockRange {
        BlockRange::new(self.start, self.count)
    }

    /// The first file block after it.
    pub const fn end(&self) -> FileBlock {
        FileBlock(self.first.raw().saturating_add(self.count))
    }

    /// Whether it holds nothing but zeros by definition.
    pub const fn is_unwritten(&self) -> bool {
        self.flags.contains(ExtentFlags::UNWRITTEN)
    }

    /// Whether its blocks may have other owners too.
    pub const fn is_shared(&self) -> bool {
        self.flags.contains(ExtentFlags::SHARED)
    }

    /// Whether its blocks have sums.
    pub const fn is_summed(&self) -> bool {
        self.flags.contains(ExtentFlags::SUMMED)
    }

    /// The tree's value.
    pub fn encode(&self) -> [u8; VALUE_SIZE] {
        let word = (self.start.raw() & BLOCK_MASK) | self.flags.bits();
        let mut bytes = [0; VALUE_SIZE];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&word.to_le_bytes());
        second.copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    /// The form in an inode: key and value.
    pub fn encode_inline(&self) -> [u8; INLINE_SIZE] {
        let mut bytes = [0; INLINE_SIZE];
        let (key, value) = bytes.split_at_mut(8);
        key.copy_from_slice(&self.first.raw().to_le_bytes());
        value.copy_from_slice(&self.encode());
        bytes
    }

    /// The extent with key `first` and this value; `None` when it is empty, too long, has unknown flags or sums of
    /// what was not written or is on the data device, ends past the largest file, or is of blocks that there are not.
    pub fn decode(first: FileBlock, value: &[u8], reach: impl Into<Reach>) -> Option<Self> {
        let (word, rest) = value.split_first_chunk::<8>()?;
        let word = u64::from_le_bytes(*word);
        let count = u64::from_le_bytes(rest.try_into().ok()?);
        let start = BlockNo(word & BLOCK_MASK);
        let flags = ExtentFlags::from_bits(word & !BLOCK_MASK)?;
        let extent = Self {
            first,
            start,
            count,
            flags,
        };
        let is_sound = !flags.contains(ExtentFlags::SUMMED.union(ExtentFlags::UNWRITTEN))
            && (1..=MAX_EXTENT_BLOCKS).contains(&count)
            && start.raw() != 0
            && reach.into().contains(extent.blocks())
            && !(start.is_on_device() && flags.contains(ExtentFlags::SUMMED))
            && first.raw() < 1 << 51
            && extent.end().raw() <= 1 << 51;
        is_sound.then_some(extent)
    }

    /// The extent in an inode.
    pub fn decode_inline(bytes: &[u8; INLINE_SIZE], reach: impl Into<Reach>) -> Option<Self> {
        let (key, value) = bytes.split_first_chunk::<8>()?;
        Self::decode(FileBlock(u64::from_le_bytes(*key)), value, reach)
    }
}
