//! The only source of locks, atomics, wait queues and threads in udax.
//!
//! Built on `parking_lot` and `std`; with `--cfg loom` or `--cfg shuttle` on those model checkers' types instead, so
//! that the code that ships is the code that is checked.
//!
//! Every lock has a [`Rank`]. In debug builds each thread keeps a stack of the ranks it holds, and taking a lock whose
//! rank (and, within a rank, whose [`Order`] key) is not above all held ones panics: a deadlock that might happen is
//! found by the first run that could have met it. In release builds ranks cost nothing. `docs/locking.md` lists them.
//!
//! # Model checking
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p udax-sync --test loom
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test -p udax-sync --test shuttle
//! ```
//! loom tries every schedule (and every value that a relaxed load may see) of a small model; shuttle tries random
//! schedules of larger ones. Code under test runs inside `loom::model` or `shuttle::check_random`, with no static locks
//! or atomics. Timed waits are plain waits with loom, and time out at random with shuttle; `thread::scope` and
//! [`on_threads`] are std's and shuttle's only; [`thread_number`] is that of the real thread with loom.

#[cfg(feature = "counted-allocations")]
pub mod allocation;
pub mod atomic;
#[cfg(any(loom, shuttle))]
mod checked;
pub mod fault;
mod mutex;
mod once;
#[cfg(not(loom))]
mod parallel;
mod rank;
pub mod refusal;
mod rwlock;
mod thread_number;
pub mod wait;

pub use crossbeam_utils::CachePadded;
pub use mutex::{Condvar, Mutex, MutexGuard};
pub use once::OnceLock;
#[cfg(not(loom))]
pub use parallel::on_threads;
pub use rank::{Held, Order, Rank};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use thread_number::thread_number;

#[cfg(not(any(loom, shuttle)))]
pub use std::thread;

#[cfg(loom)]
pub use loom::thread;

#[cfg(all(shuttle, not(loom)))]
pub use shuttle::thread;
