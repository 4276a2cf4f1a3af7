//! Threads that use a region at once.

use std::sync::Arc;

use udax_pmem::{CountingRecorder, Event, OwnedEvent, Recorder, Region, RegionOptions, TraceRecorder};

use super::{in_four_threads, memory_directory};

#[test]
fn bits_set_by_many_threads_are_all_set_and_each_was_clear_before() {
    let region = Region::anonymous(4096, None).unwrap();
    in_four_threads(|thread| {
        for word in 0..512 {
            for bit in 0..16 {
                let mask = 1 << (thread * 16 + bit);
                assert_eq!(region.set_bits(word * 8, mask).unwrap() & mask, 0);
            }
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
        writer.join().unwrap();
    });
}

#[test]
fn what_a_store_covers_of_a_word_changes_at_once_and_nothing_else_of_it() {
    let region = Region::anonymous(4096, None).unwrap();
    let stored = |byte: u8| vec![byte; 26];
    std::thread::scope(|scope| {
        // 5 bytes, two words, 5 bytes.
        let writer = scope.spawn(|| {
            for round in 0..2_000_000 {
                region
                    .store(11, &stored(if round % 2 == 0 { 0x11 } else { 0xEE }))
                    .unwrap();
            }
        });
        // The three bytes around that, at both ends: nobody else stores to them.
        let around = scope.spawn(|| {
            for round in (0..=u8::MAX).cycle().take(1_000_000) {
                for at in [8, 37] {
                    region.store(at, &[round; 3]).unwrap();
                    assert!(region.compare(at, &[round; 3]).unwrap(), "lost at byte {at}");
                }
            }
        });
        let mut words = [0; 4];
        while !(writer.is_finished() && around.is_finished()) {
            region.read_words(8, &mut words).unwrap();
            let ends = [&words[0].to_le_bytes()[3..], &words[3].to_le_bytes()[..5]];
            for end in ends {
                assert!(
                    [[0; 5], [0x11; 5], [0xEE; 5]].contains(&end.try_into().unwrap()),
                    "{end:x?}"
                );
            }
        }
        writer.join().unwrap();
        around.join().unwrap();
    });
    assert!(region.compare(11, &stored(0xEE)).unwrap());
}

#[test]
fn a_region_grows_while_others_use_it() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, 4096, RegionOptions::default()).unwrap();
    let end = 8 << 20;
    std::thread::scope(|scope| {
        let spawn = |_| {
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
            })
        };
        let threads = [0, 1].map(spawn);
        for len in (8192..=end).step_by(4096 * 8) {
            region.grow(len).unwrap();
        }
        region.grow(end).unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert_eq!(std::fs::metadata(&path).unwrap().len(), end);
}

#[test]
fn growing_by_many_threads_ends_at_the_longest() {
    let region = Region::anonymous(0, None).unwrap();
    in_four_threads(|thread| {
        for step in 0..200 {
            let len = (step * 4 + thread + 1) * 1000;
            region.grow(len).unwrap();
            region.store(len - 1, &[1]).unwrap();
        }
    });
    assert_eq!(region.len(), 800_000);
}

#[test]
fn counts_of_many_threads_add_up() {
    let recorder = Arc::new(CountingRecorder::new());
    let region = Region::anonymous(1 << 20, Some(recorder.clone())).unwrap();
    in_four_threads(|thread| {
        for line in 0..1000 {
            region
                .store_nontemporal(thread * 65_536 + line * 64, &[1; 64])
                .unwrap();
            region.fence().unwrap();
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
    in_four_threads(|thread| {
        for round in 0..5 {
            region
                .store_nontemporal(thread * 65_536 + round * 4096, &[7; 4096])
                .unwrap();
            region.fence().unwrap();
        }
    });
    for thread in 0..4 {
        assert!(region.compare(thread * 65_536, &[7; 5 * 4096]).unwrap());
    }
}

/// Gives others time to store between a store and its record.
#[derive(Debug, Default)]
struct SlowRecorder(TraceRecorder);

impl Recorder for SlowRecorder {
    fn record(&self, event: Event<'_>) {
        std::thread::yield_now();
        self.0.record(event);
    }
}

#[test]
fn stores_of_threads_to_the_same_bytes_are_recorded_in_the_order_in_which_they_happen() {
    const WORD: u64 = 0;
    const LINES: u64 = 4096;
    let recorder = Arc::new(SlowRecorder::default());
    let region = Region::anonymous(2 * 4096, Some(recorder.clone())).unwrap();
    in_four_threads(|thread| {
        let pattern = [u8::try_from(thread + 1).unwrap(); 128];
        for round in 0..500 {
            let mask = 1 << (thread * 16 + round % 16);
            region.set_bits(WORD, mask).unwrap();
            region.clear_bits(WORD, mask).unwrap();
            let value = thread * 1000 + round;
            region.store_u64(8, value).unwrap();
            region.store(20, &value.to_le_bytes()).unwrap();
            region.store_nontemporal(LINES, &pattern).unwrap();
            region.zero_nontemporal(LINES + 64, 64).unwrap();
        }
    });
    let mut image = vec![0; 2 * 4096];
    let mut word = 0_u64;
    for traced in recorder.0.take() {
        if let OwnedEvent::Store { at, bytes } | OwnedEvent::NonTemporal { at, bytes } = traced.event {
            if at == WORD {
                // Who stored a bit has seen what was stored before: one bit differs, never two.
                let next = u64::from_le_bytes(bytes[..].try_into().unwrap());
                assert_eq!(
                    (word ^ next).count_ones(),
                    1,
                    "{next:x} is recorded after {word:x}"
                );
                word = next;
            }
            let at = usize::try_from(at).unwrap();
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    assert!(region.compare(0, &image).unwrap());
}
