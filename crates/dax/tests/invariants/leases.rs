//! Read leases: slices that nobody writes to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use udax_dax::{Access, DaxError, Fate, Label, Mode, PAGE, ReadLease, Term};

use crate::disk::{Disk, File, LARGE, pages};
use crate::view::View;

fn lease(file: &File, first: u64, count: u64, mode: &Mode) -> Result<ReadLease, DaxError> {
    let holder = (Label::new("reader"), Term::Short);
    file.mapping
        .lease(pages(first, count), holder, mode, &file.layout)
}

fn would_block<T>(result: Result<T, DaxError>) -> bool {
    matches!(result, Err(DaxError::WouldBlock { .. }))
}

#[test]
fn a_lease_gives_the_bytes_in_as_few_slices_as_the_blocks_allow() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE + 2);
    let moved = disk.fresh(1);
    file.layout.set(LARGE + 1, 1, moved);
    let last = file.pin(LARGE + 1, 1, Access::Write);
    last.write(4095, b"z").unwrap();
    drop(last);
    let lease_all = lease(&file, 0, LARGE + 2, &Mode::NoWait).unwrap();
    let slices = lease_all.slices().unwrap();
    let lens: Vec<_> = slices.iter().map(|slice| slice.len()).collect();
    assert_eq!(lens, [513 * 4096, 4096]);
    assert_eq!(slices[1][4095], b'z');
    assert!(lease_all.slice().unwrap().is_none());
    assert_eq!(lease_all.len(), (LARGE + 2) * PAGE);
}

#[test]
fn a_lease_keeps_write_pins_tickets_and_stores_of_views_out_of_its_range_only() {
    let disk = Disk::new();
    let file = disk.file(1, 8);
    let view = View::of(&file);
    view.store(&file, 2, 1);
    file.touch(0, 8, Access::Write);
    let held = lease(&file, 2, 2, &Mode::NoWait).unwrap();
    assert_eq!(held.slice().unwrap().unwrap()[0], 1);
    assert!(would_block(file.try_pin(1, 2, Access::Write, &Mode::NoWait)));
    assert!(would_block(file.mapping.begin_write(pages(3, 1), &Mode::NoWait)));
    assert_eq!(
        view.translation(2).unwrap().1,
        Access::Read,
        "it is write-protected"
    );
    // Reading goes on, and so does everything outside.
    drop(file.try_pin(2, 2, Access::Read, &Mode::NoWait).unwrap());
    drop(lease(&file, 3, 3, &Mode::NoWait).unwrap());
    drop(file.try_pin(4, 4, Access::Write, &Mode::NoWait).unwrap());
    drop(file.mapping.begin_write(pages(4, 4), &Mode::NoWait).unwrap());
    view.store(&file, 1, 2);
    thread::scope(|scope| {
        let store = scope.spawn(|| view.store(&file, 2, 9));
        let soon = Mode::deadline(Instant::now() + Duration::from_millis(10));
        assert!(file.try_pin(2, 1, Access::Write, &soon).is_err());
        assert!(!store.is_finished());
        assert_eq!(held.slice().unwrap().unwrap()[0], 1);
        drop(held);
    });
    assert_eq!(view.load(&file, 2), 9);
}

#[test]
fn write_pins_and_tickets_keep_leases_out() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE);
    for (first, count) in [(0, LARGE), (7, 1)] {
        let pin = file.pin(first, count, Access::Write);
        assert!(would_block(lease(&file, 7, 1, &Mode::NoWait)));
        assert!(would_block(lease(&file, 0, LARGE, &Mode::NoWait)));
        drop(pin);
    }
    let ticket = file.mapping.begin_write(pages(7, 1), &Mode::NoWait).unwrap();
    assert!(would_block(lease(&file, 7, 1, &Mode::NoWait)));
    drop(ticket);
    drop(lease(&file, 7, 1, &Mode::NoWait).unwrap());
    // What did not come about keeps nobody out.
    drop(file.try_pin(7, 1, Access::Write, &Mode::NoWait).unwrap());
}

#[test]
fn a_break_waits_for_a_lease() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let held = lease(&file, 0, 1, &Mode::NoWait).unwrap();
    let refused = file.mapping.break_layout(pages(0, 1), Fate::Kept, &Mode::NoWait);
    assert!(would_block(refused));
    drop(held);
    file.punch(0, 1, &Mode::NoWait).unwrap();
}

#[test]
fn what_is_leased_does_not_change_while_threads_write() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let view = View::of(&file);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3 {
            let (file, view, stop) = (&file, &view, &stop);
            scope.spawn(move || {
                let mut byte = 0_u8;
                while !stop.load(Ordering::Relaxed) {
                    byte = byte.wrapping_add(1);
                    match thread {
                        0 => file.pin(0, 1, Access::Write).write(0, &[byte]).unwrap(),
                        1 => view.store(file, 0, byte),
                        _ => {
                            let _ticket = file.mapping.begin_write(pages(0, 2), &Mode::wait()).unwrap();
                            let block = file.layout.block(0).unwrap();
                            file.disk.device.region().store(block * PAGE, &[byte]).unwrap();
                        }
                    }
                }
            });
        }
        for _ in 0..300 {
            let held = lease(&file, 0, 1, &Mode::wait()).unwrap();
            let slice = held.slice().unwrap().unwrap();
            // Through the pin, so that the compiler does not take the bytes for constant.
            let mut bytes = [0; 2];
            held.pin().read(0, &mut bytes[..1]).unwrap();
            std::hint::spin_loop();
            thread::yield_now();
            held.pin().read(0, &mut bytes[1..]).unwrap();
            assert_eq!(bytes[0], bytes[1]);
            assert_eq!(slice[0], bytes[0]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
