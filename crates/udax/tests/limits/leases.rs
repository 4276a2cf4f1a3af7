//! Read leases of files: bytes that can be borrowed.

use std::sync::atomic::{AtomicBool, Ordering};

use udax::{Access, AllocateMode, DaxError, Error, File, Label, Mode, ReadLease, Term};

use crate::pins::{BLOCK, filled, pin};
use crate::pool::{MIB, TestPool, open};

fn lease(file: &File, first: u64, count: u64) -> ReadLease {
    file.lease(first * BLOCK, count * BLOCK, Label::new("reader"), Term::Short)
        .unwrap()
}

fn is_refused<T>(result: udax::Result<T>) -> bool {
    matches!(result, Err(Error::Dax(DaxError::WouldBlock { .. })))
}

#[test]
fn a_lease_gives_the_files_bytes_and_fills_holes() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 4);
    file.truncate(8 * BLOCK).unwrap();
    let held = lease(&file, 1, 6);
    let bytes: Vec<u8> = held.slices().unwrap().concat();
    let mut expected = vec![0; 6 * 4096];
    file.read_at(&mut expected, BLOCK).unwrap();
    assert!(bytes == expected);
    assert_eq!((bytes[0], bytes[3 * 4096]), (2, 0));
    let listed = fs.pins();
    assert_eq!((listed.len(), listed[0].label), (1, Label::new("reader")));
    drop(held);
    assert!(fs.pins().is_empty());
}

#[test]
fn writes_of_a_leased_range_wait_and_others_go_on() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let held = lease(&file, 4, 4);
    let no_wait = file.waiting(Mode::NoWait);
    assert!(is_refused(no_wait.write_at(&[1], 8 * BLOCK - 1)));
    assert!(is_refused(no_wait.write_at(&[1; 8192], 3 * BLOCK)));
    assert!(is_refused(no_wait.allocate(
        AllocateMode::ZeroRange,
        5 * BLOCK,
        100
    )));
    assert!(is_refused(no_wait.truncate(5 * BLOCK)));
    assert!(is_refused(open(&fs, "/f").copy_range(
        0,
        &no_wait,
        4 * BLOCK,
        BLOCK
    )));
    no_wait.write_at(&[1; 4096], 3 * BLOCK).unwrap();
    no_wait.write_at(&[1; 4096], 8 * BLOCK).unwrap();
    no_wait.truncate(8 * BLOCK).unwrap();
    drop(
        no_wait
            .try_pin(4 * BLOCK, BLOCK, udax::Request::new(Access::Read))
            .unwrap(),
    );
    drop(lease(&file, 0, 8));

    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            file.write_at(&[99; 10], 5 * BLOCK).unwrap();
            is_done.store(true, Ordering::SeqCst);
        });
        // It has met the lease, or is about to.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(held.slices().unwrap().concat()[4096], 6);
        assert!(!is_done.load(Ordering::SeqCst));
        drop(held);
        thread.join().unwrap();
    });
    let mut bytes = [0; 1];
    file.read_at(&mut bytes, 5 * BLOCK).unwrap();
    assert_eq!(bytes, [99]);
}

#[test]
fn the_holder_of_a_write_pin_writes_on_while_a_lease_waits_for_it() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let held = pin(&file, 4, 1, Access::Write);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let lease = lease(&file, 0, 8);
            let bytes = lease.slices().unwrap().concat();
            (bytes[4 * 4096], bytes[4 * 4096 + 1])
        });
        // It has met the pin, or is about to.
        std::thread::sleep(std::time::Duration::from_millis(20));
        held.write(0, &[70]).unwrap();
        file.write_at(&[71], 4 * BLOCK + 1).unwrap();
        drop(held);
        assert_eq!(thread.join().unwrap(), (70, 71));
    });
}

#[test]
fn what_is_leased_does_not_change_while_threads_write_and_truncate() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 4);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            let (file, stop) = (&file, &stop);
            scope.spawn(move || {
                let mut byte = thread;
                while !stop.load(Ordering::Relaxed) {
                    byte = byte.wrapping_add(3);
                    match thread {
                        0 => pin(file, 0, 2, Access::Write).write(0, &[byte; 8192]).unwrap(),
                        1 => drop(file.write_at(&[byte; 8192], 0).unwrap()),
                        _ => {
                            file.allocate(AllocateMode::PunchHole, BLOCK, BLOCK).unwrap();
                        }
                    }
                }
            });
        }
        for _ in 0..200 {
            let held = lease(&file, 0, 2);
            // Through the pin, so that the compiler does not take the bytes for constant.
            let mut before = [0; 8192];
            held.pin().read(0, &mut before).unwrap();
            std::thread::yield_now();
            let mut after = [0; 8192];
            held.pin().read(0, &mut after).unwrap();
            assert!(before == after);
            assert!(held.slices().unwrap().concat() == before);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop((file, fs));
    pool.check();
}
