//! What an open pool tells of itself.

use std::time::Duration;

use udax::{Access, Filesystem, Obstacle, Statistics, Waiter};

use crate::cached::open_quiet;
use crate::pins::{BLOCK, filled, pin, until};
use crate::pool::{MIB, TestPool, open};

fn waiters(fs: &Filesystem) -> Vec<Waiter> {
    fs.statistics().waiters
}

#[test]
fn who_waits_for_a_pin_is_listed_until_it_goes() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8);
    let ino = file.stat().unwrap().ino.raw();
    let held = pin(&file, 5, 2, Access::Write);
    assert_eq!(waiters(&fs), []);
    std::thread::scope(|scope| {
        let truncation = scope.spawn(|| file.truncate(BLOCK));
        until(|| !waiters(&fs).is_empty());
        let Statistics { waiters, pins, .. } = fs.statistics();
        let [waiter] = waiters.try_into().unwrap();
        assert_eq!((waiter.operation, waiter.file, waiter.page), ("truncate", ino, 5));
        assert_eq!(waiter.obstacle, Obstacle::Pin);
        assert_eq!((pins.len(), pins[0].file), (1, ino));
        let begin = waiter.age;
        until(|| {
            self::waiters(&fs)
                .first()
                .is_some_and(|waiter| waiter.age > begin)
        });
        drop(held);
        truncation.join().unwrap().unwrap();
    });
    let after = fs.statistics();
    assert_eq!((after.waiters.len(), after.pins.len()), (0, 0));
    // One for each page that it wakes up for.
    assert!((1..=2).contains(&after.dax.waits), "{}", after.dax.waits);
}

#[test]
fn the_journal_fills_until_a_checkpoint() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    fs.sync().unwrap();
    let before = fs.statistics().journal;
    assert_eq!(
        (before.records, before.used_bytes, before.fullest_lane_bytes),
        (0, 0, 0)
    );
    for name in ["/a", "/b", "/c"] {
        open(&fs, name);
    }
    let filled = fs.statistics().journal;
    assert_eq!(filled.records, 3);
    assert_eq!(filled.committed, before.committed + 3);
    assert!(filled.used_bytes >= 3 * 64 && filled.used_bytes <= filled.capacity_bytes);
    assert!(filled.fullest_lane_bytes * filled.lanes >= filled.used_bytes);
    fs.sync().unwrap();
    let after = fs.statistics().journal;
    assert_eq!((after.records, after.used_bytes), (0, 0));
    assert_eq!(after.checkpoints, before.checkpoints + 1);
}

#[test]
fn the_cache_tells_what_was_found_and_what_was_not() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let file = filled(&fs, "/f", 4);
    let dirty = fs.statistics().cache;
    assert_eq!((dirty.dirty, dirty.cached), (4, 4));
    assert!(dirty.budget > 0 && dirty.dirty_limit < dirty.budget);
    let mut bytes = [0; 4096];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!((fs.statistics().cache.hits, fs.statistics().cache.misses), (1, 0));
    drop(file);
    drop(fs);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    file.read_at(&mut bytes, 0).unwrap();
    file.read_at(&mut bytes, 0).unwrap();
    let read = fs.statistics().cache;
    assert_eq!((read.hits, read.misses), (1, 1));
    assert!(fs.statistics().open_for > Duration::ZERO);
}
