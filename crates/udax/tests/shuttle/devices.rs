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
