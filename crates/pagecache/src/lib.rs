//! Files without DAX: their pages in memory, write-back, invalidation, and reclaim.
//!
//! A [`Cache`] has a budget of memory and limits of what may be dirty; each file has a [`Mapping`] in it. Bytes are
//! kept in *folios* of 4 KiB to 2 MiB. Where they come from and go to is the business of a [`Backing`], which the
//! caller lends for one call, with whatever locks it took; flusher threads reach a file through its [`Owner`].
//!
//! # Types and what they guarantee
//! - A folio is in at most one mapping, at one place, until it is *removed*: that happens once, in one function, and
//!   then [`FreeFolio`] is told. Who found it before may go on using its memory, but never its mapping.
//! - Its lock is a bit. Content comes (read, write), its pages become dirty or clean, and it is removed, only with the
//!   folio locked. Bytes are copied out without the lock: a read beside a write of the same bytes may see some of each,
//!   unless the caller excludes that (udax does, by the inode's lock).
//! - Each page of a folio is *uptodate* or not, *dirty* or not, *reserved* or not; the folio's DIRTY flag says that a
//!   page is dirty. Flag and DIRTY mark agree whenever the folio is unlocked and not at the start of a write.
//! - A dirty page has a reservation, unless its backing needed none: to write it back can fail for the medium's sake
//!   but not for lack of space.
//! - What could not be written stays dirty and is tried again; every open file learns of it once ([`ErrorCursor`]). Of
//!   a lack of memory it learns only when a full pass has tried a few times.
//!
//! # Marks of the index
//! DIRTY, TOWRITE (in the snapshot of an integrity pass), WRITEBACK. See the kernel's `include/linux/pagemap.h`, and
//! `writeback_iter` in `mm/page-writeback.c`, whose semantics [`Pass`] has.
//!
//! # Locks
//! What the caller holds (an inode's lock), then a mapping's invalidate lock (two: by number), folios (ascending in
//! their file; of one file at a time), the backing's locks, the index. Nobody waits for write-back with the lock of a
//! folio behind it in the file. Budgets and queues are leaves.
//!
//! | operation | invalidate lock | folio | index |
//! |---|---|---|---|
//! | read of what is there | | | |
//! | read that fills | shared until it is read | new ones locked until they are filled | for a moment |
//! | write over dirty pages | | tried | |
//! | write | shared | each locked for its copy | for a moment |
//! | write-back | | locked until it is under way | for a moment |
//! | end of a write, dropbehind | | tried | for a moment |
//! | truncate | alone | each locked in turn | for a moment |
//! | invalidate | alone | each locked in turn | for a moment |
//! | reclaim | | tried | for a moment |
//! | pin | shared | locked while it is counted; a large one is split | for a split |
//! | collapse | shared, tried | all tried | while they are exchanged |

#[cfg_attr(any(loom, shuttle), path = "arena_plain.rs")]
mod arena;
mod backing;
mod bits;
mod bytes;
mod cache;
mod collapse;
mod dirty_list;
mod dropbehind;
mod error;
mod errseq;
mod fill;
mod flags;
mod flusher;
mod folio;
mod hints;
mod invalidate;
mod locked;
mod mapping;
mod page;
#[cfg(not(any(loom, shuttle)))]
mod page_map;
mod pin;
mod prefetch;
mod queue;
mod read;
mod read_ahead;
mod read_run;
mod reclaim;
mod removal;
mod replace;
mod shortage;
#[cfg(not(any(loom, shuttle)))]
mod slab;
mod split;
mod sync_file;
mod throttle;
mod truncate;
mod write;
mod write_back;
mod write_run;

pub use backing::{Backing, BackingError, FreeFolio, Freed, Owner, Reservations, Reserving, Stability};
pub use cache::{Cache, CacheOptions, Statistics};
pub use error::CacheError;
pub use errseq::{ErrSeq, ErrorCursor};
pub use flags::{ReadFlags, WriteFlags};
pub use flusher::Flusher;
pub use invalidate::Flush;
pub use mapping::Mapping;
pub use page::{MAX_ORDER, PAGE};
pub use pin::{Access, FolioPin};
pub use read_ahead::{Advice, ReadAhead, SharedReadAhead};
pub use read_run::ReadRun;
pub use udax_sync::wait::{Cancel, Mode, Until, WaitError};
pub use write_back::{Control, Integrity, Pass, Span, Written};
pub use write_run::{Piece, WriteRun};

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
