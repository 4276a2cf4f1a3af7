//! Shared and exclusive locking with a rank.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crate::rank::{Held, Order, Rank};

#[cfg(not(any(loom, shuttle)))]
use parking_lot as imp;

#[cfg(any(loom, shuttle))]
use crate::checked as imp;

/// A lock that many may share or one may have, with a rank.
#[derive(Debug)]
pub struct RwLock<T> {
    inner: imp::RwLock<T>,
    #[cfg(debug_assertions)]
    rank: (Rank, Order),
}

/// The lock, shared.
#[derive(Debug)]
pub struct ReadGuard<'l, T> {
    inner: imp::RwLockReadGuard<'l, T>,
    _held: Held,
}

/// The lock, held alone.
#[derive(Debug)]
pub struct WriteGuard<'l, T> {
    inner: imp::RwLockWriteGuard<'l, T>,
    _held: Held,
}

impl<T> RwLock<T> {
    /// A lock around `value`, with order 0 in its rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self::with_order(rank, 0, value)
    }

    /// A lock around `value`; locks of one rank are taken in ascending `order`.
    pub fn with_order(rank: Rank, order: Order, value: T) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = (rank, order);
        Self {
            inner: imp::RwLock::new(value),
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

    /// Waits to share the lock.
    ///
    /// # Panics
    /// In debug builds, when a lock of the same or a higher rank is held.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let (rank, order) = self.rank();
        let held = Held::take(rank, order);
        ReadGuard {
            inner: self.inner.read(),
            _held: held,
        }
    }

    /// Shares the lock if nobody has it alone.
    #[inline]
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let inner = self.inner.try_read()?;
        let (rank, order) = self.rank();
        Some(ReadGuard {
            inner,
            _held: Held::note(rank, order),
        })
    }

    /// As [`RwLock::read`], at most until `deadline`.
    ///
    /// # Panics
    /// As [`RwLock::read`].
    #[track_caller]
    pub fn read_until(&self, deadline: Instant) -> Option<ReadGuard<'_, T>> {
        let (rank, order) = self.rank();
        let held = Held::take(rank, order);
        Some(ReadGuard {
            inner: self.inner.try_read_until(deadline)?,
            _held: held,
        })
    }

    /// Waits to have the lock alone.
    ///
    /// # Panics
    /// In debug builds, when a lock of the same or a higher rank is held.
    #[inline]
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        let (rank, order) = self.rank();
        let held = Held::take(rank, order);
        WriteGuard {
            inner: self.inner.write(),
            _held: held,
        }
    }

    /// Takes the lock alone if nobody has it.
    #[inline]
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let inner = self.inner.try_write()?;
        let (rank, order) = self.rank();
        Some(WriteGuard {
            inner,
            _held: Held::note(rank, order),
        })
    }

    /// The value, without locking: the borrow proves that nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T> WriteGuard<'_, T> {
    /// Does `work` while others may share the lock, and nobody may have it alone; then waits for them.
    ///
    /// # Panics
    /// In debug builds, when a lock of a higher rank is held after `work`: who shares this one may wait for it.
    #[track_caller]
    pub fn lend<R>(self, work: impl FnOnce(&T) -> R) -> (Self, R) {
        let Self { inner, _held } = self;
        let lent = imp::RwLockWriteGuard::downgrade_to_upgradable(inner);
        let result = work(&lent);
        _held.assert_highest();
        let inner = imp::RwLockUpgradableReadGuard::upgrade(lent);
        (Self { inner, _held }, result)
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
