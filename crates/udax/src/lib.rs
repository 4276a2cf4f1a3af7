//! A persistent-memory DAX filesystem in userspace, as a library.
//!
//! A [`Filesystem`] is an open pool: a file or device, mapped, in which every metadata operation is atomic and durable
//! when it returns, with one fence. [`File`]s read and write their data in place.
//!
//! Inside, from the outside in: [`Filesystem`] and [`File`] translate paths and flags; `namespace` makes, moves and
//! removes names; `file` reads, writes and cuts; `inode` holds what is locked; `extents` maps a file's blocks;
//! `tree` is the B+tree under all of them; `space` is what is free; `sums` are checksums of data; `dax` pins files;
//! `cached` ties files without DAX to the page cache; `update` is one atomic change, which the journal commits; `scrub`
//! looks for what the medium has lost, and `health` knows what that means.
//!
//! Locks are taken in the order of `udax_sync::Rank`; `docs/locking.md` says which lock makes each pair of operations
//! safe. Everything that an operation changes stays locked until its record is durable.
#![forbid(unsafe_code)]

mod bad_blocks;
mod cached;
mod cuts;
mod dax;
mod device;
mod error;
mod extents;
mod file;
mod filesystem;
mod fresh;
mod health;
mod initial;
mod inode;
mod mount;
mod namespace;
mod node;
mod options;
mod orphans;
mod pool;
mod scrub;
mod shares;
mod signature;
mod space;
mod statistics;
mod sums;
mod tier;
mod tree;
mod update;
mod verified;
mod xattr;

pub use bad_blocks::BadRange;
pub use dax::{Obstacle, Waiter};
pub use device::{DamagedHeader, DeviceReport};
pub use error::{Error, Result};
pub use file::File;
pub use filesystem::Filesystem;
pub use health::Damage;
pub use node::{Created, Node};
pub use options::*;
pub use scrub::{ScrubFinding, ScrubKind, ScrubOptions, ScrubReport, ScrubStep};
pub use statistics::Statistics;
pub use udax_dax::{
    Access, Addresses, Cancel, Counters, DaxError, Label, Listed, Mode, PageRange, Piece, Pin, ReadLease,
    Request, Term, Until, WaitError,
};
pub use udax_disk::{Disk, DiskError};
pub use udax_journal::{JournalStatistics, Recovery};
pub use udax_media::inode::FileKind;
pub use udax_media::{InodeNo, Place, Superblock, Timestamp};
pub use udax_pagecache::{Advice, CacheError, Statistics as CacheStatistics};
pub use udax_pmem::{Persistence, Recorder, Region, RegionError, RegionOptions};
