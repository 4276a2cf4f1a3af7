//! `cargo bench -p udax-xarray --bench index`: what one thread pays for each operation, beside an ordered map behind a
//! lock and a concurrent hash map.
//!
//! The budget is that of a hot lookup: 25 ns.

mod subject;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use subject::{Hashed, Locked, Subject, filled, scattered};
use udax_xarray::{Entry, Mark, XArray};

/// 4 GiB of pages, and more than the caches hold.
const MANY: u64 = 1 << 20;
/// Pages of a file that stays in the caches.
const FEW: u64 = 1 << 10;

/// From a number and how many keys there are, a key.
type Spread = fn(u64, u64) -> u64;

fn lookups_of<S: Subject>(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64, spread: Spread) {
    let subject: S = filled(keys);
    let mut number = 0;
    group.bench_function(S::NAME, |b| {
        b.iter(|| {
            number += 1;
            black_box(subject.load(black_box(spread(number, keys))))
        });
    });
}

fn lookups(c: &mut Criterion) {
    let cases: [(_, _, Spread); 3] = [
        ("look up one of 1024, always the same", FEW, |_, _| 700),
        ("look up one of 1024", FEW, scattered),
        ("look up one of 1 M", MANY, scattered),
    ];
    for (name, keys, spread) in cases {
        let mut group = c.benchmark_group(name);
        lookups_of::<XArray>(&mut group, keys, spread);
        lookups_of::<Locked>(&mut group, keys, spread);
        lookups_of::<Hashed>(&mut group, keys, spread);
        group.finish();
    }
}

/// Half of the keys are there; what is erased is stored again half a round later.
fn changes_of<S: Subject>(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64) {
    let subject: S = filled(keys / 2);
    let mut number = 0_u64;
    group.bench_function(S::NAME, |b| {
        b.iter(|| {
            number += 1;
            let key = number & (keys - 1);
            subject.erase(black_box(key));
            subject.store(black_box(key ^ (keys / 2)), number);
        });
    });
}

fn changes(c: &mut Criterion) {
    for (name, keys) in [
        ("erase and store among 1024", FEW),
        ("erase and store among 1 M", MANY),
    ] {
        let mut group = c.benchmark_group(name);
        changes_of::<XArray>(&mut group, keys);
        changes_of::<Locked>(&mut group, keys);
        changes_of::<Hashed>(&mut group, keys);
        group.finish();
    }
    let mut group = c.benchmark_group("replace one of 1 M");
    replaced::<XArray>(&mut group);
    replaced::<Locked>(&mut group);
    replaced::<Hashed>(&mut group);
    group.finish();
}

fn replaced<S: Subject>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let subject: S = filled(MANY);
    let mut number = 0;
    group.bench_function(S::NAME, |b| {
        b.iter(|| {
            number += 1;
            subject.store(black_box(scattered(number, MANY)), number);
        });
    });
}

/// The hash map has no order, and cannot do this.
fn ranges(c: &mut Criterion) {
    let mut group = c.benchmark_group("512 entries of 1 M in order");
    let index: XArray = filled(MANY);
    let mut number = 0;
    let mut next = || {
        number += 1;
        let first = scattered(number, MANY / 2);
        first..=first + 511
    };
    group.bench_function(XArray::NAME, |b| {
        b.iter(|| {
            let entries = index.range(black_box(next()));
            entries.filter_map(|found| found.entry.value()).sum::<u64>()
        });
    });
    let locked: Locked = filled(MANY);
    group.bench_function(Locked::NAME, |b| {
        b.iter(|| {
            locked
                .0
                .read()
                .range(black_box(next()))
                .map(|(_, value)| value)
                .sum::<u64>()
        });
    });
    group.finish();
}

/// One entry of 1024 has the mark; an ordered map without marks has to look at each.
fn marks(c: &mut Criterion) {
    let mut group = c.benchmark_group("the next of 1 in 1024 marked");
    let index: XArray = filled(MANY);
    let mut writer = index.write();
    for page in (0..MANY).step_by(1024) {
        assert!(writer.set_mark(page, Mark::One), "each page has an entry");
    }
    drop(writer);
    let mut number = 0;
    group.bench_function(XArray::NAME, |b| {
        b.iter(|| {
            number += 1;
            let range = black_box(scattered(number, MANY))..=u64::MAX;
            black_box(index.range(range).marked(Mark::One).next())
        });
    });
    let locked = Locked::new();
    (0..MANY).for_each(|page| locked.store(page, u64::from(page % 1024 == 0)));
    group.bench_function(Locked::NAME, |b| {
        b.iter(|| {
            number += 1;
            let range = black_box(scattered(number, MANY))..=u64::MAX;
            let found = locked
                .0
                .read()
                .range(range)
                .find(|(_, marked)| **marked == 1)
                .map(|(page, _)| *page);
            black_box(found)
        });
    });
    group.finish();
    c.bench_function("set and clear a mark among 1 M", |b| {
        b.iter(|| {
            number += 1;
            let page = black_box(scattered(number, MANY));
            let mut writer = index.write();
            writer.set_mark(page, Mark::Two) && writer.clear_mark(page, Mark::Two)
        });
    });
}

fn large(c: &mut Criterion) {
    let index: XArray = XArray::new(0);
    c.bench_function("store and erase an entry of order 9", |b| {
        b.iter(|| {
            let mut writer = index.write();
            let stored = writer.store(black_box(512), 9, Entry::Value(1)).is_ok();
            stored && writer.erase(700).is_some()
        });
    });
}

criterion_group!(benches, lookups, changes, ranges, marks, large);
criterion_main!(benches);
