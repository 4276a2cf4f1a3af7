//! Mutual exclusion with a rank, and condition variables.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crate::rank::{Held, Order, Rank};

#[cfg(not(any(loom, shuttle)))]
use parking_lot as imp;

#[cfg(any(loom, shuttle))]
use crate::checked as imp;

/// A mutual exclusion lock with a rank.
#[derive(Debug)]
pub struct Mutex<T> {
    inner: imp::Mutex<T>,
    #[cfg(debug_assertions)]
    rank: (Rank, Order),
}

/// The lock, held.
#[derive(Debug)]
pub struct MutexGuard<'m, T> {
    inner: imp::MutexGuard<'m, T>,
    _held: Held,
}

impl<T> Mutex<T> {
    /// A lock around `value`, with order 0 in its rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self::with_order(rank, 0, value)
    }

    /// A lock around `value`; locks of one rank are taken in ascending `order`.
    pub fn with_order(rank: Rank, order: Order, value: T) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = (rank, order);
        Self {
            inner: imp::Mutex::new(value),
            #[cfg(debug_assertions)]
            rank: (rank, order),
        }
    }

    #[inline]
    fn rank(&self) -> (Rank, Order) {
        #[cfg(debug_assertions)]
        return self.rank;
        #[cfg(not(debug_assertions))]
        (Rank::Leaf, 0)
    }

    /// Waits for the lock.
    ///
    /// # Panics
    /// In debug builds, when a lock of the same or a higher rank is held.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let (rank, order) = self.rank();
        let held = Held::take(rank, order);
        MutexGuard {
            inner: self.inner.lock(),
            _held: held,
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        let (rank, order) = self.rank();
        Some(MutexGuard {
            inner,
            _held: Held::note(rank, order),
        })
    }

    /// The value, without locking: the borrow proves that nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A queue of threads that wait for a condition of what a [`Mutex`] protects.
#[derive(Debug, Default)]
pub struct Condvar {
    inner: imp::Condvar,
}

impl Condvar {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Releases the lock, waits to be woken, and takes the lock again. May return without a wake.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.inner.wait(&mut guard.inner);
    }

    /// As [`Condvar::wait`], at most until `deadline`. Returns whether the deadline has passed.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        self.inner.wait_until(&mut guard.inner, deadline).timed_out()
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}
