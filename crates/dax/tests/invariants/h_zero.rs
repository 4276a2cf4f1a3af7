//! Zero entries: invariants 76 to 79.

use udax_dax::{Access, DaxError, Mode, Owner, PageRange, Size};

use crate::disk::{Disk, LARGE};
use crate::view::View;

#[test]
fn inv_76_an_entry_without_a_block_is_never_taken_for_one() {
    let disk = Disk::new();
    let file = disk.sparse(1, 2 * LARGE);
    let view = View::of(&file);
    view.fault(&file, 0, Size::Pmd, Access::Read).unwrap();
    view.load(&file, LARGE);
    for page in [0, LARGE] {
        assert_eq!(file.mapping.entry(page).unwrap().1.frame(), None);
    }
    // Block 0 is what their bits would be as a frame.
    let zero = disk.sparse(2, 1);
    zero.layout.set(0, 1, 0);
    let pin = zero.pin(0, 1, Access::Read);
    assert_eq!(file.mapping.busy_page_range(PageRange::ALL), None);
    file.punch(0, 2 * LARGE, &Mode::NoWait).unwrap();
    assert_ne!(disk.device.owner(0), Owner::None);
    assert_eq!(zero.mapping.busy_page_range(PageRange::ALL), Some(0));
    drop(pin);
}

#[test]
fn inv_77_a_zero_entry_is_read_only_and_a_store_allocates() {
    let disk = Disk::new();
    let file = disk.sparse(1, 1);
    let view = View::of(&file);
    assert_eq!(view.load(&file, 0), 0);
    assert_eq!(view.translation(0), Some((None, Access::Read)));
    let result = view.fault(&file, 0, Size::Page, Access::Write);
    assert!(matches!(result, Err(DaxError::NeedsAllocation { page: 0 })));
    view.store(&file, 0, 3);
    assert_eq!(view.load(&file, 0), 3);
    assert!(file.mapping.is_dirty(0));
}

#[test]
fn inv_77_a_hole_is_not_pinned_neither_for_reading() {
    let disk = Disk::new();
    let file = disk.sparse(1, 2);
    file.layout.set(0, 1, disk.fresh(1));
    for access in [Access::Read, Access::Write] {
        let result = file.try_pin(0, 2, access, &Mode::wait());
        assert!(matches!(result, Err(DaxError::NeedsAllocation { page: 1 })));
        assert_eq!(file.entries(2), [(0, 1)], "the refusal left an entry");
    }
    file.allocate(1);
    file.touch(0, 2, Access::Read);
}

#[test]
fn inv_78_zero_entries_are_never_dirty() {
    let disk = Disk::new();
    let file = disk.sparse(1, 2 * LARGE);
    let view = View::of(&file);
    view.fault(&file, 0, Size::Pmd, Access::Read).unwrap();
    view.load(&file, LARGE);
    assert!(!file.mapping.is_dirty(0) && !file.mapping.is_dirty(LARGE));
    file.mapping.write_back_range(PageRange::ALL).unwrap();
    assert_eq!(disk.device.counters().written_back, 0);
    // Also where a filesystem makes a hole of a dirty page without breaking its layout.
    let dirty = disk.file(2, 1);
    dirty.touch(0, 1, Access::Write);
    dirty.layout.remove(0, 1);
    let view = View::of(&dirty);
    assert_eq!(view.load(&dirty, 0), 0);
    assert!(!dirty.mapping.is_dirty(0));
}

#[test]
fn inv_79_a_store_that_races_with_the_filling_of_a_hole_maps_the_block_only() {
    let disk = Disk::new();
    let file = disk.sparse(1, 8);
    let view = View::of(&file);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (file, view) = (&file, &view);
            scope.spawn(move || {
                for page in 0..8 {
                    view.load(file, page);
                    let _ = view.fault(file, (page + thread) % 8, Size::Page, Access::Write);
                }
            });
        }
        for page in 0..8 {
            file.allocate(page);
        }
    });
    for page in 0..8 {
        view.store(&file, page, 1);
        let (block, access) = view.translation(page).unwrap();
        assert_eq!((block, access), (file.layout.block(page), Access::Write));
    }
}
