//! Truncation, punches and moves against pins: invariants 35 to 46.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use udax_dax::{
    Access, Attempt, Cancel, DaxError, Fate, Label, Mode, PAGE, PageRange, Request, Until, WaitError,
};

use crate::disk::{Disk, LARGE, pages, until};
use crate::view::View;

#[test]
fn inv_35_no_block_is_reused_while_it_is_pinned() {
    let disk = Disk::new();
    let file = disk.file(1, 8);
    // Each block says in its first byte whom it belongs to: 1 is the file, 2 is who got the block after a punch.
    let stray = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (file, stray, stop) = (&file, &stray, &stop);
            scope.spawn(move || {
                let mut step = thread;
                while !stop.load(Ordering::Relaxed) {
                    step += 3;
                    let pin = match file.try_pin(step % 8, 1, Access::Write, &Mode::wait()) {
                        Ok(pin) => pin,
                        Err(DaxError::NeedsAllocation { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let mut byte = [0];
                    pin.read(0, &mut byte).unwrap();
                    if byte == [2] {
                        stray.fetch_add(1, Ordering::Relaxed);
                    }
                    pin.write(0, &[1]).unwrap();
                }
            });
        }
        for step in 0..400 {
            let page = step % 8;
            let block = file.layout.block(page).unwrap();
            file.punch(page, 1, &Mode::wait()).unwrap();
            let region = disk.device.region();
            region.store(block * PAGE, &[2]).unwrap();
            for _ in 0..20 {
                let mut byte = [0];
                region.read(block * PAGE, &mut byte).unwrap();
                assert_eq!(byte, [2], "a pin wrote into a block that is another's");
            }
            region.store(block * PAGE, &[0]).unwrap();
            file.layout.set(page, 1, block);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(stray.load(Ordering::Relaxed), 0, "a pin saw another's block");
}

#[test]
fn inv_36_views_are_unmapped_before_pins_are_looked_for() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let view = View::of(&file);
    view.store(&file, 0, 1);
    let pin = file.pin(0, 1, Access::Read);
    assert_eq!(file.mapping.busy_page_range(pages(0, 2)), Some(0));
    assert_eq!(view.translation(0), None);
    drop(pin);
}

#[test]
fn inv_37_a_pin_is_found_though_no_view_maps_its_page() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let pin = file.pin(1, 1, Access::Read);
    assert_eq!(file.mapping.busy_page_range(pages(0, 2)), Some(1));
    let error = file.punch(0, 2, &Mode::NoWait).unwrap_err();
    assert!(matches!(error, DaxError::WouldBlock { page: 1, .. }));
    drop(pin);
    file.punch(0, 2, &Mode::NoWait).unwrap();
}

#[test]
fn inv_38_a_broken_range_has_no_entry_and_gets_none() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    file.touch(0, 4, Access::Write);
    let broken = file
        .mapping
        .break_layout(pages(1, 2), Fate::Kept, &Mode::NoWait)
        .unwrap();
    assert_eq!(file.entries(4), [(0, 1), (3, 1)]);
    let refused = file.try_pin(1, 1, Access::Read, &Mode::NoWait);
    assert!(matches!(refused, Err(DaxError::WouldBlock { .. })));
    thread::scope(|scope| {
        scope.spawn(|| {
            let late = Mode::deadline(Instant::now() + Duration::from_millis(5));
            let refused = file.try_pin(1, 1, Access::Read, &late);
            assert!(matches!(refused, Err(DaxError::Wait(WaitError::TimedOut))));
        });
    });
    assert!(broken.covers(&file.mapping, pages(2, 1)) && !broken.covers(&file.mapping, pages(2, 2)));
    drop(broken);
    file.touch(1, 1, Access::Read);
}

#[test]
fn inv_39_a_break_that_gives_up_has_changed_nothing() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    file.touch(0, 4, Access::Write);
    let pin = file.pin(2, 1, Access::Read);
    let soon = Mode::deadline(Instant::now() + Duration::from_millis(10));
    let error = file.punch(0, 4, &soon).unwrap_err();
    assert!(matches!(error, DaxError::Wait(WaitError::TimedOut)));
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let punch = scope.spawn(|| file.punch(0, 4, &Mode::cancelled(cancel.clone())));
        until("the break waits", || {
            disk.device.block_waiters(file.layout.block(2).unwrap()) == 1
        });
        cancel.cancel();
        let error = punch.join().unwrap().unwrap_err();
        assert_eq!(error.errno(), nix::errno::Errno::EINTR);
    });
    assert_eq!(file.entries(4).len(), 4);
    assert!((0..4).all(|page| file.mapping.is_dirty(page)));
    drop(pin);
    file.punch(0, 4, &Mode::NoWait).unwrap();
    assert_eq!(file.mapping.pages(), 0);
}

#[test]
fn inv_40_faults_and_pins_outside_go_on_while_a_break_waits_and_the_rescan_finds_new_ones_inside() {
    let disk = Disk::new();
    let file = disk.file(1, 8);
    let view = View::of(&file);
    let pin = file.pin(2, 1, Access::Read);
    let block = |page| file.layout.block(page).unwrap();
    thread::scope(|scope| {
        let punch = scope.spawn(|| file.punch(0, 4, &Mode::wait()));
        until("the break waits", || disk.device.block_waiters(block(2)) == 1);
        // Outside nobody waits, not even for a moment.
        drop(file.try_pin(5, 2, Access::Write, &Mode::NoWait).unwrap());
        view.store(&file, 6, 1);
        // Inside, a pin that does not want to wait is told so; a view may still fault.
        let refused = file.try_pin(3, 1, Access::Read, &Mode::NoWait);
        assert!(matches!(refused, Err(DaxError::WouldBlock { .. })));
        view.store(&file, 1, 1);
        assert!(view.translation(1).is_some());
        // The pin's thread pins again: it is held back for a moment only, and found by the rescan.
        let second = file.pin(1, 1, Access::Write);
        drop(pin);
        until("the break waits again", || {
            disk.device.block_waiters(block(1)) == 1
        });
        assert!(!punch.is_finished());
        drop(second);
        punch.join().unwrap().unwrap();
    });
    assert_eq!(view.translation(1), None);
    assert!(file.mapping.entry(1).is_none() && file.mapping.entry(6).is_some());
    let counters = disk.device.counters();
    assert!(counters.gated_pins >= 1 && counters.busy_breaks >= 2 && counters.longest_wait_nanos > 0);
}

#[test]
fn inv_41_a_break_goes_on_when_the_pin_goes_though_the_page_was_mapped_again() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let view = View::of(&file);
    let pin = file.pin(0, 1, Access::Read);
    thread::scope(|scope| {
        let punch = scope.spawn(|| file.punch(0, 1, &Mode::wait()));
        until("the break waits", || {
            disk.device.block_waiters(file.layout.block(0).unwrap()) == 1
        });
        view.store(&file, 0, 1);
        drop(pin);
        punch.join().unwrap().unwrap();
    });
    assert_eq!(view.translation(0), None);
}

#[test]
fn inv_42_a_truncation_that_finds_an_entry_deletes_counts_and_panics_in_debug_builds() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    file.touch(0, 4, Access::Read);
    let wrong = catch_unwind(AssertUnwindSafe(|| {
        file.mapping.truncate(PageRange::from_page(2))
    }));
    assert_eq!(wrong.is_err(), cfg!(debug_assertions));
    assert_eq!(file.entries(4), [(0, 1), (1, 1)]);
    assert_eq!(disk.device.counters().entries_at_truncate, 2);
    file.punch(0, 2, &Mode::NoWait).unwrap();
    file.mapping.truncate(PageRange::ALL).unwrap();
    assert_eq!(disk.device.counters().entries_at_truncate, 2);
}

#[test]
fn inv_42_a_truncation_without_a_break_does_not_touch_what_is_pinned() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let _pin = file.pin(1, 1, Access::Read);
    let error = file.mapping.truncate(PageRange::ALL).unwrap_err();
    assert!(matches!(error, DaxError::Moved { page: 1 }));
    assert!(file.mapping.entry(1).is_some());
}

#[test]
fn inv_43_private_copies_survive_a_break_but_not_a_truncation() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    let view = View::of(&file);
    view.copies.lock().extend([0, 3]);
    view.store(&file, 3, 1);
    file.punch(3, 1, &Mode::NoWait).unwrap();
    assert!(view.copies.lock().contains(&3));
    view.load(&file, 0);
    drop(
        file.mapping
            .break_layout(PageRange::from_page(1), Fate::Discarded, &Mode::NoWait)
            .unwrap(),
    );
    file.mapping.truncate(PageRange::from_page(1)).unwrap();
    assert_eq!(*view.copies.lock(), [0].into());
}

#[test]
fn inv_44_the_final_break_waits_for_every_pin() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE + 2);
    let pins = [
        file.pin(LARGE + 1, 1, Access::Write),
        file.pin(0, LARGE, Access::Read),
    ];
    pins[0].write(0, &[1]).unwrap();
    let blocks = pins.each_ref().map(|pin| pin.pieces().next().unwrap().at / PAGE);
    let [last, first] = pins;
    thread::scope(|scope| {
        let end = scope.spawn(|| file.mapping.break_layout_final(Fate::Kept).1);
        until("it waits for the first", || {
            disk.device.block_waiters(blocks[1]) == 1
        });
        drop(first);
        until("it waits for the last", || {
            disk.device.block_waiters(blocks[0]) == 1
        });
        assert!(!end.is_finished());
        drop(last);
        end.join().unwrap().unwrap();
    });
    assert_eq!(file.mapping.pages(), 0);
    assert!(!disk.is_volatile(blocks[0]));
}

#[test]
fn inv_45_a_break_to_the_end_covers_the_last_page_there_can_be() {
    let disk = Disk::new();
    let file = disk.sparse(1, u64::MAX);
    let (block, last) = (disk.fresh(1), u64::MAX - 1);
    file.layout.set(last, 1, block);
    file.layout.set(5, 1, block + 1);
    file.touch(5, 1, Access::Write);
    let pin = file.pin(last, 1, Access::Write);
    let end = PageRange::from_page(6);
    let busy = file
        .mapping
        .break_layout(end, Fate::Kept, &Mode::NoWait)
        .unwrap_err();
    assert!(matches!(busy, DaxError::WouldBlock { page, .. } if page == last));
    drop(pin);
    drop(file.mapping.break_layout(end, Fate::Kept, &Mode::NoWait).unwrap());
    assert!(file.mapping.entry(last).is_none());
    assert!(file.mapping.entry(5).is_some() && file.mapping.is_dirty(5));
}

#[test]
fn inv_46_long_pins_are_allowed_and_listed_with_their_holder() {
    let disk = Disk::new();
    let file = disk.file(7, LARGE);
    let label = Label {
        name: "rdma",
        number: 3,
    };
    let request = Request::new(Access::Write).labelled(label).long();
    let long = file.mapping.pin(pages(0, LARGE), request, &file.layout).unwrap();
    let short = file.pin(4, 1, Access::Read);
    let listed = disk.device.pins();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (listed[0].file, listed[0].label, listed[0].term),
        (7, label, udax_dax::Term::Long)
    );
    assert_eq!(listed[0].pages, pages(0, LARGE));
    assert!(listed[0].age >= listed[1].age && listed[0].age < Duration::from_secs(60));
    drop((long, short));
    assert!(disk.device.pins().is_empty());
    assert_eq!(disk.device.counters().pins, 2);
}

#[test]
fn a_break_in_two_halves_waits_without_a_lock_and_keeps_new_pins_out() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    let pin = file.pin(0, 1, Access::Read);
    let Attempt::Busy(busy) = file.mapping.try_break(pages(0, 2), Fate::Kept).unwrap() else {
        panic!("a pinned page was broken");
    };
    assert_eq!(busy.page(), 0);
    let soon = Until::deadline(Instant::now() + Duration::from_millis(5));
    assert_eq!(busy.wait(&soon), Err(WaitError::TimedOut));
    drop(pin);
    busy.wait(&Until::forever()).unwrap();
    // Until the next attempt nobody comes between.
    assert!(file.try_pin(1, 1, Access::Read, &Mode::NoWait).is_err());
    let attempt = file.mapping.try_break(pages(0, 2), Fate::Kept).unwrap();
    assert!(matches!(attempt, Attempt::Broken(_)));
    drop((attempt, busy));
    file.touch(1, 1, Access::Read);
}

#[test]
fn a_truncation_does_not_starve_though_threads_pin_without_end() {
    let disk = Disk::new();
    let file = disk.file(1, 4);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3 {
            let (file, stop) = (&file, &stop);
            // Each has its next pin before it lets the last one go: without the gate the range is never idle.
            scope.spawn(move || {
                let mut held = file.pin(thread, 1, Access::Read);
                while !stop.load(Ordering::Relaxed) {
                    let soon = Mode::deadline(Instant::now() + Duration::from_millis(1));
                    match file.try_pin(thread, 1, Access::Read, &soon) {
                        Ok(next) => held = next,
                        Err(_) => {
                            drop(held);
                            held = file.pin(thread, 1, Access::Read);
                        }
                    }
                }
                drop(held);
            });
        }
        let begin = Instant::now();
        for _ in 0..5 {
            drop(
                file.mapping
                    .break_layout(pages(0, 4), Fate::Kept, &Mode::wait())
                    .unwrap(),
            );
        }
        stop.store(true, Ordering::Relaxed);
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    });
}
