//! Files and directories of very many extended attributes.

use udax::{Error, Filesystem, MountOptions, XattrMode};

use crate::crash::{CopyingRecorder, open_recorded};
use crate::pool::{MIB, TestPool, check, new_inode, open};

fn name(number: usize) -> Vec<u8> {
    format!("user.{number}").into_bytes()
}

/// Some in nodes, some in blocks of their own.
fn set(fs: &Filesystem, path: &str, count: usize) {
    for number in 0..count {
        let len = if number % 10 == 3 { 5000 } else { 200 };
        fs.set_xattr(path, &name(number), &vec![1; len], XattrMode::Create)
            .unwrap();
    }
}

#[test]
fn what_has_more_attributes_than_a_record_frees_can_be_removed() {
    let pool = TestPool::new(128 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/warm"));
    let before = fs.stat_filesystem();
    for count in [127, 128, 129, 1000, 120_000] {
        drop(open(&fs, "/file"));
        set(&fs, "/file", count.min(5000));
        (5000..count).for_each(|number| {
            fs.set_xattr("/file", &name(number), &[1; 200], XattrMode::Create)
                .unwrap();
        });
        let file = open(&fs, "/file");
        for at in 0..300 {
            file.write_at(b"island", at * 8192).unwrap();
        }
        drop(file);
        fs.create_dir("/directory", new_inode()).unwrap();
        set(&fs, "/directory", count.min(5000));
        fs.unlink("/file").unwrap();
        fs.remove_dir("/directory").unwrap();
        fs.sync().unwrap();
        let after = fs.stat_filesystem();
        assert_eq!(after.inodes, before.inodes);
        // Chunks of inodes and their table's nodes stay.
        assert!(before.free_blocks - after.free_blocks < 10, "{count}: {after:?}");
        pool.check();
    }
}

#[test]
fn a_removal_of_many_attributes_that_a_crash_interrupts_is_finished() {
    let pool = TestPool::new(16 * MIB);
    let recorder = CopyingRecorder::new(&pool.path, 41);
    let fs = open_recorded(&pool, &recorder);
    drop(open(&fs, "/f"));
    set(&fs, "/f", 400);
    fs.sync().unwrap();
    let copies = recorder.during(|| fs.unlink("/f").unwrap());
    assert!(copies.len() > 5, "{} copies", copies.len());
    let mut gone = 0;
    for copy in &copies {
        check(copy);
        let crashed = Filesystem::open(copy, &MountOptions::default()).unwrap();
        match crashed.list_xattrs("/f") {
            Ok(names) => assert_eq!(names.len(), 400, "{}", copy.display()),
            Err(Error::NotFound) => {
                gone += 1;
                assert_eq!(crashed.stat_filesystem().inodes, 1);
            }
            Err(error) => panic!("{error}"),
        }
        crashed.close().unwrap();
        check(copy);
    }
    assert!(gone > 1, "{gone} of {} copies are in the middle", copies.len());
}
