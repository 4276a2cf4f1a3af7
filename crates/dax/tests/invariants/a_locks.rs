//! Entry locks and wakes: invariants 1 to 12.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use udax_dax::{Access, DaxError, Fate, Faulted, Mode, Size};

use crate::disk::{Disk, LARGE, pages, until};
use crate::view::View;

#[test]
fn inv_01_all_waiters_of_an_entry_that_goes_are_woken() {
    let disk = Disk::new();
    // The large fault is of a hole; when it fails, the empty entry that it made is taken out.
    let file = disk.sparse(1, LARGE);
    let view = View::of(&file);
    let (began, go) = file.layout.stall();
    thread::scope(|scope| {
        let fault = scope.spawn(|| view.fault(&file, 0, Size::Pmd, Access::Write));
        began.recv().unwrap();
        for page in 0..4 {
            let (file, view) = (&file, &view);
            scope.spawn(move || assert_eq!(view.load(file, page * 7), 0));
        }
        until("four wait", || file.mapping.entry_waiters(0) == 4);
        go.send(()).unwrap();
        assert!(matches!(
            fault.join().unwrap(),
            Err(DaxError::NeedsAllocation { .. })
        ));
    });
    assert_eq!(file.entries(LARGE), [(0, 1), (7, 1), (14, 1), (21, 1)]);
    file.check_count(LARGE);
}

#[test]
fn inv_02_a_large_request_that_meets_a_locked_page_falls_back_at_once() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    let view = View::of(&file);
    let (began, go) = file.layout.stall();
    thread::scope(|scope| {
        scope.spawn(|| file.touch(5, 1, Access::Read));
        began.recv().unwrap();
        // The page's entry is locked until `go`: who waits for it here waits for ever.
        let faulted = view.fault(&file, 0, Size::Pmd, Access::Read).unwrap();
        assert_eq!(faulted, Faulted::Fallback);
        go.send(()).unwrap();
    });
}

#[test]
fn inv_03_the_first_large_fault_of_an_empty_range_makes_a_large_entry() {
    let disk = Disk::new();
    let file = disk.file(1, 2 * LARGE);
    file.touch(LARGE, LARGE, Access::Read);
    assert_eq!(file.entries(2 * LARGE), [(LARGE, LARGE)]);
    file.check_count(2 * LARGE);
}

#[test]
fn inv_04_who_waits_for_a_large_entry_is_woken_though_a_page_took_its_place() {
    let disk = Disk::new();
    let file = disk.sparse(1, LARGE);
    let view = View::of(&file);
    view.fault(&file, 0, Size::Pmd, Access::Read).unwrap();
    assert_eq!(file.entries(LARGE), [(0, LARGE)]);
    // Another large fault has the zero entry locked while two want pages of it.
    let (began, go) = file.layout.stall();
    thread::scope(|scope| {
        let large = scope.spawn(|| view.fault(&file, 0, Size::Pmd, Access::Read));
        began.recv().unwrap();
        for page in [3, 300] {
            let (file, view) = (&file, &view);
            scope.spawn(move || view.fault(file, page, Size::Page, Access::Read).unwrap());
        }
        until("two wait", || file.mapping.entry_waiters(0) == 2);
        go.send(()).unwrap();
        large.join().unwrap().unwrap();
    });
    assert_eq!(file.entries(LARGE), [(3, 1), (300, 1)]);
}

#[test]
fn inv_05_the_chain_of_wakes_never_breaks() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    let view = View::of(&file);
    let done = AtomicU64::new(0);
    let (began, go) = file.layout.stall();
    thread::scope(|scope| {
        scope.spawn(|| view.fault(&file, 0, Size::Page, Access::Read));
        began.recv().unwrap();
        // Half of them give up: a wake that one of those has had must go on to the next.
        for number in 0..16 {
            let (file, done) = (&file, &done);
            scope.spawn(move || {
                let mode = match number % 2 {
                    0 => Mode::wait(),
                    _ => Mode::deadline(Instant::now() + Duration::from_millis(number)),
                };
                let result = file.try_pin(0, 1, Access::Write, &mode);
                assert!(number % 2 == 1 || result.is_ok());
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        until("eight wait", || file.mapping.entry_waiters(0) >= 8);
        go.send(()).unwrap();
    });
    assert_eq!(done.load(Ordering::Relaxed), 16);
}

#[test]
fn inv_06_a_scan_reexamines_the_entry_it_waited_for() {
    scan_meets_a_locked_entry(2);
}

#[test]
fn inv_07_a_scan_does_not_skip_a_locked_entry() {
    scan_meets_a_locked_entry(0);
}

/// A write-back has the entry of a pinned page locked (its view is told to protect it, and takes its time) when a break
/// comes to it.
fn scan_meets_a_locked_entry(page: u64) {
    struct Slow {
        began: std::sync::mpsc::Sender<()>,
        go: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
    }
    impl udax_dax::Unmap for Slow {
        fn unmap(&self, _: udax_dax::PageRange, _: udax_dax::Copies) {}
        fn write_protect(&self, _: udax_dax::PageRange) {
            self.began.send(()).unwrap();
            self.go.lock().unwrap().recv().unwrap();
        }
    }
    let disk = Disk::new();
    let file = disk.file(1, 4);
    file.touch(page, 1, Access::Write);
    let pin = file.pin(page, 1, Access::Read);
    let (began, has_begun) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel();
    file.mapping.add_view(Arc::new(Slow {
        began,
        go: std::sync::Mutex::new(may_go),
    }));
    thread::scope(|scope| {
        scope.spawn(|| file.mapping.write_back_range(pages(0, 4)).unwrap());
        has_begun.recv().unwrap();
        let scan = scope.spawn(|| file.mapping.busy_page_range(pages(0, 4)));
        until("the scan waits", || file.mapping.entry_waiters(page) == 1);
        go.send(()).unwrap();
        assert_eq!(scan.join().unwrap(), Some(page));
    });
    drop(pin);
    assert_eq!(file.mapping.busy_page_range(pages(0, 4)), None);
}

#[test]
fn inv_10_an_entry_is_unlocked_with_what_was_put_last() {
    let disk = Disk::new();
    let file = disk.sparse(1, 1);
    let view = View::of(&file);
    assert_eq!(view.load(&file, 0), 0);
    assert!(file.mapping.entry(0).unwrap().1.is_zero());
    let block = disk.fresh(1);
    file.layout.set(0, 1, block);
    view.store(&file, 0, 7);
    let (_, entry) = file.mapping.entry(0).unwrap();
    assert!(!entry.is_locked());
    assert_eq!(entry.frame(), Some(block));
}

#[test]
fn inv_12_the_count_of_pages_is_that_of_entries_whatever_happens() {
    let disk = Disk::new();
    let file = disk.file(1, 4 * LARGE);
    let view = View::of(&file);
    file.layout.remove(700, 3);
    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (file, view) = (&file, &view);
            scope.spawn(move || {
                for step in 0..200_u64 {
                    let page = (thread * 997 + step * 131) % (4 * LARGE + 8);
                    let large = Size::Pmd.start_of(page);
                    // What cannot be is refused, and leaves nothing behind.
                    let _ = match step % 4 {
                        0 => view.fault(file, page, Size::Pmd, Access::Read).map(drop),
                        1 => view.fault(file, page, Size::Page, Access::Write).map(drop),
                        2 => file.try_pin(large, LARGE, Access::Write, &Mode::wait()).map(drop),
                        _ => {
                            let range = pages(page, 300);
                            file.mapping
                                .break_layout(range, Fate::Kept, &Mode::wait())
                                .map(drop)
                        }
                    };
                }
            });
        }
    });
    file.check_count(5 * LARGE);
    drop(
        file.mapping
            .break_layout(udax_dax::PageRange::ALL, Fate::Kept, &Mode::wait())
            .unwrap(),
    );
    assert_eq!(file.mapping.pages(), 0);
}
