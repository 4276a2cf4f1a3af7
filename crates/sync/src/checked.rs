//! The model checkers' locks in the shape of `parking_lot`'s: no poisoning, waits that keep the guard.
//!
//! A checker explores schedules, not time. loom's timed waits are plain waits, which never time out; with shuttle each
//! of them may time out at once, as the schedule has it.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

#[cfg(loom)]
use loom::sync;
#[cfg(all(shuttle, not(loom)))]
use shuttle::sync;

/// A panic while a lock is held ends the check, so a poisoned lock is never met: its value is as good as any.
fn unpoisoned<T>(result: Result<T, std::sync::PoisonError<T>>) -> T {
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// Not held only while it waits.
#[derive(Debug)]
pub(crate) struct MutexGuard<'m, T> {
    mutex: &'m Mutex<T>,
    held: Option<sync::MutexGuard<'m, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            held: Some(unpoisoned(self.0.lock())),
        }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = Some(self.0.try_lock().ok()?);
        Some(MutexGuard { mutex: self, held })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        unpoisoned(self.0.get_mut())
    }

    pub(crate) fn into_inner(self) -> T {
        unpoisoned(self.0.into_inner())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_deref().expect("the guard is waiting")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_deref_mut().expect("the guard is waiting")
    }
}

/// Both checkers' queues lack a common set of traits; this is all that is used of them.
pub(crate) struct Condvar(sync::Condvar);

/// What a timed wait says.
pub(crate) struct WaitResult {
    is_late: bool,
}

impl WaitResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.is_late
    }
}

/// Whether a timed wait is over before anybody has ended it.
#[cfg(loom)]
fn is_late() -> bool {
    false
}

/// Whether a timed wait is over before anybody has ended it: part of the schedule, so that a replay decides the same.
#[cfg(all(shuttle, not(loom)))]
fn is_late() -> bool {
    use shuttle::rand::Rng;

    shuttle::rand::thread_rng().gen_bool(0.5)
}

impl Default for Condvar {
    fn default() -> Self {
        Self(sync::Condvar::new())
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Condvar")
    }
}

impl Condvar {
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.held.take() {
            guard.held = Some(unpoisoned(self.0.wait(held)));
        }
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _deadline: Instant) -> WaitResult {
        let is_late = is_late();
        if is_late {
            guard.held = None;
            // Others may change what is waited for in the meantime.
            crate::thread::yield_now();
            guard.held = Some(unpoisoned(guard.mutex.0.lock()));
        } else {
            self.wait(guard);
        }
        WaitResult { is_late }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Who has it alone, or may have it so without waiting for more than readers, has `alone` too.
#[derive(Debug)]
pub(crate) struct RwLock<T> {
    alone: sync::Mutex<()>,
    inner: sync::RwLock<T>,
}

pub(crate) use sync::RwLockReadGuard;

/// Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct RwLockWriteGuard<'l, T> {
    inner: sync::RwLockWriteGuard<'l, T>,
    alone: sync::MutexGuard<'l, ()>,
    lock: &'l RwLock<T>,
}

#[derive(Debug)]
pub(crate) struct RwLockUpgradableReadGuard<'l, T> {
    inner: RwLockReadGuard<'l, T>,
    alone: sync::MutexGuard<'l, ()>,
    lock: &'l RwLock<T>,
}

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            alone: sync::Mutex::new(()),
            inner: sync::RwLock::new(value),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        unpoisoned(self.inner.read())
    }

    pub(crate) fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.inner.try_read().ok()
    }

    pub(crate) fn try_read_until(&self, _deadline: Instant) -> Option<RwLockReadGuard<'_, T>> {
        Some(self.read())
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        let alone = unpoisoned(self.alone.lock());
        RwLockWriteGuard {
            inner: unpoisoned(self.inner.write()),
            alone,
            lock: self,
        }
    }

    pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let alone = self.alone.try_lock().ok()?;
        Some(RwLockWriteGuard {
            inner: self.inner.try_write().ok()?,
            alone,
            lock: self,
        })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        unpoisoned(self.inner.get_mut())
    }
}

impl<'l, T> RwLockWriteGuard<'l, T> {
    pub(crate) fn downgrade_to_upgradable(guard: Self) -> RwLockUpgradableReadGuard<'l, T> {
        let Self { inner, alone, lock } = guard;
        drop(inner);
        RwLockUpgradableReadGuard {
            inner: lock.read(),
            alone,
            lock,
        }
    }
}

impl<'l, T> RwLockUpgradableReadGuard<'l, T> {
    pub(crate) fn upgrade(guard: Self) -> RwLockWriteGuard<'l, T> {
        let Self { inner, alone, lock } = guard;
        drop(inner);
        RwLockWriteGuard {
            inner: unpoisoned(lock.inner.write()),
            alone,
            lock,
        }
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Deref for RwLockUpgradableReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}
