//! When what a writer has unlinked goes: after every reader that may have seen it has unpinned.
//!
//! Readers pin for the length of one call. A writer pins for its whole life, before it takes the lock: pinning can run
//! the destructors of what others have retired, and that must not happen under the lock.

use std::sync::Arc;

use crossbeam_epoch::Guard;

use crate::node::Node;
use crate::word::{Kind, Word};

/// While it lives, nothing that could be reached when it was made is freed.
pub(crate) struct Pin(Guard);

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
