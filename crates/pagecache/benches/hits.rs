//! What a hit costs, against a copy of as many bytes in memory: the budgets are 1.3 for a read and 1.5 for a write.
//!
//! Copies and hits take turns of less than a millisecond, and each pair gives a ratio: what else the machine does
//! meets both.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use udax_pagecache::{Advice, CacheOptions, PAGE, ReadAhead, ReadFlags, WriteFlags};
use zeros::Zeros;

#[path = "../tests/zeros/mod.rs"]
mod zeros;

/// 64 MiB: more than the processor's caches.
const PAGES: u64 = 1 << 14;
/// Pairs of turns.
const ROUNDS: usize = 2000;
/// Copies or hits of a turn.
const TURN: u32 = 500;

/// A file, all of which is cached: in folios of one page, or of 512.
fn file(piece: u64) -> Arc<zeros::File> {
    let options = CacheOptions {
        bytes: 256 << 20,
        dirty_bytes: 128 << 20,
        ..CacheOptions::default()
    };
    let file = zeros::file(&options);
    let bytes = vec![1; usize::try_from(piece * PAGE).expect("it fits")];
    // Downward: in sequence, folios would grow.
    for page in (0..PAGES / piece).rev().map(|number| number * piece) {
        let written = file.0.write(&mut Zeros, page * PAGE, &bytes, WriteFlags::empty());
        assert_eq!(written.ok(), Some(bytes.len()));
    }
    file
}

/// Pages all over the file, in an order that no prefetcher knows.
struct Places(u64);

impl Places {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40 & (PAGES - 1)) * PAGE
    }

    /// How long a turn takes.
    fn time(&mut self, what: &mut dyn FnMut(u64)) -> Duration {
        let begin = Instant::now();
        for _ in 0..TURN {
            what(self.next());
        }
        begin.elapsed()
    }
}

/// Shows the ratio of `hit` to `copy`.
fn compare(name: &str, hit: &mut dyn FnMut(u64), copy: &mut dyn FnMut(u64)) {
    let mut places = Places(1);
    let mut times: Vec<(f64, Duration, Duration)> = Vec::new();
    for _ in 0..ROUNDS {
        let copied = places.time(copy);
        let hit = places.time(hit);
        times.push((hit.as_secs_f64() / copied.as_secs_f64(), hit, copied));
    }
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    let at = |part: usize| times[times.len() * part / 4];
    let (ratio, hit, copied) = at(2);
    println!(
        "{name:32} {ratio:5.2} of a copy (half of all: {:.2} to {:.2}); {} ns and {} ns",
        at(1).0,
        at(3).0,
        (hit / TURN).as_nanos(),
        (copied / TURN).as_nanos(),
    );
}

fn main() {
    let mut buffer = vec![0_u8; 4096];
    let (mut out, source) = (buffer.clone(), buffer.clone());
    let mut memory = vec![1_u8; usize::try_from(PAGES * PAGE).expect("it fits")];
    let place = |at: u64| usize::try_from(at).expect("it fits");
    for (name, piece) in [("folios of one page", 1), ("folios of 2 MiB", 512)] {
        let file = file(piece);
        let mut ahead = ReadAhead::new();
        ahead.advise(Advice::Random);
        let mut read = |at| {
            file.0.prefetch(at, buffer.len());
            let read = file
                .0
                .read(&mut Zeros, at, &mut buffer, &mut ahead, ReadFlags::empty());
            assert_eq!(black_box(read).ok(), Some(4096));
        };
        let mut copy_out = |at| {
            out.copy_from_slice(&memory[place(at)..place(at) + 4096]);
            black_box(&mut out);
        };
        compare(&format!("read, {name}"), &mut read, &mut copy_out);
        let mut write = |at| {
            file.0.prefetch_to_store(at, source.len());
            let written = file.0.write(&mut Zeros, at, &source, WriteFlags::empty());
            assert_eq!(black_box(written).ok(), Some(4096));
        };
        let mut copy_in = |at| {
            memory[place(at)..place(at) + 4096].copy_from_slice(black_box(&source));
        };
        compare(&format!("write, {name}"), &mut write, &mut copy_in);
        file.0.truncate(0..u64::MAX);
    }
}
