//! Lock ranks and their check.

/// The order in which locks are taken: ascending. `docs/locking.md` says what each protects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// What the pool is and how large: held while it grows.
    Superblock = 5,
    /// Moves of directories, so that none becomes its own ancestor.
    Rename = 10,
    /// One inode's content and attributes; several in ascending inode number.
    Inode = 20,
    /// One mapping's invalidate lock; several in ascending inode number.
    Invalidate = 30,
    /// A DAX entry or folio lock; ascending index.
    Entry = 40,
    /// The tree of share counts.
    Shares = 45,
    /// The tree of orphans.
    Orphans = 50,
    /// The inode table's tree.
    InodeTable = 60,
    /// The tree of bad blocks.
    BadBlocks = 65,
    /// The caches of inodes and directory entries.
    Cache = 70,
    /// The first look at a block of checksums of data.
    Sums = 75,
    /// A flush of the data device.
    Disk = 78,
    /// The publishing of checkpoints.
    Checkpoint = 80,
    /// One journal lane.
    Lane = 90,
    /// Freed blocks that wait for a checkpoint.
    Quarantine = 100,
    /// One allocation group.
    Allocator = 110,
    /// A mapping's index.
    Index = 120,
    /// A store to the medium, and what a recorder is told of it.
    Recorder = 190,
    /// Nothing is taken under it, but for the next.
    Leaf = 200,
    /// The memory of a cache's folios: given back wherever the last user of a folio is.
    Memory = 210,
}

/// The order within a rank: the inode number, the page index, the lane.
pub type Order = u64;

/// What a guard keeps to undo its entry in the thread's stack of held ranks: also for locks that are made elsewhere,
/// such as a bit of a word.
#[derive(Debug)]
pub struct Held {
    #[cfg(debug_assertions)]
    entry: (Rank, Order),
    // A guard belongs to the thread whose stack names it.
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Under a model checker several simulated threads share one real thread: the stack must be the simulated one's.
#[cfg(debug_assertions)]
mod stack {
    use std::cell::RefCell;

    use super::{Order, Rank};

    type Stack = RefCell<Vec<(Rank, Order)>>;

    #[cfg(not(any(loom, shuttle)))]
    thread_local! {
        static STACK: Stack = const { RefCell::new(Vec::new()) };
    }

    #[cfg(loom)]
    loom::thread_local! {
        static STACK: Stack = RefCell::new(Vec::new());
    }

    #[cfg(all(shuttle, not(loom)))]
    shuttle::thread_local! {
        static STACK: Stack = RefCell::new(Vec::new());
    }

    /// Runs `look` on the thread's stack; a thread that is ending has none any more.
    pub(super) fn with(look: impl FnOnce(&mut Vec<(Rank, Order)>)) {
        let _ = STACK.try_with(|stack| look(&mut stack.borrow_mut()));
    }

    /// The highest lock that the thread holds.
    pub(super) fn highest() -> Option<(Rank, Order)> {
        let mut highest = None;
        with(|stack| highest = stack.iter().max().copied());
        highest
    }
}

impl Held {
    /// Notes that the thread takes a lock by waiting for it.
    ///
    /// # Panics
    /// In debug builds, when the thread holds a lock of the same or a higher (rank, order).
    #[inline]
    #[track_caller]
    pub fn take(rank: Rank, order: Order) -> Self {
        #[cfg(debug_assertions)]
        if let Some(held) = stack::highest()
            && held >= (rank, order)
        {
            panic!(
                "lock order: taking {rank:?}/{order} while holding {:?}/{}",
                held.0, held.1
            );
        }
        Self::note(rank, order)
    }

    /// Notes a lock taken without waiting: that cannot deadlock, so its order is free.
    #[inline]
    pub fn note(rank: Rank, order: Order) -> Self {
        #[cfg(debug_assertions)]
        stack::with(|stack| stack.push((rank, order)));
        #[cfg(not(debug_assertions))]
        let _ = (rank, order);
        Self {
            #[cfg(debug_assertions)]
            entry: (rank, order),
            _not_send: std::marker::PhantomData,
        }
    }
}

impl Held {
    /// Notes that the thread waits for what it has a part of already.
    ///
    /// # Panics
    /// In debug builds, when the thread holds a lock of a higher (rank, order).
    #[inline]
    #[track_caller]
    pub(crate) fn assert_highest(&self) {
        #[cfg(debug_assertions)]
        if let Some(held) = stack::highest()
            && held > self.entry
        {
            panic!(
                "lock order: waiting for {:?}/{} while holding {:?}/{}",
                self.entry.0, self.entry.1, held.0, held.1
            );
        }
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        stack::with(|stack| {
            if let Some(at) = stack.iter().rposition(|held| *held == self.entry) {
                stack.remove(at);
            }
        });
    }
}
