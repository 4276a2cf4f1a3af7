//! Files without DAX: write-back, truncation, reclaim and invalidation, and the switch to memory access and back.

use nix::errno::Errno;
use udax::{Access, Dax, File, Filesystem, Request, WriteFlags};

use crate::arena::{BLOCK, NEW, READ_WRITE, allow, at_once, content, explore_cached, filled, open};

/// All bytes of a block are the same, and one of these.
#[track_caller]
fn assert_whole(block: &[u8], allowed: &[u8]) {
    let first = block.first().copied().unwrap_or(0);
    assert!(
        block.iter().all(|byte| *byte == first) && allowed.contains(&first),
        "a block begins with {first}, of {allowed:?}"
    );
}

fn switch_to_and_fro(file: &File) {
    for dax in [Dax::On, Dax::Off, Dax::On] {
        file.set_dax(dax).unwrap();
    }
}

/// Pages that the threads of a scenario may have beside the budget at once when nothing could go.
const BESIDE: u64 = 16;

/// The cache takes no more than it may. Where nothing could go, as all of it was in use, it says so.
#[track_caller]
fn within_budget(fs: &Filesystem) {
    let cache = fs.cache_statistics();
    let beside = if cache.over_budget > 0 { BESIDE } else { 0 };
    assert!(cache.cached <= cache.budget + beside, "{cache:?}");
}

/// Writes and reads its own block, of which nobody else takes anything away.
fn write_own(fs: &Filesystem, file: &File, block: u64, bytes: std::ops::Range<u8>) {
    for byte in bytes {
        assert_eq!(file.write_at(&[byte; 4096], block * BLOCK).unwrap(), 4096);
        within_budget(fs);
        let mut read = [0; 4096];
        assert_eq!(file.read_at(&mut read, block * BLOCK).unwrap(), 4096);
        assert!(read == [byte; 4096], "a write is lost");
    }
}

#[test]
fn a_switch_loses_no_byte_of_writers_syncs_and_truncations() {
    explore_cached("switch", |fs| {
        let file = filled(fs, "/f", 4, 1);
        at_once(&[
            &|| switch_to_and_fro(&file),
            &|| write_own(fs, &file, 0, 2..5),
            &|| {
                // The last block comes and goes; what grows is zeros.
                file.truncate(3 * BLOCK).unwrap();
                file.truncate(4 * BLOCK).unwrap();
                file.sync().unwrap();
            },
            &|| {
                fs.sync().unwrap();
                file.dont_need(0, 4 * BLOCK);
            },
        ]);
        let bytes = content(&file);
        let expected = [[4; 4096], [1; 4096], [1; 4096], [0; 4096]].concat();
        assert!(bytes == expected, "bytes are lost, or have come back");
        assert!(file.is_dax());
    });
}

#[test]
fn a_switch_meets_direct_and_uncached_writes_and_clones() {
    explore_cached("doors", |fs| {
        let file = filled(fs, "/f", 3, 1);
        let source = filled(fs, "/source", 1, 7);
        let direct = fs
            .open_file("/f", READ_WRITE.union(udax::OpenFlags::DIRECT), NEW)
            .unwrap();
        at_once(&[
            &|| switch_to_and_fro(&file),
            &|| write_own(fs, &direct, 0, 2..4),
            &|| {
                let uncached = file.write_with(&[5; 4096], BLOCK, WriteFlags::DONTCACHE);
                if allow(uncached, &[Errno::EOPNOTSUPP]).is_none() {
                    file.write_at(&[5; 4096], BLOCK).unwrap();
                }
            },
            &|| {
                source.clone_range(0, &file, 2 * BLOCK, BLOCK).unwrap();
                let mut read = [0; 4096];
                assert_eq!(file.read_at(&mut read, 2 * BLOCK).unwrap(), 4096);
                assert_whole(&read, &[7]);
            },
        ]);
        assert!(content(&file) == [[3; 4096], [5; 4096], [7; 4096]].concat());
        assert!(content(&source) == [7; 4096]);
    });
}

#[test]
fn write_back_truncation_reclaim_invalidation_and_switches_meet() {
    explore_cached("all", |fs| {
        let (file, other) = (filled(fs, "/f", 4, 1), filled(fs, "/other", 12, 2));
        let direct = fs
            .open_file("/f", READ_WRITE.union(udax::OpenFlags::DIRECT), NEW)
            .unwrap();
        at_once(&[
            &|| switch_to_and_fro(&file),
            &|| write_own(fs, &file, 0, 2..4),
            &|| {
                // Takes what is cached of its block out.
                assert_eq!(direct.write_at(&[5; 4096], BLOCK).unwrap(), 4096);
                file.truncate(3 * BLOCK).unwrap();
                file.truncate(4 * BLOCK).unwrap();
            },
            &|| {
                // More than the cache takes beside the other file.
                assert!(content(&other) == [2; 12 * 4096]);
                within_budget(fs);
                fs.sync().unwrap();
            },
        ]);
        let expected = [[3; 4096], [5; 4096], [1; 4096], [0; 4096]].concat();
        assert!(content(&file) == expected, "bytes are lost, or have come back");
        assert!(content(&other) == [2; 12 * 4096]);
    });
}

#[test]
fn a_pin_keeps_a_file_from_going_back_to_the_cache_under_it() {
    explore_cached("pinned", |fs| {
        let file = filled(fs, "/f", 2, 1);
        file.set_dax(Dax::On).unwrap();
        at_once(&[
            &|| {
                let pin = file.pin(0, BLOCK, Request::new(Access::Write));
                let Some(pin) = allow(pin, &[Errno::EOPNOTSUPP]) else {
                    return;
                };
                pin.write(0, &[6; 4096]).unwrap();
                let mut read = [0; 4096];
                pin.read(0, &mut read).unwrap();
                assert!(read == [6; 4096], "a pinned page is not the file's");
            },
            &|| file.set_dax(Dax::Off).unwrap(),
            &|| write_own(fs, &file, 1, 2..4),
        ]);
        let bytes = content(&file);
        assert_whole(&bytes[..4096], &[1, 6]);
        assert_whole(&bytes[4096..], &[3]);
        assert!(!file.is_dax());
        // What is stored through the cache now is what a pin sees later.
        file.write_at(&[8; 8192], 0).unwrap();
        file.set_dax(Dax::On).unwrap();
        let pin = file.pin(0, 2 * BLOCK, Request::new(Access::Read)).unwrap();
        let mut read = [0; 8192];
        pin.read(0, &mut read).unwrap();
        assert!(read == [8; 8192]);
    });
}

#[test]
fn reclaim_and_write_back_meet_a_file_that_loses_its_name() {
    explore_cached("reclaim", |fs: &Filesystem| {
        let (file, other) = (filled(fs, "/f", 12, 1), open(fs, "/other"));
        at_once(&[
            &|| {
                // More than the cache takes.
                assert_eq!(other.write_at(&[2; 12 * 4096], 0).unwrap(), 12 * 4096);
                within_budget(fs);
                file.sync().unwrap();
            },
            &|| {
                let mut read = [0; 4096];
                for block in 0..12 {
                    assert_eq!(file.read_at(&mut read, block * BLOCK).unwrap(), 4096);
                    assert_whole(&read, &[1, 2, 0]);
                    within_budget(fs);
                }
            },
            &|| {
                other.set_dax(Dax::On).unwrap();
                fs.unlink("/other").unwrap();
            },
        ]);
        assert!(content(&file) == [1; 12 * 4096]);
        assert!(content(&other) == [2; 12 * 4096]);
    });
}
