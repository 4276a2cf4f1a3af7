//! Poisoned pages: what loads and stores give, and how a page becomes good again.

use std::sync::{Arc, OnceLock, Weak};

use proptest::prelude::*;
use udax_pmem::{Event, Recorder, Region, RegionError, RegionOptions};

use super::{backends, with_backend};

const PAGE: u64 = 4096;
const PAGES: u64 = 8;

fn sevens() -> Vec<Region> {
    backends()
        .into_iter()
        .map(|backend| {
            let region = Region::anonymous_with(PAGES * PAGE, with_backend(backend)).unwrap();
            region.store(0, &[7; 8 * 4096]).unwrap();
            region
        })
        .collect()
}

fn bad_pages(region: &Region) -> Vec<u64> {
    let ranges = region.bad_ranges();
    ranges
        .into_iter()
        .flat_map(|range| range.start / PAGE..range.end / PAGE)
        .collect()
}

fn failing_byte<T: std::fmt::Debug>(result: Result<T, RegionError>) -> u64 {
    match result {
        Err(RegionError::Media { at }) => at,
        other => panic!("not a media error: {other:?}"),
    }
}

#[test]
fn loads_give_what_is_before_the_page_and_its_first_byte() {
    for region in sevens() {
        region.poison(2 * PAGE + 100, 1).unwrap();
        let mut buffer = [0; 300];
        assert_eq!(failing_byte(region.read(2 * PAGE - 100, &mut buffer)), 2 * PAGE);
        assert!(buffer[..100].iter().all(|byte| *byte == 7));
        assert!(buffer[100..].iter().all(|byte| *byte == 0));
        assert_eq!(failing_byte(region.read(2 * PAGE + 5, &mut buffer)), 2 * PAGE + 5);
        assert_eq!(failing_byte(region.read_u64(2 * PAGE + 8)), 2 * PAGE + 8);
        let mut words = [0; 3];
        assert_eq!(
            failing_byte(region.read_words(2 * PAGE - 8, &mut words)),
            2 * PAGE
        );
        assert_eq!(words, [0x0707_0707_0707_0707, 0, 0]);
        assert_eq!(failing_byte(region.compare(2 * PAGE, &[7])), 2 * PAGE);
        assert_eq!(
            failing_byte(region.copy_nontemporal(2 * PAGE + 64, 0, 64)),
            2 * PAGE + 64
        );
        // What is beside it is as before.
        assert!(region.compare(PAGE, &[7; 4096]).unwrap());
        assert!(region.compare(3 * PAGE, &[7; 4096]).unwrap());
        assert_eq!(region.media_failures(), [2 * PAGE]);
    }
}

#[test]
fn stores_of_a_part_of_the_page_fail_and_leave_it_bad() {
    for region in sevens() {
        region.poison(2 * PAGE, 2 * PAGE).unwrap();
        assert_eq!(failing_byte(region.store_u64(2 * PAGE, 1)), 2 * PAGE);
        assert_eq!(failing_byte(region.set_bits(2 * PAGE + 8, 1)), 2 * PAGE + 8);
        assert_eq!(failing_byte(region.store(2 * PAGE - 10, &[9; 100])), 2 * PAGE);
        assert!(region.compare(2 * PAGE - 10, &[9; 10]).unwrap());
        assert_eq!(
            failing_byte(region.store_nontemporal(3 * PAGE + 1, &[9; 4096])),
            3 * PAGE + 1
        );
        assert_eq!(failing_byte(region.zero(4 * PAGE - 1, 2)), 4 * PAGE - 1);
        assert_eq!(bad_pages(&region), [2, 3]);
        assert_eq!(region.first_unstorable(PAGE, 3 * PAGE), None);
        assert_eq!(region.first_unstorable(PAGE, 2 * PAGE + 1), Some(3 * PAGE));
        assert_eq!(
            region.first_unstorable(2 * PAGE + 1, 3 * PAGE),
            Some(2 * PAGE + 1)
        );
    }
}

#[test]
fn a_page_stored_as_a_whole_is_good_again() {
    for region in sevens() {
        region.poison(2 * PAGE, 3 * PAGE).unwrap();
        let bytes = vec![9; 4096 + 200];
        region.store_nontemporal(2 * PAGE - 100, &bytes).unwrap_err();
        // The first page was covered, the second one only partly.
        assert_eq!(bad_pages(&region), [3, 4]);
        assert!(region.compare(2 * PAGE - 100, &bytes[..4196]).unwrap());
        region.zero(3 * PAGE, PAGE).unwrap();
        region.copy_nontemporal(0, 4 * PAGE, PAGE).unwrap();
        assert_eq!(region.bad_ranges(), []);
        assert_eq!(region.media_failures(), []);
        assert!(region.compare(3 * PAGE, &[0; 4096]).unwrap());
        assert!(region.compare(4 * PAGE, &[7; 4096]).unwrap());
    }
}

#[test]
fn poison_outside_of_the_region_is_refused() {
    let region = Region::anonymous(PAGE, None).unwrap();
    assert!(matches!(
        region.poison(PAGE, 1),
        Err(RegionError::OutOfBounds { .. })
    ));
    assert!(matches!(
        region.poison(u64::MAX, 2),
        Err(RegionError::OutOfBounds { .. })
    ));
    region.poison(7, 0).unwrap();
    assert_eq!(region.bad_ranges(), []);
}

/// Looks at the region's bad pages at each store.
#[derive(Debug, Default)]
struct Watcher {
    region: OnceLock<Weak<Region>>,
    seen: std::sync::Mutex<Vec<u64>>,
}

impl Recorder for Watcher {
    fn record(&self, event: Event<'_>) {
        if let Event::NonTemporal { .. } | Event::Store { .. } = event
            && let Some(region) = self.region.get().and_then(Weak::upgrade)
        {
            assert!(
                region.read_u64(PAGE).is_err(),
                "readable before the store was done"
            );
            self.seen.lock().unwrap().extend(bad_pages(&region));
        }
    }
}

#[test]
fn readers_fail_until_the_new_bytes_are_there() {
    let watcher = Arc::new(Watcher::default());
    let options = RegionOptions {
        recorder: Some(watcher.clone()),
        ..RegionOptions::default()
    };
    let region = Arc::new(Region::anonymous_with(PAGES * PAGE, options).unwrap());
    region.poison(PAGE, PAGE).unwrap();
    watcher.region.set(Arc::downgrade(&region)).unwrap();
    region.store_nontemporal(PAGE, &[9; 4096]).unwrap();
    assert_eq!(*watcher.seen.lock().unwrap(), [1]);
    assert!(region.compare(PAGE, &[9; 4096]).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Against bytes of which each page is there or lost.
    #[test]
    fn loads_and_stores_are_those_of_a_model(
        steps in prop::collection::vec((0..4_u8, 0..PAGES * PAGE, 1..3 * PAGE), 1..40)
    ) {
        let region = Region::anonymous(PAGES * PAGE, None).unwrap();
        let mut bytes = vec![0_u8; 8 * 4096];
        let mut is_bad = [false; 8];
        let page_of = |at: u64| usize::try_from(at / PAGE).unwrap();
        for (number, (kind, at, len)) in (1_u8..).zip(steps) {
            let end = (at + len).min(PAGES * PAGE);
            let len = end - at;
            let first_bad = |is_bad: &[bool; 8], fails: &dyn Fn(u64) -> bool| {
                (at..end).find(|byte| is_bad[page_of(*byte)] && fails(byte - byte % PAGE))
            };
            let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(end).unwrap());
            if kind == 0 {
                region.poison(at, len).unwrap();
                (page_of(at)..=page_of(end - 1)).for_each(|page| is_bad[page] = true);
                continue;
            }
            if kind == 1 {
                let mut found = vec![0; to - from];
                let bad = first_bad(&is_bad, &|_| true);
                prop_assert_eq!(region.read(at, &mut found).err().map(|e| failing_byte::<()>(Err(e))), bad);
                let upto = usize::try_from(bad.unwrap_or(end) - at).unwrap();
                prop_assert_eq!(&found[..upto], &bytes[from..from + upto]);
                continue;
            }
            let bad = first_bad(&is_bad, &|page| page < at || page + PAGE > end);
            let value = vec![number; to - from];
            let stored = if kind == 2 { region.store(at, &value) } else { region.store_nontemporal(at, &value) };
            prop_assert_eq!(stored.err().map(|e| failing_byte::<()>(Err(e))), bad);
            let upto = usize::try_from(bad.unwrap_or(end)).unwrap();
            bytes[from..upto].fill(number);
            for page in 0..8_u64 {
                let is_whole = page * PAGE >= at && (page + 1) * PAGE <= bad.unwrap_or(end);
                is_bad[usize::try_from(page).unwrap()] &= !is_whole;
            }
        }
    }
}
