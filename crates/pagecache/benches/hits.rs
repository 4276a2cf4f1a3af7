//! What a hit costs, against a copy of as many bytes in memory: the budgets are 1.3 for a read and 1.5 for a write.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use udax_pagecache::{Advice, CacheOptions, PAGE, ReadAhead, ReadFlags, WriteFlags};
use zeros::Zeros;

#[path = "../tests/zeros/mod.rs"]
mod zeros;

/// 64 MiB: more than the processor's caches.
const PAGES: u64 = 1 << 14;

/// A file, all of which is cached: in folios of one page, or of 512.
fn file(piece: u64) -> Arc<zeros::File> {
    let options = CacheOptions {
        bytes: 256 << 20,
        dirty_bytes: 128 << 20,
        ..CacheOptions::default()
    };
    let file = zeros::file(&options);
    let bytes = vec![1; usize::try_from(piece * PAGE).expect("it fits")];
    for page in (0..PAGES).step_by(usize::try_from(piece).expect("it fits")) {
        let written = file.0.write(&mut Zeros, page * PAGE, &bytes, WriteFlags::empty());
        assert_eq!(written.ok(), Some(bytes.len()));
    }
    file
}

/// Pages all over the file, in an order that no prefetcher knows.
fn places() -> impl FnMut() -> u64 {
    let mut at = 1_u64;
    move || {
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        at >> 40 & (PAGES - 1)
    }
}

fn hits(c: &mut Criterion) {
    let mut buffer = vec![0_u8; 4096];
    let memory = vec![1_u8; usize::try_from(PAGES * PAGE).expect("it fits")];
    let mut place = places();
    c.bench_function("copy 4 KiB out of memory", |b| {
        b.iter(|| {
            let at = usize::try_from(place() * PAGE).expect("it fits");
            buffer.copy_from_slice(&memory[at..at + 4096]);
            black_box(&mut buffer);
        });
    });
    let mut memory = memory;
    c.bench_function("copy 4 KiB into memory", |b| {
        b.iter(|| {
            let at = usize::try_from(place() * PAGE).expect("it fits");
            memory[at..at + 4096].copy_from_slice(black_box(&buffer));
        });
        black_box(&mut memory);
    });
    for (name, piece) in [("pages", 1), ("2 MiB folios", 512)] {
        let file = file(piece);
        let mut ahead = ReadAhead::new();
        ahead.advise(Advice::Random);
        c.bench_function(&format!("read 4 KiB of cached {name}"), |b| {
            b.iter(|| {
                let at = place() * PAGE;
                let read = file
                    .0
                    .read(&mut Zeros, at, &mut buffer, &mut ahead, ReadFlags::empty());
                black_box(read).is_ok()
            });
        });
        c.bench_function(&format!("write 4 KiB of dirty {name}"), |b| {
            b.iter(|| {
                let at = place() * PAGE;
                black_box(file.0.write(&mut Zeros, at, &buffer, WriteFlags::empty())).is_ok()
            });
        });
        file.0.truncate(0..u64::MAX);
    }
}

criterion_group!(benches, hits);
criterion_main!(benches);
