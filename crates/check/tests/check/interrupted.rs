//! A repair that a power failure interrupts leaves a pool that another repair finishes.

use std::sync::Arc;

use udax_crash::{Cut, Domain, Image as Bytes, Medium, Pick};
use udax_journal::{Journal, JournalError};
use udax_pmem::{OwnedEvent, Region};

use crate::image::{Image, Owner, read_contents, rich};
use crate::run_alone;

/// Images of each moment.
const IMAGES: usize = 24;

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
fn between_its_steps_a_repair_leaves_a_pool_that_is_not_opened() {
    let (mut image, _) = damaged();
    let base = Bytes::of(&image.write()).unwrap();
    let (region, trace) = base.recorded().unwrap();
    assert_eq!(run_alone(&region, true).exit_code(), 1);
    let mut medium = Medium::new(Domain::Flush, base.clone());
    let (mut refused, mut opened) = (0, Vec::new());
    for (number, event) in trace.take().iter().enumerate() {
        let picks: &[Pick] = match event.event {
            OwnedEvent::Fence => &[Pick::Least, Pick::Most],
            _ => &[],
        };
        for pick in picks {
            let region = medium.image(&Cut::now(*pick)).region().unwrap();
            let problems = run_alone(&region, false).problems;
            let is_told = problems
                .iter()
                .any(|problem| problem.what.contains("a repair was interrupted"));
            match Journal::open(Arc::new(region), &image.superblock) {
                Err(JournalError::HalfMended { .. }) if is_told => refused += 1,
                Ok(_) if !is_told => opened.push((number, problems.len())),
                Ok(_) => panic!("event {number}: opened although {problems:#?}"),
                Err(error) => panic!("event {number}: {error}, {problems:#?}"),
            }
        }
        medium.step(event);
    }
    assert!(refused > 10, "{refused} images");
    // Before the first step, and at the end.
    let (first, last) = (opened.first().unwrap(), opened.last().unwrap());
    assert!(first.1 > 0 && last.1 == 0 && opened.len() < 8, "{opened:?}");
}

/// Mends `base`, lets power fail just before each fence of that, mends what is left, and shows it to `judge`; how many
/// images that were.
fn cut_off(base: &Bytes, limit: usize, judge: impl Fn(&Region, &str)) -> usize {
    let (region, trace) = base.recorded().unwrap();
    assert_eq!(run_alone(&region, true).exit_code(), 1);
    let mut medium = Medium::new(Domain::Flush, base.clone());
    let mut images = 0;
    for (number, event) in trace.take().iter().enumerate() {
        if matches!(event.event, OwnedEvent::Fence) {
            for cut in medium.cuts(limit, 1) {
                let place = format!("event {number}, {cut}");
                let region = medium.image(&cut).region().unwrap();
                let report = run_alone(&region, true);
                assert!(report.exit_code() <= 1, "{place}: {report:#?}");
                let again = run_alone(&region, false);
                assert_eq!(again.problems, [], "{place}, then {report:#?}");
                judge(&region, &format!("{place}, then {report:#?}"));
                images += 1;
            }
        }
        medium.step(event);
    }
    images
}

#[test]
fn a_repair_cut_off_from_power_at_any_moment_is_finished_by_the_next() {
    let (mut image, lonely) = damaged();
    let region = Region::anonymous(16 << 20, None).unwrap();
    image.write_to(&region);
    let contents = read_contents(&region, &image.superblock);
    let images = cut_off(&Bytes::of(&region).unwrap(), IMAGES, |region, place| {
        let left = read_contents(region, &image.superblock);
        assert_eq!(left, contents, "{place}: inode {lonely}");
    });
    assert!(images > 100, "the repair made only {images} images");
}

#[test]
fn the_first_step_of_a_repair_of_a_clean_pool_is_whole_or_not_done() {
    let mut image = rich(4096);
    let region = image.write();
    let contents = read_contents(&region, &image.superblock);
    let base = Bytes::of(&region).unwrap();
    let mut images = 0;
    let blocks = image.metadata.clone();
    let of_inodes = blocks.iter().filter_map(|(block, owner)| match owner {
        Owner::Inode(ino) if contents.contains_key(ino) => Some((block, *ino)),
        _ => None,
    });
    for (block, victim) in of_inodes.take(6) {
        let mut damaged = base.clone();
        let mut byte = [0];
        let at = block.offset().raw() + 2180;
        damaged.read(at, &mut byte);
        damaged.write(at, &[byte[0] ^ 15]);
        let found = run_alone(&damaged.region().unwrap(), false);
        if found.problems.is_empty() {
            // What follows a value in its last block means nothing.
            continue;
        }
        images += cut_off(&damaged, IMAGES / 2, |region, place| {
            let left = read_contents(region, &image.superblock);
            let is_there = left.contains_key(&victim);
            assert!(is_there, "only a block of inode {victim} is damaged: {place}");
            for (ino, content) in contents.iter().filter(|(ino, _)| **ino != victim) {
                assert_eq!(left.get(ino), Some(content), "inode {ino}: {place}");
            }
        });
    }
    assert!(images > 100, "the repairs made only {images} images");
}

/// Each missing protection is seen by one of the tests above; a fault is for the whole process, which has one test.
#[cfg(udax_faults)]
mod faults {
    use std::panic::catch_unwind;

    use udax_sync::fault::{Fault, inject};

    fn is_found(fault: Fault, test: fn()) {
        inject(fault).unwrap();
        let panic = catch_unwind(test).expect_err("nothing was found");
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        println!("{}: {:.300}", fault.name(), text);
    }

    #[test]
    fn a_step_without_its_fence_is_found() {
        is_found(
            Fault::UnfencedMend,
            super::the_first_step_of_a_repair_of_a_clean_pool_is_whole_or_not_done,
        );
    }

    #[test]
    fn a_step_before_its_record_is_found() {
        is_found(
            Fault::EarlyMend,
            super::the_first_step_of_a_repair_of_a_clean_pool_is_whole_or_not_done,
        );
    }

    #[test]
    fn a_repair_that_is_not_marked_is_found() {
        is_found(
            Fault::UnmarkedMend,
            super::between_its_steps_a_repair_leaves_a_pool_that_is_not_opened,
        );
    }
}
