//! Which folios stay when there is not room for all: measured on a trace, against the plain policies.

use std::collections::{HashSet, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_pagecache::{PAGE, ReadAhead, ReadFlags};

use crate::disk::World;

const CACHE: u64 = 256;
const HOT: u64 = 600;
const SCANNED: u64 = 4000;

/// Pages in the order in which they are read: skewed reads of a hot set (Zipf, exponent 1), and scans of another part.
fn trace(seed: u64) -> Vec<u64> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let weights: Vec<f64> = (1_u32..).take(600).map(|rank| 1.0 / f64::from(rank)).collect();
    let sum: f64 = weights.iter().sum();
    let mut scan = 0;
    let mut trace = Vec::new();
    for _ in 0..400 {
        for _ in 0..60 {
            let mut at = rng.random_range(0.0..sum);
            let rank = weights.iter().position(|weight| {
                at -= weight;
                at <= 0.0
            });
            // Spread, so that neighbours in rank are no neighbours in the file.
            trace.push(u64::try_from(rank.unwrap_or(0)).unwrap() * 7 % HOT);
        }
        for _ in 0..60 {
            trace.push(HOT + scan % SCANNED);
            scan += 1;
        }
    }
    trace
}

/// The part of accesses that meet what is there; with `moves`, a hit makes a page the youngest.
fn simulate(trace: &[u64], is_lru: bool) -> f64 {
    let (mut order, mut there) = (VecDeque::new(), HashSet::new());
    let mut hits = 0_u32;
    for page in trace {
        if there.contains(page) {
            hits += 1;
            if is_lru {
                order.retain(|other| other != page);
                order.push_back(*page);
            }
            continue;
        }
        there.insert(*page);
        order.push_back(*page);
        if there.len() > usize::try_from(CACHE).unwrap() {
            let oldest = order.pop_front().unwrap();
            there.remove(&oldest);
        }
    }
    f64::from(hits) / f64::from(u32::try_from(trace.len()).unwrap())
}

fn measure(trace: &[u64]) -> f64 {
    let world = World::with_pages(CACHE);
    let file = world.file();
    file.disk.set_size((HOT + SCANNED) * PAGE);
    // Two open files: one reads here and there, one scans with read-ahead.
    let (mut here_and_there, mut scanner) = (ReadAhead::new(), ReadAhead::new());
    let mut hits = 0_u32;
    for page in trace {
        let ahead = if *page < HOT {
            &mut here_and_there
        } else {
            &mut scanner
        };
        // What read-ahead has brought would count as a hit of the queue: only the hot set's are counted.
        hits += u32::from(*page < HOT && file.mapping.is_cached(*page));
        file.read_with(page * PAGE, 4096, ahead, ReadFlags::empty())
            .unwrap();
    }
    f64::from(hits) / f64::from(u32::try_from(trace.len()).unwrap())
}

#[test]
fn scans_leave_the_hot_pages_alone_better_than_with_lru_or_fifo() {
    for seed in 0..3 {
        let trace = trace(seed);
        let (fifo, lru) = (simulate(&trace, false), simulate(&trace, true));
        let ours = measure(&trace);
        println!("seed {seed}: hit ratio {ours:.3}, LRU {lru:.3}, FIFO {fifo:.3}");
        assert!(
            ours > lru + 0.05 && ours > fifo + 0.05,
            "{ours} against LRU {lru}, FIFO {fifo}"
        );
    }
}

#[test]
fn one_scan_of_a_file_larger_than_the_cache_leaves_what_was_used_twice() {
    let world = World::with_pages(CACHE);
    let hot = world.file_of(100);
    let large = world.file();
    large.disk.set_size(2000 * PAGE);
    for _ in 0..3 {
        for page in 0..100 {
            hot.read(page * PAGE, 4096);
        }
    }
    let mut ahead = ReadAhead::new();
    for page in 0..2000 {
        large
            .read_with(page * PAGE, 4096, &mut ahead, ReadFlags::empty())
            .unwrap();
    }
    let left = (0..100).filter(|page| hot.mapping.is_cached(*page)).count();
    println!("{left} of 100 hot pages are left");
    assert!(left >= 95, "{left} are left");
    // And the other way round: what is no longer used goes in the end.
    for _ in 0..3 {
        for page in 0..250 {
            large
                .read_with(page * PAGE, 4096, &mut ahead, ReadFlags::empty())
                .unwrap();
        }
    }
    let left = (0..100).filter(|page| hot.mapping.is_cached(*page)).count();
    assert!(left < 60, "{left} are left");
}
