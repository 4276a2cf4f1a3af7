//! Scrubbing an open pool: what it finds, and that it leaves users alone.

use std::fs::OpenOptions;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use udax::{Filesystem, MountOptions, OpenFlags, Place, ScrubOptions, ScrubReport, XattrMode};
use udax_media::geometry::{CHECKPOINTS, Geometry, ROOTS, SUPERBLOCKS};
use udax_media::{BLOCK_BYTES, BlockNo, Superblock};
use udax_pmem::{Region, RegionOptions};

use crate::pool::{MIB, TestPool, check, new_inode, open};

fn scrub(fs: &Filesystem) -> ScrubReport {
    fs.scrub(ScrubOptions::default(), &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

/// Something of every structure.
fn fill(fs: &Filesystem) {
    fs.create_dir("/d", new_inode()).unwrap();
    fs.create_dir("/d/sub", new_inode()).unwrap();
    for number in 0..300 {
        open(fs, &format!("/d/sub/{number:0>60}")).append(b"x").unwrap();
    }
    let islands = open(fs, "/d/islands");
    for at in 0..300 {
        islands.write_at(b"island", at * 8192).unwrap();
    }
    islands
        .set_xattr(b"user.large", &[9; 9000], XattrMode::Create)
        .unwrap();
    for number in 0..30_u8 {
        let name = format!("user.{number}");
        islands
            .set_xattr(name.as_bytes(), &[number; 150], XattrMode::Create)
            .unwrap();
    }
    islands
        .clone_range(0, &open(fs, "/clone"), 0, 299 * 8192)
        .unwrap();
    fs.symlink(&[b'y'; 500], "/long", new_inode()).unwrap();
    open(fs, "/data").append(&[7; 300_000]).unwrap();
}

fn filled() -> TestPool {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fill(&fs);
    fs.close().unwrap();
    pool
}

/// A byte of the pool changes on the medium.
fn flip(pool: &TestPool, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pool.path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_sound_pool_has_no_findings_whether_or_not_it_has_been_changed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    // Everything is as no checkpoint has sealed it.
    fill(&fs);
    let report = scrub(&fs);
    assert_eq!(report.findings, []);
    assert!(report.is_complete);
    assert_eq!((report.inodes, report.busy_units), (307, 0));
    let used = fs.stat_filesystem();
    let used = (used.total_blocks - used.free_blocks) * BLOCK_BYTES;
    // Shared blocks are read for each owner.
    assert!(
        report.bytes > used / 2 && report.bytes < used * 2,
        "{} of {used}",
        report.bytes
    );
    fs.close().unwrap();
    let read_only = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&pool.path, &read_only).unwrap();
    let again = scrub(&fs);
    assert_eq!(again.findings, []);
    assert_eq!(again.inodes, 307);
}

#[test]
fn those_who_change_the_pool_meanwhile_cause_no_findings() {
    let pool = TestPool::new(64 * MIB);
    let fs = pool.open();
    fill(&fs);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spawn = |thread: u8| {
            let (fs, is_over) = (&fs, &is_over);
            scope.spawn(move || {
                for round in 0..2000_u64 {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("/d/sub/t{thread}-{}", round % 50);
                    let file = open(fs, &name);
                    file.write_at(&[thread; 5000], round * 777 % 40_000).unwrap();
                    let _ = file.set_xattr(b"user.x", &[thread; 3000], XattrMode::Either);
                    if round % 3 == 0 {
                        fs.unlink(&name).unwrap();
                    }
                    let islands = open(fs, "/d/islands");
                    islands.write_at(b"more", (round % 300) * 8192 + 4096).unwrap();
                    islands.truncate(200 * 8192 + round).unwrap();
                }
            })
        };
        let threads = [0, 1].map(spawn);
        for _ in 0..10 {
            let report = scrub(&fs);
            assert_eq!(report.findings, []);
            assert!(report.is_complete);
        }
        is_over.store(true, Ordering::Relaxed);
        // A scope ends by a counter inside std, which the thread sanitizer does not see; it sees a join.
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert_eq!(fs.damage(), None);
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn every_metadata_block_that_changes_on_the_medium_is_found() {
    let pool = filled();
    let bytes = std::fs::read(&pool.path).unwrap();
    let superblock = Superblock::decode(bytes.first_chunk().unwrap(), 0, 16 * MIB).unwrap();
    let journal = superblock.journal_blocks();
    let is_metadata = |block: &u64| {
        let at = usize::try_from(block * BLOCK_BYTES).unwrap();
        let is_whole = [b"uROO", b"uNOD", b"uBMP"]
            .iter()
            .any(|magic| bytes[at..].starts_with(*magic));
        is_whole && !journal.contains(BlockNo(*block))
    };
    let blocks: Vec<u64> = (2..4096).filter(is_metadata).collect();
    assert!(blocks.len() > 15, "{}", blocks.len());
    let fs = pool.open();
    // All of it has been verified by those who use it, who do not do so again.
    assert_eq!(scrub(&fs).findings, []);
    for block in blocks {
        // In the second line, which sealing covers and few readers look at.
        let at = block * BLOCK_BYTES + 4000;
        flip(&pool, at);
        let report = scrub(&fs);
        let is_told = report
            .findings
            .iter()
            .any(|found| found.place == Place::Block(BlockNo(block)));
        assert!(is_told, "{block}: {:?}", report.findings);
        flip(&pool, at);
    }
    assert_eq!(scrub(&fs).findings, []);
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn inodes_values_targets_and_copies_that_change_on_the_medium_are_found() {
    let pool = filled();
    let bytes = std::fs::read(&pool.path).unwrap();
    let find = |what: &[u8]| {
        u64::try_from(bytes.windows(what.len()).rposition(|part| part == what).unwrap()).unwrap()
    };
    let fs = pool.open();
    let last_inode = find(b"uINO");
    let places = [
        (last_inode + 100, None),
        (find(&[9; 4096]) + 1000, Some(&b"/d/islands"[..])),
        (find(&[b'y'; 500]) + 10, Some(b"/long")),
        (SUPERBLOCKS[0].offset().raw() + 100, None),
        (SUPERBLOCKS[1].offset().raw() + 100, None),
    ];
    for (at, path) in places {
        flip(&pool, at);
        let report = scrub(&fs);
        assert_eq!(report.findings.len(), 1, "{at}: {:?}", report.findings);
        if path.is_some() {
            assert_eq!(report.findings[0].path.as_deref(), path);
        }
        flip(&pool, at);
    }
    // One of the two slots is the older one; either is told.
    flip(&pool, CHECKPOINTS[1].offset().raw() + 20);
    flip(&pool, CHECKPOINTS[1].offset().raw() + 84);
    assert!(!scrub(&fs).findings.is_empty());
}

#[test]
fn lost_data_is_told_with_its_path_and_no_more_than_that() {
    let pool = filled();
    let fs = pool.open();
    let file = open(&fs, "/data");
    let at = file.extents(0, 10).unwrap()[0].pool_offset;
    drop(file);
    let superblock = fs.superblock();
    fs.close().unwrap();
    let region = Region::open(&pool.path, RegionOptions::default()).unwrap();
    region.poison(at + 5 * BLOCK_BYTES, 2 * BLOCK_BYTES).unwrap();
    let lane = superblock.lane(1).start;
    region.poison(lane.offset().raw() + BLOCK_BYTES, 1).unwrap();
    let free = Geometry::new(&superblock).total_blocks() - 3;
    region.poison(free * BLOCK_BYTES, 1).unwrap();
    let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
    let report = scrub(&fs);
    let told: Vec<_> = report
        .findings
        .iter()
        .map(|found| {
            (
                found.place.to_string(),
                found.path.as_deref(),
                found.what.contains("cannot be read"),
            )
        })
        .collect();
    let place = |block: u64| Place::Block(BlockNo(block)).to_string();
    let first = at / BLOCK_BYTES + 5;
    let mut expected = vec![
        (lane.raw() + 1, (place(lane.raw() + 1), None, true)),
        (first, (place(first), Some(&b"/data"[..]), true)),
        (first + 1, (place(first + 1), Some(&b"/data"[..]), true)),
    ];
    expected.sort();
    assert_eq!(
        told,
        expected.into_iter().map(|(_, told)| told).collect::<Vec<_>>()
    );
    assert!(
        report
            .findings
            .iter()
            .any(|found| found.what.contains("bytes 20480+4096"))
    );
    assert_eq!(fs.damage(), None);
    // Once it is written as a whole there is nothing to tell.
    open(&fs, "/data").write_at(&[1; 8192], 20_480).unwrap();
    assert_eq!(scrub(&fs).findings.len(), 1);
}

#[test]
fn lost_metadata_is_told_and_makes_the_pool_read_only() {
    let pool = filled();
    let bytes = std::fs::read(&pool.path).unwrap();
    let inodes = (0..4096_u64).rfind(|block| {
        let at = usize::try_from(block * BLOCK_BYTES).unwrap();
        bytes[at..].starts_with(b"uINO")
    });
    for block in [ROOTS.raw(), inodes.unwrap()] {
        let pool = TestPool::copy_of(&pool);
        let fs = pool.open();
        let _ = scrub(&fs);
        fs.close().unwrap();
        let region = Region::open(&pool.path, RegionOptions::default()).unwrap();
        region.poison(block * BLOCK_BYTES, 1).unwrap();
        match Filesystem::open_region(region, &MountOptions::default()) {
            Ok(fs) => {
                // What has changed since the last checkpoint has no checksum of what it is now, and gets none.
                for number in 0..200 {
                    let _ = fs.create_dir(format!("/unsynced{number}"), new_inode());
                }
                let report = scrub(&fs);
                assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
                assert_eq!(report.findings[0].place, Place::Block(BlockNo(block)));
                assert!(report.is_complete);
                assert_eq!(fs.damage().unwrap().place, Place::Block(BlockNo(block)));
            }
            Err(error) => assert_eq!(block, ROOTS.raw(), "{error}"),
        }
    }
}

#[test]
fn a_scrub_ends_when_it_is_told_to_and_keeps_to_its_rate() {
    let pool = filled();
    let fs = pool.open();
    let mut steps = 0;
    let report = fs.scrub(ScrubOptions::default(), &mut |step| {
        assert!(step.done <= step.total);
        steps += 1;
        if steps == 5 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let report = report.unwrap();
    assert!(!report.is_complete && report.findings.is_empty());
    assert_eq!(steps, 5);
    let rate = 16 * MIB;
    let options = ScrubOptions {
        rate: NonZero::new(rate),
    };
    let began = Instant::now();
    let report = fs.scrub(options, &mut |_| ControlFlow::Continue(())).unwrap();
    let least = report.bytes * 1000 / rate;
    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
    assert!(
        took >= least.saturating_sub(1),
        "{took} ms for {} bytes",
        report.bytes
    );
    // Others go on meanwhile.
    assert_eq!(
        fs.open_file("/data", OpenFlags::READ, new_inode())
            .unwrap()
            .read_at(&mut [0; 10], 0)
            .unwrap(),
        10
    );
}
