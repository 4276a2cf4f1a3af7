//! `cargo bench -p udax-xarray --bench parallel`: lookups by several threads, without a writer and beside one.
//!
//! Costs are of the readers' processor time, since there may be more threads than processors. A writer costs readers
//! time in two ways: by what it does to the map, and by what any busy processor takes from its neighbours (clock,
//! shared cache, memory). So there is a third case, in which the writer writes to a `BTreeMap` of its own, which has
//! nothing in common with the readers'. The three are measured in turn, and what is printed is the median of the
//! rounds' ratios with the quartiles. The budget is 1.2 for the index.

mod subject;

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use subject::{Hashed, Locked, Subject, filled, scattered};
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::thread;
use udax_xarray::XArray;

const ROUNDS: usize = 25;
const ROUND: Duration = Duration::from_millis(100);
/// Between two looks at whether the round is over.
const LOOKUPS: u64 = 1000;

/// What the writer writes to.
#[derive(Clone, Copy, PartialEq)]
enum Writes {
    Nothing,
    Elsewhere,
    Here,
}

/// What a round has shown.
struct Round {
    /// Of a reader's processor time, for each lookup.
    nanoseconds: f64,
    /// Changes a second.
    changes: f64,
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("each thread has a clock")
        .into()
}

fn ratio(one: Duration, count: u64) -> f64 {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    one.as_secs_f64() * 1e9 / f64::from(count)
}

/// Looks up until told to stop; gives the cost of one lookup.
fn read<S: Subject>(subject: &S, keys: u64, seed: u64, is_over: &AtomicBool) -> f64 {
    let begin = processor_time();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..LOOKUPS {
            count += 1;
            black_box(subject.load(scattered(seed + count, keys)));
        }
    }
    ratio(processor_time() - begin, count)
}

/// Replaces, erases and stores again.
fn write<S: Subject>(subject: &S, keys: u64, is_over: &AtomicBool, changes: &AtomicU64) {
    let mut number = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let key = scattered(number, keys);
        match number % 3 {
            0 => subject.store(key, number),
            _ => {
                subject.erase(key);
                subject.store(key, number);
            }
        }
        changes.fetch_add(1, Ordering::Relaxed);
    }
}

fn round<S: Subject>(subject: &S, other: &Locked, keys: u64, readers: u64, writes: Writes) -> Round {
    let is_over = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    let nanoseconds = thread::scope(|scope| {
        let handles: Vec<_> = (0..readers)
            .map(|reader| {
                let is_over = &is_over;
                scope.spawn(move || read(subject, keys, reader << 40, is_over))
            })
            .collect();
        let (is_over, changes) = (&is_over, &changes);
        match writes {
            Writes::Nothing => {}
            Writes::Elsewhere => drop(scope.spawn(move || write(other, keys, is_over, changes))),
            Writes::Here => drop(scope.spawn(move || write(subject, keys, is_over, changes))),
        }
        thread::sleep(ROUND);
        is_over.store(true, Ordering::Relaxed);
        let costs = handles.into_iter().map(|handle| handle.join().expect("a reader"));
        let costs: Vec<_> = costs.collect();
        let threads = u32::try_from(costs.len()).unwrap_or(1);
        costs.iter().sum::<f64>() / f64::from(threads)
    });
    let changes = u32::try_from(changes.into_inner()).unwrap_or(u32::MAX);
    Round {
        nanoseconds,
        changes: f64::from(changes) / ROUND.as_secs_f64(),
    }
}

/// The quartiles.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

fn compare<S: Subject>(keys: u64, readers: u64) {
    let (subject, other): (S, Locked) = (filled(keys), filled(keys));
    // Not counted: pages and caches are cold.
    round(&subject, &other, keys, readers, Writes::Here);
    let (mut alone, mut to_alone, mut to_busy, mut changes) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let [nothing, elsewhere, here] = [Writes::Nothing, Writes::Elsewhere, Writes::Here]
            .map(|writes| round(&subject, &other, keys, readers, writes));
        alone.push(nothing.nanoseconds);
        to_alone.push(here.nanoseconds / nothing.nanoseconds);
        to_busy.push(here.nanoseconds / elsewhere.nanoseconds);
        changes.push(here.changes / 1e6);
    }
    let [_, alone, _] = spread(alone);
    let [_, changes, _] = spread(changes);
    let shown = |[low, middle, high]: [f64; 3]| format!("{middle:.2} ({low:.2} to {high:.2})");
    println!(
        "{:<17} {keys:>8} {readers:>7} {alone:>7.1} ns  {:<22} {:<22} {changes:.2}",
        S::NAME,
        shown(spread(to_alone)),
        shown(spread(to_busy)),
    );
}

fn main() {
    println!(
        "map                  keys readers    alone  beside a writer to no writer    to a writer elsewhere"
    );
    for keys in [1 << 10, 1 << 16, 1 << 20] {
        for readers in [1, 2] {
            compare::<XArray>(keys, readers);
            compare::<Locked>(keys, readers);
            compare::<Hashed>(keys, readers);
        }
    }
}
