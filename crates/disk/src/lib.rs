//! The data device of a pool: a block device or file with the data of files without DAX.
//!
//! [`Disk`] reads and writes any bytes of a [`Medium`], which has whole blocks only: [`BlockMedium`] is a device or
//! file opened with `O_DIRECT` and reached through io_uring, [`MemoryMedium`] one in memory for tests, which loses
//! what was not flushed, [`Unreliable`] one whose requests fail now and then. [`Disk::overlaid`] leaves the medium as
//! it is.
//!
//! # Invariants
//! - What [`Disk::write`] has written is durable when a [`Disk::flush`] that began afterwards has returned, if none has
//!   failed in between ([`Disk::flush_since`]). Not before.
//! - A request that failed tells where; nothing is said of the bytes of a failed write.
//! - Who writes a part of a block excludes others from that block: it is read, changed and written.
//!
//! # Locks
//! `Disk` is held while the device is flushed. Reads and writes take the list of idle rings for a moment.

mod block;
mod buffer;
mod disk;
mod error;
mod memory;
mod overlay;
mod ring;
mod unreliable;

pub use block::{Access, BlockMedium};
pub use buffer::Buffer;
pub use disk::{Disk, Medium, Write};
pub use error::DiskError;
pub use memory::{MemoryMedium, Step, Watcher};
pub use unreliable::{FailedRequests, Unreliable};

/// Bytes of a block: what requests are multiples of.
pub const BLOCK: u64 = 4096;
