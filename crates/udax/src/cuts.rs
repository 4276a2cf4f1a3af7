//! Files whose truncation failed halfway, as long as the pool is open.
//!
//! Their size is set, but written extents behind it are left: whatever would make such a file longer must free those
//! first, or they could be read. On media they are orphans with a name, which the next mount finishes.
//!
//! Locks: rank Leaf, and none as long as there is no such file. An inode is added and removed under its own lock.

use std::collections::BTreeSet;

use udax_media::InodeNo;
use udax_sync::atomic::{AtomicUsize, Ordering};
use udax_sync::{Mutex, Rank};

/// The inodes of such files.
#[derive(Debug)]
pub(crate) struct Cuts {
    inodes: Mutex<BTreeSet<InodeNo>>,
    /// How many. Relaxed: who asks about an inode has its lock, under which that inode was added.
    count: AtomicUsize,
}

impl Cuts {
    pub(crate) fn new() -> Self {
        Self {
            inodes: Mutex::new(Rank::Leaf, BTreeSet::new()),
            count: AtomicUsize::new(0),
        }
    }

    /// Whether `ino` is one of them.
    #[inline]
    pub(crate) fn contains(&self, ino: InodeNo) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.inodes.lock().contains(&ino)
    }

    /// From now on `ino` is one of them.
    pub(crate) fn insert(&self, ino: InodeNo) {
        if self.inodes.lock().insert(ino) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The truncation of `ino` is finished, or the inode is gone.
    pub(crate) fn remove(&self, ino: InodeNo) {
        if self.contains(ino) && self.inodes.lock().remove(&ino) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
