//! When what a writer has unlinked goes: after every reader that may have seen it has unpinned.
//!
//! Readers pin for the length of one call. A writer pins for its whole life, before it takes the lock: pinning can run
//! the destructors of what others have retired, and that must not happen under the lock.

use std::sync::Arc;

use std::fmt;

use crossbeam_epoch::Guard;

use crate::node::Node;
use crate::word::{Kind, Word};

/// While it lives, nothing that could be reached when it was made is freed.
pub(crate) struct Pin(Guard);

/// Several looks together: while it lives, no look of this thread at any array passes a barrier of its own, which is
/// most of what a look costs. What is unlinked meanwhile is not freed before it is gone: do not wait with one.
pub struct ReadSection {
    _pin: Pin,
}

impl ReadSection {
    /// Begins one; they nest.
    #[inline]
    #[must_use]
    pub fn enter() -> Self {
        Self { _pin: Pin::new() }
    }
}

impl fmt::Debug for ReadSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadSection").finish_non_exhaustive()
    }
}

impl Pin {
    #[inline]
    pub(crate) fn new() -> Self {
        Self(crossbeam_epoch::pin())
    }

    /// A writer's. Under loom it also frees what can go, which a thread does once in 128 pins: no model has so many.
    pub(crate) fn of_writer() -> Self {
        let pin = Self::new();
        #[cfg(loom)]
        pin.0.flush();
        pin
    }

    /// Frees a node, not what its slots hold, or gives the count back that an entry holds: later.
    ///
    /// # Safety
    /// The word is from [`Word::from_node`], or from [`Word::from_entry`] with a `T` that is `Send + Sync + 'static`;
    /// it has been unlinked, and is retired once.
    pub(crate) unsafe fn retire<T>(&self, word: Word) {
        match word.kind() {
            Kind::Empty | Kind::Value(_) => {}
            Kind::Node(node) => {
                let free = move || {
                    // SAFETY: everybody who was pinned when the node could be reached has unpinned.
                    unsafe { Node::free(node) }
                };
                // SAFETY: a node holds nothing of one thread, and refers to nothing that ends.
                unsafe { self.0.defer_unchecked(free) }
            }
            Kind::Pointer(object) => {
                let release = move || {
                    // SAFETY: the object is a T of an Arc; nobody takes a further count from the word any more, and
                    // the word's own is given back only here.
                    drop(unsafe { Arc::from_raw(object.cast::<T>().as_ptr()) });
                };
                // SAFETY: the caller says that the object may be dropped on any thread and at any time.
                unsafe { self.0.defer_unchecked(release) }
            }
        }
    }
}
