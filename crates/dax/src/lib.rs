//! Files reached by memory access: entries, frames, pins, write-back, and the breaking of layouts.
//!
//! A [`Device`] has the frames, a [`Mapping`] one file's entries. [`Mapping::pin`] keeps pages where they are while
//! something outside points to them; whoever changes which blocks a range has gets a [`Broken`] first, for which
//! [`Mapping::break_layout`] waits until no page of the range is pinned. The filesystem says where pages are through
//! [`Extents`]; address spaces are views, reached through [`Unmap`].
//!
//! # Locks
//! The caller's inode lock, then a mapping's invalidate lock (two: by number), then entries (ascending), then the
//! index. Pins are waited for without any of this crate's locks. See `docs/locking.md`.
//!
//! # Model checking
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p udax-dax --test loom
//! ```

mod breaking;
mod device;
mod entry;
mod entry_lock;
mod error;
mod extents;
mod fault;
mod frames;
mod gate;
mod index;
mod lease;
mod list;
mod mapping;
mod pair;
mod pin;
mod pinning;
mod range;
mod removal;
mod statistics;
mod views;
mod wait;
mod waiting;
mod write_back;

pub use breaking::{Attempt, Broken, Busy, Fate};
pub use device::Device;
pub use entry::{Entry, PMD_ORDER, Size};
pub use error::DaxError;
pub use extents::{Content, Copies, Extent, Extents, Unmap};
pub use fault::{Fault, Faulted};
pub use frames::{Access, Owner};
pub use lease::{ReadLease, Refused, WriteTicket};
pub use list::{Label, Listed, Term};
pub use mapping::Mapping;
pub use pair::{BrokenPair, Target, break_two, try_break_two};
pub use pin::{Addresses, Piece, Pin};
pub use pinning::Request;
pub use range::{PAGE, PageRange};
pub use statistics::Counters;
pub use wait::{Cancel, Mode, Until, WaitError};
