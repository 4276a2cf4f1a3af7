//! What a pin gives, and what it refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax_dax::{Access, DaxError, Fate, Mode, PAGE, PageRange, Piece, Pin, ReadLease, Request};

use crate::disk::{Disk, LARGE, pages};

#[test]
fn pins_and_leases_go_from_thread_to_thread() {
    fn is_free<T: Send + Sync + 'static>() {}
    is_free::<Pin>();
    is_free::<ReadLease>();
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let pin = file.pin(0, 1, Access::Write);
    thread::spawn(move || pin.write(0, &[1]).unwrap()).join().unwrap();
    file.punch(0, 1, &Mode::NoWait).unwrap();
}

#[test]
fn a_pin_over_many_extents_gives_aligned_pieces_in_the_files_order() {
    let disk = Disk::new();
    let file = disk.file(1, LARGE + 8);
    let (before, apart) = (disk.fresh(1), disk.fresh(2));
    file.layout.set(LARGE + 2, 2, apart);
    file.layout.set(LARGE + 4, 1, before);
    let pin = file.pin(0, LARGE + 8, Access::Write);
    let block = |page| file.layout.block(page).unwrap() * PAGE;
    let piece = |page, count: u64| Piece {
        at: block(page),
        len: count * PAGE,
    };
    let pieces: Vec<_> = pin.pieces().collect();
    let expected = [
        piece(0, LARGE + 2),
        piece(LARGE + 2, 2),
        piece(LARGE + 4, 1),
        piece(LARGE + 5, 3),
    ];
    assert_eq!(pieces, expected);
    assert_eq!(pin.len(), (LARGE + 8) * PAGE);
    let mut bytes = vec![0; 3 * 4096];
    let at = (LARGE + 1) * PAGE + 5;
    pin.write(at, &vec![7; 3 * 4096]).unwrap();
    pin.read(at, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    let mut edges = [9, 9];
    pin.read(at - 1, &mut edges).unwrap();
    assert_eq!(edges, [0, 7]);
    pin.persist(at, 3 * PAGE).unwrap();
    assert!(!disk.is_volatile(apart) && !disk.is_volatile(before));
    for (at, len) in [(pin.len(), 1), (u64::MAX, 1), (pin.len() - 1, 2)] {
        let mut bytes = vec![0; len];
        assert!(matches!(pin.read(at, &mut bytes), Err(DaxError::BadRange)));
        assert!(matches!(pin.write(at, &bytes), Err(DaxError::BadRange)));
    }
}

#[test]
fn addresses_are_where_the_bytes_are_and_a_reader_gets_none_to_write_to() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let mut pin = file.pin(0, 2, Access::Write);
    let addresses = pin.addresses_mut().unwrap();
    assert_eq!(addresses.len(), 1);
    let (address, len) = addresses[0];
    assert_eq!((address.as_ptr().addr() % 4096, len), (0, 2 * PAGE));
    // SAFETY: the pin is for writing, and nobody else looks at the page.
    unsafe { address.as_ptr().wrapping_add(5000).write_volatile(3) };
    let mut byte = [0];
    pin.read(5000, &mut byte).unwrap();
    assert_eq!(byte, [3]);
    let mut reader = file.pin(0, 2, Access::Read);
    assert!(matches!(reader.addresses_mut(), Err(DaxError::ReadOnly)));
    assert!(matches!(reader.write(0, &[1]), Err(DaxError::ReadOnly)));
    assert_eq!(reader.addresses().unwrap(), addresses);
}

#[test]
fn a_pin_keeps_its_file_and_its_owner_until_the_pages_are_given_back() {
    struct Owner(Arc<AtomicBool>);
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let is_gone = Arc::new(AtomicBool::new(false));
    let mut pin = file.pin(0, 1, Access::Read);
    pin.attach(Arc::new(Owner(Arc::clone(&is_gone))));
    let mapping = Arc::downgrade(&file.mapping);
    drop(file);
    assert!(mapping.upgrade().is_some() && !is_gone.load(Ordering::Relaxed));
    drop(pin);
    assert!(mapping.upgrade().is_none() && is_gone.load(Ordering::Relaxed));
}

#[test]
fn a_deadline_ends_the_wait_for_a_pending_break() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let pin = file.pin(0, 1, Access::Read);
    let attempt = file.mapping.try_break(pages(0, 1), Fate::Kept).unwrap();
    let begin = Instant::now();
    let deadline = begin + Duration::from_millis(5);
    let request = Request::new(Access::Read);
    let late = file
        .mapping
        .pin_deadline(pages(0, 1), request, deadline, &file.layout);
    assert_eq!(late.unwrap_err().errno(), Errno::ETIMEDOUT);
    assert!(begin.elapsed() >= Duration::from_millis(5));
    let refused = file.mapping.try_pin(pages(0, 1), request, &file.layout);
    assert_eq!(refused.unwrap_err().errno(), Errno::EAGAIN);
    drop((attempt, pin));
    file.touch(0, 1, Access::Write);
}

#[test]
fn a_page_with_too_many_pins_refuses_more_and_loses_count_of_none() {
    let disk = Disk::new();
    let file = disk.file(1, 2);
    let mut held: Vec<_> = (0..1 << 14).map(|_| file.pin(1, 1, Access::Read)).collect();
    let refused = file.try_pin(0, 2, Access::Read, &Mode::wait());
    assert!(matches!(refused, Err(DaxError::TooManyPins { page: 1 })));
    // The page before it, which was counted already, is idle again.
    assert_eq!(file.mapping.busy_page_range(pages(0, 1)), None);
    held.pop();
    drop(file.pin(0, 2, Access::Read));
    drop(held);
    assert_eq!(file.mapping.busy_page_range(PageRange::ALL), None);
}

#[test]
fn a_range_that_is_too_large_is_refused_at_once() {
    let disk = Disk::new();
    let file = disk.file(1, 1);
    let refused = file.try_pin(0, u64::MAX, Access::Read, &Mode::wait());
    assert!(matches!(refused, Err(DaxError::BadRange)));
    assert_eq!(file.mapping.pages(), 0);
    assert!(PageRange::new(0, 0).is_none() && PageRange::new(u64::MAX, 2).is_none());
    assert!(PageRange::of_bytes(5, 0).is_none() && PageRange::of_bytes(u64::MAX, 2).is_none());
    assert_eq!(PageRange::of_bytes(4095, 2), PageRange::new(0, 2));
}
