//! The on-media format of udax: bytes in, types out, no input or output.
//!
//! Every structure that reaches a pool is declared here, once, with its offsets asserted at compile time.
//! `docs/FORMAT.md` describes the same bytes in words and is tested against this code.
//!
//! * [`kinds`]: numbers with a meaning ([`BlockNo`], [`InodeNo`], [`ByteOffset`], ...).
//! * [`superblock`], [`segment`], [`geometry`], [`device`]: where things are in a pool and on its data device.
//! * [`seal`]: the checksum that every metadata unit carries, how it is set and verified.
//! * [`bitmap`], [`inode`], [`extent`], [`node`], [`dentry`], [`xattr`], [`roots`], [`pool_tree`], [`sum`]: metadata
//!   blocks and what is in them.
//! * [`checkpoint`], [`record`]: the journal's head and its records.
//!
//! Invariants: all integers are little-endian; a structure is turned into a trusted type only by its verifying
//! constructor, which checks the checksum and each field's range; no input, however damaged, makes this crate
//! panic, allocate without bound or loop without bound.
#![forbid(unsafe_code)]

pub mod bitmap;
pub mod checkpoint;
pub mod dentry;
pub mod device;
pub mod extent;
pub mod geometry;
pub mod inode;
pub mod kinds;
pub mod name;
pub mod node;
pub mod pool_tree;
pub mod record;
pub mod roots;
pub mod seal;
pub mod segment;
pub mod sum;
pub mod superblock;
pub mod xattr;

mod error;

pub use device::{DEVICE_START, Reach};
pub use error::{FormatError, Place};
pub use geometry::Geometry;
pub use kinds::{BlockNo, BlockRange, ByteLen, ByteOffset, FileBlock, InodeNo, Sequence, Timestamp};
pub use superblock::Superblock;

/// Bytes in a block, the unit of allocation.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes in a block, as an offset or length.
pub const BLOCK_BYTES: u64 = 4096;
/// Bytes in a cache line, the unit of flushing.
pub const LINE_SIZE: usize = 64;
/// Bytes in a cache line, as an offset or length.
pub const LINE_BYTES: u64 = 64;
/// Blocks in a 2 MiB huge page.
pub const HUGE_BLOCKS: u64 = 512;
/// The smallest pool, in bytes.
pub const MIN_POOL_BYTES: u64 = 16 << 20;
/// The largest pool, in bytes (1 PiB: what a journal write's offset can name).
pub const MAX_POOL_BYTES: u64 = 1 << 50;
/// The longest name of a directory entry, in bytes (POSIX `NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;
/// The longest symbolic link target, in bytes (`PATH_MAX` less the terminator).
pub const MAX_SYMLINK_BYTES: usize = 4095;
/// The largest file, in bytes (`i64::MAX`).
pub const MAX_FILE_BYTES: u64 = (1 << 63) - 1;
