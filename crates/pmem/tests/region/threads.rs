//! Threads that use a region at once.

use std::sync::Arc;

use udax_pmem::{CountingRecorder, Region, RegionOptions};

use super::memory_directory;

#[test]
fn bits_set_by_many_threads_are_all_set_and_each_was_clear_before() {
    let region = Region::anonymous(4096, None).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let region = &region;
            scope.spawn(move || {
                for word in 0..512 {
                    for bit in 0..16 {
                        let mask = 1 << (thread * 16 + bit);
                        assert_eq!(region.set_bits(word * 8, mask).unwrap() & mask, 0);
                    }
                }
            });
        }
    });
    assert!(region.compare(0, &[0xFF; 4096]).unwrap());
}

#[test]
fn words_are_never_seen_half_stored() {
    let region = Region::anonymous(4096, None).unwrap();
    let patterns = [[0x11; 256], [0xEE; 256]];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..20_000 {
                // Unaligned ends: the whole words between must be stored as words.
                region.store(3, &patterns[round % 2][..250]).unwrap();
            }
        });
        let mut words = [0; 30];
        while !writer.is_finished() {
            region.read_words(8, &mut words).unwrap();
            for word in words {
                assert!(
                    [0, 0x1111_1111_1111_1111, 0xEEEE_EEEE_EEEE_EEEE].contains(&word),
                    "{word:x}"
                );
            }
        }
    });
}

#[test]
fn a_region_grows_while_others_use_it() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, 4096, RegionOptions::default()).unwrap();
    let end = 8 << 20;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let len = region.len();
                    // The last word of whatever length is seen can be used at once.
                    region.store_u64(len - 8, len).unwrap();
                    region.set_bits(len - 8, 0).unwrap();
                    assert_eq!(region.read_u64(len - 8).unwrap(), len);
                    if len == end {
                        break;
                    }
                }
            });
        }
        for len in (8192..=end).step_by(4096 * 8) {
            region.grow(len).unwrap();
        }
        region.grow(end).unwrap();
    });
    assert_eq!(std::fs::metadata(&path).unwrap().len(), end);
}

#[test]
fn growing_by_many_threads_ends_at_the_longest() {
    let region = Region::anonymous(0, None).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let region = &region;
            scope.spawn(move || {
                for step in 0..200 {
                    let len = (step * 4 + thread) * 1000;
                    region.grow(len).unwrap();
                    region.store(len - 1, &[1]).unwrap();
                }
            });
        }
    });
    assert_eq!(region.len(), 800_000);
}

#[test]
fn counts_of_many_threads_add_up() {
    let recorder = Arc::new(CountingRecorder::new());
    let region = Region::anonymous(1 << 20, Some(recorder.clone())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let region = &region;
            scope.spawn(move || {
                for line in 0..1000 {
                    region
                        .store_nontemporal(thread * 65_536 + line * 64, &[1; 64])
                        .unwrap();
                    region.fence().unwrap();
                }
            });
        }
    });
    let counts = recorder.snapshot();
    assert_eq!(
        (counts.nontemporal_lines, counts.fences, counts.stores),
        (4000, 4000, 0)
    );
}

#[test]
fn fences_of_many_threads_msync_at_once() {
    let directory = super::disk_directory();
    let options = RegionOptions {
        msync: true,
        ..RegionOptions::default()
    };
    let region = Region::create(&directory.path().join("pool"), 1 << 20, options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let region = &region;
            scope.spawn(move || {
                for round in 0..5 {
                    region
                        .store_nontemporal(thread * 65_536 + round * 4096, &[7; 4096])
                        .unwrap();
                    region.fence().unwrap();
                }
            });
        }
    });
    for thread in 0..4 {
        assert!(region.compare(thread * 65_536, &[7; 5 * 4096]).unwrap());
    }
}
