//! The only source of locks, atomics, wait queues and threads in udax.
//!
//! Built on `parking_lot` and `std`; with `--cfg loom` or `--cfg shuttle` on those model checkers' types instead, so
//! that the code that ships is the code that is checked.
//!
//! Every lock has a [`Rank`]. In debug builds each thread keeps a stack of the ranks it holds, and taking a lock whose
//! rank (and, within a rank, whose [`Order`] key) is not above all held ones panics: a deadlock that might happen is
//! found by the first run that could have met it. In release builds ranks cost nothing. `docs/locking.md` lists them.

pub mod atomic;
mod mutex;
mod rank;
mod rwlock;
mod thread_number;

pub use crossbeam_utils::CachePadded;
pub use mutex::{Condvar, Mutex, MutexGuard};
pub use rank::{Order, Rank};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use thread_number::thread_number;

#[cfg(not(any(loom, shuttle)))]
pub use std::thread;

#[cfg(loom)]
pub use loom::thread;

#[cfg(shuttle)]
pub use shuttle::thread;
