//! Pins of files, and what waits for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use udax::{Access, AllocateMode, Error, File, Filesystem, Label, OpenFlags, Pin, RenameMode, Request};

use crate::pool::{MIB, READ_WRITE, TestPool, new_inode, open};

pub(crate) const BLOCK: u64 = 4096;

pub(crate) fn pin(file: &File, first: u64, count: u64, access: Access) -> Pin {
    file.pin(first * BLOCK, count * BLOCK, Request::new(access))
        .unwrap()
}

pub(crate) fn filled(fs: &Filesystem, name: &str, blocks: u64) -> File {
    let file = open(fs, name);
    for block in 0..blocks {
        file.append(&[u8::try_from(block % 251).unwrap() + 1; 4096])
            .unwrap();
    }
    file
}

/// Waits for what another thread brings about; a bound only for what never comes.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it never came");
        std::thread::yield_now();
    }
}

#[test]
fn stores_through_a_pin_are_the_files_bytes() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 20);
    let pin = pin(&file, 3, 4, Access::Write);
    assert_eq!(pin.pieces().map(|piece| piece.len).sum::<u64>(), 4 * BLOCK);
    pin.write(BLOCK + 10, b"stored").unwrap();
    let mut back = [0; 6];
    assert_eq!(file.read_at(&mut back, 4 * BLOCK + 10).unwrap(), 6);
    assert_eq!(&back, b"stored");
    file.write_at(b"written", 5 * BLOCK).unwrap();
    let mut back = [0; 7];
    pin.read(2 * BLOCK, &mut back).unwrap();
    assert_eq!(&back, b"written");
    let listed = fs.pins();
    assert_eq!(
        (listed.len(), listed[0].file),
        (1, file.stat().unwrap().ino.raw())
    );
    pin.persist(0, pin.len()).unwrap();
    drop(pin);
    assert!(fs.pins().is_empty());
    pool.check();
}

#[test]
fn sync_makes_stores_durable_and_counts_as_a_modification() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 4);
    let before = file.stat().unwrap();
    let held = pin(&file, 0, 4, Access::Write);
    held.write(0, &[9; 100]).unwrap();
    // Longer than a tick of the coarse clock.
    std::thread::sleep(Duration::from_millis(20));
    file.sync().unwrap();
    assert!(file.stat().unwrap().mtime > before.mtime);
    drop(held);
}

#[test]
fn holes_are_filled_and_shared_blocks_copied_for_a_pin() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.truncate(10 * BLOCK + 100).unwrap();
    file.write_at(&[5; 4096], 4 * BLOCK).unwrap();
    file.allocate(AllocateMode::KeepSize, 6 * BLOCK, 2 * BLOCK)
        .unwrap();
    let held = pin(&file, 2, 9, Access::Write);
    assert_eq!(file.stat().unwrap().size, 10 * BLOCK + 100);
    let mut bytes = vec![1; 9 * 4096];
    held.read(0, &mut bytes).unwrap();
    let mut expected = vec![0; 9 * 4096];
    expected[2 * 4096..3 * 4096].fill(5);
    assert!(bytes == expected);
    drop(held);
    let clone = open(&fs, "/clone");
    file.clone_range(0, &clone, 0, 0).unwrap();
    let held = pin(&clone, 0, 11, Access::Write);
    held.write(0, &vec![7; 11 * 4096]).unwrap();
    drop(held);
    let mut bytes = [1; 4096];
    assert_eq!(file.read_at(&mut bytes, 4 * BLOCK).unwrap(), 4096);
    assert_eq!(bytes, [5; 4096]);
    pool.check();
    let beyond = file.pin(11 * BLOCK, BLOCK, Request::new(Access::Read));
    assert!(matches!(beyond, Err(Error::Dax(_))), "{beyond:?}");
}

#[test]
fn an_unlinked_file_is_freed_after_its_last_pin() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/stays"));
    fs.sync().unwrap();
    let free = fs.stat_filesystem().free_blocks;
    let file = filled(&fs, "/f", 50);
    let one = pin(&file, 0, 50, Access::Write);
    let two = pin(&file, 10, 1, Access::Read);
    drop(file);
    fs.unlink("/f").unwrap();
    let other = filled(&fs, "/other", 2000);
    let mut bytes = [0; 4096];
    two.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [11; 4096]);
    one.write(10 * BLOCK, &[77; 4096]).unwrap();
    two.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [77; 4096]);
    assert!(free - fs.stat_filesystem().free_blocks >= 2050);
    drop(one);
    drop(two);
    drop(other);
    fs.unlink("/other").unwrap();
    fs.sync().unwrap();
    assert!(free - fs.stat_filesystem().free_blocks <= 1);
    fs.close().unwrap();
    pool.check();
}

pub(crate) type Change = (&'static str, fn(&Filesystem, &File) -> udax::Result<()>);

/// Each changes blocks 8 to 11 of `/f`, and nothing below block 4.
pub(crate) const CHANGES: [Change; 12] = [
    ("truncate", |_, file| file.truncate(8 * BLOCK)),
    ("punch", |_, file| {
        file.allocate(AllocateMode::PunchHole, 8 * BLOCK, 4 * BLOCK)
    }),
    ("punch inside", |_, file| {
        file.allocate(AllocateMode::PunchHole, 8 * BLOCK + 10, 3 * BLOCK)
    }),
    ("zero", |_, file| {
        file.allocate(AllocateMode::ZeroRange, 8 * BLOCK, 4 * BLOCK)
    }),
    ("collapse", |_, file| {
        file.allocate(AllocateMode::Collapse, 8 * BLOCK, 4 * BLOCK)
    }),
    ("insert", |_, file| {
        file.allocate(AllocateMode::Insert, 8 * BLOCK, 4 * BLOCK)
    }),
    ("clone to", |fs, file| {
        open(fs, "/source").clone_range(0, file, 8 * BLOCK, 4 * BLOCK)
    }),
    ("clone from", |fs, file| {
        file.clone_range(8 * BLOCK, &open(fs, "/source"), 0, 4 * BLOCK)
    }),
    ("exchange", |fs, file| {
        file.exchange_range(8 * BLOCK, &open(fs, "/source"), 0, 4 * BLOCK)
    }),
    ("exchange with", |fs, file| {
        open(fs, "/source").exchange_range(0, file, 8 * BLOCK, 4 * BLOCK)
    }),
    ("dedupe", |fs, file| {
        let source = open(fs, "/source");
        file.dedupe_range(8 * BLOCK, &source, 8 * BLOCK, 4 * BLOCK)
            .map(drop)
    }),
    ("open to truncate", |fs, _| {
        let flags = READ_WRITE.union(OpenFlags::TRUNCATE);
        fs.open_file("/f", flags, new_inode()).map(drop)
    }),
];

#[test]
fn each_change_of_a_layout_waits_for_pins_of_what_it_changes_and_for_no_others() {
    for ((name, change), is_shared) in CHANGES
        .iter()
        .flat_map(|change| [(change, false), (change, true)])
    {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        let file = filled(&fs, "/f", 16);
        drop(filled(&fs, "/source", 16));
        if is_shared {
            file.truncate(15 * BLOCK + 100).unwrap();
            file.clone_range(0, &open(&fs, "/third"), 0, 0).unwrap();
        }
        let is_done = AtomicBool::new(false);
        let access = if is_shared { Access::Read } else { Access::Write };
        let others = pin(&file, 13, 1, access);
        drop(others);
        let held = pin(&file, 9, 1, access);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                change(&fs, &file).unwrap();
                is_done.store(true, Ordering::SeqCst);
            });
            until(|| fs.dax_counters().busy_breaks > 0);
            // Reads, writes and pins elsewhere go on meanwhile.
            let mut bytes = [0; 4096];
            assert_eq!(file.read_at(&mut bytes, 2 * BLOCK).unwrap(), 4096, "{name}");
            file.write_at(&[3; 4096], 2 * BLOCK).unwrap();
            if *name != "open to truncate" {
                drop(pin(&file, 1, 3, Access::Write));
            }
            if !is_shared {
                held.write(0, &[8; 4096]).unwrap();
            }
            assert!(!is_done.load(Ordering::SeqCst), "{name} did not wait");
            drop(held);
            thread.join().unwrap();
        });
        assert!(is_done.load(Ordering::SeqCst));
        pool.check();

        if *name == "open to truncate" || is_shared {
            continue;
        }
        // A pin beside the range is in nobody's way.
        let file = filled(&fs, "/g", 16);
        drop(file);
        fs.rename("/g", "/f", RenameMode::Replace).unwrap();
        let file = open(&fs, "/f");
        let held = pin(&file, 0, 4, Access::Write);
        change(&fs, &file).unwrap();
        held.write(0, &[8; 4096]).unwrap();
        drop(held);
        pool.check();
    }
}

#[test]
fn a_write_to_a_shared_block_waits_for_its_pin() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let clone = open(&fs, "/clone");
    file.clone_range(0, &clone, 0, 0).unwrap();
    let held = pin(&clone, 5, 1, Access::Read);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| clone.write_at(&[99; 100], 5 * BLOCK).unwrap());
        until(|| fs.dax_counters().busy_breaks > 0);
        let mut bytes = [0; 4096];
        held.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [6; 4096]);
        drop(held);
        assert_eq!(thread.join().unwrap(), 100);
    });
    // The other file's pin is of the same block, and is not in the way of removing this one.
    let held = pin(&file, 7, 1, Access::Read);
    drop(clone);
    fs.unlink("/clone").unwrap();
    let mut bytes = [0; 4096];
    held.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [8; 4096]);
    drop(held);
    pool.check();
}

#[test]
fn a_pin_says_who_holds_it_and_does_not_wait_when_told() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let request = Request::new(Access::Write)
        .labelled(Label::new("transfer 7"))
        .long();
    let held = file.pin(BLOCK, BLOCK, request).unwrap();
    assert_eq!(fs.pins()[0].label, Label::new("transfer 7"));
    let ino = file.stat().unwrap().ino.raw();
    let line = fs.pins()[0].to_string();
    let start = format!("file {ino}, page 1: pinned to write by transfer 7 for 0.");
    assert!(
        line.starts_with(&start) && line.ends_with(" s, for a long term"),
        "{line}"
    );
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| file.truncate(0).unwrap());
        until(|| fs.dax_counters().busy_breaks > 0);
        let refused = file.try_pin(BLOCK, BLOCK, Request::new(Access::Read));
        assert!(matches!(refused, Err(Error::Dax(_))), "{refused:?}");
        drop(held);
        thread.join().unwrap();
    });
    assert_eq!(file.stat().unwrap().size, 0);
}

#[test]
fn a_file_with_entries_and_a_shared_last_block_grows_in_each_way() {
    let ways: [Change; 7] = [
        ("truncate", |_, file| file.truncate(20 * BLOCK)),
        ("append", |_, file| file.append(&[1; 10_000]).map(drop)),
        ("write", |_, file| {
            file.write_at(&[1; 10_000], 17 * BLOCK).map(drop)
        }),
        ("allocate", |_, file| {
            file.allocate(AllocateMode::Allocate, 3 * BLOCK, 15 * BLOCK)
        }),
        ("zero", |_, file| {
            file.allocate(AllocateMode::ZeroRange, 3 * BLOCK + 5, 15 * BLOCK)
        }),
        ("clone", |fs, file| {
            open(fs, "/source").clone_range(0, file, 17 * BLOCK, 4 * BLOCK)
        }),
        ("copy", |fs, file| {
            open(fs, "/source")
                .copy_range(0, file, 17 * BLOCK, 4 * BLOCK)
                .map(drop)
        }),
    ];
    for (name, change) in ways {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        let file = filled(&fs, "/f", 16);
        drop(filled(&fs, "/source", 16));
        file.truncate(15 * BLOCK + 100).unwrap();
        let third = open(&fs, "/third");
        file.clone_range(0, &third, 0, 0).unwrap();
        drop(pin(&file, 0, 16, Access::Read));
        let held = pin(&file, 1, 1, Access::Read);
        change(&fs, &file).unwrap();
        let mut bytes = [0; 4096];
        assert_eq!(third.read_at(&mut bytes, 15 * BLOCK).unwrap(), 100, "{name}");
        assert_eq!(bytes[..100], [16; 100], "{name}");
        drop(held);
        pool.check();
    }
}

#[test]
fn a_file_of_many_extents_that_was_pinned_is_cut_in_several_records() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    // More than one record frees, so that the file is an orphan meanwhile.
    for island in 0..300 {
        file.write_at(b"island", island * 2 * BLOCK).unwrap();
    }
    let held = pin(&file, 0, 8, Access::Write);
    drop(held);
    let free = fs.stat_filesystem().free_blocks;
    file.truncate(BLOCK).unwrap();
    assert!(fs.stat_filesystem().free_blocks >= free + 299);
    drop(pin(&file, 0, 1, Access::Write));
    pool.check();
}
