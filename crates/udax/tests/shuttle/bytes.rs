//! Bytes written, pinned, cut, punched, shared and exchanged at once.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax::{Access, AllocateMode, Label, Mode, Pin, Request, Term};

use crate::arena::{
    BLOCK, NEW, READ_WRITE, allow, at_once, content, explore, explore_fairly, fill, filled, open,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

/// Stores through a pin and looks at the bytes, again and again, for as long as others do something.
fn hold(pin: &Pin, at: u64, len: usize) {
    for turn in 0..40 {
        let stored = vec![100 + turn; len];
        pin.write(at, &stored).unwrap();
        udax_sync::thread::yield_now();
        let mut bytes = vec![0; len];
        pin.read(at, &mut bytes).unwrap();
        assert!(bytes == stored, "a pinned page has other bytes");
    }
}

#[test]
fn a_pin_keeps_its_pages_through_truncations_and_punches() {
    explore("pins", |fs| {
        let file = filled(fs, "/f", 4, 1);
        at_once(&[
            &|| {
                let write = Request::new(Access::Write);
                let Some(pin) = allow(file.pin(BLOCK, 2 * BLOCK, write), &[Errno::EFAULT]) else {
                    return;
                };
                hold(&pin, 100, 5000);
                // The file still has what is pinned.
                let mut bytes = [0; 5000];
                assert_eq!(file.read_at(&mut bytes, BLOCK + 100).unwrap(), 5000);
                assert!(bytes == [139; 5000], "a pinned page is not the file's");
                pin.persist(0, pin.len()).unwrap();
            },
            &|| {
                file.truncate(BLOCK).unwrap();
                file.truncate(4 * BLOCK).unwrap();
            },
            &|| {
                file.allocate(AllocateMode::PunchHole, 2 * BLOCK, BLOCK).unwrap();
                drop(filled(fs, "/other", 3, 9));
            },
        ]);
        assert!(content(&open(fs, "/other")) == [9; 3 * 4096]);
        assert!(!content(&file).contains(&9), "another file's bytes");
    });
}

#[test]
fn a_clone_has_all_of_a_write_or_none() {
    explore("clone", |fs| {
        let file = filled(fs, "/f", 3, 1);
        let clone = open(fs, "/clone");
        at_once(&[
            &|| file.clone_range(0, &clone, 0, 0).unwrap(),
            &|| {
                assert_eq!(file.write_at(&[2; 3 * 4096], 0).unwrap(), 3 * 4096);
            },
            &|| {
                let bytes = content(&file);
                assert!(
                    bytes == [1; 3 * 4096] || bytes == [2; 3 * 4096],
                    "half a write is read"
                );
                let write = Request::new(Access::Write);
                let pin = file.pin(BLOCK, BLOCK, write).unwrap();
                pin.write(0, &[3; 4096]).unwrap();
            },
        ]);
        let bytes = content(&clone);
        let (outer, inner) = (bytes[0], bytes[4096]);
        let expected = [[outer; 4096], [inner; 4096], [outer; 4096]].concat();
        assert!(bytes == expected && [1, 2].contains(&outer) && [outer, 3].contains(&inner));
        // What is stored now is not seen in the clone.
        file.write_at(&[4; 3 * 4096], 0).unwrap();
        assert!(content(&clone) == bytes);
    });
}

#[test]
fn leased_bytes_stay_and_pins_keep_leases_away() {
    explore("leases", |fs| {
        let file = filled(fs, "/f", 2, 1);
        at_once(&[
            &|| {
                let lease = file
                    .lease(0, 2 * BLOCK, Label::new("reader"), Term::Short)
                    .unwrap();
                let mut before = vec![0; 8192];
                lease.pin().read(0, &mut before).unwrap();
                let mut after = vec![0; 8192];
                lease.pin().read(0, &mut after).unwrap();
                assert!(before == after, "leased bytes change");
            },
            &|| {
                file.write_at(&[2; 8192], 0).unwrap();
            },
            &|| {
                let pin = file.pin(0, BLOCK, Request::new(Access::Write)).unwrap();
                pin.write(0, &[3; 4096]).unwrap();
            },
        ]);
        let bytes = content(&file);
        assert!(bytes[4096..] == [2; 4096], "a write is lost");
        assert!(bytes[..4096] == [2; 4096] || bytes[..4096] == [3; 4096]);
    });
}

#[test]
fn who_gives_up_has_changed_nothing_and_keeps_nobody_back() {
    explore_fairly("deadlines", |fs| {
        let file = filled(fs, "/f", 4, 1);
        let late = [Errno::ETIMEDOUT];
        at_once(&[
            &|| {
                let pin = file.pin(BLOCK, BLOCK, Request::new(Access::Read)).unwrap();
                let mut bytes = [0; 4096];
                pin.read(0, &mut bytes).unwrap();
                // Zeros between the punch and the write.
                assert!(bytes.iter().all(|byte| *byte <= 1));
            },
            &|| {
                let hasty = file.waiting(Mode::deadline(soon()));
                let punched = hasty.allocate(AllocateMode::PunchHole, BLOCK, BLOCK);
                if allow(punched, &late).is_some() {
                    file.write_at(&[1; 4096], BLOCK).unwrap();
                }
            },
            &|| {
                let write = Request::new(Access::Write);
                if let Some(pin) = allow(file.pin_deadline(0, 2 * BLOCK, write, soon()), &late) {
                    pin.write(0, &[1; 4096]).unwrap();
                }
            },
        ]);
        assert!(content(&file) == [1; 4 * 4096]);
        file.truncate(0).unwrap();
    });
}

#[test]
fn exchanges_meet_writes_and_pins_without_losing_a_byte() {
    explore("exchange", |fs| {
        let one = filled(fs, "/one", 2, 1);
        let two = filled(fs, "/two", 2, 2);
        at_once(&[
            &|| one.exchange_range(0, &two, 0, 2 * BLOCK).unwrap(),
            &|| two.exchange_range(0, &one, 0, 2 * BLOCK).unwrap(),
            &|| {
                let pin = one.pin(0, BLOCK, Request::new(Access::Read)).unwrap();
                let (mut first, mut second) = ([0; 4096], [0; 4096]);
                pin.read(0, &mut first).unwrap();
                one.read_at(&mut second, 0).unwrap();
                assert!(first == second, "a pinned page is not the file's");
            },
        ]);
        assert!(content(&one) == [1; 8192] && content(&two) == [2; 8192]);
    });
}

#[test]
fn a_pin_keeps_an_unlinked_file() {
    explore("unlinked", |fs| {
        drop(filled(fs, "/f", 3, 1));
        drop(open(fs, "/other"));
        let free = fs.stat_filesystem().free_blocks;
        // So that other files get the blocks of this one.
        fill(fs, 1);
        at_once(&[
            &|| {
                let pin = {
                    let Some(file) = allow(fs.open_file("/f", READ_WRITE, NEW), &[Errno::ENOENT]) else {
                        return;
                    };
                    file.pin(0, 2 * BLOCK, Request::new(Access::Write)).unwrap()
                };
                hold(&pin, 0, 8192);
            },
            &|| fs.unlink("/f").unwrap(),
            &|| {
                let other = open(fs, "/other");
                for block in 0..3 {
                    allow(other.write_at(&[9; 4096], block * BLOCK), &[Errno::ENOSPC]);
                }
                assert!(content(&other).iter().all(|byte| [0, 9].contains(byte)));
            },
        ]);
        let bytes = content(&open(fs, "/other"));
        assert!(
            bytes.iter().all(|byte| [0, 9].contains(byte)),
            "stored to another file"
        );
        for path in ["/other", "/ballast"] {
            fs.unlink(path).unwrap();
        }
        assert!(
            fs.stat_filesystem().free_blocks >= free + 3,
            "blocks of the file are not free"
        );
    });
}
