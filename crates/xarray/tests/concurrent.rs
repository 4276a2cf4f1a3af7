//! Readers beside a writer: what is found is always whole, and objects live as long as somebody can see them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::thread;
use udax_xarray::{Entry, Mark, XArray};

/// An entry of 512 pages that is split, erased and stored again: any page is found in a whole entry or not at all.
#[test]
fn readers_see_whole_entries_while_they_are_split_and_replaced() {
    let index: XArray = XArray::new(0);
    let done = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..2 {
            let (index, done, seen) = (&index, &done, &seen);
            scope.spawn(move || {
                let mut at = reader;
                while !done.load(Ordering::Acquire) {
                    at = (at + 37) % 1024;
                    if let Some(found) = index.load_value(at) {
                        assert!(found.start <= at && at <= found.last());
                        assert_eq!(found.entry, found.start << 8 | u64::from(found.order));
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    for found in index.range(0..=1023).marked(Mark::One) {
                        assert!(found.order == 9, "a piece never had the mark: {found:?}");
                    }
                }
            });
        }
        let mut rounds = 0_u64;
        while rounds < 3000 || seen.load(Ordering::Relaxed) < 1000 {
            let start = rounds % 2 * 512;
            let order = u8::try_from(rounds % 9).unwrap_or(0);
            let value = |start: u64, order: u8| Entry::Value(start << 8 | u64::from(order));
            let mut writer = index.write();
            assert_eq!(writer.store(start, 9, value(start, 9)), Ok(None));
            assert!(writer.set_mark(start, Mark::One));
            assert!(writer.clear_mark(start, Mark::One));
            assert_eq!(writer.split(start, order, |piece| value(piece, order)), Ok(()));
            while let Some(found) = writer.next(start..=start + 511) {
                assert!(writer.erase(found.start).is_some());
            }
            rounds += 1;
        }
        done.store(true, Ordering::Release);
    });
    assert!(index.is_empty());
    assert_eq!(index.memory_bytes(), 0);
}

struct Object {
    stamp: u64,
    dropped: Arc<AtomicU64>,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.stamp = u64::MAX;
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn objects_live_while_they_can_be_seen_and_are_all_dropped_in_the_end() {
    const ROUNDS: u64 = 20_000;
    let dropped = Arc::new(AtomicU64::new(0));
    let index: XArray<Object> = XArray::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let read = || {
            while !done.load(Ordering::Acquire) {
                for found in index.range(0..=u64::MAX) {
                    let object = found.entry.pointer().expect("only pointers are stored");
                    assert!(object.stamp < ROUNDS, "seen after its drop");
                }
            }
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        let writer = scope.spawn(|| {
            for stamp in 0..ROUNDS {
                let dropped = Arc::clone(&dropped);
                let object = Entry::Pointer(Arc::new(Object { stamp, dropped }));
                let mut writer = index.write();
                assert!(writer.store(stamp % 3 * 100, 0, object).is_ok());
                if stamp % 5 == 0 {
                    writer.erase(100);
                }
            }
            let mut writer = index.write();
            for at in [0, 100, 200] {
                writer.erase(at);
            }
        });
        // Joined, not only waited for by the scope: a thread hands on what it has retired last when it has ended.
        writer.join().expect("the writer has not failed");
        done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().expect("the reader has not failed");
        }
    });
    // Each call that pins may free some of what is retired.
    let other: XArray = XArray::new(0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if dropped.load(Ordering::Relaxed) == ROUNDS {
            return;
        }
        assert_eq!(other.load_value(0), None);
        thread::yield_now();
    }
    panic!("{} of {ROUNDS} objects dropped", dropped.load(Ordering::Relaxed));
}
