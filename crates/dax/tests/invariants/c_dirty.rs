//! Dirty marks and flushes: invariants 22 to 34.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use udax_dax::{Access, Copies, Fate, Mode, PAGE, PageRange, Unmap};

use crate::disk::{Disk, LARGE, pages, until};
use crate::view::View;

#[test]
fn inv_22_no_store_beside_a_write_back_is_lost() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    let view = View::of(&file);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                file.mapping.write_back_range(pages(0, 4)).unwrap();
                // The trace grows with each.
                thread::yield_now();
            }
        });
        for step in 0..2000_u64 {
            let page = step % 4;
            if step % 3 == 0 {
                view.store(&file, page, 1);
            } else {
                file.pin(page, 1, Access::Write).write(8, &[2]).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Whatever is volatile is in an entry that is dirty.
    for page in 0..4 {
        let block = file.layout.block(page).unwrap();
        assert!(
            !disk.is_volatile(block) || file.mapping.is_dirty(page),
            "page {page}"
        );
    }
    file.mapping.write_back_range(pages(0, 4)).unwrap();
    assert!((0..4).all(|page| !disk.is_volatile(file.layout.block(page).unwrap())));
}

#[test]
fn inv_22_a_page_stays_dirty_while_it_is_pinned_for_writing() {
    let disk = Disk::new();
    for count in [1, LARGE] {
        let file = disk.file(count, count);
        let block = file.layout.block(0).unwrap();
        let pin = file.pin(0, count, Access::Write);
        pin.write(0, &[1]).unwrap();
        file.mapping.write_back_range(PageRange::ALL).unwrap();
        assert!(!disk.is_volatile(block) && file.mapping.is_dirty(0));
        pin.write(0, &[2]).unwrap();
        drop(pin);
        file.mapping.write_back_range(PageRange::ALL).unwrap();
        assert!(!disk.is_volatile(block) && !file.mapping.is_dirty(0));
    }
}

/// Holds a write-back up while its entry is locked.
struct Stall {
    began: std::sync::mpsc::Sender<()>,
    go: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Unmap for Stall {
    fn unmap(&self, _: PageRange, _: Copies) {}

    fn write_protect(&self, _: PageRange) {
        self.began.send(()).unwrap();
        // Nobody sends any more: the test is over.
        let _ = self.go.lock().unwrap().recv();
    }
}

#[test]
fn inv_23_a_write_back_waits_for_another_that_has_begun_with_its_page() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    file.pin(0, 1, Access::Write).write(0, &[1]).unwrap();
    let block = file.layout.block(0).unwrap();
    let (began, has_begun) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel();
    file.mapping.add_view(Arc::new(Stall {
        began,
        go: std::sync::Mutex::new(may_go),
    }));
    thread::scope(|scope| {
        scope.spawn(|| file.mapping.write_back_range(pages(0, 1)).unwrap());
        has_begun.recv().unwrap();
        let second = scope.spawn(|| {
            file.mapping.write_back_range(pages(0, 2)).unwrap();
            assert!(!disk.is_volatile(block), "told that it is durable before it is");
        });
        until("the second waits", || file.mapping.entry_waiters(0) == 1);
        assert!(!second.is_finished() && disk.is_volatile(block));
        drop(go);
    });
}

#[test]
fn inv_24_after_a_write_back_the_next_store_faults_and_dirties_again() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let view = View::of(&file);
    view.store(&file, 0, 1);
    file.mapping.write_back_range(pages(0, 1)).unwrap();
    assert!(!file.mapping.is_dirty(0));
    assert_eq!(view.translation(0).unwrap().1, Access::Read);
    view.store(&file, 0, 2);
    assert!(file.mapping.is_dirty(0));
}

#[test]
fn inv_25_a_page_that_was_punched_and_allocated_anew_is_written_back_where_it_is_now() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let view = View::of(&file);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                file.mapping.write_back_range(pages(0, 1)).unwrap();
                thread::yield_now();
            }
        });
        for _ in 0..100 {
            file.punch(0, 1, &Mode::wait()).unwrap();
            view.store(&file, 0, 3);
            file.mapping.write_back_range(pages(0, 1)).unwrap();
            assert!(!disk.is_volatile(file.layout.block(0).unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn inv_27_a_break_does_not_lose_the_dirt_of_data_that_survives() {
    let disk = Disk::new();
    let file = disk.file(1, 8);
    let block = file.layout.block(2).unwrap();
    file.pin(2, 1, Access::Write).write(0, &[1]).unwrap();
    // Elsewhere: it stays dirty.
    file.punch(5, 1, &Mode::NoWait).unwrap();
    assert!(disk.is_volatile(block) && file.mapping.is_dirty(2));
    // Here, and the bytes go on to exist: they are durable before the entry goes.
    let broken = file
        .mapping
        .break_layout(pages(0, 4), Fate::Kept, &Mode::NoWait)
        .unwrap();
    assert!(!disk.is_volatile(block));
    drop(broken);
    assert!(file.mapping.entry(2).is_none());
}

#[test]
fn inv_27_what_is_stored_until_the_last_pin_goes_is_durable_when_the_layout_is_broken() {
    /// A transfer that ends when the break has begun: after its first write-back, which the pin outlives.
    struct Late(std::sync::Mutex<Option<udax_dax::Pin>>);
    impl Unmap for Late {
        fn unmap(&self, _: PageRange, _: Copies) {
            if let Some(pin) = self.0.lock().unwrap().take() {
                pin.write(0, &[2]).unwrap();
            }
        }
        fn write_protect(&self, _: PageRange) {}
    }
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let block = file.layout.block(0).unwrap();
    let pin = file.pin(0, 1, Access::Write);
    file.mapping
        .add_view(Arc::new(Late(std::sync::Mutex::new(Some(pin)))));
    let broken = file
        .mapping
        .break_layout(pages(0, 1), Fate::Kept, &Mode::NoWait)
        .unwrap();
    assert!(!disk.is_volatile(block));
    drop(broken);
}

#[test]
fn inv_30_a_page_that_is_copied_on_write_loses_its_entry_and_its_dirt() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let view = View::of(&file);
    view.store(&file, 0, 1);
    let copy = disk.fresh(1);
    {
        let range = pages(0, 1);
        let _broken = file
            .mapping
            .break_layout(range, Fate::Discarded, &Mode::wait())
            .unwrap();
        disk.device.region().store(copy * PAGE, &[9]).unwrap();
        file.layout.set(0, 1, copy);
    }
    assert!(!file.mapping.is_dirty(0));
    assert_eq!(view.load(&file, 0), 9);
}

#[test]
fn inv_31_stores_past_the_cache_are_durable_after_a_write_back_without_marks() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let block = file.layout.block(0).unwrap();
    disk.device
        .region()
        .store_nontemporal(block * PAGE, &[1; 64])
        .unwrap();
    disk.device.region().flush(block * PAGE, 64).unwrap();
    assert!(disk.is_volatile(block) && file.mapping.pages() == 0);
    file.mapping.write_back_range(pages(0, 1)).unwrap();
    assert!(!disk.is_volatile(block));
}

#[test]
fn inv_33_an_entry_that_comes_again_is_clean() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    file.touch(0, LARGE, Access::Write);
    drop(
        file.mapping
            .break_layout(pages(0, LARGE), Fate::Discarded, &Mode::wait())
            .unwrap(),
    );
    file.touch(0, LARGE, Access::Read);
    assert!(file.mapping.entry(0).is_some() && !file.mapping.is_dirty(0));
    file.touch(1, 1, Access::Write);
    assert!(file.mapping.is_dirty(0));
}

#[test]
fn inv_34_a_write_back_of_nothing_still_fences() {
    let disk = Disk::new();
    let (file, empty) = (disk.file(1, 1), disk.sparse(2, 0));
    let block = file.layout.block(0).unwrap();
    disk.device.region().store(block * PAGE, &[1]).unwrap();
    disk.device.region().flush(block * PAGE, 1).unwrap();
    assert!(disk.is_volatile(block));
    empty.mapping.write_back_range(PageRange::ALL).unwrap();
    assert!(!disk.is_volatile(block));
}
