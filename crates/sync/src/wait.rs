//! Waiting: hashed queues as the kernel's entry and folio locks have them, and how a wait may end early.
//!
//! [`WaitTable`] has queues by the hash of a [`WaitKey`]; a wake looks at waiters of its own key only, so that keys
//! that meet in a queue neither wake nor swallow each other's. *Exclusive* waiters promise to lock what they waited
//! for, or to wake the next; others may never come back. [`Until`] and [`Cancel`] end waits of callers.
//!
//! Invariants: a waiter enqueues under the lock under which it found out that it must wait, and a waker changes the
//! state before it looks at the queue, so that no wake is lost. Locks: queue and ticket are leaves, never nested.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::atomic::{AtomicUsize, Ordering};
use crate::{CachePadded, Condvar, Mutex, Rank};

/// Queues of a table. Few enough to be small, many enough that strangers seldom meet.
const QUEUES: usize = if cfg!(loom) { 2 } else { 256 };

/// What is waited for.
pub trait WaitKey: Copy + PartialEq {
    /// A number that keys should rarely share: it chooses the queue.
    fn number(self) -> u64;
}

fn queue_of(key: impl WaitKey) -> usize {
    // Fibonacci hashing: neighbours spread, as the high bits of the product depend on all others.
    let hash = key.number().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
    usize::try_from(hash).unwrap_or(0) % QUEUES
}

/// Who is woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// One exclusive waiter, and all others: what they waited for is still there.
    Next,
    /// All of them: it is gone.
    All,
}

/// Whether a waiter promises to lock what it waited for or to wake the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// It does.
    Exclusive,
    /// It does not, and may never come back.
    None,
}

#[derive(Debug)]
struct Ticket {
    called: Mutex<Called>,
    condvar: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Called {
    No,
    Woken,
    Cancelled,
}

impl Ticket {
    fn call(&self, called: Called) {
        let mut now = self.called.lock();
        if *now == Called::No {
            *now = called;
            self.condvar.notify_all();
        }
    }
}

#[derive(Debug)]
struct Waiter<K> {
    key: K,
    promise: Promise,
    ticket: Arc<Ticket>,
}

#[derive(Debug)]
struct Queue<K> {
    /// As many as `waiters` has; read without the lock, so that a wake of nobody costs a load.
    len: AtomicUsize,
    waiters: Mutex<Vec<Waiter<K>>>,
}

/// Queues of waiting threads.
#[derive(Debug)]
pub struct WaitTable<K> {
    queues: Box<[CachePadded<Queue<K>>]>,
}

impl<K: WaitKey> Default for WaitTable<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: WaitKey> WaitTable<K> {
    /// A table in which nobody waits.
    pub fn new() -> Self {
        let queue = |_| {
            CachePadded::new(Queue {
                len: AtomicUsize::new(0),
                waiters: Mutex::new(Rank::Leaf, Vec::new()),
            })
        };
        Self {
            queues: (0..QUEUES).map(queue).collect(),
        }
    }

    /// Joins the queue; what is waited for is looked at before, under a lock, or after.
    pub fn enqueue(&self, key: K, promise: Promise) -> Waiting<'_, K> {
        let ticket = Arc::new(Ticket {
            called: Mutex::new(Rank::Leaf, Called::No),
            condvar: Condvar::new(),
        });
        let queue = &self.queues[queue_of(key)];
        let mut waiters = queue.waiters.lock();
        waiters.push(Waiter {
            key,
            promise,
            ticket: Arc::clone(&ticket),
        });
        // Pairs with the Acquire in `WaitTable::wake`.
        queue.len.store(waiters.len(), Ordering::Release);
        drop(waiters);
        Waiting { queue, ticket }
    }

    /// Wakes waiters for `key`, in the order in which they came.
    pub fn wake(&self, key: K, wake: Wake) {
        let queue = &self.queues[queue_of(key)];
        // Pairs with the Release in `WaitTable::enqueue`; that it is not too early is the waker's lock's doing.
        if queue.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut woken = SmallVec::<[Arc<Ticket>; 4]>::new();
        let mut waiters = queue.waiters.lock();
        let mut exclusive = 0;
        waiters.retain(|waiter| {
            if waiter.key != key
                || (wake == Wake::Next && exclusive > 0 && waiter.promise == Promise::Exclusive)
            {
                return true;
            }
            if waiter.promise == Promise::Exclusive {
                exclusive += 1;
            }
            woken.push(Arc::clone(&waiter.ticket));
            false
        });
        queue.len.store(waiters.len(), Ordering::Release);
        drop(waiters);
        for ticket in woken {
            ticket.call(Called::Woken);
        }
    }

    /// Waits, with nothing promised, until `is_blocked` says no; it is asked while the place in the queue is held.
    ///
    /// # Errors
    /// The caller's patience ended first.
    pub fn wait_while(
        &self,
        key: K,
        until: &Until,
        mut is_blocked: impl FnMut() -> bool,
    ) -> Result<(), WaitError> {
        loop {
            let waiting = self.enqueue(key, Promise::None);
            if !is_blocked() {
                return Ok(());
            }
            waiting.wait_until(until)?;
        }
    }

    /// How many wait for `key`.
    pub fn waiting(&self, key: K) -> usize {
        let waiters = self.queues[queue_of(key)].waiters.lock();
        waiters.iter().filter(|waiter| waiter.key == key).count()
    }
}

/// A place in a queue.
#[derive(Debug)]
pub struct Waiting<'t, K: WaitKey> {
    queue: &'t Queue<K>,
    ticket: Arc<Ticket>,
}

impl<K: WaitKey> Waiting<'_, K> {
    /// Waits to be woken.
    pub fn wait(self) {
        let mut called = self.ticket.called.lock();
        while *called == Called::No {
            self.ticket.condvar.wait(&mut called);
        }
    }

    /// Waits to be woken, or until the caller's patience ends.
    ///
    /// # Errors
    /// It ended first, and no wake had chosen this waiter.
    pub fn wait_until(self, until: &Until) -> Result<(), WaitError> {
        if let Some(cancel) = &until.cancel
            && !cancel.attach(&self.ticket)
        {
            return self.give_up(WaitError::Cancelled);
        }
        let called = self.sleep(until.deadline);
        if let Some(cancel) = &until.cancel {
            cancel.detach(&self.ticket);
        }
        match called {
            Called::Woken => Ok(()),
            Called::Cancelled => self.give_up(WaitError::Cancelled),
            Called::No => self.give_up(WaitError::TimedOut),
        }
    }

    fn sleep(&self, deadline: Option<Instant>) -> Called {
        let mut called = self.ticket.called.lock();
        let mut is_late = false;
        while *called == Called::No && !is_late {
            match deadline {
                Some(deadline) => is_late = self.ticket.condvar.wait_until(&mut called, deadline),
                None => self.ticket.condvar.wait(&mut called),
            }
        }
        *called
    }

    /// Ends the wait early, unless a wake has chosen this waiter: then it counts, or it would be lost to the others.
    fn give_up(&self, error: WaitError) -> Result<(), WaitError> {
        if self.leave() { Err(error) } else { Ok(()) }
    }

    /// Leaves the queue; whether it was still in there.
    fn leave(&self) -> bool {
        let mut waiters = self.queue.waiters.lock();
        let before = waiters.len();
        waiters.retain(|waiter| !Arc::ptr_eq(&waiter.ticket, &self.ticket));
        self.queue.len.store(waiters.len(), Ordering::Release);
        waiters.len() < before
    }
}

impl<K: WaitKey> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// [`Cancel::cancel`] was called.
    #[error("cancelled")]
    Cancelled,
}

/// How long a caller waits: by default, for ever.
#[derive(Clone, Default, Debug)]
pub struct Until {
    /// Not beyond this moment.
    pub deadline: Option<Instant>,
    /// Not beyond its cancellation.
    pub cancel: Option<Cancel>,
}

impl Until {
    /// However long it takes.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Until `deadline`.
    pub fn deadline(deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            cancel: None,
        }
    }

    /// Until `cancel` is cancelled.
    pub fn cancelled(cancel: Cancel) -> Self {
        Self {
            deadline: None,
            cancel: Some(cancel),
        }
    }
}

/// Whether an operation waits.
#[derive(Clone, Debug)]
pub enum Mode {
    /// What would wait is an error at once.
    NoWait,
    /// It waits so long.
    Until(Until),
}

impl Mode {
    /// Waits however long it takes.
    pub fn wait() -> Self {
        Self::Until(Until::forever())
    }

    /// Waits until `deadline`.
    pub fn deadline(deadline: Instant) -> Self {
        Self::Until(Until::deadline(deadline))
    }

    /// Waits until `cancel` is cancelled.
    pub fn cancelled(cancel: Cancel) -> Self {
        Self::Until(Until::cancelled(cancel))
    }
}

/// Ends waits from another thread, in the place of a signal. Clones are the same token.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Mutex<Cancelled>>);

#[derive(Debug, Default)]
struct Cancelled {
    is_cancelled: bool,
    waits: Vec<Arc<Ticket>>,
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

impl Cancel {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Rank::Leaf, Cancelled::default())))
    }

    /// Ends all waits that have this token, now and later.
    pub fn cancel(&self) {
        let mut state = self.0.lock();
        state.is_cancelled = true;
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        for ticket in waits {
            ticket.call(Called::Cancelled);
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().is_cancelled
    }

    fn attach(&self, ticket: &Arc<Ticket>) -> bool {
        let mut state = self.0.lock();
        if !state.is_cancelled {
            state.waits.push(Arc::clone(ticket));
        }
        !state.is_cancelled
    }

    fn detach(&self, ticket: &Arc<Ticket>) {
        self.0
            .lock()
            .waits
            .retain(|waiting| !Arc::ptr_eq(waiting, ticket));
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Key(u64);

    impl WaitKey for Key {
        fn number(self) -> u64 {
            self.0
        }
    }

    fn called(waiting: &Waiting<'_, Key>) -> bool {
        *waiting.ticket.called.lock() == Called::Woken
    }

    #[test]
    fn inv_11_keys_of_one_queue_do_not_wake_each_other_nor_swallow_a_wake() {
        let table = WaitTable::new();
        let other = (1..)
            .find(|start| queue_of(Key(*start)) == queue_of(Key(0)))
            .unwrap();
        let stranger = table.enqueue(Key(other), Promise::Exclusive);
        let waiter = table.enqueue(Key(0), Promise::Exclusive);
        table.wake(Key(0), Wake::Next);
        assert!(called(&waiter) && !called(&stranger));
        assert_eq!(table.waiting(Key(other)), 1);
    }

    #[test]
    fn inv_08_a_waiter_without_a_promise_does_not_take_the_wake_of_another() {
        let table = WaitTable::new();
        let key = Key(1);
        let careless = table.enqueue(key, Promise::None);
        let first = table.enqueue(key, Promise::Exclusive);
        let second = table.enqueue(key, Promise::Exclusive);
        table.wake(key, Wake::Next);
        assert!(called(&careless) && called(&first) && !called(&second));
        table.wake(key, Wake::All);
        assert!(called(&second));
    }

    #[test]
    fn inv_05_a_wake_that_has_chosen_who_gives_up_is_not_lost() {
        let table = WaitTable::new();
        let key = Key(1);
        let impatient = table.enqueue(key, Promise::Exclusive);
        let _next = table.enqueue(key, Promise::Exclusive);
        impatient.ticket.call(Called::Cancelled);
        table.wake(key, Wake::Next);
        // It goes on, locks, and its unlocking wakes the next.
        assert_eq!(impatient.wait_until(&Until::forever()), Ok(()));
        assert_eq!(table.waiting(key), 1);
    }

    #[test]
    fn a_cancelled_wait_leaves_no_trace() {
        let table = WaitTable::new();
        let cancel = Cancel::new();
        let waiting = table.enqueue(Key(3), Promise::None);
        cancel.cancel();
        let result = waiting.wait_until(&Until::cancelled(cancel));
        assert_eq!(result, Err(WaitError::Cancelled));
        assert_eq!(table.waiting(Key(3)), 0);
    }
}
