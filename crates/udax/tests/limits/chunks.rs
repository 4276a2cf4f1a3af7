//! Inode chunks come and go: a full pool frees those that are empty, and their numbers come back as other inodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use udax::{AllocateMode, Error, Filesystem, InodeNo, MountOptions};
use udax_pmem::CountingRecorder;

use crate::pool::{MIB, TestPool, open};

/// Asks for more than there is, so that the pool gives back what it keeps.
fn reclaim(fs: &Filesystem) {
    let file = open(fs, "/greedy");
    let error = file.allocate(AllocateMode::KeepSize, 0, 1 << 40).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    drop(file);
    fs.unlink("/greedy").unwrap();
}

fn name(number: u64) -> String {
    format!("/{number}")
}

#[test]
fn thousands_of_empty_chunks_are_freed_with_few_fences() {
    let pool = TestPool::new(64 * MIB);
    let recorder = Arc::new(CountingRecorder::new());
    let options = MountOptions {
        recorder: Some(recorder.clone()),
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&pool.path, &options).unwrap();
    // Warm: the pool keeps a chunk and nodes of its own.
    drop(open(&fs, "/kept"));
    let free = fs.stat_filesystem().free_blocks;
    let files = 3000 * 16;
    (0..files).for_each(|number| drop(open(&fs, &name(number))));
    recorder.reset();
    let removed = (0..files).filter(|number| number % 1600 != 77);
    let removed = removed.map(|number| fs.unlink(name(number)).unwrap()).count();
    let fences = recorder.reset().fences - u64::try_from(removed).unwrap();
    assert!(fences < 200, "{fences} fences more than names");
    fs.sync().unwrap();
    // But for some that are kept, they are free at once.
    let kept = free - fs.stat_filesystem().free_blocks;
    assert!(kept < 400, "{kept} blocks are kept");
    recorder.reset();
    reclaim(&fs);
    let fences = recorder.reset().fences;
    assert!(fences < 100, "{fences} fences for the rest");
    fs.sync().unwrap();
    // Every hundredth chunk has an inode: those stay, with the nodes of the trees over them.
    let kept = free - fs.stat_filesystem().free_blocks;
    assert!((30..50).contains(&kept), "{kept} blocks are kept");
    for number in (77..files).step_by(1600) {
        fs.stat(name(number)).unwrap();
    }
    fs.close().unwrap();
    pool.check();
}

#[test]
fn a_number_that_comes_back_after_its_chunk_was_freed_is_another_inode() {
    let pool = TestPool::new(16 * MIB);
    let mut seen: BTreeMap<InodeNo, u64> = BTreeMap::new();
    let mut met_again = 0;
    for _ in 0..4 {
        let fs = pool.open();
        for number in 0..500 {
            let stat = open(&fs, &name(number)).stat().unwrap();
            if let Some(before) = seen.insert(stat.ino, stat.generation) {
                met_again += 1;
                assert!(
                    before < stat.generation,
                    "{stat:?} had generation {before} before"
                );
            }
        }
        // Downward: the number freed last, which is used next, is not in the highest chunk.
        (0..500).rev().for_each(|number| fs.unlink(name(number)).unwrap());
        reclaim(&fs);
        fs.close().unwrap();
    }
    assert!(met_again > 1000, "only {met_again} numbers came back");
    pool.check();
}
