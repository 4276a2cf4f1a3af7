//! Readers beside a writer, and what becomes of nodes and objects, under loom with crossbeam-epoch's own code.
//!
//! ```text
//! RUSTFLAGS="--cfg loom --cfg crossbeam_loom" CARGO_TARGET_DIR=target/loom cargo test -p udax-xarray --test loom
//! ```
//! Nodes have four slots here, so that a tree of two levels begins with index 4. loom panics when a node is read that
//! is freed without the read being ordered before that.
#![cfg(loom)]

use std::sync::Arc;

use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::thread;
use udax_xarray::{Entry, Found, Mark, XArray};

/// Tries schedules of a writer, which goes on until what it has unlinked can be freed, and of a reader beside it.
fn model<T: Send + Sync + 'static>(
    make: fn() -> XArray<T>,
    write: fn(&XArray<T>),
    read: fn(&XArray<T>),
    check: fn(&XArray<T>),
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    let schedules = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&schedules);
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let index = Arc::new(make());
        let reader = {
            let index = Arc::clone(&index);
            thread::spawn(move || read(&index))
        };
        write(&index);
        // What was unlinked is handed on by the first, and freed by the second if the reader is not pinned.
        drop(index.write());
        drop(index.write());
        reader.join().unwrap();
        check(&index);
    });
    let schedules = schedules.load(std::sync::atomic::Ordering::Relaxed);
    println!("{schedules} schedules");
    assert!(schedules > 5, "threads that never meet test nothing");
}

fn index_of(entries: &[(u64, u8)]) -> XArray {
    let index = XArray::new(0);
    for (start, order) in entries {
        put(&index, *start, *order, *start);
    }
    index
}

fn put(index: &XArray, start: u64, order: u8, value: u64) {
    let stored = index.write().store(start, order, Entry::Value(value));
    stored.expect("the place is free, or has such an entry");
}

fn value(index: &XArray, at: u64) -> Option<u64> {
    Some(index.load_value(at)?.entry)
}

#[test]
fn a_reader_beside_an_erase_that_frees_a_leaf_and_lowers_the_root() {
    model(
        || index_of(&[(1, 0), (5, 0)]),
        |index| {
            assert!(index.write().erase(5).is_some());
        },
        |index| {
            assert!(matches!(value(index, 5), Some(5) | None));
            assert_eq!(value(index, 1), Some(1));
        },
        |index| assert_eq!((value(index, 5), value(index, 1)), (None, Some(1))),
    );
}

#[test]
fn a_reader_beside_an_erase_of_the_last_entry() {
    model(
        || index_of(&[(5, 0)]),
        |index| {
            assert!(index.write().erase(5).is_some());
        },
        |index| assert!(matches!(value(index, 5), Some(5) | None)),
        |index| assert!(index.is_empty()),
    );
}

#[test]
fn a_reader_beside_a_store_that_raises_the_root() {
    model(
        || index_of(&[(1, 0)]),
        |index| put(index, 5, 0, 5),
        |index| {
            let later = value(index, 5);
            assert!(matches!(later, Some(5) | None));
            assert_eq!(value(index, 1), Some(1));
        },
        |index| assert_eq!((value(index, 5), value(index, 1)), (Some(5), Some(1))),
    );
}

#[test]
fn a_reader_beside_a_store_that_groups_the_slots_of_a_node_anew() {
    model(
        || index_of(&[(0, 0)]),
        |index| put(index, 2, 1, 2),
        |index| {
            let large = Found {
                start: 2,
                order: 1,
                entry: 2,
            };
            let found = index.load_value(3);
            assert!(found.is_none() || found == Some(large), "{found:?}");
            assert_eq!(value(index, 0), Some(0));
        },
        |index| assert_eq!((value(index, 0), value(index, 3)), (Some(0), Some(2))),
    );
}

#[test]
fn a_reader_beside_a_split_finds_the_whole_entry_or_a_piece() {
    model(
        || index_of(&[(4, 2), (8, 0)]),
        |index| {
            let mut writer = index.write();
            assert_eq!(writer.split(4, 0, Entry::Value), Ok(()));
        },
        |index| {
            let found = index.load_value(6).expect("it is there all the while");
            let seen = (found.start, found.order, found.entry);
            assert!(seen == (4, 2, 4) || seen == (6, 0, 6), "{found:?}");
        },
        |index| assert_eq!(value(index, 6), Some(6)),
    );
}

/// The reader looks at the bits of the marks, then at the slot, and then again: what it finds there may have come in
/// between.
#[test]
fn a_search_for_a_mark_never_takes_a_new_entry_for_the_marked_one_that_it_replaces() {
    model(
        || {
            // The other entry keeps the node in the tree.
            let index = index_of(&[(0, 0), (1, 0)]);
            assert!(index.write().set_mark(1, Mark::One));
            index
        },
        |index| {
            let mut writer = index.write();
            assert!(writer.erase(1).is_some());
            assert_eq!(writer.store(1, 0, Entry::Value(2)), Ok(None));
        },
        |index| {
            let mut marked = index.range(0..=3).marked(Mark::One);
            let found = marked.next().and_then(|found| found.entry.value());
            assert!(matches!(found, None | Some(1)), "{found:?} never had the mark");
        },
        |index| assert!(!index.has_mark(Mark::One)),
    );
}

/// As above, where the first look is at a node above: the slot there keeps its bit, for another entry.
#[test]
fn a_search_for_a_mark_through_two_levels_passes_an_entry_that_has_lost_it() {
    model(
        || {
            let index = index_of(&[(5, 0), (6, 0)]);
            let mut writer = index.write();
            assert!(writer.set_mark(5, Mark::One) && writer.set_mark(6, Mark::One));
            drop(writer);
            index
        },
        |index| {
            let mut writer = index.write();
            assert!(writer.erase(5).is_some());
            assert_eq!(writer.store(5, 0, Entry::Value(2)), Ok(None));
        },
        |index| {
            let marked = index.range(0..=15).marked(Mark::One);
            let found: Vec<_> = marked.filter_map(|found| found.entry.value()).collect();
            // Entry 6 is there with its mark all the while.
            assert!(found == [5, 6] || found == [6], "{found:?}");
        },
        |index| assert_eq!(index.range(0..=15).marked(Mark::One).count(), 1),
    );
}

/// An object that knows whether it has been dropped. loom does not know what std's counts order, and must not be asked.
struct Object(std::sync::atomic::AtomicU64);

const DROPPED: u64 = u64::MAX;

impl Object {
    fn new(stamp: u64) -> Entry<Self> {
        let object = Arc::new(Self(std::sync::atomic::AtomicU64::new(stamp)));
        // Keeps the memory, so that a look at a dropped object is a failed test and nothing worse.
        std::mem::forget(Arc::downgrade(&object));
        Entry::Pointer(object)
    }

    fn stamp(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.0.store(DROPPED, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn an_object_lives_while_it_can_be_seen() {
    model(
        || {
            let index = XArray::new(0);
            assert!(index.write().store(0, 0, Object::new(1)).is_ok());
            index
        },
        |index| {
            assert!(index.write().store(0, 0, Object::new(2)).is_ok());
        },
        |index| {
            let found = index.load(0).expect("there is one all the while");
            let object = found.entry.pointer().expect("only pointers are stored");
            assert!(matches!(object.stamp(), 1 | 2), "seen after its drop");
        },
        |_| {},
    );
}

/// What the models rely on: with the reader's work done, the writer's next calls free what it has unlinked.
#[test]
fn what_is_unlinked_is_freed_within_a_model() {
    struct Told(Arc<AtomicBool>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    loom::model(|| {
        let is_dropped = Arc::new(AtomicBool::new(false));
        let index = XArray::new(0);
        let object = Entry::Pointer(Arc::new(Told(Arc::clone(&is_dropped))));
        assert!(index.write().store(0, 0, object).is_ok());
        drop(index.write().erase(0));
        assert!(!is_dropped.load(Ordering::Relaxed));
        drop(index.write());
        drop(index.write());
        assert!(is_dropped.load(Ordering::Relaxed));
    });
}
