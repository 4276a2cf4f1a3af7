//! Files on a data device: requests that fail, and who reads while others write back.

use udax::{File, Filesystem, OpenFlags};
use udax_disk::MemoryMedium;
use udax_sync::atomic::{AtomicU64, Ordering};

use crate::arena::{BLOCK, NEW, READ_WRITE, at_once, content, explore_tiered, filled};

/// Syncs a file that was written to, and counts that an error was told.
fn sync(file: &File, told: &AtomicU64) {
    told.fetch_add(u64::from(file.sync().is_err()), Ordering::SeqCst);
}

/// Two files of which a block each is overwritten, and of which a flush fails.
fn written(fs: &Filesystem, device: &MemoryMedium) -> [File; 2] {
    let files = [filled(fs, "/one", 2, 1), filled(fs, "/two", 2, 2)];
    for file in &files {
        file.sync().unwrap();
    }
    for file in &files {
        file.write_at(&[3; 4096], 0).unwrap();
    }
    device.lose_flushes(1);
    files
}

#[test]
fn each_open_file_is_told_once_that_a_flush_has_failed() {
    explore_tiered("flushes", |fs, device| {
        let [one, two] = written(fs, device);
        let told = [const { AtomicU64::new(0) }; 2];
        at_once(&[&|| sync(&one, &told[0]), &|| sync(&two, &told[1])]);
        sync(&one, &told[0]);
        sync(&two, &told[1]);
        let told = told.map(|told| told.load(Ordering::SeqCst));
        assert_eq!(told, [1, 1]);
    });
}

#[test]
fn each_open_file_is_told_once_that_a_flush_of_all_has_failed() {
    explore_tiered("flushes-all", |fs, device| {
        let [one, two] = written(fs, device);
        let told = [const { AtomicU64::new(0) }; 2];
        let sync_all = |file: &File, told: &AtomicU64| {
            told.fetch_add(u64::from(file.sync_filesystem().is_err()), Ordering::SeqCst);
        };
        at_once(&[&|| sync_all(&one, &told[0]), &|| sync_all(&two, &told[1])]);
        sync_all(&one, &told[0]);
        sync_all(&two, &told[1]);
        let told = told.map(|told| told.load(Ordering::SeqCst));
        assert_eq!(told, [1, 1]);
    });
}

#[test]
fn who_reads_while_others_write_back_sees_what_was_written() {
    explore_tiered("lent", |fs, _| {
        let file = filled(fs, "/f", 3, 1);
        file.sync().unwrap();
        let direct = fs
            .open_file("/f", READ_WRITE.union(OpenFlags::DIRECT), NEW)
            .unwrap();
        at_once(&[
            &|| {
                for byte in 2..6 {
                    // A block that the file has, and one that it gets.
                    for at in [BLOCK, 3 * BLOCK] {
                        assert_eq!(file.write_at(&[byte; 4096], at).unwrap(), 4096);
                        let mut seen = [0; 4096];
                        assert_eq!(direct.read_at(&mut seen, at).unwrap(), 4096);
                        assert!(seen == [byte; 4096], "a write is not seen");
                    }
                }
            },
            &|| (0..8).for_each(|_| file.sync().unwrap()),
        ]);
        assert!(content(&file) == [[1; 4096], [5; 4096], [1; 4096], [5; 4096]].concat());
    });
}

#[test]
fn whoever_shares_the_lock_while_it_is_lent_sees_a_whole_file() {
    explore_tiered("lent-all", |fs, _| {
        let file = filled(fs, "/f", 3, 1);
        file.sync().unwrap();
        let other = fs.open_file("/f", READ_WRITE, NEW).unwrap();
        let direct = fs
            .open_file("/f", READ_WRITE.union(OpenFlags::DIRECT), NEW)
            .unwrap();
        at_once(&[
            &|| {
                for byte in 2..5 {
                    for at in [BLOCK, u64::from(byte) * 2 * BLOCK] {
                        assert_eq!(file.write_at(&[byte; 4096], at).unwrap(), 4096);
                    }
                }
            },
            &|| (0..4).for_each(|_| file.sync().unwrap()),
            &|| {
                let (mut size, mut seen_before) = (0, 0);
                for _ in 0..4 {
                    other.dont_need(0, u64::MAX);
                    let stat = other.stat().unwrap();
                    assert!(stat.size >= size, "the size goes back");
                    size = stat.size;
                    assert!(stat.blocks >= 3);
                    let mut seen = [0; 4096];
                    assert_eq!(other.read_at(&mut seen, BLOCK).unwrap(), 4096);
                    assert!(seen == [seen[0]; 4096], "torn");
                    assert!(seen[0] >= seen_before, "an older one");
                    seen_before = seen[0];
                    if size > 0 {
                        let count = other.read_at(&mut seen, size - BLOCK).unwrap();
                        assert_eq!(count, 4096);
                        assert!(seen[0] != 0, "not what was written");
                    }
                }
            },
            &|| {
                let mut seen_before = 0;
                for _ in 0..3 {
                    let mut seen = [0; 4096];
                    assert_eq!(direct.read_at(&mut seen, BLOCK).unwrap(), 4096);
                    assert!(seen == [seen[0]; 4096], "torn beneath");
                    assert!(seen[0] >= seen_before, "an older one beneath");
                    seen_before = seen[0];
                    let size = direct.stat().unwrap().size;
                    let found = direct.extents(0, 100).unwrap();
                    let end = found.last().unwrap();
                    assert!(end.offset + end.len >= size, "not all is beneath");
                    let _ = direct.seek_data(3 * BLOCK);
                }
            },
        ]);
    });
}

#[test]
fn a_file_is_cut_while_others_write_it_back_and_read_it() {
    explore_tiered("lent-cut", |fs, device| {
        let file = filled(fs, "/f", 3, 1);
        file.sync().unwrap();
        let other = fs.open_file("/f", READ_WRITE, NEW).unwrap();
        device.fail_writes(1);
        at_once(&[
            &|| {
                for byte in 2..4 {
                    file.write_at(&[byte; 4096], 3 * BLOCK).unwrap();
                    file.truncate(2 * BLOCK).unwrap();
                }
            },
            &|| (0..4).for_each(|_| drop(other.sync())),
            &|| {
                for _ in 0..4 {
                    other.dont_need(0, u64::MAX);
                    let mut seen = [9; 4 * 4096];
                    let count = other.read_at(&mut seen, 0).unwrap();
                    assert!(count >= 2 * 4096);
                    assert!(seen[..8192] == [1; 8192]);
                    if count > 3 * 4096 {
                        assert!(
                            seen[8192..3 * 4096].iter().all(|byte| *byte < 2),
                            "not in the hole"
                        );
                        assert!(seen[3 * 4096..count] == [seen[3 * 4096]; 4096][..count - 3 * 4096]);
                        assert!((2..4).contains(&seen[3 * 4096]));
                    }
                }
            },
        ]);
        file.sync().ok();
        file.sync().unwrap();
        other.sync().ok();
        assert!(content(&file) == [1; 8192]);
    });
}
