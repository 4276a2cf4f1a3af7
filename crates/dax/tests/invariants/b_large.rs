//! Large entries and pages: invariants 13 to 21.

use std::thread;

use udax_dax::{Access, Fate, Faulted, Mode, Size};

use crate::disk::{Disk, LARGE, pages};
use crate::view::View;

#[test]
fn inv_13_colliding_large_and_page_faults_end_with_one_representation() {
    let disk = Disk::new();
    for number in 0..50 {
        let file = disk.file(number, LARGE);
        let view = View::of(&file);
        thread::scope(|scope| {
            scope.spawn(|| file.touch(0, LARGE, Access::Write));
            for page in [0, 9, 511] {
                let (file, view) = (&file, &view);
                scope.spawn(move || view.store(file, page, 5));
            }
        });
        file.check_count(LARGE);
        let entries = file.entries(LARGE);
        let is_large = entries == [(0, LARGE)];
        assert!(
            is_large || entries.iter().all(|(_, count)| *count == 1),
            "{entries:?}"
        );
        for page in [0, 9, 511] {
            assert_eq!(view.load(&file, page), 5);
            assert!(file.mapping.is_dirty(page));
        }
        // Blocks are used again.
        drop(
            file.mapping
                .break_layout(pages(0, LARGE), Fate::Discarded, &Mode::wait())
                .unwrap(),
        );
        disk.device.region().zero(LARGE * 4096, 8 << 20).unwrap();
        if number % 8 == 7 {
            return;
        }
    }
}

#[test]
fn inv_14_a_page_fault_on_a_large_entry_keeps_it_and_dirties_all_of_it() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    file.touch(0, LARGE, Access::Read);
    let pin = file.pin(77, 1, Access::Write);
    pin.write(0, &[1]).unwrap();
    let block = file.layout.block(300).unwrap();
    disk.device.region().store(block * 4096, &[2]).unwrap();
    assert_eq!(file.entries(LARGE), [(0, LARGE)]);
    assert!(file.mapping.is_dirty(0) && file.mapping.is_dirty(511));
    drop(pin);
    file.mapping.write_back_range(pages(77, 1)).unwrap();
    assert!(!disk.is_volatile(block), "all of the large entry is flushed");
}

#[test]
fn inv_15_a_page_fault_in_a_large_hole_unmaps_all_of_it_first() {
    let disk = Disk::new();
    let file = disk.sparse(1, LARGE);
    let view = View::of(&file);
    view.fault(&file, 0, Size::Pmd, Access::Read).unwrap();
    assert!(view.translation(511).is_some());
    view.store(&file, 5, 1);
    assert_eq!(view.translation(511), None);
    assert_eq!(file.entries(LARGE), [(5, 1)]);
    file.check_count(LARGE);
}

#[test]
fn inv_16_what_is_no_aligned_run_of_512_blocks_falls_back() {
    let disk = Disk::new();
    let view_of = |first: u64, count: u64, end: u64| {
        let file = disk.sparse(first + count * 1000, end);
        let block = disk.fresh(1024);
        file.layout.set(0, count, block + first);
        let view = View::of(&file);
        let faulted = view.fault(&file, 0, Size::Pmd, Access::Read).unwrap();
        (faulted, file)
    };
    for (first, count, end) in [(1, 512, 512), (0, 511, 512), (0, 500, 500)] {
        let (faulted, file) = view_of(first, count, end);
        assert_eq!(faulted, Faulted::Fallback, "{count} blocks of {end} from {first}");
        // Nothing stays that a page's fault would have to get rid of, and it goes through.
        assert_eq!(file.mapping.pages(), 0);
        file.touch(9, 1, Access::Write);
    }
    let (faulted, _) = view_of(0, 512, 512);
    assert!(matches!(faulted, Faulted::Mapped { .. }));
}

#[test]
fn inv_17_racing_faults_of_one_page_make_one_entry() {
    let disk = Disk::new();
    let file = disk.file(1, 64);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..64).for_each(|page| file.touch(page, 1, Access::Write)));
        }
    });
    assert_eq!(file.entries(64).len(), 64);
    file.check_count(64);
    // Each frame is associated once.
    assert_eq!(disk.device.counters().unexpected_sharing, 0);
}

#[test]
fn inv_18_a_walk_makes_progress_from_the_middle_of_a_large_entry() {
    let disk = Disk::new();
    let file = disk.file(1, 2 * LARGE);
    file.touch(0, 2 * LARGE, Access::Write);
    assert_eq!(file.mapping.busy_page_range(pages(300, 400)), None);
    file.mapping.write_back_range(pages(300, 400)).unwrap();
    assert_eq!(file.mapping.invalidate_clean(pages(300, 400)), 0);
    assert_eq!(file.mapping.pages(), 0);
}

#[test]
fn inv_19_a_write_back_from_the_middle_flushes_the_whole_large_entry() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    file.pin(0, LARGE, Access::Write).write(0, &[1]).unwrap();
    let block = file.layout.block(0).unwrap();
    assert!(disk.is_volatile(block));
    file.mapping.write_back_range(pages(400, 1)).unwrap();
    assert!(!disk.is_volatile(block));
    assert!(!file.mapping.is_dirty(0));
}

#[test]
fn inv_20_what_is_outside_of_a_break_keeps_its_data_and_its_dirt() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    let pin = file.pin(0, LARGE, Access::Write);
    pin.write(10 * 4096, &[42]).unwrap();
    drop(pin);
    file.punch(100, 50, &Mode::NoWait).unwrap();
    assert!(file.mapping.is_dirty(10) && file.mapping.is_dirty(99) && file.mapping.is_dirty(150));
    assert!((100..150).all(|page| file.mapping.entry(page).is_none()));
    file.check_count(LARGE);
    let block = file.layout.block(10).unwrap();
    assert!(disk.is_volatile(block));
    file.mapping.write_back_range(pages(0, 100)).unwrap();
    assert!(!disk.is_volatile(block));
    let mut byte = [0];
    file.pin(10, 1, Access::Read).read(0, &mut byte).unwrap();
    assert_eq!(byte, [42]);
}

#[test]
fn inv_20_a_pin_outside_of_a_break_of_its_large_entry_is_still_found() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    file.touch(0, LARGE, Access::Write);
    let pin = file.pin(10, 5, Access::Write);
    file.punch(100, 50, &Mode::NoWait).unwrap();
    assert_eq!(file.mapping.busy_page_range(pages(0, LARGE)), Some(10));
    drop(pin);
    assert_eq!(file.mapping.busy_page_range(pages(0, LARGE)), None);
}

#[test]
fn inv_21_after_a_fallback_pages_can_be_mapped_one_by_one() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    let view = View::of(&file);
    file.touch(3, 1, Access::Read);
    let faulted = view.fault(&file, 3, Size::Pmd, Access::Write).unwrap();
    assert_eq!(faulted, Faulted::Fallback);
    view.store(&file, 3, 9);
    assert_eq!(view.load(&file, 3), 9);
}
