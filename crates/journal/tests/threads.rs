//! Many threads, small lanes, checkpoints meanwhile.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Arc;

use harness::medium::{Image, Medium};
use harness::pool::{self, PLAY};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_journal::{Counters, Journal};
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, ByteOffset, Geometry};
use udax_pmem::Region;
use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::thread;

const THREADS: u64 = 4;
const COMMITS: u64 = 250;
const WORDS: u64 = 12;

/// The words of thread `thread`: spread over its own block, so that several lines must agree.
fn word_at(thread: u64, word: u64) -> ByteOffset {
    ByteOffset((PLAY.start.raw() + thread) * BLOCK_BYTES + word * 72)
}

/// 64 blocks whose bits are one word of the bitmap, so that threads share lines but not words.
fn bits_of(thread: u64) -> BlockRange {
    BlockRange::new(BlockNo(1024 + thread * 64), 64)
}

/// Commit `value` of a thread: all its words to `value`, and its blocks allocated when that is odd.
fn commit(journal: &Journal, thread: u64, value: u64) {
    let mut transaction = journal.begin();
    for word in 0..WORDS {
        transaction.write_u64(word_at(thread, word), value);
    }
    if value % 2 == 1 {
        transaction.allocate_unwritten(bits_of(thread));
        transaction.count_inodes(1);
    } else {
        transaction.free(bits_of(thread));
    }
    transaction.commit().unwrap();
}

/// The last commit of `thread` that the region holds; panics when it holds a part of one.
fn value_of(region: &Region, geometry: &Geometry, thread: u64, what: &str) -> u64 {
    let value = region.read_u64(word_at(thread, 0).raw()).unwrap();
    for word in 1..WORDS {
        let other = region.read_u64(word_at(thread, word).raw()).unwrap();
        assert_eq!(other, value, "{what}: thread {thread}, word {word}");
    }
    let bits = geometry.bit_words(bits_of(thread)).next().unwrap();
    assert_eq!(bits.mask, u64::MAX);
    let expected = if value % 2 == 1 { u64::MAX } else { 0 };
    assert_eq!(
        region.read_u64(bits.at.raw()).unwrap(),
        expected,
        "{what}: thread {thread}, bits"
    );
    value
}

/// The counters after these commits of the threads.
fn counters_after(values: &[u64]) -> Counters {
    let full = pool::full_counters();
    let held: u64 = values.iter().map(|value| value % 2 * 64).sum();
    let inodes: u64 = values.iter().map(|value| value.div_ceil(2)).sum();
    Counters {
        free_blocks: full.free_blocks - held,
        inodes: full.inodes + inodes,
    }
}

#[test]
fn threads_commit_through_checkpoints_and_every_cut_keeps_what_had_returned() {
    let superblock = pool::superblock(2, 8);
    let geometry = Geometry::new(&superblock);
    let start = pool::formatted(&superblock);
    let (region, trace) = start.recorded();
    let journal = pool::open(&region, &superblock);
    let is_over = AtomicBool::new(false);
    let mut returned: Vec<Vec<usize>> = Vec::new();
    thread::scope(|scope| {
        let committers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (journal, trace) = (&journal, &trace);
                scope.spawn(move || {
                    (1..=COMMITS)
                        .map(|value| {
                            commit(journal, thread, value);
                            trace.len()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if journal.needs_checkpoint() {
                    journal.checkpoint().unwrap();
                }
                thread::yield_now();
            }
        });
        returned.extend(committers.into_iter().map(|committer| committer.join().unwrap()));
        is_over.store(true, Ordering::Relaxed);
    });
    let all: Vec<u64> = (0..THREADS)
        .map(|thread| value_of(&region, &geometry, thread, "running"))
        .collect();
    assert_eq!(all, vec![COMMITS; 4]);
    assert_eq!(journal.counters(), counters_after(&all));

    let steps = trace.since(0);
    let mut medium = Medium::new(start);
    let mut random = SmallRng::seed_from_u64(1);
    let mut next_cut = 0;
    for (event, step) in steps.iter().enumerate() {
        medium.step(step);
        let is_last = event + 1 == steps.len();
        if event < next_cut && !is_last {
            continue;
        }
        next_cut = event + random.random_range(1..steps.len() / 60);
        for image in [medium.least(), medium.sample(random.random())] {
            check(&image, &superblock, &returned, event + 1);
        }
    }
}

fn check(image: &Image, superblock: &udax_media::Superblock, returned: &[Vec<usize>], events: usize) {
    let what = format!("after {events} events");
    let geometry = Geometry::new(superblock);
    let region = image.region();
    let journal = pool::open(&region, superblock);
    let values: Vec<u64> = (0..THREADS)
        .map(|thread| value_of(&region, &geometry, thread, &what))
        .collect();
    for (value, returned) in values.iter().zip(returned) {
        let least = returned.iter().filter(|at| **at <= events).count();
        assert!(
            *value >= u64::try_from(least).unwrap(),
            "{what}: {value} of {least}"
        );
    }
    assert_eq!(journal.counters(), counters_after(&values), "{what}");
}

#[test]
fn one_thread_wraps_all_lanes_many_times_without_a_background_checkpoint() {
    let superblock = pool::superblock(2, 2);
    let region = pool::formatted(&superblock).region();
    let journal = pool::open(&region, &superblock);
    for value in 1..=2000 {
        commit(&journal, 0, value);
    }
    assert!(journal.checkpointed().sequence().raw() > 1900);
    assert_eq!(journal.counters(), counters_after(&[2000]));
    drop(journal);
    let journal = pool::open(&region, &superblock);
    assert_eq!(journal.counters(), counters_after(&[2000]));
    assert_eq!(
        value_of(&region, &Geometry::new(&superblock), 0, "recovered"),
        2000
    );
}

#[test]
fn a_journal_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Journal>();
    shared::<Arc<Journal>>();
}
