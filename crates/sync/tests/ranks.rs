//! The check of lock ranks, in debug builds.
#![cfg(all(debug_assertions, not(any(loom, shuttle))))]

use std::panic::{AssertUnwindSafe, catch_unwind};

use udax_sync::{Mutex, Rank, RwLock, thread, thread_number};

/// Whether `take` panics, with the order in its message.
fn is_refused(take: impl FnOnce()) -> bool {
    let Err(panic) = catch_unwind(AssertUnwindSafe(take)) else {
        return false;
    };
    panic
        .downcast_ref::<String>()
        .is_some_and(|message| message.starts_with("lock order"))
}

#[test]
fn ascending_ranks_and_orders_are_allowed() {
    let low = Mutex::with_order(Rank::Inode, 3, ());
    let higher = Mutex::with_order(Rank::Inode, 4, ());
    let highest = RwLock::new(Rank::Lane, ());
    let _low = low.lock();
    let _higher = higher.lock();
    let _highest = highest.read();
}

#[test]
fn a_lower_rank_is_refused_and_leaves_no_trace() {
    let checkpoint = Mutex::new(Rank::Checkpoint, ());
    let lane = Mutex::new(Rank::Lane, ());
    let held = lane.lock();
    assert!(is_refused(|| drop(checkpoint.lock())));
    drop(held);
    assert!(!is_refused(|| drop(checkpoint.lock())));
    let _both = (checkpoint.lock(), lane.lock());
}

#[test]
fn the_same_or_a_lower_order_within_a_rank_is_refused() {
    let first = RwLock::with_order(Rank::Inode, 1, ());
    let second = RwLock::with_order(Rank::Inode, 2, ());
    let also_second = RwLock::with_order(Rank::Inode, 2, ());
    let _held = second.write();
    assert!(is_refused(|| drop(first.read())));
    assert!(is_refused(|| drop(first.write())));
    assert!(is_refused(|| drop(also_second.read())));
}

#[test]
fn trying_is_free_of_order_but_counts_as_held() {
    let inode = Mutex::new(Rank::Inode, ());
    let lane = Mutex::new(Rank::Lane, ());
    let quarantine = Mutex::new(Rank::Quarantine, ());
    let _quarantine = quarantine.lock();
    let tried = lane.try_lock().expect("free");
    assert!(lane.try_lock().is_none());
    assert!(is_refused(|| drop(inode.lock())));
    drop(tried);
    assert!(is_refused(|| drop(lane.lock())));
}

#[test]
fn guards_may_be_dropped_in_any_order() {
    let first = Mutex::new(Rank::Inode, ());
    let second = Mutex::new(Rank::Lane, ());
    let third = Mutex::new(Rank::Leaf, ());
    let held = first.lock();
    let held_second = second.lock();
    drop(held);
    let held_third = third.lock();
    drop(held_second);
    assert!(is_refused(|| drop(second.lock())));
    drop(held_third);
    assert!(!is_refused(|| drop(first.lock())));
}

#[test]
fn each_thread_has_its_own_stack_and_number() {
    let lane = Mutex::new(Rank::Lane, ());
    let inode = Mutex::new(Rank::Inode, ());
    let _held = lane.lock();
    let here = thread_number();
    assert_eq!(here, thread_number());
    let other = thread::scope(|scope| {
        scope
            .spawn(|| {
                drop(inode.lock());
                thread_number()
            })
            .join()
    });
    assert_ne!(other.expect("no lock is refused there"), here);
}

#[test]
fn a_shared_lock_with_a_deadline_gives_up_and_leaves_no_trace() {
    let soon = || std::time::Instant::now() + std::time::Duration::from_millis(2);
    let lock = RwLock::new(Rank::Invalidate, ());
    let alone = lock.write();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(lock.read_until(soon()).is_none());
            // The rank is not held any more.
            drop(Mutex::new(Rank::Inode, ()).lock());
        });
    });
    assert!(is_refused(|| drop(lock.read_until(soon()))));
    drop(alone);
    assert!(lock.read_until(soon()).is_some());
}

#[test]
fn a_lock_that_is_lent_can_be_shared_and_not_be_had_alone() {
    let lock = RwLock::new(Rank::Inode, 1);
    let mut guard = lock.write();
    *guard = 2;
    let (mut guard, seen) = guard.lend(|value| {
        assert!(lock.try_write().is_none());
        (*value, lock.try_read().map(|seen| *seen))
    });
    assert_eq!(seen, (2, Some(2)));
    assert!(lock.try_read().is_none());
    *guard = 3;
    drop(guard);
    assert_eq!(*lock.read(), 3);
}

#[test]
fn what_is_lent_is_not_waited_for_under_a_higher_lock() {
    let lock = RwLock::new(Rank::Inode, ());
    let higher = Mutex::new(Rank::Shares, ());
    let mut held = None;
    let guard = lock.write();
    assert!(is_refused(|| drop(guard.lend(|()| held = Some(higher.lock())))));
    drop(held);
    drop(lock.write().lend(|()| drop(higher.lock())));
}
