//! A sparse concurrent index: from a `u64`, such as a page number, to a 63-bit value or a shared pointer.
//!
//! - An entry covers one index or an aligned power of two of them (its *order*), is found from each of them, and comes
//!   and goes as one.
//! - Entries have three *marks*, by which they are found without looking at others.
//! - Readers take no lock and are never stopped by a writer: [`XArray::load`], [`XArray::range`]. One writer at a time
//!   changes the index: [`XArray::write`].
//! - Memory is in proportion to entries: a node has 64 slots and 640 bytes, and there are no empty nodes.
//!
//! ```
//! use udax_xarray::{Entry, Mark, XArray};
//!
//! let index: XArray = XArray::new(0);
//! let mut writer = index.write();
//! writer.store(512, 9, Entry::Value(7))?;
//! writer.set_mark(600, Mark::One);
//! drop(writer);
//!
//! let found = index.load_value(1023).expect("it covers 512 to 1023");
//! assert_eq!((found.start, found.order, found.entry), (512, 9, 7));
//! assert_eq!(index.range(0..=u64::MAX).marked(Mark::One).count(), 1);
//! # Ok::<(), udax_xarray::StoreError>(())
//! ```
//!
//! # What a reader sees beside a writer
//! Each call sees, for each index, the entry before or after a change, never a mixture. What a call of the writer has
//! changed is seen by calls that begin after it has returned (and are ordered after it, as actions of two threads are).
//! A search over several entries is no snapshot: an entry that is there all the while is met, one that comes, goes or
//! changes its marks meanwhile may be.
//!
//! # Memory
//! What a writer has unlinked is freed when no reader can see it any more, by a later call on any index of the process
//! ([epochs](crossbeam_epoch)); the last few dozen things that a thread has unlinked wait until it unlinks more or
//! ends. So an object may be dropped by any thread that calls anything here: its destructor must not wait, and takes no
//! locks but those of rank `Leaf`.
//!
//! # Modules
//! `word` (what a slot holds), `node`, `search` (walks), `path`, `build` (nodes to be linked), `reclaim` (when what was
//! unlinked goes); above them `array`, `cursor` and `writer`.

mod array;
mod build;
mod cursor;
mod entry;
mod error;
mod node;
mod path;
mod reclaim;
mod search;
mod word;
mod writer;

pub use array::XArray;
pub use cursor::Cursor;
pub use entry::{Entry, Found, MAX_ORDER, MAX_VALUE, Mark};
pub use error::{ExchangeError, SplitError, StoreError};
pub use reclaim::ReadSection;
pub use writer::Writer;

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
