//! Atomic, durable change of many on-media places with one fence.
//!
//! A [`Transaction`] gathers small physical changes in a record. [`Transaction::commit`] stores the record past the
//! cache into a journal *lane*, fences once, and only then applies it in place with plain stores. A checkpoint makes
//! what is in place durable, so that lane space can be used again; recovery replays what no checkpoint has passed.
//!
//! * [`durable`](Durable): what is stored, what is durable; the order "data before the record that publishes
//!   it" as types.
//! * `transaction`: changes gathered in a pooled record buffer.
//! * `lane`: where records go; two halves each, so that one fills while a checkpoint passes the other.
//! * `journal`: commit. `checkpoint`: completing in place, sealing and publishing. `recovery`: replay.
//! * `head`: the two copies of the checkpoint slots. `chain`: reading the records of a half. `apply`: doing what
//!   operations say. `touched`: which lines they did it to.
//! * [`Quarantine`]: freed metadata blocks, until a checkpoint has passed their last record.
//!
//! # Invariants
//! 1. Nothing is stored in place before the record that says so is durable. Any store in place may reach the medium
//!    at any time after that: replay repeats it.
//! 2. A half of a lane is overwritten only when a *published* checkpoint has passed its last record. So every record
//!    after the last published checkpoint can be read at any time, by the checkpoint too, without the lane's lock.
//! 3. A sequence number is taken under a lane's lock, and the lock is held until that record is applied. So who reads
//!    the last number `S` and then takes and releases each lane's lock once knows that all records up to `S`
//!    are applied.
//! 4. Whatever leaves a record's fate unknown (a media error, a panic between its number and its application) stops
//!    the journal: nothing more is written, the next open recovers.
//!
//! # Locks
//! `Checkpoint` (one publisher at a time) is taken before `Lane`. A committer that finds no room holds its lane only
//! while it looks: it releases it *before* it runs or waits for a checkpoint, and then looks again. The
//! checkpoint waits
//! for lanes only, and who holds a lane waits for nothing: no cycle. Looking again may fail when others
//! used the new room; then they made progress. Callers hold the locks of what they change (all of lower rank) across a
//! commit; the checkpoint takes none of those. What ranks above `Lane` (quarantine, allocator) is not held across one.
//!
//! | | commit in the same lane | commit in another lane | checkpoint |
//! |---|---|---|---|
//! | **commit** | the lane's lock | none needed: callers lock what they change; bits are changed atomically | invariants 2 and 3 |
//! | **checkpoint** | invariants 2 and 3 | invariants 2 and 3 | the checkpoint's lock |
//!
//! A checkpoint may seal and flush a block while a later record is applied to it. The seal may then be wrong, and
//! a part of that record may become durable early: both are harmless, because that record is after the checkpoint
//! and so will be replayed, or sealed by the next one. Only the checksum field is stored, never its neighbours.
#![forbid(unsafe_code)]

mod apply;
mod chain;
mod checkpoint;
mod durable;
mod error;
mod head;
mod journal;
mod lane;
mod lost;
mod quarantine;
mod recovery;
mod statistics;
mod touched;
mod transaction;

pub use durable::{Checkpointed, Committed, DataWriter, Durable, Stored};
pub use error::JournalError;
pub use head::{Counters, read_checkpoint};
pub use journal::Journal;
pub use quarantine::Quarantine;
pub use recovery::{Overlay, Recovery, inspect, overlay, recover};
pub use statistics::JournalStatistics;
pub use transaction::Transaction;
