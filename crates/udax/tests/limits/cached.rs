//! Files without DAX: what is in the cache, what is in the pool, and what is promised of both.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use udax::{
    AllocateMode, CacheError, Dax, DaxMode, Error, File, Filesystem, MountOptions, OpenFlags, ReadFlags,
    WriteFlags,
};

use crate::pool::{CREATE, MIB, READ_WRITE, TestPool, check, content, new_inode, open};

const PAGE: u64 = 4096;

/// Everything through the cache, and nobody writes back but who syncs.
pub(crate) fn quiet(dax: DaxMode) -> MountOptions {
    MountOptions {
        dax,
        no_flusher: true,
        ..MountOptions::default()
    }
}

pub(crate) fn open_quiet(pool: &TestPool) -> Filesystem {
    Filesystem::open(&pool.path, &quiet(DaxMode::Never)).unwrap()
}

pub(crate) fn bytes(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// The content of a file in a copy of the pool as a killed process would leave it; none if it has no such file.
fn after_crash(pool: &TestPool, path: &str) -> Option<Vec<u8>> {
    let copy = pool.crash_copy("crashed.pool");
    check(&copy);
    let fs = Filesystem::open(&copy, &MountOptions::default()).unwrap();
    let file = fs.open_file(path, OpenFlags::READ, new_inode()).ok()?;
    Some(content(&file))
}

/// Makes `/f` of 2 MiB, behind everything else in the pool of 64 MiB, and tells where it begins.
fn put_at_the_end(pool: &TestPool) -> u64 {
    let fs = pool.open();
    open(&fs, "/filler").append(&vec![1; 40 << 20]).unwrap();
    let file = open(&fs, "/f");
    file.write_at(&bytes(2 * MIB, 1), 0).unwrap();
    let at = file.extents(0, 1).unwrap()[0].pool_offset;
    assert!(at > 40 * MIB);
    drop(file);
    fs.close().unwrap();
    at
}

#[test]
fn what_is_written_is_read_at_once_and_is_in_the_pool_after_a_sync() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    assert!(!file.is_dax());
    let mut model = Vec::new();
    let mut random = SmallRng::seed_from_u64(1);
    for step in 0..300 {
        let at = random.random_range(0..500 * PAGE);
        let data = bytes(random.random_range(1..20_000), step);
        file.write_at(&data, at).unwrap();
        let at = usize::try_from(at).unwrap();
        model.resize(model.len().max(at + data.len()), 0);
        model[at..at + data.len()].copy_from_slice(&data);
        if step % 50 == 49 {
            assert!(content(&file) == model);
            file.sync().unwrap();
            assert!(after_crash(&pool, "/f").unwrap() == model);
        }
    }
    drop(file);
    fs.close().unwrap();
    let fs = pool.open();
    assert!(content(&open(&fs, "/f")) == model, "closing writes what is dirty");
}

#[test]
fn nothing_is_promised_before_a_sync_and_the_size_never_covers_what_was_not_written() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    file.write_at(&bytes(10 * PAGE, 1), 0).unwrap();
    assert_eq!(after_crash(&pool, "/f").unwrap(), b"");
    assert_eq!(file.stat().unwrap().size, 10 * PAGE);
    // A later page alone is asked for: what is before it, from the end in the pool on, comes along.
    file.write_with(&bytes(PAGE, 2), 20 * PAGE, WriteFlags::DSYNC)
        .unwrap();
    let mut expected = bytes(10 * PAGE, 1);
    expected.resize(usize::try_from(20 * PAGE).unwrap(), 0);
    expected.extend(bytes(PAGE, 2));
    assert!(after_crash(&pool, "/f").unwrap() == expected);
    // Folios inside the file are written alone.
    file.write_at(&bytes(PAGE, 3), 0).unwrap();
    file.write_with(&bytes(PAGE, 4), 20 * PAGE, WriteFlags::DSYNC)
        .unwrap();
    let crashed = after_crash(&pool, "/f").unwrap();
    assert!(crashed[..4096] == expected[..4096]);
    assert!(crashed[20 * 4096..] == bytes(PAGE, 4));
}

#[test]
fn small_sequential_writes_become_one_extent() {
    let pool = TestPool::new(64 * MIB);
    let fs = open_quiet(&pool);
    let (one, other) = (open(&fs, "/one"), open(&fs, "/other"));
    for page in 0..1000 {
        one.append(&bytes(PAGE, page)).unwrap();
        other.append(&bytes(777, page)).unwrap();
    }
    assert_eq!(one.stat().unwrap().blocks, 1000, "blocks that it will have count");
    one.sync().unwrap();
    other.sync().unwrap();
    for file in [one, other] {
        assert_eq!(file.extents(0, 100).unwrap().len(), 1);
    }
}

#[test]
fn a_full_pool_is_told_when_writing_and_never_when_writing_back() {
    let pool = TestPool::new(16 * MIB);
    let fs = open_quiet(&pool);
    let before = fs.stat_filesystem().available_blocks;
    let file = open(&fs, "/f");
    // Every other page, in an order that makes as many extents as can be.
    let mut written = Vec::new();
    let mut random = SmallRng::seed_from_u64(2);
    loop {
        let page = random.random_range(0..100_000) * 2;
        match file.write_at(&bytes(PAGE, page), page * PAGE) {
            Ok(4096) => written.push(page),
            Err(Error::NoSpace { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(written.len() > 2000, "{}", written.len());
    assert!(fs.stat_filesystem().available_blocks < before / 20);
    // Nobody else gets what is reserved.
    let rival = open(&fs, "/rival");
    assert!(matches!(
        rival.allocate(AllocateMode::Allocate, 0, 64 * PAGE * 8),
        Err(Error::NoSpace { .. })
    ));
    // What has its block is overwritten all the same.
    file.sync().unwrap();
    for page in &written {
        file.write_at(&bytes(PAGE, page + 1), page * PAGE).unwrap();
    }
    file.sync().unwrap();
    drop((file, rival));
    fs.close().unwrap();
    check(&pool.path);
    let fs = pool.open();
    let file = open(&fs, "/f");
    for page in written {
        let mut found = vec![0; 4096];
        file.read_at(&mut found, page * PAGE).unwrap();
        assert!(found == bytes(PAGE, page + 1));
    }
    drop(file);
    fs.unlink("/f").unwrap();
    fs.unlink("/rival").unwrap();
    fs.sync().unwrap();
    assert!(fs.stat_filesystem().available_blocks + 4 >= before);
}

#[test]
fn a_write_behind_a_shared_end_takes_the_block_for_the_zeros_there_at_once() {
    let pool = TestPool::new(16 * MIB);
    let fs = open_quiet(&pool);
    let paths = ["/f", "/g", "/clone", "/other clone", "/ballast"];
    let [file, other, clone, other_clone, ballast] = paths.map(|path| open(&fs, path));
    for (file, clone) in [(&file, &clone), (&other, &other_clone)] {
        file.append(&bytes(2 * PAGE + 100, 1)).unwrap();
        file.clone_range(0, clone, 0, 0).unwrap();
    }
    // To copy a block is no work for who must not wait.
    let refused = file.write_with(&[2; 100], 5 * PAGE, WriteFlags::NOWAIT);
    assert_eq!(refused.unwrap_err().errno(), Errno::EAGAIN);
    file.write_at(&[2; 100], 5 * PAGE).unwrap();
    for (mut at, count) in [(0, 64), (1 << 20, 1)] {
        while ballast
            .allocate(AllocateMode::KeepSize, at * PAGE, count * PAGE)
            .is_ok()
        {
            at += count;
        }
    }
    file.sync().unwrap();
    // What cannot be had is told by the write.
    let refused = other.write_at(&[2; 100], 5 * PAGE);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    drop((other, other_clone, ballast));
    let mut expected = bytes(2 * PAGE + 100, 1);
    expected.resize(5 * 4096, 0);
    expected.extend([2; 100]);
    assert!(after_crash(&pool, "/f").unwrap() == expected);
    assert!(content(&clone) == bytes(2 * PAGE + 100, 1));
}

/// Takes all blocks that anybody may have, for `rival`.
pub(crate) fn take_all(rival: &File) {
    let mut at = 0;
    for count in [1024, 64, 8, 1] {
        while rival
            .allocate(AllocateMode::KeepSize, at * PAGE, count * PAGE)
            .is_ok()
        {
            at += count;
        }
    }
}

/// Makes every other page of `file` dirty, in any order, until there is no space; how many.
pub(crate) fn scatter(file: &File) -> u64 {
    let mut pages: Vec<u64> = (0..50_000).map(|page| page * 2).collect();
    pages.shuffle(&mut SmallRng::seed_from_u64(3));
    let is_written = |page: &&u64| match file.write_at(&[5; 4096], **page * PAGE) {
        Ok(4096) => true,
        Err(Error::NoSpace { .. }) => false,
        other => panic!("{other:?}"),
    };
    let written = pages.iter().take_while(is_written).count();
    u64::try_from(written).unwrap()
}

#[test]
fn blocks_for_the_nodes_of_what_is_dirty_are_nobody_elses() {
    // The reserve alone is not enough for so many.
    for is_mapped in [false, true] {
        let pool = TestPool::new(160 * MIB);
        let options = MountOptions {
            cache_bytes: 512 * MIB,
            dirty_bytes: 512 * MIB,
            ..quiet(DaxMode::Never)
        };
        let fs = Filesystem::open(&pool.path, &options).unwrap();
        let (file, clone) = (open(&fs, "/f"), open(&fs, "/clone"));
        if is_mapped {
            // Each page that is written splits an extent, and the count of owners of its blocks.
            file.append(&vec![1; 64 << 20]).unwrap();
            file.clone_range(0, &clone, 0, 0).unwrap();
        }
        let written = scatter(&file);
        assert!(written > 10_000, "{written}");
        take_all(&open(&fs, "/rival"));
        assert_eq!(fs.stat_filesystem().available_blocks, 0);
        file.sync().unwrap();
        drop((file, clone));
        fs.close().unwrap();
        check(&pool.path);
    }
}

#[test]
fn what_is_forgotten_gives_its_blocks_back() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    // The first file brings a chunk of inodes.
    drop(open(&fs, "/f"));
    fs.unlink("/f").unwrap();
    let before = fs.stat_filesystem().available_blocks;
    for cut in [0, 1, 77 * PAGE + 5, 200 * PAGE] {
        let file = open(&fs, "/f");
        file.write_at(&bytes(300 * PAGE, 1), 0).unwrap();
        assert!(fs.stat_filesystem().available_blocks <= before - 300);
        file.truncate(cut).unwrap();
        assert!(content(&file) == bytes(300 * PAGE, 1)[..usize::try_from(cut).unwrap()]);
        assert_eq!(file.stat().unwrap().size, cut);
        fs.unlink("/f").unwrap();
        assert!(
            content(&file).len() == usize::try_from(cut).unwrap(),
            "open, it is there"
        );
        drop(file);
        fs.sync().unwrap();
        assert_eq!(fs.stat_filesystem().available_blocks, before, "cut to {cut}");
    }
    let file = open(&fs, "/g");
    file.write_at(&bytes(300 * PAGE, 1), 0).unwrap();
    drop(file);
    fs.unlink("/g").unwrap();
    fs.sync().unwrap();
    assert_eq!(fs.stat_filesystem().available_blocks, before, "closed and dirty");
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn a_cut_is_durable_for_what_was_in_the_pool() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    file.write_at(&bytes(10 * PAGE, 1), 0).unwrap();
    file.sync().unwrap();
    file.write_at(&bytes(10 * PAGE, 2), 10 * PAGE).unwrap();
    // Between the end in the pool and that in the cache: only the cache is cut.
    file.truncate(15 * PAGE + 3).unwrap();
    assert!(after_crash(&pool, "/f").unwrap() == bytes(10 * PAGE, 1));
    file.truncate(5 * PAGE + 3).unwrap();
    assert!(after_crash(&pool, "/f").unwrap() == bytes(10 * PAGE, 1)[..5 * 4096 + 3]);
    // What was cut off reads as zeros when the file grows over it.
    file.truncate(8 * PAGE).unwrap();
    let mut expected = bytes(10 * PAGE, 1)[..5 * 4096 + 3].to_vec();
    expected.resize(8 * 4096, 0);
    assert!(content(&file) == expected);
    file.sync().unwrap();
    assert!(after_crash(&pool, "/f").unwrap() == expected);
}

#[test]
fn operations_on_extents_see_what_is_only_in_the_cache() {
    let pool = TestPool::new(64 * MIB);
    let fs = open_quiet(&pool);
    let data = bytes(64 * PAGE, 1);
    let fresh = |name: &str| {
        let file = open(&fs, name);
        file.write_at(&data, 0).unwrap();
        file
    };
    assert_eq!(fresh("/seek").seek_hole(0).unwrap(), 64 * PAGE);
    assert_eq!(fresh("/extents").extents(0, 10).unwrap().len(), 1);
    let clone = open(&fs, "/clone");
    fresh("/source").clone_range(0, &clone, 0, 0).unwrap();
    assert!(content(&clone) == data);
    let copy = open(&fs, "/copy");
    copy.write_at(&[7; 100], 65 * PAGE).unwrap();
    assert_eq!(
        fresh("/copied").copy_range(0, &copy, 0, 64 * PAGE).unwrap(),
        64 * PAGE
    );
    assert!(content(&copy)[..data.len()] == data);
    let (one, other) = (fresh("/one"), open(&fs, "/other"));
    other.write_at(&[9; 64 * 4096], 0).unwrap();
    one.exchange_range(0, &other, 0, 64 * PAGE).unwrap();
    assert!(content(&other) == data && content(&one) == [9; 64 * 4096]);
    let (same, twin) = (fresh("/same"), fresh("/twin"));
    assert!(same.dedupe_range(0, &twin, 0, 64 * PAGE).unwrap());
    let punched = fresh("/punched");
    punched
        .allocate(AllocateMode::PunchHole, PAGE / 2, 3 * PAGE)
        .unwrap();
    let mut expected = data.clone();
    expected[2048..2048 + 3 * 4096].fill(0);
    assert!(content(&punched) == expected);
    let shifted = fresh("/shifted");
    shifted
        .allocate(AllocateMode::Collapse, 8 * PAGE, 8 * PAGE)
        .unwrap();
    assert!(content(&shifted) == [&data[..8 * 4096], &data[16 * 4096..]].concat());
    drop((clone, copy, one, other, same, twin, punched, shifted));
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn a_failed_write_back_is_told_once_to_each_open_file_and_tried_again() {
    let pool = TestPool::new(64 * MIB);
    let at = put_at_the_end(&pool);
    let fs = open_quiet(&pool);
    let (one, other) = (open(&fs, "/f"), open(&fs, "/f"));
    one.write_at(b"new", 2 * PAGE + 5).unwrap();
    let medium = std::fs::OpenOptions::new().write(true).open(&pool.path).unwrap();
    medium.set_len(at).unwrap();
    assert_eq!(one.sync().unwrap_err().errno(), Errno::EIO);
    assert_eq!(one.sync().unwrap_err().errno(), Errno::EIO, "it is dirty still");
    medium.set_len(64 * MIB).unwrap();
    one.sync().unwrap();
    let mut expected = bytes(2 * MIB, 1)[2 * 4096..3 * 4096].to_vec();
    expected[5..8].copy_from_slice(b"new");
    assert!(after_crash(&pool, "/f").unwrap()[2 * 4096..3 * 4096] == expected);
    assert_eq!(
        other.sync().unwrap_err().errno(),
        Errno::EIO,
        "it was not told yet"
    );
    other.sync().unwrap();
    assert_eq!(
        one.sync_filesystem().unwrap_err().errno(),
        Errno::EIO,
        "nor was the filesystem"
    );
    one.sync_filesystem().unwrap();
    open(&fs, "/f").sync().unwrap();
}

#[test]
fn uncached_reads_and_writes_leave_the_cache_as_it_was() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    let data = bytes(100 * PAGE, 1);
    let (_, count) = file.write_with(&data, 0, WriteFlags::DONTCACHE).unwrap();
    assert_eq!(count, data.len());
    assert_eq!(fs.cache_statistics().cached, 0, "it left when it was written");
    let mut read = vec![0; data.len()];
    assert_eq!(
        file.read_with(&mut read, 0, ReadFlags::DONTCACHE).unwrap(),
        data.len()
    );
    assert!(read == data);
    assert_eq!(fs.cache_statistics().cached, 0);
    // What others have cached stays.
    file.read_at(&mut [0; 4096], 50 * PAGE).unwrap();
    let cached = fs.cache_statistics().cached;
    assert!(cached > 0);
    file.read_with(&mut read, 0, ReadFlags::DONTCACHE).unwrap();
    assert_eq!(fs.cache_statistics().cached, cached);
    // Without memory for it, nothing is read.
    let nowait = ReadFlags::NOWAIT;
    assert!(matches!(
        file.read_with(&mut read[..10], 0, nowait),
        Err(Error::Cache(CacheError::WouldBlock { .. }))
    ));
    assert_eq!(file.read_with(&mut read[..10], 50 * PAGE, nowait).unwrap(), 10);
}

#[test]
fn a_write_of_a_gib_takes_no_more_of_the_cache_than_a_few_mib_or_its_budget() {
    const GIB: u64 = 1 << 30;
    let pool = TestPool::new(GIB + 128 * MIB);
    let fs = open_quiet(&pool);
    let budget = fs.cache_statistics().budget * PAGE;
    let watched = |work: &(dyn Fn() + Sync)| {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut most = 0;
                while !is_over.load(Ordering::Relaxed) {
                    most = most.max(fs.cache_statistics().cached * PAGE);
                    std::thread::yield_now();
                }
                most
            });
            work();
            is_over.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        })
    };
    let file = open(&fs, "/f");
    let data = vec![7; 1 << 30];
    let most = watched(&|| {
        let (_, count) = file.write_with(&data, 0, WriteFlags::DONTCACHE).unwrap();
        assert_eq!(count, 1 << 30);
    });
    assert!(most <= 8 * MIB, "{most} bytes of an uncached write");
    assert_eq!(fs.cache_statistics().cached, 0);
    let most = watched(&|| {
        for (at, piece) in (0..).step_by(1 << 20).zip(data.chunks(1 << 20)) {
            file.write_with(piece, at, WriteFlags::DONTCACHE).unwrap();
        }
    });
    assert!(most <= 8 * MIB, "{most} bytes of uncached writes");
    // One that is to stay in the cache does so as far as there is room.
    let most = watched(&|| assert_eq!(file.write_at(&data, 0).unwrap(), 1 << 30));
    assert!(most <= budget + 8 * MIB, "{most} bytes, budget {budget}");
    let statistics = fs.cache_statistics();
    assert!(statistics.dirty <= statistics.dirty_limit + 4 * MIB / PAGE);
    file.sync().unwrap();
    let mut last = [0; 4096];
    file.read_at(&mut last, GIB - PAGE).unwrap();
    assert_eq!(last, [7; 4096]);
}

#[test]
fn inv_130_writers_of_dax_files_are_not_throttled_whatever_is_dirty_in_the_cache() {
    let pool = TestPool::new(64 * MIB);
    let mount = MountOptions {
        cache_bytes: 4 * MIB,
        ..quiet(DaxMode::Inode)
    };
    let fs = Filesystem::open(&pool.path, &mount).unwrap();
    let (cached, dax) = (open(&fs, "/cached"), open(&fs, "/dax"));
    dax.set_dax(Dax::On).unwrap();
    let limit = fs.cache_statistics().dirty_limit;
    cached.write_at(&bytes(limit * PAGE, 1), 0).unwrap();
    assert_eq!(fs.cache_statistics().dirty, limit);
    // Who would make more dirty is refused, if he must not wait.
    let refused = cached.write_with(&[1; 4096], limit * PAGE, WriteFlags::NOWAIT);
    assert_eq!(refused.unwrap_err().errno(), Errno::EAGAIN);
    let before = fs.cache_statistics();
    for block in 0..1000 {
        let written = dax.write_with(&[2; 4096], block * PAGE, WriteFlags::NOWAIT);
        assert_eq!(written.unwrap(), (block * PAGE, 4096));
    }
    let after = fs.cache_statistics();
    assert_eq!((after.throttled, after.dirty), (before.throttled, before.dirty));
}

#[test]
fn inv_119_dax_files_refuse_uncached_access_and_cached_ones_memory_access() {
    let pool = TestPool::new(16 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Inode)).unwrap();
    let file = open(&fs, "/f");
    file.write_at(&[1; 4096], 0).unwrap();
    let refused = file
        .pin(0, 1, udax::Request::new(udax::Access::Read))
        .unwrap_err();
    assert_eq!(refused.errno(), Errno::EOPNOTSUPP, "{refused}");
    file.set_dax(Dax::On).unwrap();
    assert!(file.is_dax());
    let write = file.write_with(&[1], 0, WriteFlags::DONTCACHE).unwrap_err();
    let read = file.read_with(&mut [0], 0, ReadFlags::DONTCACHE).unwrap_err();
    assert_eq!(
        (write.errno(), read.errno()),
        (Errno::EOPNOTSUPP, Errno::EOPNOTSUPP)
    );
    assert_eq!(content(&file), [1; 4096], "and have changed nothing");
}

#[test]
fn an_uncached_write_promises_no_durability_and_one_with_dsync_does() {
    let pool = TestPool::new(64 * MIB);
    let at = put_at_the_end(&pool);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    file.write_with(&bytes(PAGE, 2), 0, WriteFlags::DSYNC | WriteFlags::DONTCACHE)
        .unwrap();
    assert!(
        after_crash(&pool, "/f").unwrap()[..4096] == bytes(PAGE, 2),
        "durable with DSYNC"
    );
    // The medium takes nothing for a while: the write tells nothing of that, and a crash would lose it.
    let medium = std::fs::OpenOptions::new().write(true).open(&pool.path).unwrap();
    medium.set_len(at).unwrap();
    let (_, count) = file
        .write_with(&bytes(PAGE, 3), PAGE, WriteFlags::DONTCACHE)
        .unwrap();
    assert_eq!(count, 4096);
    medium.set_len(64 * MIB).unwrap();
    assert!(
        after_crash(&pool, "/f").unwrap()[4096..8192] != bytes(PAGE, 3),
        "not durable without"
    );
    assert_eq!(
        file.sync().map_err(|error| error.errno()),
        Err(Errno::EIO),
        "the next sync tells"
    );
    assert!(after_crash(&pool, "/f").unwrap()[4096..8192] == bytes(PAGE, 3));
    assert_eq!(
        fs.cache_statistics().cached,
        0,
        "and it left the cache when it was written"
    );
}

#[test]
fn the_cache_keeps_to_its_budget_and_dirty_pages_to_theirs() {
    let pool = TestPool::new(64 * MIB);
    let options = MountOptions {
        dax: DaxMode::Never,
        cache_bytes: 2 * MIB,
        dirty_bytes: MIB / 2,
        ..MountOptions::default()
    };
    for no_flusher in [true, false] {
        let options = MountOptions {
            no_flusher,
            ..options.clone()
        };
        let fs = Filesystem::open(&pool.path, &options).unwrap();
        let file = open(&fs, "/f");
        for page in 0..4000 {
            file.write_at(&bytes(PAGE, page), page * PAGE).unwrap();
            let now = fs.cache_statistics();
            assert!(
                now.cached * PAGE <= 2 * MIB && now.dirty * PAGE <= MIB / 2,
                "{now:?}"
            );
        }
        for page in 0..4000 {
            let mut found = [0; 4096];
            file.read_at(&mut found, page * PAGE).unwrap();
            assert!(found[..] == bytes(PAGE, page)[..]);
        }
        let now = fs.cache_statistics();
        assert!(now.cached * PAGE <= 2 * MIB && now.evicted > 0, "{now:?}");
        drop(file);
        fs.close().unwrap();
    }
}

#[test]
fn a_copy_takes_only_what_it_replaces_out_of_the_cache() {
    let pool = TestPool::new(64 * MIB);
    let fs = open_quiet(&pool);
    let (from, to) = (open(&fs, "/from"), open(&fs, "/to"));
    // Downward: each page has a folio of its own.
    for page in (0..100).rev() {
        from.write_at(&bytes(PAGE, page), page * PAGE).unwrap();
        to.write_at(&bytes(PAGE, 1000 + page), page * PAGE).unwrap();
    }
    assert_eq!(
        from.copy_range(10 * PAGE, &to, 20 * PAGE, 2 * PAGE).unwrap(),
        2 * PAGE
    );
    assert_eq!(fs.cache_statistics().cached, 200 - 2);
    from.clone_range(30 * PAGE, &to, 40 * PAGE, 3 * PAGE).unwrap();
    assert_eq!(fs.cache_statistics().cached, 200 - 2 - 3);
    // Of what both share now, a write changes one.
    from.write_at(&bytes(PAGE, 7), 30 * PAGE).unwrap();
    for page in 0..100 {
        let seed = match page {
            20 | 21 => page - 10,
            40..43 => page - 10,
            _ => 1000 + page,
        };
        let mut found = [0; 4096];
        to.read_at(&mut found, page * PAGE).unwrap();
        assert!(found[..] == bytes(PAGE, seed)[..], "page {page}");
        from.read_at(&mut found, page * PAGE).unwrap();
        let seed = if page == 30 { 7 } else { page };
        assert!(found[..] == bytes(PAGE, seed)[..], "page {page}");
    }
    drop((from, to));
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn one_file_may_have_a_limit_of_its_own() {
    let pool = TestPool::new(64 * MIB);
    let options = MountOptions {
        dax: DaxMode::Never,
        no_flusher: true,
        dirty_bytes: 16 * MIB,
        file_dirty_bytes: MIB,
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&pool.path, &options).unwrap();
    let files = ["/one", "/other"].map(|path| open(&fs, path));
    for page in 0..1000 {
        for file in &files {
            file.write_at(&bytes(PAGE, page), page * PAGE).unwrap();
        }
        assert!(fs.cache_statistics().dirty * PAGE <= 2 * MIB);
    }
    assert!(fs.cache_statistics().dirty * PAGE > MIB);
}

#[test]
fn times_and_counts_of_a_dirty_file_are_those_of_its_writes() {
    let pool = TestPool::new(16 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    let before = file.stat().unwrap();
    file.append(b"one").unwrap();
    file.append(b"two").unwrap();
    let dirty = file.stat().unwrap();
    assert_eq!(
        (dirty.size, dirty.blocks, dirty.change),
        (6, 1, before.change + 2)
    );
    std::thread::sleep(std::time::Duration::from_millis(20));
    file.sync().unwrap();
    let synced = file.stat().unwrap();
    assert_eq!(synced, dirty, "writing back changes nothing that is told");
}

#[test]
fn a_file_is_as_its_directory_says_and_stays_so() {
    let pool = TestPool::new(16 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Inode)).unwrap();
    fs.create_dir("/d", new_inode()).unwrap();
    let directory = fs
        .open_file("/d", OpenFlags::READ | OpenFlags::DIRECTORY, new_inode())
        .unwrap();
    directory.set_dax(Dax::On).unwrap();
    let inside = open(&fs, "/d/f");
    let outside = open(&fs, "/f");
    assert!(inside.is_dax() && !outside.is_dax());
    assert_eq!(
        (inside.stat().unwrap().dax, outside.stat().unwrap().dax),
        (Dax::On, Dax::Off)
    );
    drop((directory, inside, outside));
    fs.close().unwrap();
    check(&pool.path);
    for (dax, expected) in [
        (DaxMode::Inode, [true, false]),
        (DaxMode::Always, [true; 2]),
        (DaxMode::Never, [false; 2]),
    ] {
        let fs = Filesystem::open(&pool.path, &quiet(dax)).unwrap();
        let reached = ["/d/f", "/f"].map(|path| fs.open_file(path, CREATE, new_inode()).unwrap().is_dax());
        assert_eq!(reached, expected, "{dax:?}");
        fs.close().unwrap();
    }
}

#[test]
fn files_and_errors_outlive_the_filesystem_handle() {
    let pool = TestPool::new(16 * MIB);
    let fs = Filesystem::open(
        &pool.path,
        &MountOptions {
            dax: DaxMode::Never,
            ..MountOptions::default()
        },
    )
    .unwrap();
    let file: File = open(&fs, "/f");
    drop(fs);
    file.write_at(&bytes(100 * PAGE, 1), 0).unwrap();
    // The last handle closes the pool, and writes what is dirty.
    drop(file);
    check(&pool.path);
    let fs = pool.open();
    assert!(fs.recovery().was_clean);
    assert!(content(&open(&fs, "/f")) == bytes(100 * PAGE, 1));
}

#[test]
fn direct_reads_and_writes_agree_with_the_cache() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let cached = open(&fs, "/f");
    let direct = fs
        .open_file("/f", CREATE.union(OpenFlags::DIRECT), new_inode())
        .unwrap();
    let mut model = vec![0; 60 * 4096];
    let mut random = SmallRng::seed_from_u64(5);
    for step in 0..300 {
        let at = random.random_range(0..59 * 4096);
        let data = bytes(random.random_range(1..9000), step);
        let data = &data[..data.len().min(model.len() - at)];
        let file = if step % 3 == 0 { &direct } else { &cached };
        file.write_at(data, u64::try_from(at).unwrap()).unwrap();
        model[at..at + data.len()].copy_from_slice(data);
        let size = usize::try_from(cached.stat().unwrap().size).unwrap();
        let reader = if step % 2 == 0 { &direct } else { &cached };
        assert!(content(reader) == model[..size], "step {step}");
    }
    // A direct write is durable when it returns, and so is what is before it.
    cached.write_at(&[1; 100], 60 * PAGE).unwrap();
    direct.write_at(&[2; 100], 70 * PAGE).unwrap();
    let crashed = after_crash(&pool, "/f").unwrap();
    assert!(crashed[60 * 4096..60 * 4096 + 100] == [1; 100] && crashed[70 * 4096..] == [2; 100]);
    let before = fs.cache_statistics().cached;
    direct.read_at(&mut [0; 4096], 0).unwrap();
    assert_eq!(
        fs.cache_statistics().cached,
        before,
        "a direct read caches nothing"
    );
}

#[test]
fn atomic_writes_go_to_new_blocks_or_are_refused() {
    for dax in [Dax::On, Dax::Off] {
        write_atomically(dax);
    }
}

#[test]
fn a_write_past_the_cache_counts_what_the_cache_has_not_told_yet() {
    let pool = TestPool::new(32 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Never)).unwrap();
    for flags in [OpenFlags::empty(), OpenFlags::DIRECT] {
        let file = open(&fs, "/f");
        let past = fs.open_file("/f", READ_WRITE | flags, new_inode()).unwrap();
        // Inside the end, and elsewhere than what is dirty: nothing is written back before it.
        file.truncate(MIB).unwrap();
        for page in 0..5 {
            file.write_at(&bytes(PAGE, 1), page * PAGE).unwrap();
        }
        let before = file.stat().unwrap().change;
        past.write_with(&bytes(PAGE, 2), 512 << 10, WriteFlags::ATOMIC)
            .unwrap();
        let after = file.stat().unwrap().change;
        assert!(after > before, "{after} changes after {before}");
    }
}

fn write_atomically(dax: Dax) {
    let pool = TestPool::new(32 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Inode)).unwrap();
    let file = open(&fs, "/f");
    let atomic = |at, len| file.write_with(&bytes(len, 9), at, WriteFlags::ATOMIC);
    file.set_dax(dax).unwrap();
    file.write_at(&bytes(MIB, 1), 0).unwrap();
    if dax == Dax::Off {
        file.sync().unwrap();
        // What the cache has is newer than what is below.
        file.write_at(&bytes(PAGE, 2), 32768).unwrap();
    }
    for (at, len) in [(0, 4095), (1, 2), (2048, 4096), (0, 2 * MIB), (0, 0)] {
        assert_eq!(
            atomic(at, len).unwrap_err().errno(),
            Errno::EINVAL,
            "{len} bytes at {at}"
        );
    }
    let last = (1 << 63) - 4096;
    assert_eq!(
        atomic(last, 4096).unwrap_err().errno(),
        Errno::EFBIG,
        "not a part of it"
    );
    let places = || -> Vec<u64> {
        file.extents(0, 100)
            .unwrap()
            .iter()
            .map(|extent| extent.pool_offset)
            .collect()
    };
    for (at, len) in [(0, 512), (8192, 8192), (0, MIB)] {
        let before = places();
        atomic(at, len).unwrap();
        assert_ne!(places(), before, "{len} bytes at {at} are elsewhere");
        let mut found = vec![0; usize::try_from(len).unwrap()];
        file.read_at(&mut found, at).unwrap();
        assert!(found == bytes(len, 9));
    }
    if dax == Dax::Off {
        file.write_at(&bytes(PAGE, 3), 4096).unwrap();
        atomic(0, 512).unwrap();
        let mut beside = vec![0; 4096];
        file.read_at(&mut beside, 4096).unwrap();
        assert!(beside == bytes(PAGE, 3), "what was only in the cache is not lost");
    }
    atomic(MIB, MIB).unwrap();
    assert_eq!(file.stat().unwrap().size, 2 * MIB);
    file.sync().unwrap();
    drop(file);
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn what_will_be_needed_is_there_and_what_is_not_goes() {
    let pool = TestPool::new(32 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    file.write_at(&bytes(100 * PAGE, 1), 0).unwrap();
    file.sync().unwrap();
    file.dont_need(0, u64::MAX);
    assert_eq!(fs.cache_statistics().cached, 0);
    file.will_need(10 * PAGE + 1, 20 * PAGE).unwrap();
    assert_eq!(fs.cache_statistics().cached, 21);
    let mut read = [0; 100];
    assert_eq!(
        file.read_with(&mut read, 20 * PAGE, ReadFlags::NOWAIT).unwrap(),
        100
    );
    file.write_at(b"dirty", 15 * PAGE).unwrap();
    file.dont_need(0, u64::MAX);
    assert!(fs.cache_statistics().dirty == 1 && fs.cache_statistics().cached < 21);
}

#[test]
fn the_size_of_a_file_whose_dirty_pages_were_cut_off_outlives_its_inode_in_memory() {
    let pool = TestPool::new(64 * MIB);
    let fs = open_quiet(&pool);
    let file = open(&fs, "/f");
    file.write_at(&bytes(10 * PAGE, 1), 10 * PAGE).unwrap();
    file.truncate(5 * PAGE).unwrap();
    drop(file);
    // More than are kept.
    for number in 0..20_000 {
        drop(open(&fs, &format!("/{number}")));
    }
    let file = open(&fs, "/f");
    assert_eq!(file.stat().unwrap().size, 5 * PAGE);
    assert!(content(&file).iter().all(|byte| *byte == 0));
    drop(file);
    fs.close().unwrap();
    check(&pool.path);
}
