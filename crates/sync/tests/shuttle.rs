//! Larger protocols under shuttle: random schedules. See the crate's head for how to run these.
#![cfg(shuttle)]

use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Condvar, Mutex, Rank, thread};

const SCHEDULES: usize = 2000;

#[test]
fn a_bounded_queue_hands_over_every_item_once() {
    shuttle::check_random(
        || {
            let queue = Arc::new((Mutex::new(Rank::Leaf, Vec::new()), Condvar::new()));
            let producers: Vec<_> = (0..3_u64)
                .map(|from| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || {
                        for item in 0..4 {
                            let mut items = queue.0.lock();
                            while items.len() >= 2 {
                                queue.1.wait(&mut items);
                            }
                            items.push(from * 4 + item);
                            queue.1.notify_all();
                        }
                    })
                })
                .collect();
            let mut taken = Vec::new();
            while taken.len() < 12 {
                let mut items = queue.0.lock();
                while items.is_empty() {
                    queue.1.wait(&mut items);
                }
                taken.append(&mut items);
                queue.1.notify_all();
            }
            for producer in producers {
                producer.join().unwrap();
            }
            taken.sort_unstable();
            assert_eq!(taken, (0..12).collect::<Vec<_>>());
        },
        SCHEDULES,
    );
}

#[test]
#[should_panic(expected = "lost")]
fn a_lost_update_is_found() {
    shuttle::check_random(
        || {
            let count = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let count = Arc::clone(&count);
                    thread::spawn(move || {
                        let before = count.load(Ordering::SeqCst);
                        count.store(before + 1, Ordering::SeqCst);
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(count.load(Ordering::SeqCst), 2, "lost");
        },
        SCHEDULES,
    );
}
