//! Faults against writes and truncation: invariants 53 to 64.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use udax_dax::{Access, DaxError, Fate, Mode, PAGE, PageRange, Size};

use crate::disk::{Disk, LARGE, pages};
use crate::view::View;

#[test]
fn inv_53_a_read_fault_that_races_with_an_allocating_write_ends_with_the_data() {
    for round in 0..200 {
        let disk = Disk::new();
        let file = disk.sparse(1, 1);
        let view = View::of(&file);
        thread::scope(|scope| {
            scope.spawn(|| view.load(&file, 0));
            if round % 2 == 0 {
                thread::yield_now();
            }
            let block = disk.fresh(1);
            disk.device.region().store(block * PAGE, &[8]).unwrap();
            file.layout.set(0, 1, block);
            file.mapping.invalidate_clean(pages(0, 1));
        });
        assert_eq!(view.load(&file, 0), 8);
        if round == 20 {
            return;
        }
    }
}

#[test]
fn inv_53_a_lookup_under_way_is_waited_for_by_who_fills_the_hole() {
    let disk = Disk::new();
    let file = disk.sparse(1, 1);
    let view = View::of(&file);
    let (began, go) = file.layout.stall();
    thread::scope(|scope| {
        scope.spawn(|| view.load(&file, 0));
        began.recv().unwrap();
        // The fault has its entry locked and has not looked yet, or has seen the hole: either way it maps first.
        let writer = scope.spawn(|| file.allocate(0));
        thread::yield_now();
        assert!(!writer.is_finished() || file.layout.block(0).is_some());
        go.send(()).unwrap();
    });
    view.store(&file, 0, 1);
    assert_eq!(view.load(&file, 0), 1);
    assert!(file.mapping.entry(0).unwrap().1.frame().is_some());
}

#[test]
fn inv_54_a_write_into_a_hole_tears_zero_pages_down() {
    let disk = Disk::new();
    for size in [Size::Page, Size::Pmd] {
        let file = disk.sparse(1, LARGE);
        let view = View::of(&file);
        view.fault(&file, 8, size, Access::Read).unwrap();
        assert_eq!(view.load(&file, 8), 0);
        let block = file.allocate(8);
        disk.device.region().store(block * PAGE, &[4]).unwrap();
        assert_eq!(view.load(&file, 8), 4);
    }
}

#[test]
fn inv_55_an_invalidation_keeps_what_is_dirty_or_pinned() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    file.touch(0, 4, Access::Read);
    file.touch(1, 1, Access::Write);
    let pin = file.pin(2, 1, Access::Read);
    assert_eq!(file.mapping.invalidate_clean(PageRange::ALL), 2);
    assert_eq!(file.entries(4), [(1, 1), (2, 1)]);
    // The pinned page is still found by a break.
    assert_eq!(file.mapping.busy_page_range(PageRange::ALL), Some(2));
    drop(pin);
    assert_eq!(file.mapping.invalidate_clean(PageRange::ALL), 1);
    file.check_count(4);
}

#[test]
fn inv_56_an_invalidation_unmaps_what_it_keeps_too() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let view = View::of(&file);
    view.store(&file, 0, 1);
    view.load(&file, 1);
    assert_eq!(file.mapping.invalidate_clean(pages(0, 2)), 1);
    assert_eq!((view.translation(0), view.translation(1)), (None, None));
}

#[test]
fn inv_57_a_fault_beyond_the_end_is_refused_and_leaves_no_entry() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let view = View::of(&file);
    for (page, size) in [(2, Size::Page), (LARGE, Size::Pmd), (u64::MAX, Size::Page)] {
        let result = view.fault(&file, page, size, Access::Read);
        assert!(matches!(result, Err(DaxError::BeyondEnd { .. })));
    }
    let result = file.try_pin(0, 3, Access::Read, &Mode::wait());
    assert!(matches!(result, Err(DaxError::BeyondEnd { page: 2 })));
    assert_eq!(file.entries(LARGE), [(0, 1), (1, 1)]);
    // What was counted before the error is counted no more.
    assert_eq!(file.mapping.busy_page_range(PageRange::ALL), None);
}

#[test]
fn inv_58_a_fault_during_a_truncation_waits_and_sees_the_new_end() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    let is_cut = AtomicBool::new(false);
    thread::scope(|scope| {
        let broken = file
            .mapping
            .break_layout(PageRange::from_page(2), Fate::Discarded, &Mode::wait())
            .unwrap();
        let fault = scope.spawn(|| {
            let result = file.try_pin(3, 1, Access::Read, &Mode::wait());
            assert!(is_cut.load(Ordering::SeqCst), "it did not wait");
            result.map(drop)
        });
        thread::yield_now();
        file.layout.set_end(2);
        file.layout.remove(2, 2);
        is_cut.store(true, Ordering::SeqCst);
        drop(broken);
        let result = fault.join().unwrap();
        assert!(matches!(result, Err(DaxError::BeyondEnd { page: 3 })));
    });
    file.mapping.truncate(PageRange::from_page(2)).unwrap();
    assert_eq!(disk.device.counters().entries_at_truncate, 0);
}

#[test]
fn inv_59_private_copies_made_between_break_and_truncation_go_too() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let view = View::of(&file);
    drop(
        file.mapping
            .break_layout(PageRange::from_page(1), Fate::Discarded, &Mode::wait())
            .unwrap(),
    );
    view.copies.lock().insert(1);
    file.mapping.truncate(PageRange::from_page(1)).unwrap();
    assert!(view.copies.lock().is_empty());
}
