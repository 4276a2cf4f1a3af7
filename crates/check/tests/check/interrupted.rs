//! A repair that stops anywhere leaves a pool that another repair finishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use udax_check::{CheckOptions, Silent, check};
use udax_pmem::{Event, Recorder, Region};

use crate::image::{Image, read_contents, rich};

/// Copies every store of a region to another, until it has seen enough of them.
#[derive(Debug)]
struct Copier {
    to: Region,
    left: AtomicUsize,
    seen: AtomicUsize,
}

impl Recorder for Copier {
    fn record(&self, event: Event<'_>) {
        let (Event::Store { at, bytes } | Event::NonTemporal { at, bytes }) = event else {
            return;
        };
        self.seen.fetch_add(1, Ordering::Relaxed);
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
            self.to.store(at, bytes).unwrap();
        }
    }
}

fn damaged() -> (Image, u64) {
    let mut image = rich(4096);
    let lonely = image.unnamed(&[(0, 2)]);
    image.inode(lonely).nlink = 1;
    let directory = image.mkdir(1, "gone");
    image.file(directory, "inside", &[(0, 1)]);
    image
        .names
        .get_mut(&1)
        .unwrap()
        .retain(|_, (name, ..)| name != b"gone");
    let names = image.names.get_mut(&2).unwrap();
    let (key, entry) = names.pop_first().unwrap();
    names.insert(key + (5 << 50), entry);
    image.allocate(9);
    (image, lonely)
}

#[test]
fn repair_cut_short_after_any_store_is_finished_by_the_next() {
    let options = CheckOptions {
        repair: true,
        threads: 1,
        ..CheckOptions::default()
    };
    let mut cut = 0;
    loop {
        let to = Region::anonymous(16 << 20, None).unwrap();
        let copier = Arc::new(Copier {
            to,
            left: AtomicUsize::new(usize::MAX),
            seen: AtomicUsize::new(0),
        });
        let region = Region::anonymous(16 << 20, Some(copier.clone())).unwrap();
        let (mut image, lonely) = damaged();
        image.write_to(&region);
        let contents = read_contents(&region, &image.superblock);
        copier.left.store(cut, Ordering::Relaxed);
        copier.seen.store(0, Ordering::Relaxed);
        assert_eq!(check(&region, &options, &Silent).unwrap().exit_code(), 1);
        let report = check(&copier.to, &options, &Silent).unwrap();
        assert!(report.exit_code() <= 1, "cut after {cut} stores: {report:#?}");
        let again = check(&copier.to, &CheckOptions::default(), &Silent).unwrap();
        assert_eq!(again.problems, [], "cut after {cut} stores, then {report:#?}");
        let left = read_contents(&copier.to, &image.superblock);
        assert_eq!(left, contents, "cut after {cut} stores: inode {lonely}");
        if cut >= copier.seen.load(Ordering::Relaxed) {
            break;
        }
        cut += 1;
    }
    assert!(cut > 10, "the repair made only {cut} stores");
}
