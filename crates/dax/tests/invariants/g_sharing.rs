//! Shared blocks: invariants 65 and 66.

use udax_dax::{Access, DaxError, Fate, Mode, Owner, Size};

use crate::disk::{Disk, LARGE, pages};
use crate::view::View;

#[test]
fn inv_65_a_frame_counts_the_entries_that_have_it() {
    let disk = Disk::new();
    let (one, other) = (disk.file(1, 1), disk.sparse(2, 2));
    let block = one.layout.block(0).unwrap();
    one.touch(0, 1, Access::Read);
    let single = Owner::Single {
        mapping: one.mapping.id(),
        page: 0,
    };
    assert_eq!(disk.device.owner(block), single);
    one.layout.share(0, 1, block);
    other.layout.share(0, 1, block);
    other.layout.share(1, 1, block);
    other.touch(0, 2, Access::Read);
    assert_eq!(disk.device.owner(block), Owner::Shared(3));
    // A fault of an entry that is there already counts it once.
    let view = View::of(&other);
    view.load(&other, 0);
    assert_eq!(disk.device.owner(block), Owner::Shared(3));
    other.punch(0, 2, &Mode::NoWait).unwrap();
    assert_eq!(disk.device.owner(block), Owner::Shared(1));
    one.punch(0, 1, &Mode::NoWait).unwrap();
    assert_eq!(disk.device.owner(block), Owner::None);
    assert_eq!(disk.device.counters().unexpected_sharing, 0);
}

#[test]
fn inv_65_parting_a_large_entry_passes_its_claim_on() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    let block = file.layout.block(0).unwrap();
    file.touch(0, LARGE, Access::Read);
    file.punch(0, 10, &Mode::NoWait).unwrap();
    assert_eq!(disk.device.owner(block), Owner::None);
    assert_eq!(disk.device.owner(block + 9), Owner::None);
    let kept = Owner::Single {
        mapping: file.mapping.id(),
        page: 10,
    };
    assert_eq!(disk.device.owner(block + 10), kept);
    drop(
        file.mapping
            .break_layout(pages(0, LARGE), Fate::Kept, &Mode::NoWait)
            .unwrap(),
    );
    assert_eq!(disk.device.owner(block + 10), Owner::None);
}

#[test]
fn inv_65_a_block_that_two_files_have_unawares_is_counted() {
    let disk = Disk::new();
    let (one, other) = (disk.file(1, 1), disk.sparse(2, 1));
    other.layout.set(0, 1, one.layout.block(0).unwrap());
    one.touch(0, 1, Access::Read);
    other.touch(0, 1, Access::Read);
    assert_eq!(disk.device.counters().unexpected_sharing, 1);
}

#[test]
fn inv_66_a_shared_fault_takes_the_entry_anew_after_unmapping_it() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let view = View::of(&file);
    view.store(&file, 0, 1);
    let block = file.layout.block(0).unwrap();
    file.layout.share(0, 1, block);
    view.fault(&file, 0, Size::Page, Access::Read).unwrap();
    assert_eq!(*view.unmapped.lock(), [pages(0, 1)]);
    assert_eq!(view.translation(0), Some((Some(block), Access::Read)));
}

#[test]
fn inv_66_stores_to_a_shared_block_ask_for_a_copy() {
    let disk = Disk::new();
    let file = disk.sparse(1, 1);
    let block = disk.fresh(1);
    file.layout.share(0, 1, block);
    for _ in 0..2 {
        let result = file.try_pin(0, 1, Access::Write, &Mode::wait());
        assert!(matches!(result, Err(DaxError::NeedsCopy { page: 0 })));
        // Whether there is an entry or not.
        file.touch(0, 1, Access::Read);
    }
}

#[test]
fn a_block_that_moves_without_a_break_is_refused_while_it_is_pinned() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let view = View::of(&file);
    let pin = file.pin(0, 1, Access::Read);
    let before = file.layout.block(0).unwrap();
    file.layout.set(0, 1, disk.fresh(1));
    let result = view.fault(&file, 0, Size::Page, Access::Write);
    assert!(matches!(result, Err(DaxError::Moved { page: 0 })));
    assert_eq!(file.mapping.entry(0).unwrap().1.frame(), Some(before));
    drop(pin);
    view.store(&file, 0, 1);
    assert_eq!(file.mapping.entry(0).unwrap().1.frame(), file.layout.block(0));
}

#[test]
fn a_block_outside_of_the_device_is_refused() {
    let disk = Disk::new();
    let file = disk.sparse(1, 1);
    for block in [disk.device.region().len() / 4096, u64::MAX >> 13, (1 << 58) - 1] {
        file.layout.set(0, 1, block);
        let result = file.try_pin(0, 1, Access::Read, &Mode::wait());
        assert!(
            matches!(result, Err(DaxError::BadBlock { page: 0, .. })),
            "{block}"
        );
        assert_eq!(file.mapping.pages(), 0);
    }
}
