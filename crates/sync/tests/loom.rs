//! Small protocols under loom: every schedule. See the crate's head for how to run these.
#![cfg(loom)]

use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Condvar, Mutex, Rank, RwLock, thread};

/// The journal's order between commit and checkpoint, in small: two lanes, a number for each record, and a mark when
/// the record is applied.
struct Lanes {
    last: AtomicU64,
    lanes: [Mutex<()>; 2],
    applied: [AtomicU64; 2],
}

impl Lanes {
    fn new() -> Self {
        let lane = |order| Mutex::with_order(Rank::Lane, order, ());
        Self {
            last: AtomicU64::new(0),
            lanes: [lane(0), lane(1)],
            applied: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    fn commit(&self, lane: usize) {
        let guard = self.lanes[lane].lock();
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.applied[lane].store(number, Ordering::Relaxed);
        drop(guard);
    }

    /// Reads the last number; all records up to it must be seen as applied after `settle`.
    fn checkpoint(&self, settle: impl Fn(&Mutex<()>)) {
        let until = self.last.load(Ordering::Relaxed);
        for lane in &self.lanes {
            settle(lane);
        }
        let applied = self.applied.iter().map(|number| number.load(Ordering::Relaxed));
        let seen = applied.filter(|number| (1..=until).contains(number)).count();
        assert_eq!(
            u64::try_from(seen).unwrap(),
            until,
            "a record up to {until} is not applied"
        );
    }
}

fn commit_and_checkpoint(settle: impl Fn(&Mutex<()>) + Sync + Send + 'static) {
    loom::model(move || {
        let lanes = Arc::new(Lanes::new());
        let committers: Vec<_> = (0..2)
            .map(|lane| {
                let lanes = Arc::clone(&lanes);
                thread::spawn(move || lanes.commit(lane))
            })
            .collect();
        lanes.checkpoint(&settle);
        for committer in committers {
            committer.join().unwrap();
        }
    });
}

#[test]
fn after_taking_each_lane_once_all_records_up_to_the_number_read_are_applied() {
    commit_and_checkpoint(|lane| drop(lane.lock()));
}

#[test]
#[should_panic(expected = "is not applied")]
fn without_taking_the_lanes_loom_finds_a_record_that_is_not_applied() {
    commit_and_checkpoint(|_| {});
}

#[test]
fn a_waiter_is_woken_and_finds_what_it_waited_for() {
    loom::model(|| {
        let shared = Arc::new((Mutex::new(Rank::Leaf, false), Condvar::new()));
        let waker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                *shared.0.lock() = true;
                shared.1.notify_one();
            })
        };
        let mut is_set = shared.0.lock();
        while !*is_set {
            shared.1.wait(&mut is_set);
        }
        drop(is_set);
        waker.join().unwrap();
    });
}

#[test]
fn readers_never_see_half_of_a_write() {
    loom::model(|| {
        let pair = Arc::new(RwLock::new(Rank::Leaf, (0, 0)));
        let writer = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                let mut pair = pair.write();
                pair.0 += 1;
                pair.1 += 1;
            })
        };
        {
            let pair = pair.read();
            assert_eq!(pair.0, pair.1);
        }
        writer.join().unwrap();
        assert_eq!(*pair.read(), (1, 1));
    });
}
