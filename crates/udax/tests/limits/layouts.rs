//! What operations on pinned files wait for, and what they leave behind: sizes, zeros, times, durability.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use udax::{
    Access, AllocateMode, DaxError, Error, File, Filesystem, Label, Mode, MountOptions, Request, Term,
};
use udax_pmem::{Event, Recorder};

use crate::pins::{BLOCK, Change, filled, pin};
use crate::pool::{MIB, TestPool, content, open};

type OfFile = (&'static str, fn(&File) -> udax::Result<()>);
type OfLastHandle = (&'static str, fn(&Filesystem, File) -> udax::Result<()>);

/// Long enough for what does not wait, on a busy machine too.
fn patience() -> Mode {
    Mode::deadline(Instant::now() + Duration::from_secs(3))
}

/// The ranges that were flushed.
#[derive(Debug, Default)]
struct Flushed(Mutex<Vec<(u64, u64)>>);

impl Flushed {
    fn covers(&self, at: u64, len: u64) -> bool {
        let flushed = self.0.lock().unwrap();
        flushed
            .iter()
            .any(|(start, count)| *start <= at && at + len <= start + count)
    }
}

impl Recorder for Flushed {
    fn record(&self, event: Event<'_>) {
        if let Event::Flush { at, len } = event {
            self.0.lock().unwrap().push((at, len));
        }
    }
}

fn open_recorded(pool: &TestPool) -> (Filesystem, Arc<Flushed>) {
    let flushed = Arc::new(Flushed::default());
    let options = MountOptions {
        recorder: Some(flushed.clone()),
        ..MountOptions::default()
    };
    (Filesystem::open(&pool.path, &options).unwrap(), flushed)
}

/// Takes all space that is left.
fn take_all(fs: &Filesystem) {
    let blocks = fs.stat_filesystem().available_blocks;
    open(fs, "/ballast")
        .allocate(AllocateMode::KeepSize, 0, (blocks - 2) * BLOCK)
        .unwrap();
    let mut number = 0;
    while fs.stat_filesystem().available_blocks > 0 {
        number += 1;
        open(fs, "/ballast")
            .allocate(AllocateMode::KeepSize, (blocks + number * 3) * BLOCK, BLOCK)
            .unwrap();
    }
}

#[test]
fn only_shared_blocks_of_a_range_are_waited_for_when_they_are_copied() {
    let ways: [OfFile; 3] = [
        ("write", |file| file.write_at(&[9; 3 * 4096], 0).map(drop)),
        ("pin", |file| {
            file.pin(0, 3 * BLOCK, Request::new(Access::Write)).map(drop)
        }),
        ("unshare", |file| {
            file.allocate(AllocateMode::Unshare, 0, 3 * BLOCK)
        }),
    ];
    for (name, way) in ways {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        let file = filled(&fs, "/f", 4);
        let clone = open(&fs, "/clone");
        file.clone_range(0, &clone, 0, BLOCK).unwrap();
        file.clone_range(2 * BLOCK, &clone, BLOCK, BLOCK).unwrap();
        let held = pin(&file, 1, 1, Access::Write);
        way(&file.waiting(patience())).unwrap_or_else(|error| panic!("{name}: {error}"));
        held.write(0, &[7; 4096]).unwrap();
        let mut bytes = [0; 4096];
        file.read_at(&mut bytes, BLOCK).unwrap();
        assert_eq!(bytes, [7; 4096]);
        clone.read_at(&mut bytes, BLOCK).unwrap();
        assert_eq!(bytes, [3; 4096]);
        drop(held);
        pool.check();
    }
}

#[test]
fn stores_through_a_pin_become_durable_though_a_change_of_their_range_failed() {
    for mode in [AllocateMode::ZeroRangeKeepSize, AllocateMode::ZeroRange] {
        let pool = TestPool::new(16 * MIB);
        let (fs, flushed) = open_recorded(&pool);
        let file = filled(&fs, "/f", 8);
        take_all(&fs);
        let held = pin(&file, 2, 4, Access::Write);
        held.write(BLOCK, &[99; 4096]).unwrap();
        let piece = held.pieces().next().unwrap();
        drop(held);
        let error = file.allocate(mode, 2 * BLOCK + 10, 64 * MIB).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        let mut bytes = [0; 4096];
        file.read_at(&mut bytes, 3 * BLOCK).unwrap();
        assert_eq!(bytes, [99; 4096]);
        file.sync().unwrap();
        assert!(flushed.covers(piece.at + BLOCK, BLOCK), "{mode:?}");
    }
}

#[test]
fn a_pin_that_ends_beyond_the_file_changes_nothing() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.truncate(8 * BLOCK).unwrap();
    let before = file.stat().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let refused = file.pin(0, 9 * BLOCK, Request::new(Access::Read)).unwrap_err();
    assert!(
        matches!(refused, Error::Dax(DaxError::BeyondEnd { page: 8 })),
        "{refused}"
    );
    assert!(before == file.stat().unwrap());
}

#[test]
fn stores_through_a_pin_count_as_a_modification_whatever_makes_them_durable() {
    let ways: [OfLastHandle; 3] = [
        ("clone", |fs, file| {
            file.clone_range(0, &open(fs, "/clone"), 0, 0)?;
            file.sync()
        }),
        ("unshare", |_, file| {
            file.allocate(AllocateMode::Unshare, 0, BLOCK)?;
            file.sync()
        }),
        ("close", |_, file| {
            drop(file);
            Ok(())
        }),
    ];
    for (name, way) in ways {
        let pool = TestPool::new(16 * MIB);
        let fs = pool.open();
        let file = filled(&fs, "/f", 4);
        file.sync().unwrap();
        let before = file.stat().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        pin(&file, 0, 4, Access::Write).write(0, &[9; 100]).unwrap();
        way(&fs, file).unwrap();
        let after = fs.stat("/f").unwrap();
        assert!(after.mtime > before.mtime, "{name}");
    }
}

#[test]
fn a_time_that_is_set_after_the_stores_of_a_pin_stays() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 4);
    pin(&file, 0, 4, Access::Write).write(0, &[9; 100]).unwrap();
    let old = file.stat().unwrap().btime;
    std::thread::sleep(Duration::from_millis(20));
    let set = udax::SetAttributes {
        mtime: Some(udax::SetTime::To(old)),
        ..udax::SetAttributes::default()
    };
    file.set_attributes(set).unwrap();
    file.sync().unwrap();
    assert!(file.stat().unwrap().mtime == old);
}

#[test]
fn a_growth_that_meets_a_lease_has_allocated_nothing() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.append(&[1; 100]).unwrap();
    // More holes than a record takes.
    for hole in 1..600 {
        file.allocate(AllocateMode::KeepSize, 2 * hole * BLOCK, BLOCK)
            .unwrap();
    }
    let before = file.stat().unwrap();
    let held = file.lease(0, 1, Label::default(), Term::Short).unwrap();
    let no_wait = file.waiting(Mode::NoWait);
    for mode in [AllocateMode::Allocate, AllocateMode::ZeroRange] {
        let refused = no_wait.allocate(mode, BLOCK, 1200 * BLOCK).unwrap_err();
        assert!(
            matches!(refused, Error::Dax(DaxError::WouldBlock { .. })),
            "{refused}"
        );
        assert!(before == file.stat().unwrap(), "{mode:?}");
    }
    drop(held);
    no_wait
        .allocate(AllocateMode::Allocate, BLOCK, 1200 * BLOCK)
        .unwrap();
    assert_eq!(file.stat().unwrap().size, 1201 * BLOCK);
    pool.check();
}

#[test]
fn a_pin_of_shared_blocks_finds_space_that_can_be_freed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 4);
    file.clone_range(0, &open(&fs, "/clone"), 0, 0).unwrap();
    for number in 0..300 {
        drop(open(&fs, &format!("/many{number}")));
    }
    for number in 0..300 {
        fs.unlink(format!("/many{number}")).unwrap();
    }
    take_all(&fs);
    drop(pin(&file, 0, 1, Access::Write));
}

#[test]
fn what_is_behind_the_end_of_a_pinned_file_reads_as_zeros_when_it_grows() {
    let ways: [Change; 9] = [
        ("truncate", |_, file| file.truncate(300)),
        ("truncate far", |_, file| file.truncate(9000)),
        ("write", |_, file| file.write_at(&[5; 10], 3000).map(drop)),
        ("write far", |_, file| file.write_at(&[5; 10], 6000).map(drop)),
        ("allocate", |_, file| {
            file.allocate(AllocateMode::Allocate, 50, 250)
        }),
        ("zero", |_, file| {
            file.allocate(AllocateMode::ZeroRange, 5000, 250)
        }),
        ("clone", |fs, file| {
            open(fs, "/source").clone_range(0, file, 2 * BLOCK, BLOCK)
        }),
        ("copy", |fs, file| {
            open(fs, "/source").copy_range(0, file, 5000, 100).map(drop)
        }),
        ("shrink and grow", |_, file| {
            file.truncate(50)?;
            file.truncate(4000)
        }),
    ];
    for (name, way) in ways {
        for is_held in [false, true] {
            let pool = TestPool::new(16 * MIB);
            let fs = pool.open();
            drop(filled(&fs, "/source", 2));
            let file = open(&fs, "/f");
            file.append(&[1; 100]).unwrap();
            let held = pin(&file, 0, 1, Access::Write);
            held.write(0, &[8; 4096]).unwrap();
            let kept = is_held.then_some(held);
            way(&fs, &file.waiting(patience())).unwrap_or_else(|error| panic!("{name}: {error}"));
            let known = if name == "shrink and grow" || name == "allocate" {
                50
            } else {
                100
            };
            let bytes = content(&file);
            assert_eq!(bytes[..known], vec![8; known], "{name}");
            let zeros = bytes[100..bytes.len().min(3000)].iter();
            assert!(zeros.clone().all(|byte| *byte == 0), "{name}, held: {is_held}");
            drop(kept);
            pool.check();
        }
    }
}

#[test]
fn bytes_behind_the_end_do_not_come_into_sight_through_another_file() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.append(&[1; 100]).unwrap();
    pin(&file, 0, 1, Access::Write).write(0, &[8; 4096]).unwrap();
    let clone = open(&fs, "/clone");
    file.clone_range(0, &clone, 0, 0).unwrap();
    clone.truncate(4096).unwrap();
    assert!(content(&clone)[100..].iter().all(|byte| *byte == 0));
    let other = open(&fs, "/other");
    other.append(&[2; 5000]).unwrap();
    pin(&other, 0, 2, Access::Write).write(5000, &[8; 3192]).unwrap();
    file.exchange_range(0, &other, 0, 0).unwrap();
    file.truncate(9000).unwrap();
    other.truncate(9000).unwrap();
    assert!(content(&file)[5000..].iter().all(|byte| *byte == 0));
    assert!(content(&other)[100..].iter().all(|byte| *byte == 0));
    drop((file, clone, other));
    fs.close().unwrap();
    pool.check();
}

#[test]
fn a_lease_that_waits_for_one_page_keeps_nobody_from_changing_another() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8);
    let held = pin(&file, 4, 1, Access::Write);
    std::thread::scope(|scope| {
        let reader = file.waiting(Mode::deadline(Instant::now() + Duration::from_secs(20)));
        let thread = scope.spawn(move || {
            reader
                .lease(0, 8 * BLOCK, Label::default(), Term::Short)
                .map(drop)
        });
        std::thread::sleep(Duration::from_millis(50));
        let punched = file
            .waiting(patience())
            .allocate(AllocateMode::PunchHole, 5 * BLOCK, BLOCK);
        drop(held);
        punched.unwrap();
        thread.join().unwrap().unwrap();
    });
}

#[test]
fn a_pool_is_closed_by_its_last_pin() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 4);
    let held = pin(&file, 0, 4, Access::Write);
    fs.unlink("/f").unwrap();
    drop(file);
    assert!(matches!(fs.close(), Err(Error::Busy(_))));
    held.write(0, &[9; 100]).unwrap();
    drop(held);
    let report = pool.check();
    assert_eq!(report.inodes, 1);
}
