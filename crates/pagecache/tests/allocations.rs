//! What memory the cache takes: none for a hit, and no more than its budget for the folios.

use std::fs;
use std::sync::Arc;

use udax_pagecache::{Advice, CacheOptions, PAGE, ReadAhead, ReadFlags, WriteFlags};
use udax_sync::allocation::{CountedAllocator, plan};
use zeros::Zeros;

mod zeros;

#[global_allocator]
static ALLOCATOR: CountedAllocator = CountedAllocator;

fn file(bytes: u64) -> Arc<zeros::File> {
    zeros::file(&CacheOptions {
        bytes,
        ..CacheOptions::default()
    })
}

fn count(mut what: impl FnMut()) -> u64 {
    // Makes what is made once: stacks of held ranks, bags of the index's reclaimer.
    what();
    what();
    drop(std::hint::black_box(Box::new(1)));
    assert!(plan(None) > 0, "nothing is counted");
    for _ in 0..100 {
        what();
    }
    plan(None)
}

#[test]
fn a_read_of_what_is_cached_and_an_overwrite_of_what_is_dirty_allocate_nothing() {
    for first in [100, 512] {
        let file = file(256 << 20);
        let mapping = &file.0;
        let (mut ahead, mut bytes) = (ReadAhead::new(), vec![1; 4096]);
        // A folio of one page, and of 512.
        let len = if first == 100 { 4096 } else { 2 << 20 };
        let at = first * PAGE;
        mapping
            .write(&mut Zeros, at, &vec![2; len], WriteFlags::empty())
            .unwrap();
        let reads = count(|| {
            let read = mapping.read(&mut Zeros, at, &mut bytes, &mut ahead, ReadFlags::empty());
            assert_eq!(read.unwrap(), 4096);
        });
        let writes = count(|| {
            let written = mapping.write(&mut Zeros, at, &bytes, WriteFlags::empty());
            assert_eq!(written.unwrap(), 4096);
        });
        assert_eq!((reads, writes), (0, 0), "from page {first}");
        mapping.truncate(0..u64::MAX);
    }
}

/// Of this process, but for files: proc(5), `statm`.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("this process");
    let fields = statm.split_ascii_whitespace();
    let fields: Vec<u64> = fields.map(|field| field.parse().expect("a number")).collect();
    (fields[1] - fields[2]) * PAGE
}

#[test]
fn memory_stays_within_the_budget_while_folios_of_all_sizes_come_and_go() {
    let budget = 128 << 20;
    let file = file(budget);
    let mapping = &file.0;
    let mut bytes = vec![0; 1 << 20];
    let (mut ahead, mut apart) = (ReadAhead::new(), ReadAhead::new());
    ahead.advise(Advice::Sequential);
    apart.advise(Advice::Random);
    let before = resident_bytes();
    let (mut most, mut resident) = (0, 0);
    for piece in 0..1000 {
        let at = piece << 20;
        let read = mapping.read(&mut Zeros, at, &mut bytes, &mut ahead, ReadFlags::empty());
        assert_eq!(read.unwrap(), bytes.len());
        if piece % 3 == 0 {
            mapping
                .write(&mut Zeros, at, &bytes, WriteFlags::DONTCACHE)
                .unwrap();
            mapping.write_behind(&mut Zeros, at..at + (1 << 20)).unwrap();
        }
        // Single pages between them: holes that no large folio fits into.
        for page in 0..64 {
            let place = (1 << 30) + (piece * 64 + page) * 3 * PAGE;
            let one = &mut bytes[..4096];
            mapping
                .read(&mut Zeros, place, one, &mut apart, ReadFlags::empty())
                .unwrap();
        }
        if piece % 400 == 399 {
            mapping.truncate(0..u64::MAX);
        }
        let statistics = mapping.cache().statistics();
        most = most.max(statistics.memory);
        assert!(
            statistics.kept <= budget / 16,
            "{} bytes are kept",
            statistics.kept
        );
        resident = resident.max(resident_bytes().saturating_sub(before));
    }
    println!(
        "folios {} KiB at most, resident {} KiB",
        most >> 10,
        resident >> 10
    );
    assert!(most < budget + budget / 8, "{most} bytes of folios");
    assert!(
        most > budget / 2,
        "{most} bytes of folios: the cache was not full"
    );
    assert!(resident < budget + budget / 4, "{resident} bytes are resident");
    assert!(mapping.cache().statistics().evicted > 100);
}
