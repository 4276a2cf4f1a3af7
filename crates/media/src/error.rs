//! What is wrong with bytes that do not follow the format, and where.

use std::fmt;

use crate::MIN_POOL_BYTES;
use crate::kinds::{BlockNo, ByteOffset, InodeNo};

/// Where in a pool something is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// A block.
    Block(BlockNo),
    /// A byte.
    Byte(ByteOffset),
    /// An inode.
    Inode(InodeNo),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => write!(f, "block {block} (byte {})", block.offset()),
            Self::Byte(offset) => write!(f, "byte {offset}"),
            Self::Inode(ino) => write!(f, "inode {ino}"),
        }
    }
}

/// Bytes that are not what the format says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The unit does not start with the magic number of what it should be.
    #[error("{what} at {place}: magic number {found:#010x}, expected {expected:#010x}")]
    Magic {
        /// The structure expected.
        what: &'static str,
        /// Where.
        place: Place,
        /// The magic number read.
        found: u32,
        /// The magic number expected.
        expected: u32,
    },
    /// The checksum does not match the bytes.
    #[error("{what} at {place}: checksum {stored:#010x}, but its bytes give {computed:#010x}")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// Where.
        place: Place,
        /// The checksum stored in it.
        stored: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// A field has a value that it cannot have.
    #[error("{what} at {place}: {field} is {value}")]
    Field {
        /// The structure.
        what: &'static str,
        /// Where.
        place: Place,
        /// The field and, where it helps, its limit.
        field: &'static str,
        /// The value read.
        value: u64,
    },
    /// Fewer bytes than the smallest pool has.
    #[error("{found} bytes are too few for a pool: the smallest has {MIN_POOL_BYTES} (16 MiB)")]
    TooSmall {
        /// Bytes there are.
        found: u64,
    },
    /// The file was cut short, or the device is a smaller one.
    #[error("the pool has {pool} bytes, but only {found} of them are there")]
    Cut {
        /// Bytes that the superblock says.
        pool: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A format that came later.
    #[error("superblock: the pool has format {found}, this udax knows format {known}; a newer version of udax is needed",
        known = crate::superblock::VERSION)]
    Newer {
        /// The format's major version.
        found: u16,
    },
    /// A feature this version does not know.
    #[error("superblock: unknown {set} feature bits {bits:#x}; a newer version of udax is needed")]
    UnknownFeature {
        /// `incompat` or `ro_compat`.
        set: &'static str,
        /// The unknown bits.
        bits: u64,
    },
}

impl FormatError {
    /// Why there is no pool in `region_bytes` where both superblocks fail: that bytes are missing explains the rest.
    pub fn of_superblocks(first: Self, second: Self, region_bytes: u64) -> Self {
        match (first, second) {
            (cut @ Self::Cut { .. }, _) | (_, cut @ Self::Cut { .. }) => cut,
            _ if region_bytes < MIN_POOL_BYTES => Self::TooSmall { found: region_bytes },
            (first, _) => first,
        }
    }
}
