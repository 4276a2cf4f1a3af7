//! What is seen of a file, and what becomes of it, while its lock is lent: it is being written to a data device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use udax::{File, MountOptions};

use crate::pins::{BLOCK, until};
use crate::pool::{content, open};
use crate::stalled::{Stalled, stalled_pool};

/// Nothing is written back but by who asks for it.
fn by_hand() -> MountOptions {
    MountOptions {
        no_flusher: true,
        ..MountOptions::default()
    }
}

/// Does `during` while the medium has not answered to an fsync of `file`.
fn while_written<R>(medium: &Stalled, file: &File, during: impl FnOnce() -> R) -> R {
    medium.stall(true);
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync().unwrap());
        until(|| medium.waiting() > 0);
        let result = during();
        medium.stall(false);
        sync.join().unwrap();
        result
    })
}

#[test]
fn the_blocks_that_stat_tells_stay_while_they_are_written() {
    let (medium, pool, fs) = stalled_pool(by_hand());
    let file = open(&fs, "/f");
    file.write_at(&[1; 64 * 4096], 0).unwrap();
    let told = || {
        let stat = fs.stat("/f").unwrap();
        (stat.size, stat.blocks)
    };
    let before = told();
    let during = while_written(&medium, &file, told);
    assert_eq!([before, during, told()], [(64 * BLOCK, 64); 3]);
    drop(file);
    fs.close().unwrap();
    pool.check();
}

#[test]
fn who_reads_while_it_is_written_has_accessed_it() {
    let (medium, _pool, fs) = stalled_pool(by_hand());
    let file = open(&fs, "/f");
    file.write_at(&[1; 4096], 0).unwrap();
    file.sync().unwrap();
    content(&file);
    let tick = || std::thread::sleep(Duration::from_millis(20));
    tick();
    file.write_at(&[2; 4096], 0).unwrap();
    tick();
    let during = while_written(&medium, &file, || {
        assert_eq!(content(&file), [2; 4096]);
        file.stat().unwrap()
    });
    assert!(during.atime > during.mtime, "{during:?}");
    assert_eq!(file.stat().unwrap().atime, during.atime);
    drop(file);
    assert_eq!(fs.stat("/f").unwrap().atime, during.atime);
}

/// Pages with gaps between them: each is a run of its own.
const RUNS: u64 = 240;

/// A write-back panics while somebody does `beside` to the file: what was written is there still.
fn panic_beside(beside: impl Fn(&File) + Sync) {
    let (medium, pool, fs) = stalled_pool(by_hand());
    for round in 0..20 {
        let path = format!("/{round}");
        let file = open(&fs, &path);
        for run in 0..RUNS {
            file.write_at(&[1; 4096], run * 2 * BLOCK).unwrap();
        }
        let expected = content(&file);
        medium.stall(true);
        medium.panic();
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| catch_unwind(AssertUnwindSafe(|| file.sync())).is_err());
            until(|| medium.waiting() > 0);
            let other = scope.spawn(|| beside(&file));
            // It waits for the lock by then, mostly.
            std::thread::sleep(Duration::from_millis(5));
            medium.stall(false);
            assert!(sync.join().unwrap());
            other.join().unwrap();
        });
        let seen = content(&file);
        assert!(
            seen[..expected.len()] == *expected,
            "bytes are lost in round {round}"
        );
        drop(file);
        fs.unlink(&path).unwrap();
    }
    fs.close().unwrap();
    pool.check();
}

#[test]
fn who_lists_extents_after_a_write_back_has_panicked_sees_all_pages() {
    panic_beside(|file| {
        let extents = file.extents(0, 1000).unwrap();
        let bytes: u64 = extents.iter().map(|extent| extent.len).sum();
        assert_eq!(bytes, RUNS * BLOCK);
    });
}

#[test]
fn who_makes_a_file_longer_after_a_write_back_has_panicked_loses_nothing() {
    panic_beside(|file| file.truncate(4 * RUNS * BLOCK).unwrap());
}
