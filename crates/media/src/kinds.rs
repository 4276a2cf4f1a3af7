//! Numbers with a kind, so that a block cannot be passed for an inode or a byte offset.

use std::fmt;

use crate::BLOCK_BYTES;

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            #[inline]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The number `count` further, or `None` past the end of the integer.
            #[inline]
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

kind! {
    /// A block of the pool, counted from its start in units of 4 KiB.
    BlockNo
}
kind! {
    /// A byte of the pool, counted from its start.
    ByteOffset
}
kind! {
    /// A number of bytes.
    ByteLen
}
kind! {
    /// A block of a file, counted from the file's start in units of 4 KiB.
    FileBlock
}
kind! {
    /// An inode's number. The upper bits name its chunk, the lowest four its slot in the chunk.
    InodeNo
}
kind! {
    /// The global order of journal records. 0 is before the first record.
    Sequence
}

impl BlockNo {
    /// The pool offset of the block's first byte. Saturates for block numbers that no pool has.
    #[inline]
    pub const fn offset(self) -> ByteOffset {
        ByteOffset(self.0.saturating_mul(BLOCK_BYTES))
    }
}

impl ByteOffset {
    /// The block that holds this byte.
    #[inline]
    pub const fn block(self) -> BlockNo {
        BlockNo(self.0 / BLOCK_BYTES)
    }

    /// The byte's place inside its block, below 4096.
    #[inline]
    pub const fn in_block(self) -> u64 {
        self.0 % BLOCK_BYTES
    }
}

impl FileBlock {
    /// The file block that holds byte `offset` of the file.
    #[inline]
    pub const fn holding(offset: u64) -> Self {
        Self(offset / BLOCK_BYTES)
    }
}

/// `count` consecutive blocks of the pool from `start`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockRange {
    /// The first block.
    pub start: BlockNo,
    /// How many blocks.
    pub count: u64,
}

impl BlockRange {
    /// The range of `count` blocks from `start`.
    #[inline]
    pub const fn new(start: BlockNo, count: u64) -> Self {
        Self { start, count }
    }

    /// The first block after the range, saturating.
    #[inline]
    pub const fn end(self) -> BlockNo {
        BlockNo(self.start.0.saturating_add(self.count))
    }

    /// Whether `block` is in the range.
    #[inline]
    pub const fn contains(self, block: BlockNo) -> bool {
        block.0 >= self.start.0 && block.0 - self.start.0 < self.count
    }

    /// Whether the two ranges share a block.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.count)
    }
}

/// A point in time: seconds since 1970-01-01 UTC (negative before) and nanoseconds below 10^9.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1_000_000_000.
    pub nanoseconds: u32,
}
