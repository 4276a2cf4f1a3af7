//! Checksums of data: a changed byte is found where it is, whatever was done to the file, and nothing else is lost.

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use udax::{
    Access, AllocateMode, Checksums, DaxError, Error, File, Filesystem, Label, Mode, MountOptions, OpenFlags,
    Place, Request, ScrubOptions, ScrubReport, Term,
};
use udax_check::{CheckOptions, Problem, Silent};
use udax_media::{BLOCK_BYTES, Geometry};
use udax_pmem::{Event, Recorder, Region, RegionOptions};

use crate::pins::{BLOCK, filled, pin};
use crate::pool::{MIB, READ_WRITE, TestPool, check, content, new_inode, open};

/// A byte of the pool changes on the medium.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Where byte `offset` of the file is in the pool, unless it is in a hole.
fn place_of(file: &File, offset: u64) -> Option<u64> {
    let extent = file.extents(offset, 1).unwrap().into_iter().next()?;
    let is_data = extent.offset <= offset && !extent.is_unwritten;
    is_data.then(|| extent.pool_offset + (offset - extent.offset))
}

fn scrub(fs: &Filesystem) -> ScrubReport {
    fs.scrub(ScrubOptions::default(), &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

/// What the check says of the pool as it is now, comparing data.
fn compare_data(pool: &TestPool, repair: bool) -> Vec<Problem> {
    let copy = pool.crash_copy("compared.pool");
    compare_data_in(&copy, repair)
}

fn compare_data_in(path: &Path, repair: bool) -> Vec<Problem> {
    let options = RegionOptions {
        read_only: !repair,
        ..RegionOptions::default()
    };
    let region = Region::open(path, options).unwrap();
    let options = CheckOptions {
        data: true,
        repair,
        ..CheckOptions::default()
    };
    udax_check::check(&region, &options, &Silent).unwrap().problems
}

/// All is in order, and all of the data has sums.
#[track_caller]
fn assert_summed(pool: &TestPool, fs: &Filesystem) {
    let report = scrub(fs);
    assert_eq!(report.findings, []);
    assert_eq!(report.unverified_bytes, 0);
    assert_eq!(compare_data(pool, false), []);
}

/// Byte `offset` of the file changes on the medium and back: meanwhile just its block cannot be read.
#[track_caller]
fn assert_watched(pool: &TestPool, file: &File, offset: u64) {
    let expected = content(file);
    let at = place_of(file, offset).unwrap();
    let wrong = offset / BLOCK * BLOCK;
    flip(&pool.path, at);
    let mut bytes = vec![0; expected.len()];
    let whole = file.read_at(&mut bytes, 0);
    let prefix = usize::try_from(wrong).unwrap();
    if wrong == 0 {
        assert!(
            matches!(whole, Err(Error::WrongData { offset: 0, .. })),
            "{whole:?}"
        );
    } else {
        assert_eq!(whole.unwrap(), prefix);
        assert_eq!(bytes[..prefix], expected[..prefix]);
    }
    let error = file.read_at(&mut [0], offset).unwrap_err();
    let Error::WrongData {
        ino,
        offset: told,
        block,
    } = &error
    else {
        panic!("{error}");
    };
    let ino_of_file = file.stat().unwrap().ino;
    assert_eq!((*ino, *told, block.raw()), (ino_of_file, wrong, at / BLOCK));
    assert_eq!(error.errno(), Errno::EIO);
    let behind = usize::try_from(wrong + BLOCK).unwrap();
    if let Some(expected) = expected.get(behind..) {
        let mut rest = vec![0; expected.len()];
        assert_eq!(file.read_at(&mut rest, wrong + BLOCK).unwrap(), expected.len());
        assert_eq!(rest, expected);
    }
    flip(&pool.path, at);
    assert_eq!(content(file), expected);
}

/// As [`assert_watched`], by the check.
#[track_caller]
fn assert_told(pool: &TestPool, file: &File, offset: u64) {
    let at = place_of(file, offset).unwrap();
    let (wrong, ino_of_file) = (offset / BLOCK * BLOCK, file.stat().unwrap().ino);
    flip(&pool.path, at);
    let problems = compare_data(pool, false);
    let of_file: Vec<_> = problems
        .iter()
        .filter(|problem| problem.inode == Some(ino_of_file))
        .collect();
    assert_eq!(of_file.len(), 1, "{problems:#?}");
    assert_eq!(of_file[0].lost.as_deref(), Some(&*format!("bytes {wrong}+4096")));
    flip(&pool.path, at);
}

type Change = (&'static str, fn(&Filesystem, &File, &File));

/// What is done to a file of 20 blocks and 100 bytes, with another one of 8 blocks.
const CHANGES: [Change; 24] = [
    ("nothing", |_, _, _| {}),
    ("overwrite", |_, file, _| {
        _ = file.write_at(&[9; 4096], 3 * BLOCK).unwrap()
    }),
    ("overwrite parts", |_, file, _| {
        file.write_at(&[9; 10_000], 3 * BLOCK + 100).unwrap();
        file.write_at(b"x", 7 * BLOCK + 4095).unwrap();
    }),
    ("append in the last block", |_, file, _| {
        _ = file.append(&[9; 50]).unwrap()
    }),
    ("append", |_, file, _| _ = file.append(&[9; 9000]).unwrap()),
    ("write behind the end", |_, file, _| {
        _ = file.write_at(&[9; 100], 25 * BLOCK + 7).unwrap()
    }),
    ("cut inside a block", |_, file, _| {
        file.truncate(10 * BLOCK + 5).unwrap()
    }),
    ("cut and grow", |_, file, _| {
        file.truncate(10 * BLOCK + 5).unwrap();
        file.truncate(15 * BLOCK).unwrap();
        file.write_at(&[9; 3], 12 * BLOCK).unwrap();
    }),
    ("grow twice", |_, file, _| {
        file.truncate(20 * BLOCK + 200).unwrap();
        file.truncate(40 * BLOCK).unwrap();
    }),
    ("punch", |_, file, _| {
        file.allocate(AllocateMode::PunchHole, 2 * BLOCK + 10, 5 * BLOCK)
            .unwrap();
    }),
    ("punch in a block", |_, file, _| {
        file.allocate(AllocateMode::PunchHole, 2 * BLOCK + 10, 500)
            .unwrap();
    }),
    ("zero", |_, file, _| {
        file.allocate(AllocateMode::ZeroRange, 2 * BLOCK + 10, 5 * BLOCK)
            .unwrap();
        file.write_at(&[9; 100], 4 * BLOCK + 50).unwrap();
    }),
    ("zero behind the end", |_, file, _| {
        file.allocate(AllocateMode::ZeroRange, 19 * BLOCK, 5 * BLOCK)
            .unwrap();
    }),
    ("allocate and write", |_, file, _| {
        file.allocate(AllocateMode::Allocate, 0, 30 * BLOCK).unwrap();
        file.write_at(&[9; 5000], 22 * BLOCK + 5).unwrap();
    }),
    ("collapse", |_, file, _| {
        file.allocate(AllocateMode::Collapse, 2 * BLOCK, 3 * BLOCK)
            .unwrap()
    }),
    ("insert", |_, file, _| {
        file.allocate(AllocateMode::Insert, 2 * BLOCK, 3 * BLOCK).unwrap()
    }),
    ("clone from", |_, file, other| {
        other.clone_range(0, file, 4 * BLOCK, 6 * BLOCK).unwrap();
        file.write_at(b"own", 5 * BLOCK).unwrap();
    }),
    ("clone to", |_, file, other| {
        file.clone_range(0, other, 0, 0).unwrap();
        other.write_at(b"own", 5 * BLOCK).unwrap();
        file.append(b"own too").unwrap();
    }),
    ("unshare", |_, file, other| {
        file.clone_range(0, other, 0, 0).unwrap();
        file.allocate(AllocateMode::Unshare, 0, 21 * BLOCK).unwrap();
    }),
    ("dedupe", |_, file, other| {
        other.write_at(&content(file)[..8 * 4096], 0).unwrap();
        assert!(file.dedupe_range(0, other, 0, 8 * BLOCK).unwrap());
    }),
    ("exchange", |_, file, other| {
        file.exchange_range(4 * BLOCK, other, 0, 4 * BLOCK).unwrap()
    }),
    ("copy", |_, file, other| {
        _ = other.copy_range(100, file, 6 * BLOCK + 7, 3 * BLOCK).unwrap()
    }),
    ("empty and fill", |fs, file, _| {
        drop(
            fs.open_file("/f", READ_WRITE | OpenFlags::TRUNCATE, new_inode())
                .unwrap(),
        );
        file.write_at(&[9; 20_000], 0).unwrap();
    }),
    ("pin and close", |fs, _, _| {
        let file = open(fs, "/f");
        let held = pin(&file, 3, 2, Access::Write);
        held.write(10, b"pinned").unwrap();
        drop(held);
    }),
];

fn changed(pool: &TestPool, change: &Change) -> Filesystem {
    let fs = pool.open();
    {
        let file = filled(&fs, "/f", 20);
        file.append(&[77; 100]).unwrap();
        let other = filled(&fs, "/g", 8);
        change.1(&fs, &file, &other);
    }
    fs
}

#[test]
fn a_changed_byte_is_found_where_it_is_whatever_was_done_before() {
    for change in &CHANGES {
        println!("{}", change.0);
        let plain_pool = TestPool::new(16 * MIB);
        let plain = changed(&plain_pool, change);
        let pool = TestPool::with_checksums(16 * MIB);
        let fs = changed(&pool, change);
        assert_summed(&pool, &fs);
        for name in ["/f", "/g"] {
            let file = open(&fs, name);
            assert_eq!(content(&file), content(&open(&plain, name)), "{name}");
            let size = file.stat().unwrap().size;
            let offsets = (0..size.div_ceil(BLOCK)).map(|block| block * BLOCK + block);
            let is_data = |offset: &u64| *offset < size && place_of(&file, *offset).is_some();
            let offsets: Vec<u64> = offsets.filter(is_data).collect();
            for offset in &offsets {
                assert_watched(&pool, &file, *offset);
            }
            assert_told(&pool, &file, offsets[offsets.len() / 2]);
        }
        // And after a remount.
        fs.close().unwrap();
        let fs = pool.open();
        assert_summed(&pool, &fs);
    }
}

#[test]
fn a_wrong_block_is_replaced_by_a_write_of_all_of_it_and_by_no_other() {
    let pool = TestPool::with_checksums(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8);
    let expected = content(&file);
    flip(&pool.path, place_of(&file, 3 * BLOCK + 9).unwrap());
    type Refused = (&'static str, fn(&File) -> udax::Result<()>);
    let refused: [Refused; 7] = [
        ("write", |file| file.write_at(b"x", 3 * BLOCK).map(drop)),
        ("write around", |file| {
            file.write_at(&[1; 4096], 3 * BLOCK - 100).map(drop)
        }),
        ("punch", |file| {
            file.allocate(AllocateMode::PunchHole, 3 * BLOCK + 5, 10)
        }),
        ("zero", |file| {
            file.allocate(AllocateMode::ZeroRange, 2 * BLOCK, BLOCK + 10)
        }),
        ("pin", |file| {
            file.pin(2 * BLOCK, 2 * BLOCK, Request::new(Access::Write))
                .map(drop)
        }),
        ("copy", |file| {
            let count = file.copy_range(3 * BLOCK, file, 7 * BLOCK, 100)?;
            assert_eq!(count, 0);
            Ok(())
        }),
        ("dedupe", |file| {
            file.dedupe_range(2 * BLOCK, file, 6 * BLOCK, 2 * BLOCK).map(drop)
        }),
    ];
    for (name, way) in refused {
        let result = way(&file);
        assert!(
            matches!(result, Err(Error::WrongData { offset, .. }) if offset == 3 * BLOCK),
            "{name}: {result:?}"
        );
        let mut bytes = vec![0; expected.len()];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 3 * 4096, "{name}");
        assert_eq!(bytes[..3 * 4096], expected[..3 * 4096], "{name}");
        assert_eq!(file.read_at(&mut bytes, 4 * BLOCK).unwrap(), 4 * 4096, "{name}");
        assert_eq!(bytes[..4 * 4096], expected[4 * 4096..], "{name}");
    }
    // A growth of the file past its wrong last block, too.
    file.truncate(3 * BLOCK + 50).unwrap();
    assert!(matches!(file.truncate(10 * BLOCK), Err(Error::WrongData { .. })));
    file.truncate(3 * BLOCK).unwrap();
    file.write_at(&[8; 8192], 3 * BLOCK).unwrap();
    assert_summed(&pool, &fs);
    let plain = open(&fs, "/g");
    plain.set_checksums(Checksums::Off).unwrap();
    flip(&pool.path, place_of(&file, BLOCK).unwrap());
    file.clone_range(0, &plain, 0, 0).unwrap();
    // What a file without sums of its own keeps of a block is verified all the same.
    assert!(matches!(
        plain.write_at(b"x", BLOCK + 1),
        Err(Error::WrongData { .. })
    ));
    plain.write_at(&[2; 4096], BLOCK).unwrap();
    plain.write_at(&[3; 4096], 0).unwrap();
    assert_eq!(content(&plain)[4096..8192], [2; 4096]);
    let findings = scrub(&fs).findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    let block = place_of(&file, BLOCK).unwrap() / BLOCK;
    assert!(matches!(findings[0].place, Place::Block(at) if at.raw() == block));
    assert_eq!(findings[0].path.as_deref(), Some(&b"/f"[..]));
    pool.check();
}

#[test]
fn pins_for_writing_take_sums_and_the_last_close_gives_them_anew() {
    let pool = TestPool::with_checksums(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8);
    drop(pin(&file, 0, 8, Access::Read));
    assert_eq!(scrub(&fs).unverified_bytes, 0);
    let held = pin(&file, 3, 2, Access::Write);
    assert_eq!(scrub(&fs).unverified_bytes, 2 * BLOCK);
    held.write(10, b"stored").unwrap();
    assert_eq!(content(&file)[3 * 4096 + 10..][..6], *b"stored");
    // Nobody waits for the pin, and what is pinned is stored to where it is.
    let now = file.waiting(Mode::NoWait);
    now.write_at(b"written", 4 * BLOCK + 20).unwrap();
    now.write_at(&[9; 3 * 4096], 2 * BLOCK).unwrap();
    let mut seen = [0; 4096];
    held.read(BLOCK, &mut seen).unwrap();
    assert_eq!(seen, [9; 4096]);
    assert_watched(&pool, &file, 2 * BLOCK);
    assert_eq!(scrub(&fs).unverified_bytes, 2 * BLOCK);
    drop(held);
    now.write_at(b"x", 4 * BLOCK).unwrap();
    assert_eq!(scrub(&fs).unverified_bytes, BLOCK);
    assert_watched(&pool, &file, 4 * BLOCK);
    drop((file, now));
    assert_summed(&pool, &fs);
    let file = open(&fs, "/f");
    for block in 0..8 {
        assert_watched(&pool, &file, block * BLOCK);
    }
    // After a crash they have none, until they are written or asked for.
    let held = pin(&file, 1, 1, Access::Write);
    held.write(0, b"unsynced").unwrap();
    let crashed = Filesystem::open(&pool.crash_copy("crashed"), &MountOptions::default()).unwrap();
    assert_eq!(scrub(&crashed).findings, []);
    assert_eq!(scrub(&crashed).unverified_bytes, BLOCK);
    open(&crashed, "/f").set_checksums(Checksums::On).unwrap();
    assert_eq!(scrub(&crashed).unverified_bytes, 0);
}

#[test]
fn a_write_waits_for_pins_of_blocks_that_have_sums_only() {
    let pool = TestPool::with_checksums(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8).waiting(Mode::NoWait);
    let held = pin(&file, 3, 2, Access::Read);
    let refused = file.write_at(b"x", 3 * BLOCK);
    assert!(
        matches!(refused, Err(Error::Dax(DaxError::WouldBlock { page: 3, .. }))),
        "{refused:?}"
    );
    file.write_at(b"x", 5 * BLOCK).unwrap();
    file.append(b"x").unwrap();
    drop(held);
    file.write_at(b"x", 3 * BLOCK).unwrap();
    let lease = file.lease(0, BLOCK, Label::default(), Term::default());
    drop(lease.unwrap());
    assert_summed(&pool, &fs);
}

#[test]
fn a_page_of_a_huge_entry_is_pinned_for_writing() {
    let pool = TestPool::with_checksums(64 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.write_at(&vec![5; 8 << 20], 0).unwrap();
    // Readers of huge pages, on both sides of the page.
    let readers = [
        pin(&file, 0, 512, Access::Read),
        pin(&file, 512, 1024, Access::Read),
    ];
    let held = pin(&file, 700, 1, Access::Write);
    held.write(0, b"stored").unwrap();
    assert!(scrub(&fs).unverified_bytes <= 4 << 20);
    drop((readers, held, file));
    assert_summed(&pool, &fs);
    let file = open(&fs, "/f");
    assert_eq!(content(&file)[700 * 4096..][..7], *b"stored\x05");
    assert_watched(&pool, &file, 700 * BLOCK);
}

#[test]
fn checksums_are_inherited_and_switched() {
    let pool = TestPool::with_checksums(32 * MIB);
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    fs.create_dir("/plain", new_inode()).unwrap();
    fs.set_checksums("/plain", Checksums::Off).unwrap();
    fs.create_dir("/plain/sub", new_inode()).unwrap();
    let unnamed = fs
        .open_file("/d", READ_WRITE | OpenFlags::TEMPORARY, new_inode())
        .unwrap();
    assert_eq!(unnamed.stat().unwrap().checksums, Checksums::On);
    let plain = filled(&fs, "/plain/sub/f", 6);
    assert_eq!(plain.stat().unwrap().checksums, Checksums::Off);
    assert_eq!(scrub(&fs).verified_bytes, 0);
    flip(&pool.path, place_of(&plain, 0).unwrap());
    content(&plain);
    // What is there is believed; from then on it is watched.
    let before = plain.stat().unwrap();
    plain.set_checksums(Checksums::On).unwrap();
    assert!(plain.stat().unwrap().change > before.change);
    assert_eq!(scrub(&fs).verified_bytes, 6 * BLOCK);
    assert_watched(&pool, &plain, 0);
    // And back: what has changed can be read.
    flip(&pool.path, place_of(&plain, BLOCK).unwrap());
    assert!(plain.read_at(&mut [0; 10], BLOCK).is_err());
    fs.set_checksums("/plain/sub/f", Checksums::Off).unwrap();
    assert_eq!(content(&plain)[4096], 2 ^ 0x10);
    plain.write_at(b"in place", 0).unwrap();
    assert_eq!(scrub(&fs).verified_bytes, 0);
    fs.symlink(b"f", "/s", new_inode()).unwrap();
    assert!(matches!(
        fs.set_checksums("/s", Checksums::On),
        Err(Error::NotSupported(_))
    ));
    let reader = fs.open_file("/d", OpenFlags::READ, new_inode()).unwrap();
    reader.set_checksums(Checksums::Off).unwrap();
    assert_eq!(open(&fs, "/d/f").stat().unwrap().checksums, Checksums::Off);
    let reader = fs
        .open_file("/plain/sub/f", OpenFlags::READ, new_inode())
        .unwrap();
    assert!(matches!(
        reader.set_checksums(Checksums::On),
        Err(Error::BadHandle(_))
    ));
    pool.check();

    let without = TestPool::new(32 * MIB);
    let fs = without.open();
    let file = filled(&fs, "/f", 2);
    assert!(matches!(
        file.set_checksums(Checksums::On),
        Err(Error::NotSupported(_))
    ));
    file.set_checksums(Checksums::Off).unwrap();
}

#[test]
fn a_grown_pool_has_sums_of_what_was_added() {
    let pool = TestPool::with_checksums(16 * MIB);
    let fs = pool.open();
    fs.grow(48 * MIB).unwrap();
    let file = open(&fs, "/f");
    let bytes: Vec<u8> = (0..30 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    // More than a record has room for the sums of.
    assert_eq!(file.write_at(&bytes, 5).unwrap(), bytes.len());
    assert_summed(&pool, &fs);
    for offset in [0, 10 << 20, 20 << 20, 30 << 20] {
        assert_watched(&pool, &file, offset);
    }
    let clone = open(&fs, "/g");
    file.clone_range(0, &clone, 0, 0).unwrap();
    file.truncate(8 << 20).unwrap();
    clone.allocate(AllocateMode::Unshare, 0, 10 << 20).unwrap();
    assert_summed(&pool, &fs);
    drop((file, clone));
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn a_damaged_sum_block_is_an_error_and_is_made_anew() {
    let pool = TestPool::with_checksums(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8);
    let expected = content(&file);
    let at = place_of(&file, 0).unwrap();
    let geometry = Geometry::new(&fs.superblock());
    drop(file);
    fs.close().unwrap();
    let sums = geometry.sum_block_of(udax_media::BlockNo(at / BLOCK)).unwrap();
    flip(&pool.path, sums.place(udax_media::BlockNo(at / BLOCK)).raw());
    let fs = pool.open();
    let file = open(&fs, "/f");
    let error = file.read_at(&mut [0; 10], 0).unwrap_err();
    assert_eq!(error.errno(), Errno::EUCLEAN, "{error}");
    // Nothing is written that would make it look right.
    assert_eq!(file.write_at(&[1; 4096], 0).unwrap_err().errno(), Errno::EUCLEAN);
    let findings = scrub(&fs).findings;
    assert!(
        findings
            .iter()
            .any(|finding| matches!(finding.place, Place::Block(at) if at == sums.block)),
        "{findings:?}"
    );
    drop(file);
    fs.close().unwrap();
    let problems = compare_data_in(&pool.path, false);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(problems[0].place, Place::Block(sums.block));
    let problems = compare_data_in(&pool.path, true);
    assert!(
        problems[0].repair.is_some() && problems[0].lost.is_some(),
        "{problems:#?}"
    );
    assert_eq!(compare_data_in(&pool.path, false), []);
    let fs = pool.open();
    let file = open(&fs, "/f");
    assert_eq!(content(&file), expected);
    for block in 0..8 {
        assert_watched(&pool, &file, block * BLOCK);
    }
}

/// The bytes that were flushed.
#[derive(Debug, Default)]
struct Flushed(Mutex<Vec<(u64, u64)>>);

impl Recorder for Flushed {
    fn record(&self, event: Event<'_>) {
        if let Event::Flush { at, len } = event {
            self.0.lock().unwrap().push((at, len));
        }
    }
}

#[test]
fn data_is_flushed_before_it_gets_sums() {
    let pool = TestPool::with_checksums(32 * MIB);
    let flushed = Arc::new(Flushed::default());
    let options = MountOptions {
        recorder: Some(flushed.clone()),
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&pool.path, &options).unwrap();
    fs.set_checksums("/", Checksums::Off).unwrap();
    let file = filled(&fs, "/f", 4);
    flushed.0.lock().unwrap().clear();
    // Who was killed may have stored there through a pin: nothing in memory tells of it.
    file.set_checksums(Checksums::On).unwrap();
    let flushed = flushed.0.lock().unwrap();
    for block in 0..4 {
        let at = place_of(&file, block * BLOCK).unwrap();
        let is_flushed = |(start, len): &(u64, u64)| *start <= at && at + BLOCK <= start + len;
        assert!(flushed.iter().any(is_flushed), "block {block}");
    }
}

#[test]
fn a_repair_leaves_wrong_data_as_it_is() {
    let pool = TestPool::with_checksums(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 8);
    let at = place_of(&file, 2 * BLOCK + 5).unwrap();
    drop(file);
    fs.close().unwrap();
    flip(&pool.path, at);
    let before = std::fs::read(&pool.path).unwrap();
    for repair in [false, true] {
        let problems = compare_data_in(&pool.path, repair);
        let [problem] = &problems[..] else {
            panic!("{problems:#?}")
        };
        assert_eq!(problem.path.as_deref(), Some(&b"/f"[..]));
        assert_eq!(
            (&problem.repair, problem.lost.as_deref()),
            (&None, Some("bytes 8192+4096"))
        );
    }
    assert!(before == std::fs::read(&pool.path).unwrap());
    let fs = pool.open();
    assert!(matches!(
        open(&fs, "/f").read_at(&mut [0], 8192),
        Err(Error::WrongData { .. })
    ));
}

const _: () = assert!(BLOCK == BLOCK_BYTES);
