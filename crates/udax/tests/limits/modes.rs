//! How long operations wait for pins: not, until a moment, until told otherwise.

use std::time::{Duration, Instant};

use udax::{
    Access, AllocateMode, Cancel, Checksums, Dax, DaxError, DaxMode, Error, File, Filesystem, Label, Mode,
    OpenFlags, OpenOptions, Request, Term, Until, WaitError,
};

use crate::cached::quiet;
use crate::pins::{BLOCK, CHANGES, filled, pin, until};
use crate::pool::{CREATE, MIB, READ_WRITE, TestPool, content, new_inode, open};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(30)
}

fn contents(file: &File) -> (Vec<u8>, u64) {
    (content(file), file.stat().unwrap().blocks)
}

/// A change of `/f`, which waits for a pin of its page 9 as it is told.
type Told<'c> = &'c (dyn Fn(&Filesystem, &File, Mode) -> udax::Result<()> + Sync);

/// Each mode ends the wait of `change` for a pin, which has changed nothing then and is in nobody's way.
fn assert_gives_up_as_told(name: &str, change: Told<'_>) {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let pinned = |file: &File| -> Box<dyn Send> { Box::new(pin(file, 9, 1, Access::Write)) };
    assert_gives_up_in(&pool, fs, name, pinned, change);
}

/// The same in a pool, for what is `in_the_way` at page 9.
fn assert_gives_up_in(
    pool: &TestPool,
    fs: Filesystem,
    name: &str,
    in_the_way: impl Fn(&File) -> Box<dyn Send>,
    change: Told<'_>,
) {
    let file = filled(&fs, "/f", 16);
    let source = filled(&fs, "/source", 16);
    let held = in_the_way(&file);
    let before = (contents(&file), contents(&source));

    let refused = change(&fs, &file, Mode::NoWait);
    let is_refused = matches!(refused, Err(Error::Dax(DaxError::WouldBlock { page: 9, .. })));
    assert!(is_refused, "{name}: {refused:?}");
    let refused = change(&fs, &file, Mode::deadline(soon()));
    let is_late = matches!(refused, Err(Error::Dax(DaxError::Wait(WaitError::TimedOut))));
    assert!(is_late, "{name}: {refused:?}");

    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let busy = fs.dax_counters().busy_breaks;
        let mode = Mode::cancelled(cancel.clone());
        let (fs, file) = (&fs, &file);
        let thread = scope.spawn(move || change(fs, file, mode));
        until(|| fs.dax_counters().busy_breaks > busy);
        cancel.cancel();
        let refused = thread.join().unwrap();
        let is_cancelled = matches!(refused, Err(Error::Dax(DaxError::Wait(WaitError::Cancelled))));
        assert!(is_cancelled, "{name}: {refused:?}");
    });
    assert!(before == (contents(&file), contents(&source)), "{name}");
    drop(held);
    change(&fs, &file, Mode::NoWait).unwrap_or_else(|error| panic!("{name}: {error}"));
    drop((file, source));
    // No attempt has left a handle behind.
    fs.close().unwrap();
    pool.check();
}

#[test]
fn each_change_of_a_layout_gives_up_as_its_handle_was_told() {
    // To open has no handle yet: it is below.
    for (name, change) in CHANGES.iter().filter(|(name, _)| *name != "open to truncate") {
        assert_gives_up_as_told(name, &|fs, file, mode| change(fs, &file.waiting(mode)));
    }
}

#[test]
fn each_change_of_a_layout_gives_up_on_a_lease_as_its_handle_was_told() {
    let leased = |file: &File| -> Box<dyn Send> {
        let lease = file.lease(9 * BLOCK, BLOCK, Label::new("reader"), Term::Short);
        Box::new(lease.unwrap())
    };
    for (name, change) in CHANGES.iter().filter(|(name, _)| *name != "open to truncate") {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        assert_gives_up_in(&pool, fs, name, leased, &|fs, file, mode| {
            change(fs, &file.waiting(mode))
        });
    }
}

#[test]
fn changes_of_what_a_file_is_give_up_as_its_handle_was_told() {
    // A block has no checksum while it is pinned for writing.
    let pool = TestPool::with_checksums(32 * MIB);
    let pinned = |file: &File| -> Box<dyn Send> { Box::new(pin(file, 9, 1, Access::Write)) };
    assert_gives_up_in(&pool, pool.open(), "set checksums", pinned, &|_, file, mode| {
        file.waiting(mode).set_checksums(Checksums::On)
    });
    let pool = TestPool::new(32 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Inode)).unwrap();
    let reached = |file: &File| -> Box<dyn Send> {
        file.set_dax(Dax::On).unwrap();
        Box::new(pin(file, 9, 1, Access::Write))
    };
    assert_gives_up_in(&pool, fs, "set dax", reached, &|_, file, mode| {
        file.waiting(mode).set_dax(Dax::Off)
    });
}

fn open_to_truncate(fs: &Filesystem, flags: OpenFlags, mode: Mode) -> udax::Result<File> {
    let options = OpenOptions::new(flags.union(OpenFlags::TRUNCATE), new_inode());
    fs.open_with("/f", &options.waiting(mode))
}

#[test]
fn each_change_by_path_gives_up_as_it_was_told() {
    for (name, flags) in [("open", READ_WRITE), ("open or make", CREATE)] {
        assert_gives_up_as_told(name, &|fs, _, mode| {
            let emptied = open_to_truncate(fs, flags, mode)?;
            assert_eq!(emptied.stat()?.size, 0);
            Ok(())
        });
    }
    assert_gives_up_as_told("truncate", &|fs, _, mode| {
        fs.truncate_waiting("/f", 8 * BLOCK, &mode)
    });
}

#[test]
fn an_opened_handle_waits_as_its_options_say() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let held = pin(&file, 9, 1, Access::Write);
    let options = OpenOptions::new(READ_WRITE, new_inode()).waiting(Mode::NoWait);
    let refused = fs.open_with("/f", &options).unwrap().truncate(0);
    let is_refused = matches!(refused, Err(Error::Dax(DaxError::WouldBlock { page: 9, .. })));
    assert!(is_refused, "{refused:?}");
    drop(held);
}

#[test]
fn what_gives_up_on_a_pin_keeps_nobody_back() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let held = pin(&file, 9, 1, Access::Read);
    assert!(file.waiting(Mode::NoWait).truncate(0).is_err());
    drop(file.try_pin(0, 16 * BLOCK, Request::new(Access::Write)).unwrap());
    drop(held);
}

#[test]
fn the_holder_of_a_pin_gets_another_while_a_truncation_waits_for_the_first() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let first = pin(&file, 9, 1, Access::Write);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| file.truncate(0).unwrap());
        until(|| fs.dax_counters().busy_breaks > 0);
        let deadline = Instant::now() + Duration::from_secs(30);
        let second = file.pin_deadline(9 * BLOCK, BLOCK, Request::new(Access::Write), deadline);
        second.unwrap().write(0, &[1]).unwrap();
        drop(first);
        thread.join().unwrap();
    });
    assert_eq!(file.stat().unwrap().size, 0);
}

#[test]
fn a_pin_and_a_lease_give_up_as_they_were_told() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let held = file
        .lease(0, 4 * BLOCK, Label::new("reader"), Term::Short)
        .unwrap();
    let write = Request::new(Access::Write);
    let refused = file.try_pin(0, BLOCK, write);
    assert!(matches!(refused, Err(Error::Dax(DaxError::WouldBlock { .. }))));
    let refused = file.pin_deadline(0, BLOCK, write, soon());
    assert!(matches!(
        refused,
        Err(Error::Dax(DaxError::Wait(WaitError::TimedOut)))
    ));
    drop(held);
    let held = file.try_pin(0, BLOCK, write).unwrap();
    let until_soon = Until {
        deadline: Some(soon()),
        cancel: Some(Cancel::new()),
    };
    for mode in [Mode::NoWait, Mode::Until(until_soon)] {
        let handle = file.waiting(mode);
        let refused = handle.lease(0, 4 * BLOCK, Label::default(), Term::Short);
        assert!(matches!(refused, Err(Error::Dax(_))), "{refused:?}");
    }
    drop(held);
    assert_eq!(file.append(b"goes on").unwrap(), 16 * BLOCK);
    drop(open(&fs, "/f"));
}

/// A wait of a caller: what is in the way of it, and what waits.
type Wait = (
    &'static str,
    fn(&File) -> Box<dyn Send>,
    fn(&File) -> udax::Result<()>,
);

fn leased(file: &File) -> Box<dyn Send> {
    let lease = file.lease(0, 4 * BLOCK, Label::new("reader"), Term::Short);
    Box::new(lease.unwrap())
}

fn pinned(file: &File) -> Box<dyn Send> {
    Box::new(pin(file, 0, 4, Access::Write))
}

const WAITS: [Wait; 6] = [
    ("write, for a lease", leased, |file| {
        file.write_at(&[9; 100], BLOCK).map(drop)
    }),
    ("copy into, for a lease", leased, |file| {
        file.copy_range(8 * BLOCK, file, BLOCK, BLOCK).map(drop)
    }),
    ("pin to write, for a lease", leased, |file| {
        file.pin(BLOCK, BLOCK, Request::new(Access::Write)).map(drop)
    }),
    ("lease, for a pin", pinned, |file| {
        file.lease(BLOCK, BLOCK, Label::default(), Term::Short).map(drop)
    }),
    ("truncate, for a lease", leased, |file| file.truncate(BLOCK)),
    ("punch, for a pin", pinned, |file| {
        file.allocate(AllocateMode::PunchHole, BLOCK, BLOCK)
    }),
];

#[test]
fn each_wait_of_a_caller_ends_as_it_was_told_and_has_changed_nothing() {
    for (name, in_the_way, work) in WAITS {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        let file = filled(&fs, "/f", 16);
        let held = in_the_way(&file);
        let before = contents(&file);
        let refused = work(&file.waiting(Mode::NoWait));
        let is_refused = matches!(refused, Err(Error::Dax(DaxError::WouldBlock { .. })));
        assert!(is_refused, "{name}: {refused:?}");
        let refused = work(&file.waiting(Mode::deadline(soon())));
        let is_late = matches!(refused, Err(Error::Dax(DaxError::Wait(WaitError::TimedOut))));
        assert!(is_late, "{name}: {refused:?}");
        // Cancelled before it waits, and while it does.
        for delay in [Duration::ZERO, Duration::from_millis(20)] {
            let cancel = Cancel::new();
            let waiting = file.waiting(Mode::cancelled(cancel.clone()));
            let refused = std::thread::scope(|scope| {
                let thread = scope.spawn(move || work(&waiting));
                std::thread::sleep(delay);
                cancel.cancel();
                thread.join().unwrap()
            });
            let is_cancelled = matches!(refused, Err(Error::Dax(DaxError::Wait(WaitError::Cancelled))));
            assert!(is_cancelled, "{name}: {refused:?}");
        }
        assert!(before == contents(&file), "{name}");
        drop(held);
        // Nothing of the waits is left in anybody's way.
        work(&file.waiting(Mode::NoWait)).unwrap_or_else(|error| panic!("{name}: {error}"));
        drop((file, fs));
        pool.check();
    }
}

#[test]
fn a_pin_held_back_by_a_break_gives_up_as_it_was_told() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let held = pin(&file, 9, 1, Access::Write);
    std::thread::scope(|scope| {
        let breaking = scope.spawn(|| file.truncate(0).unwrap());
        until(|| fs.dax_counters().busy_breaks > 0);
        let write = Request::new(Access::Write);
        let cancel = Cancel::new();
        cancel.cancel();
        let refused = file.waiting(Mode::cancelled(cancel)).pin(9 * BLOCK, BLOCK, write);
        let is_cancelled = matches!(refused, Err(Error::Dax(DaxError::Wait(WaitError::Cancelled))));
        assert!(is_cancelled, "{refused:?}");
        let deadline = Instant::now() + Duration::from_millis(5);
        let refused = file.pin_deadline(9 * BLOCK, BLOCK, write, deadline);
        let is_late = matches!(refused, Err(Error::Dax(DaxError::Wait(WaitError::TimedOut))));
        assert!(is_late, "{refused:?}");
        drop(held);
        breaking.join().unwrap();
    });
}
