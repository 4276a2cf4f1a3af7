//! What recorders see, exactly.

use std::sync::Arc;

use udax_pmem::{CountingRecorder, Counts, OwnedEvent, Region, RegionOptions, TraceRecorder};

use super::{backends, with_backend};

fn counted(action: impl Fn(&Region)) -> Counts {
    let all: Vec<Counts> = backends()
        .into_iter()
        .map(|backend| {
            let recorder = Arc::new(CountingRecorder::new());
            let options = RegionOptions {
                recorder: Some(recorder.clone()),
                ..with_backend(backend)
            };
            let region = Region::anonymous_with(1 << 20, options).unwrap();
            action(&region);
            let counts = recorder.snapshot();
            assert_eq!(recorder.reset(), counts);
            assert_eq!(recorder.snapshot(), Counts::default());
            counts
        })
        .collect();
    assert!(
        all.iter().all(|counts| *counts == all[0]),
        "backends differ: {all:?}"
    );
    all[0]
}

fn traced(action: impl Fn(&Region)) -> Vec<OwnedEvent> {
    let recorder = Arc::new(TraceRecorder::new());
    let region = Region::anonymous(1 << 20, Some(recorder.clone())).unwrap();
    action(&region);
    let events = recorder.take();
    assert!(recorder.is_empty());
    assert!(
        events
            .iter()
            .all(|traced| traced.thread == std::thread::current().id())
    );
    events.into_iter().map(|traced| traced.event).collect()
}

#[test]
fn a_block_stored_past_the_cache_and_a_fence_are_64_lines_and_one_fence() {
    let counts = counted(|region| {
        region.store_nontemporal(8192, &[1; 4096]).unwrap();
        region.fence().unwrap();
    });
    let expected = Counts {
        nontemporal_stores: 1,
        nontemporal_bytes: 4096,
        nontemporal_lines: 64,
        fences: 1,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn ragged_edges_past_the_cache_are_a_store_and_a_flush_each() {
    let counts = counted(|region| region.store_nontemporal(60, &[1; 4 + 128 + 10]).unwrap());
    let expected = Counts {
        stores: 2,
        stored_bytes: 14,
        nontemporal_stores: 1,
        nontemporal_bytes: 128,
        nontemporal_lines: 2,
        flushes: 2,
        flushed_lines: 2,
        fences: 0,
    };
    assert_eq!(counts, expected);
}

#[test]
fn zeroing_past_the_cache_counts_every_line_once() {
    let counts = counted(|region| region.zero_nontemporal(64, 10 * 4096).unwrap());
    assert_eq!(
        (counts.nontemporal_lines, counts.nontemporal_bytes, counts.stores),
        (640, 40_960, 0)
    );
}

#[test]
fn flushes_count_each_line_they_touch() {
    let counts = counted(|region| {
        region.flush(63, 2).unwrap();
        region.flush(0, 64).unwrap();
        region.flush(100, 0).unwrap();
    });
    assert_eq!((counts.flushes, counts.flushed_lines), (2, 3));
}

#[test]
fn reads_are_not_recorded() {
    let counts = counted(|region| {
        region.read(0, &mut [0; 100]).unwrap();
        region.read_u64(0).unwrap();
        region.read_words(0, &mut [0; 4]).unwrap();
        region.compare(0, &[0; 64]).unwrap();
    });
    assert_eq!(counts, Counts::default());
}

#[test]
fn the_trace_has_each_event_in_order_with_its_bytes() {
    let events = traced(|region| {
        region.store(3, b"abc").unwrap();
        region.store_u64(8, 0x0102).unwrap();
        region.set_bits(8, 0xF0).unwrap();
        region.clear_bits(8, 0x02).unwrap();
        region.zero(2, 2).unwrap();
        region.store_nontemporal(64, &[9; 64]).unwrap();
        region.copy_nontemporal(64, 128, 64).unwrap();
        region.flush(3, 13).unwrap();
        region.fence().unwrap();
    });
    let store = |at, bytes: &[u8]| OwnedEvent::Store {
        at,
        bytes: bytes.to_vec(),
    };
    let nontemporal = |at| OwnedEvent::NonTemporal {
        at,
        bytes: vec![9; 64],
    };
    let expected = [
        store(3, b"abc"),
        store(8, &0x0102_u64.to_le_bytes()),
        store(8, &0x01F2_u64.to_le_bytes()),
        store(8, &0x01F0_u64.to_le_bytes()),
        store(2, &[0; 2]),
        nontemporal(64),
        nontemporal(128),
        OwnedEvent::Flush { at: 3, len: 13 },
        OwnedEvent::Fence,
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_trace_replayed_on_zeros_gives_the_region() {
    let recorder = Arc::new(TraceRecorder::new());
    let region = Region::anonymous(1 << 16, Some(recorder.clone())).unwrap();
    for step in 0..200_u64 {
        let at = step * 977 % 60_000;
        let bytes = vec![u8::try_from(step).unwrap(); usize::try_from(step * 31 % 5000).unwrap()];
        match step % 4 {
            0 => region.store(at, &bytes).unwrap(),
            1 => region.store_nontemporal(at, &bytes).unwrap(),
            2 => region.zero_nontemporal(at, step * 13).unwrap(),
            _ => region.copy_nontemporal(at, at / 3, step * 17).unwrap(),
        }
    }
    let mut image = vec![0; 1 << 16];
    for traced in recorder.take() {
        if let OwnedEvent::Store { at, bytes } | OwnedEvent::NonTemporal { at, bytes } = traced.event {
            let at = usize::try_from(at).unwrap();
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    assert!(region.compare(0, &image).unwrap());
}

#[test]
fn flushes_that_need_no_instruction_are_recorded_all_the_same() {
    let recorder = Arc::new(CountingRecorder::new());
    let options = RegionOptions {
        emulate_flush: false,
        recorder: Some(recorder.clone()),
        ..RegionOptions::default()
    };
    let region = Region::anonymous_with(4096, options).unwrap();
    region.flush(0, 4096).unwrap();
    assert_eq!(recorder.snapshot().flushed_lines, 64);
}
