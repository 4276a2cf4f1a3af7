//! Files whose data is on a data device: where blocks are, what is durable when, and what a lost device does.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{
    AllocateMode, DataSource, Dax, DaxMode, Disk, Error, File, Filesystem, FormatOptions, MountOptions,
    WriteFlags,
};
use udax_check::{CheckOptions, Silent};
use udax_disk::{Medium, MemoryMedium, Step, Watcher};
use udax_pmem::{Event, Recorder, Region, RegionOptions};

use crate::cached::{bytes, scatter, take_all};
use crate::pool::{MIB, check, content, open, report};

/// What the device's first byte is in the pool's space of blocks.
const DEVICE: u64 = 1 << 52;

/// A pool with a data device in memory.
struct Tiered {
    directory: tempfile::TempDir,
    medium: Arc<MemoryMedium>,
}

impl Tiered {
    fn new(pool_bytes: u64, device_bytes: u64) -> Self {
        Self::over(pool_bytes, Arc::new(MemoryMedium::new(device_bytes)))
    }

    fn over(pool_bytes: u64, medium: Arc<MemoryMedium>) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let this = Self { directory, medium };
        let options = FormatOptions {
            size: Some(pool_bytes),
            data: Some(this.source()),
            ..FormatOptions::default()
        };
        Filesystem::format(&this.path(), &options).unwrap();
        this
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("test.pool")
    }

    fn source(&self) -> DataSource {
        source(&self.medium)
    }

    fn options(&self) -> MountOptions {
        MountOptions {
            dax: DaxMode::Inode,
            no_flusher: true,
            data: Some(self.source()),
            ..MountOptions::default()
        }
    }

    fn open(&self) -> Filesystem {
        Filesystem::open(&self.path(), &self.options()).unwrap()
    }
}

fn source(medium: &Arc<MemoryMedium>) -> DataSource {
    let medium: Arc<dyn Medium> = medium.clone();
    DataSource::Disk(Arc::new(Disk::new(medium)))
}

/// How many bytes of the file are in the pool, and on the device.
fn places(file: &File) -> (u64, u64) {
    let extents = file.extents(0, usize::MAX).unwrap();
    let (mut pool, mut device) = (0, 0);
    for extent in extents {
        match extent.pool_offset >= DEVICE {
            true => device += extent.len,
            false => pool += extent.len,
        }
    }
    (pool, device)
}

#[test]
fn what_a_cached_file_holds_is_on_the_device_and_survives_a_mount() {
    let tiered = Tiered::new(32 * MIB, 64 * MIB);
    let data = bytes(5 * MIB + 777, 1);
    let fs = tiered.open();
    let before = fs.stat_filesystem();
    let file = open(&fs, "/f");
    file.write_at(&data, 0).unwrap();
    file.sync().unwrap();
    assert_eq!(places(&file), (0, 5 * MIB + 4096));
    drop(file);
    let after = fs.stat_filesystem();
    assert_eq!(before.device_free_blocks - after.device_free_blocks, 5 * 256 + 1);
    assert!(
        before.free_blocks - after.free_blocks < 8,
        "only metadata is in the pool"
    );
    fs.close().unwrap();
    check(&tiered.path());
    let fs = tiered.open();
    assert_eq!(fs.stat_filesystem().device_free_blocks, after.device_free_blocks);
    assert!(content(&open(&fs, "/f")) == data);
    fs.unlink("/f").unwrap();
    assert_eq!(fs.stat_filesystem().device_free_blocks, before.device_free_blocks);
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn a_private_pool_writes_to_no_device() {
    let tiered = Tiered::new(32 * MIB, 4 * MIB);
    let fs = tiered.open();
    open(&fs, "/f").append(&[1; 10_000]).unwrap();
    fs.close().unwrap();
    let options = MountOptions {
        private: true,
        ..tiered.options()
    };
    let fs = Filesystem::open(&tiered.path(), &options).unwrap();
    let file = open(&fs, "/f");
    file.write_at(&[2; 10_000], 0).unwrap();
    file.sync().unwrap();
    open(&fs, "/g").append(&[3; 10_000]).unwrap();
    assert!(content(&file) == [2; 10_000]);
    drop(file);
    fs.close().unwrap();
    let fs = tiered.open();
    assert!(content(&open(&fs, "/f")) == [1; 10_000]);
    assert!(fs.stat("/g").is_err());
}

#[test]
fn a_device_that_is_not_the_pools_is_refused_with_a_line_that_says_so() {
    let (one, other) = (Tiered::new(32 * MIB, 4 * MIB), Tiered::new(32 * MIB, 4 * MIB));
    let open = |data| {
        let options = MountOptions {
            data: Some(data),
            ..MountOptions::default()
        };
        Filesystem::open(&one.path(), &options).map(drop).unwrap_err()
    };
    let error = open(other.source());
    assert_eq!(error.errno(), Errno::ENODEV);
    assert!(error.to_string().contains("belongs to pool"), "{error}");
    let small = Arc::new(MemoryMedium::new(2 * MIB));
    let error = open(source(&small)).to_string();
    assert!(error.contains("has 2097152 bytes"), "{error}");
    let blank = Arc::new(MemoryMedium::new(4 * MIB));
    let error = open(source(&blank)).to_string();
    assert!(error.contains("magic"), "{error}");
    let none = Filesystem::open(&one.path(), &MountOptions::default());
    assert!(matches!(none.map(drop), Err(Error::NotDevice { .. })));
    drop(one.open());
}

#[test]
fn a_device_is_not_overwritten_unasked_and_has_no_sums() {
    let tiered = Tiered::new(32 * MIB, 4 * MIB);
    let mut options = FormatOptions {
        size: Some(32 * MIB),
        data: Some(tiered.source()),
        ..FormatOptions::default()
    };
    let path = tiered.directory.path().join("second.pool");
    let error = Filesystem::format(&path, &options).unwrap_err();
    assert!(
        error.to_string().contains("data device of a udax pool"),
        "{error}"
    );
    options.force = true;
    options.data_checksums = true;
    let error = Filesystem::format(&path, &options).unwrap_err();
    assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    options.data_checksums = false;
    Filesystem::format(&path, &options).unwrap();
    let stale = Filesystem::open(&tiered.path(), &tiered.options()).map(drop);
    assert!(
        matches!(stale, Err(Error::NotDevice { .. })),
        "it is another pool's now"
    );
    let never = MountOptions {
        dax: DaxMode::Never,
        ..tiered.options()
    };
    let refused = Filesystem::open(&path, &never).map(drop).unwrap_err();
    assert_eq!(refused.errno(), Errno::EOPNOTSUPP);
}

/// Random operations on one file, which are the same on a vector.
fn agree(seed: u64, moves: bool) {
    let tiered = Tiered::new(64 * MIB, 64 * MIB);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut fs = tiered.open();
    let mut model: Vec<u8> = Vec::new();
    for step in 0..400 {
        let file = open(&fs, "/f");
        let at = random.random_range(0..3 * MIB);
        let len = random.random_range(1..200_000);
        let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(at + len).unwrap());
        match random.random_range(0..12) {
            0..5 => {
                let data = bytes(len, seed + step);
                assert_eq!(file.write_at(&data, at).unwrap(), data.len());
                model.resize(model.len().max(to), 0);
                model[from..to].copy_from_slice(&data);
            }
            5 => {
                file.truncate(at).unwrap();
                model.resize(from, 0);
            }
            6 => {
                file.allocate(AllocateMode::PunchHole, at, len).unwrap();
                let end = to.min(model.len());
                model[from.min(end)..end].fill(0);
            }
            7 => file.sync().unwrap(),
            8 => {
                let to = open(&fs, "/clone");
                to.truncate(0).unwrap();
                file.clone_range(0, &to, 0, 0).unwrap();
            }
            9 if moves => file.set_dax(Dax::On).unwrap(),
            10 if moves => file.set_dax(Dax::Off).unwrap(),
            _ => {
                drop(file);
                fs.close().unwrap();
                check(&tiered.path());
                fs = tiered.open();
                continue;
            }
        }
        if step % 20 == 0 {
            assert!(content(&file) == model, "seed {seed}, step {step}");
        }
    }
    assert!(content(&open(&fs, "/f")) == model, "seed {seed}");
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn operations_on_a_tiered_file_are_those_on_a_vector() {
    agree(1, false);
}

#[test]
fn a_file_with_the_flag_has_only_blocks_of_the_pool_and_one_without_gets_those_of_the_device() {
    let tiered = Tiered::new(64 * MIB, 64 * MIB);
    let fs = tiered.open();
    let before = fs.stat_filesystem();
    let file = open(&fs, "/f");
    let data = bytes(20 * MIB + 100, 3);
    file.write_at(&data, 0).unwrap();
    file.allocate(AllocateMode::KeepSize, 24 * MIB, MIB).unwrap();
    file.sync().unwrap();
    assert_eq!(places(&file).0, 0);
    file.set_dax(Dax::On).unwrap();
    assert!(file.is_dax());
    assert_eq!(places(&file), (21 * MIB + 4096, 0));
    assert_eq!(fs.stat_filesystem().device_free_blocks, before.device_free_blocks);
    let pin = file.pin(0, 4096, udax::Request::new(udax::Access::Read)).unwrap();
    assert!(pin.len() == 4096);
    drop(pin);
    file.write_at(b"direct", 5).unwrap();
    file.set_dax(Dax::Off).unwrap();
    assert!(!file.is_dax());
    assert_eq!(places(&file), (0, 21 * MIB + 4096));
    let mut expected = data;
    expected[5..11].copy_from_slice(b"direct");
    assert!(content(&file) == expected);
    drop(file);
    fs.close().unwrap();
    check(&tiered.path());
    let fs = tiered.open();
    assert!(content(&open(&fs, "/f")) == expected);
}

#[test]
fn a_move_goes_on_beside_readers_and_writers() {
    let tiered = Tiered::new(128 * MIB, 64 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    file.write_at(&vec![1; usize::try_from(24 * MIB).unwrap()], 0)
        .unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (fs, is_over) = (&fs, &is_over);
            scope.spawn(move || {
                let file = open(fs, "/f");
                let mut random = SmallRng::seed_from_u64(thread);
                let mut round = 0_u8;
                while !is_over.load(Ordering::Relaxed) {
                    // Each thread has every other page, and knows what it wrote last.
                    let page = random.random_range(0..24 * 128) * 2 + thread;
                    round = round.wrapping_add(1).max(1);
                    file.write_at(&[round; 4096], page * 4096).unwrap();
                    let mut back = [0; 4096];
                    file.read_at(&mut back, page * 4096).unwrap();
                    assert!(back == [round; 4096], "page {page}");
                }
            });
        }
        for _ in 0..4 {
            file.set_dax(Dax::On).unwrap();
            assert_eq!(places(&file).1, 0);
            file.set_dax(Dax::Off).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    drop(file);
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn random_operations_with_moves_between_agree_with_a_vector() {
    agree(2, true);
}

#[test]
fn a_dax_file_gets_no_blocks_of_the_device_by_a_clone() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let (source, target, cached) = (open(&fs, "/s"), open(&fs, "/t"), open(&fs, "/c"));
    source.write_at(&bytes(MIB, 1), 0).unwrap();
    target.set_dax(Dax::On).unwrap();
    let refused = source.clone_range(0, &target, 0, 0).unwrap_err();
    assert_eq!(refused.errno(), Errno::EOPNOTSUPP);
    assert_eq!(
        source.exchange_range(0, &target, 0, 0).unwrap_err().errno(),
        Errno::EOPNOTSUPP
    );
    source.clone_range(0, &cached, 0, 0).unwrap();
    cached.write_at(b"own", 0).unwrap();
    cached.sync().unwrap();
    cached.set_dax(Dax::On).unwrap();
    assert_eq!(places(&cached).1, 0);
    let mut expected = bytes(MIB, 1);
    assert!(content(&source) == expected);
    expected[..3].copy_from_slice(b"own");
    assert!(content(&cached) == expected);
    drop((source, target, cached));
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn a_full_device_is_told_at_the_write_and_metadata_goes_on() {
    let tiered = Tiered::new(64 * MIB, 4 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    let mut written = 0;
    let error = loop {
        match file.write_at(&[7; 65536], written) {
            Ok(count) => written += u64::try_from(count).unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), Errno::ENOSPC);
    assert!(written >= 3 * MIB, "{written}");
    file.sync().unwrap();
    let dax = open(&fs, "/dax");
    dax.set_dax(Dax::On).unwrap();
    dax.write_at(&bytes(8 * MIB, 2), 0).unwrap();
    assert_eq!(places(&dax), (8 * MIB, 0));
    drop((file, dax));
    fs.unlink("/f").unwrap();
    open(&fs, "/g").write_at(&vec![8; 3 << 20], 0).unwrap();
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn blocks_of_the_pool_for_the_nodes_of_what_is_dirty_are_nobody_elses() {
    // The reserve alone is not enough for so many.
    let tiered = Tiered::new(24 * MIB, 160 * MIB);
    let options = MountOptions {
        cache_bytes: 512 * MIB,
        dirty_bytes: 512 * MIB,
        ..tiered.options()
    };
    let fs = Filesystem::open(&tiered.path(), &options).unwrap();
    let (file, rival) = (open(&fs, "/f"), open(&fs, "/rival"));
    rival.set_dax(Dax::On).unwrap();
    let written = scatter(&file);
    assert!(written > 30_000, "{written}");
    take_all(&rival);
    assert_eq!(fs.stat_filesystem().available_blocks, 0);
    file.sync().unwrap();
    drop((file, rival));
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn each_open_file_is_told_once_of_a_failed_write_and_nothing_is_lost() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let (one, other) = (open(&fs, "/f"), open(&fs, "/f"));
    let data = bytes(3 * MIB, 4);
    one.write_at(&data, 0).unwrap();
    // Together, and each run by itself.
    tiered.medium.fail_writes(100);
    assert_eq!(one.sync().unwrap_err().errno(), Errno::EIO);
    tiered.medium.fail_writes(0);
    assert_eq!(
        other.sync().unwrap_err().errno(),
        Errno::EIO,
        "told, though it is written now"
    );
    one.sync().unwrap();
    other.sync().unwrap();
    assert!(content(&one) == data);
    drop((one, other));
    fs.close().unwrap();
    check(&tiered.path());
    assert!(content(&open(&tiered.open(), "/f")) == data);
}

#[test]
fn each_open_file_of_the_pool_is_told_once_of_a_failed_flush() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let (file, bystander) = (open(&fs, "/f"), open(&fs, "/g"));
    for file in [&file, &bystander] {
        file.write_at(&bytes(MIB, 5), 0).unwrap();
        file.sync().unwrap();
    }
    // In place: nothing is flushed before the sync.
    file.write_at(&bytes(4096, 6), 0).unwrap();
    tiered.medium.fail_flushes(1);
    assert_eq!(file.sync().unwrap_err().errno(), Errno::EIO);
    assert_eq!(bystander.sync().unwrap_err().errno(), Errno::EIO);
    file.sync().unwrap();
    bystander.sync().unwrap();
    // A new file's blocks: they stay dirty, and nothing names what may not be there.
    let new = open(&fs, "/new");
    new.write_at(&bytes(MIB, 7), 0).unwrap();
    tiered.medium.fail_flushes(10);
    assert_eq!(new.sync().unwrap_err().errno(), Errno::EIO);
    tiered.medium.fail_flushes(0);
    new.sync().unwrap();
    assert!(content(&new) == bytes(MIB, 7));
    drop((file, bystander, new));
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn a_failed_flush_that_nobody_was_told_is_told_to_who_opens_a_file_later() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let watcher = open(&fs, "/watcher");
    let file = open(&fs, "/f");
    file.write_at(&bytes(MIB, 5), 0).unwrap();
    file.sync().unwrap();
    // In place: it is written without an error, and then not durable.
    file.write_at(&bytes(MIB, 6), 0).unwrap();
    drop(file);
    tiered.medium.fail_flushes(1);
    fs.sync().unwrap_err();
    let late = open(&fs, "/f");
    assert_eq!(late.sync().unwrap_err().errno(), Errno::EIO);
    late.sync().unwrap();
    // By a sync of the filesystem as well, once.
    let told = watcher.sync_filesystem().unwrap_err();
    assert_eq!(told.errno(), Errno::EIO);
    watcher.sync_filesystem().unwrap();
    drop((watcher, late));
    fs.close().unwrap();
}

#[test]
fn a_sync_tries_all_files_though_one_cannot_be_written() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let dead = open(&fs, "/dead");
    let sound = open(&fs, "/sound");
    sound.set_dax(Dax::On).unwrap();
    sound.write_at(&bytes(MIB, 1), 0).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    // In place: its time is only in memory.
    sound.write_at(&bytes(4096, 2), 0).unwrap();
    let modified = sound.stat().unwrap().mtime;
    dead.write_at(&bytes(MIB, 3), 0).unwrap();
    tiered.medium.fail_writes(100);
    assert_eq!(fs.sync().unwrap_err().errno(), Errno::EIO);
    let copy = tiered.directory.path().join("copy.pool");
    std::fs::copy(tiered.path(), &copy).unwrap();
    tiered.medium.fail_writes(0);
    let beside = Filesystem::open(&copy, &tiered.options()).unwrap();
    assert_eq!(beside.stat("/sound").unwrap().mtime, modified);
    drop(beside);
    fs.sync().unwrap();
}

#[test]
fn what_was_behind_an_old_end_is_zeros_though_pages_far_apart_are_written_together() {
    for is_cloned in [false, true] {
        let tiered = Tiered::new(32 * MIB, 32 * MIB);
        let fs = tiered.open();
        let file = open(&fs, "/f");
        file.write_at(&[7; 20 * 4096], 0).unwrap();
        file.sync().unwrap();
        let clone = open(&fs, "/clone");
        if is_cloned {
            file.clone_range(0, &clone, 0, 20 * 4096).unwrap();
        }
        file.truncate(10 * 4096 + 100).unwrap();
        for page in [0, 50] {
            file.write_at(&[8; 4096], page * 4096).unwrap();
        }
        file.sync().unwrap();
        file.dont_need(0, u64::MAX);
        let found = content(&file);
        assert_eq!(found.len(), 51 * 4096);
        assert!(found[4096..10 * 4096 + 100].iter().all(|byte| *byte == 7));
        assert!(found[10 * 4096 + 100..50 * 4096].iter().all(|byte| *byte == 0));
        if is_cloned {
            assert!(content(&clone) == [7; 20 * 4096]);
        }
        drop((file, clone));
        fs.close().unwrap();
        check(&tiered.path());
    }
}

#[test]
fn what_a_cached_file_still_has_in_the_pool_is_fenced() {
    let tiered = Tiered::new(32 * MIB, 16 * MIB);
    let recorder = Arc::new(udax_pmem::CountingRecorder::new());
    let options = MountOptions {
        recorder: Some(recorder.clone()),
        ..tiered.options()
    };
    let fs = Filesystem::open(&tiered.path(), &options).unwrap();
    let file = open(&fs, "/f");
    file.set_dax(Dax::On).unwrap();
    file.write_at(&bytes(MIB, 1), 0).unwrap();
    let full = open(&fs, "/full");
    while full.write_at(&[1; 4096], full.stat().unwrap().size).is_ok() {}
    full.sync().unwrap();
    // It has the flag no more, and no block on the device.
    let error = file.set_dax(Dax::Off).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC);
    assert_eq!(places(&file), (MIB, 0));
    recorder.reset();
    file.write_with(&bytes(4096, 2), 4096, WriteFlags::DSYNC).unwrap();
    assert_eq!(recorder.reset().fences, 1);
}

#[test]
fn blocks_for_the_trees_of_many_files_of_few_pages_are_kept() {
    let tiered = Tiered::new(32 * MIB, 64 * MIB);
    let fs = tiered.open();
    let files: Vec<File> = (0..500).map(|number| open(&fs, &format!("/{number}"))).collect();
    let filler = open(&fs, "/filler");
    filler.set_dax(Dax::On).unwrap();
    while filler.write_at(&[1; 4096], filler.stat().unwrap().size).is_ok() {}
    // Room for the trees of some of them.
    let full = filler.stat().unwrap().size;
    filler.truncate(full - 200 * 4096).unwrap();
    fs.sync().unwrap();
    let (mut taken, mut refused) = (0, 0);
    for file in &files {
        for page in 0..12 {
            match file.write_at(&[2; 4096], page * 5 * 4096) {
                Ok(_) => taken += 1,
                Err(Error::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(taken > 600 && refused > 1200, "{taken} taken, {refused} refused");
    for (number, file) in files.iter().enumerate() {
        let synced = file.sync();
        assert!(synced.is_ok(), "file {number}: {synced:?}");
    }
    drop((files, filler));
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn an_uncached_write_is_durable_only_with_dsync() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    let (old, new) = (bytes(MIB, 1), bytes(MIB, 2));
    file.write_at(&old, 0).unwrap();
    file.sync().unwrap();
    for (flags, expected) in [
        (WriteFlags::DONTCACHE, &old),
        (WriteFlags::DONTCACHE | WriteFlags::DSYNC, &new),
    ] {
        file.write_with(&new, 0, flags).unwrap();
        assert_eq!(fs.cache_statistics().dirty, 0, "it is written");
        cut_now(&tiered, |file| assert!(content(file) == *expected, "{flags:?}"));
    }
}

#[test]
fn a_write_to_a_medium_that_takes_nothing_ends_at_the_limits() {
    let tiered = Tiered::new(32 * MIB, 128 * MIB);
    let options = MountOptions {
        cache_bytes: 8 * MIB,
        ..tiered.options()
    };
    let fs = Filesystem::open(&tiered.path(), &options).unwrap();
    let file = open(&fs, "/f");
    tiered.medium.fail_writes(u64::MAX);
    let data = bytes(64 * MIB, 1);
    let count = file.write_at(&data, 0).unwrap();
    assert!(count < data.len());
    let now = fs.cache_statistics();
    assert!(now.dirty <= now.dirty_limit + 4 * MIB / 4096, "{now:?}");
    tiered.medium.fail_writes(0);
    file.sync().unwrap_err();
    file.write_at(&data[count..], u64::try_from(count).unwrap())
        .unwrap();
    file.sync().unwrap();
    assert!(content(&file) == data);
}

#[test]
fn what_cannot_be_read_is_an_error_for_these_bytes_only() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let data = bytes(MIB, 8);
    {
        let fs = tiered.open();
        let file = open(&fs, "/f");
        file.write_at(&data, 0).unwrap();
        file.sync().unwrap();
        let at = file.extents(0, 1).unwrap()[0].pool_offset - DEVICE;
        tiered.medium.lose(at + 40 * 4096..at + 41 * 4096);
        drop(file);
        fs.close().unwrap();
    }
    let fs = tiered.open();
    let file = open(&fs, "/f");
    let mut page = [0; 4096];
    for number in 0..256_u64 {
        let read = file.read_at(&mut page, number * 4096);
        match number {
            40 => assert_eq!(read.unwrap_err().errno(), Errno::EIO),
            _ => {
                assert_eq!(read.unwrap(), 4096);
                let at = usize::try_from(number * 4096).unwrap();
                assert!(page == data[at..at + 4096]);
            }
        }
    }
    assert_eq!(file.set_dax(Dax::On).unwrap_err().errno(), Errno::EIO);
    // Written as a whole it is good again, and then it can be moved.
    file.write_at(&data[40 * 4096..41 * 4096], 40 * 4096).unwrap();
    file.sync().unwrap();
    file.set_dax(Dax::On).unwrap();
    assert!(content(&file) == data);
    drop(file);
    fs.close().unwrap();
    check(&tiered.path());
}

/// Keeps, every so many events, what a power failure would leave of pool and device.
struct Camera {
    path: PathBuf,
    every: u64,
    events: AtomicU64,
    /// Which has this one as its watcher.
    medium: std::sync::OnceLock<Weak<MemoryMedium>>,
    random: Mutex<SmallRng>,
    images: Mutex<Vec<(PathBuf, MemoryMedium)>>,
}

impl std::fmt::Debug for Camera {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Camera")
    }
}

impl Camera {
    fn take(&self) {
        let seen = self.events.fetch_add(1, Ordering::Relaxed);
        let Some(medium) = self.medium.get().and_then(Weak::upgrade) else {
            return;
        };
        if !seen.is_multiple_of(self.every) {
            return;
        }
        let copy = self.path.with_extension(format!("{seen}.image"));
        std::fs::copy(&self.path, &copy).unwrap();
        let mut random = self.random.lock().unwrap();
        // Nothing of what was not flushed, or some of it.
        let share = [0.0, 0.5][usize::from(random.random_bool(0.5))];
        let device = medium.after_power_failure(|_| random.random_bool(share));
        self.images.lock().unwrap().push((copy, device));
    }
}

impl Recorder for Camera {
    fn record(&self, _: Event<'_>) {
        self.take();
    }
}

impl Watcher for Camera {
    fn saw(&self, _: Step) {
        self.take();
    }
}

/// Cuts the power at many moments while `work` runs on a pool with `/f`; each time `judge` looks at what is there.
fn cut_power(seed: u64, work: impl FnOnce(&Filesystem), judge: impl Fn(&File)) -> usize {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("test.pool");
    let camera = Arc::new(Camera {
        path: path.clone(),
        every: 5,
        events: AtomicU64::new(0),
        medium: std::sync::OnceLock::new(),
        random: Mutex::new(SmallRng::seed_from_u64(seed)),
        images: Mutex::default(),
    });
    let medium = Arc::new(MemoryMedium::new(16 * MIB).watched(camera.clone()));
    let options = FormatOptions {
        size: Some(16 * MIB),
        data: Some(source(&medium)),
        ..FormatOptions::default()
    };
    Filesystem::format(&path, &options).unwrap();
    let mount = MountOptions {
        dax: DaxMode::Inode,
        no_flusher: true,
        data: Some(source(&medium)),
        recorder: Some(camera.clone()),
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&path, &mount).unwrap();
    drop(open(&fs, "/f"));
    camera.medium.set(Arc::downgrade(&medium)).unwrap();
    work(&fs);
    drop(fs);
    let images = std::mem::take(&mut *camera.images.lock().unwrap());
    for (copy, device) in &images {
        judge_image(copy, device.after_power_failure(|_| false), &judge);
    }
    images.len()
}

fn judge_image(copy: &Path, device: MemoryMedium, judge: &impl Fn(&File)) {
    check(copy);
    let mount = MountOptions {
        dax: DaxMode::Inode,
        no_flusher: true,
        data: Some(source(&Arc::new(device))),
        ..MountOptions::default()
    };
    let fs = Filesystem::open(copy, &mount).unwrap();
    judge(&open(&fs, "/f"));
    fs.close().unwrap();
    std::fs::remove_file(copy).unwrap();
}

/// Appends in ascending order: whatever size a power failure leaves, these bytes are there. And what a sync has
/// promised.
fn appends_are_whole(seed: u64) {
    let data = bytes(MIB, seed);
    let promised = Arc::new(AtomicU64::new(0));
    let images = cut_power(
        seed,
        |fs| {
            let file = open(fs, "/f");
            let mut random = SmallRng::seed_from_u64(seed);
            let mut at = 0;
            while at < data.len() {
                let len = random.random_range(1..60_000).min(data.len() - at);
                let flags = match random.random_bool(0.3) {
                    true => WriteFlags::DSYNC,
                    false => WriteFlags::empty(),
                };
                file.write_with(&data[at..at + len], u64::try_from(at).unwrap(), flags)
                    .unwrap();
                at += len;
                if random.random_bool(0.2) {
                    file.sync().unwrap();
                }
            }
            file.sync().unwrap();
            promised.store(u64::try_from(at).unwrap(), Ordering::Relaxed);
        },
        |file| {
            let found = content(file);
            assert!(found.len() <= data.len());
            assert!(
                found == data[..found.len()],
                "size {} shows other bytes",
                found.len()
            );
        },
    );
    assert!(images > 20, "{images} images");
    assert_eq!(promised.load(Ordering::Relaxed), MIB);
}

#[test]
fn no_power_failure_shows_a_size_without_its_data() {
    for seed in 1..4 {
        appends_are_whole(seed);
    }
}

#[test]
fn a_power_failure_leaves_all_of_an_atomic_write_or_nothing() {
    const LEN: usize = 1 << 16;
    let images = cut_power(
        11,
        |fs| {
            let file = open(fs, "/f");
            for step in 1..60 {
                let written = file.write_with(&[step; LEN], 0, WriteFlags::ATOMIC);
                assert_eq!(written.unwrap(), (0, LEN));
            }
        },
        |file| {
            let found = content(file);
            assert!(found.is_empty() || found.len() == LEN);
            assert!(found.iter().all(|byte| *byte == found[0]), "parts of two writes");
        },
    );
    assert!(images > 20, "{images} images");
}

#[test]
fn a_power_failure_in_a_move_leaves_the_same_bytes() {
    let data = bytes(2 * MIB + 5, 9);
    let is_there = AtomicBool::new(false);
    let images = cut_power(
        9,
        |fs| {
            let file = open(fs, "/f");
            file.write_at(&data, 0).unwrap();
            file.sync().unwrap();
            is_there.store(true, Ordering::Relaxed);
            for _ in 0..3 {
                file.set_dax(Dax::On).unwrap();
                file.set_dax(Dax::Off).unwrap();
            }
        },
        |file| {
            let found = content(file);
            assert!(found == data || found == data[..found.len()]);
            file.set_dax(Dax::On).unwrap();
            assert_eq!(places(file).1, 0);
            assert!(content(file) == found);
        },
    );
    assert!(images > 20, "{images} images");
}

#[test]
fn what_is_synced_is_there_after_any_power_failure() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    let mut model = bytes(MIB, 10);
    file.write_at(&model, 0).unwrap();
    let mut random = SmallRng::seed_from_u64(10);
    for step in 0..60 {
        let at = random.random_range(0..model.len() - 9000);
        let data = bytes(random.random_range(1..9000), step);
        file.write_at(&data, u64::try_from(at).unwrap()).unwrap();
        model[at..at + data.len()].copy_from_slice(&data);
        file.sync().unwrap();
        cut_now(&tiered, |file| assert!(content(file) == model, "step {step}"));
    }
}

/// Judges what a power failure leaves of both, with nothing that the device had not flushed.
fn cut_now(tiered: &Tiered, judge: impl Fn(&File)) {
    let copy = tiered.directory.path().join("cut.pool");
    std::fs::copy(tiered.path(), &copy).unwrap();
    judge_image(&copy, tiered.medium.after_power_failure(|_| false), &judge);
}

#[test]
fn blocks_that_another_file_is_given_hold_durably_what_they_are_given_for() {
    let (old, new) = (bytes(MIB, 1), bytes(MIB, 2));
    // How `/f` gets blocks of the other file that were just overwritten where they are.
    type Give = fn(&File, &File);
    let gives: [(&str, Give); 3] = [
        ("dedupe", |other, file| {
            assert!(other.dedupe_range(0, file, 0, MIB).unwrap());
        }),
        ("clone", |other, file| other.clone_range(0, file, 0, MIB).unwrap()),
        ("exchange", |other, file| {
            other.exchange_range(0, file, 0, MIB).unwrap()
        }),
    ];
    for (name, give) in gives {
        let tiered = Tiered::new(32 * MIB, 32 * MIB);
        let fs = tiered.open();
        let (file, other) = (open(&fs, "/f"), open(&fs, "/other"));
        file.write_at(&new, 0).unwrap();
        other.write_at(&old, 0).unwrap();
        fs.sync().unwrap();
        other.write_at(&new, 0).unwrap();
        give(&other, &file);
        cut_now(&tiered, |file| assert!(content(file) == new, "{name}"));
    }
}

#[test]
fn what_was_overwritten_before_a_range_is_allocated_is_durable_with_it() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    file.write_at(&bytes(MIB, 1), 0).unwrap();
    file.sync().unwrap();
    file.write_at(&bytes(MIB, 2), 0).unwrap();
    file.allocate(AllocateMode::Allocate, MIB, MIB).unwrap();
    cut_now(&tiered, |file| {
        let found = content(file);
        assert!(found[..1 << 20] == bytes(MIB, 2) && found.len() == 2 << 20);
    });
}

#[test]
fn the_check_mends_bitmaps_of_the_device_and_a_flag_that_is_not_true() {
    let tiered = Tiered::new(32 * MIB, 160 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    file.write_at(&bytes(2 * MIB, 11), 0).unwrap();
    file.sync().unwrap();
    let free = fs.stat_filesystem().device_free_blocks;
    let bitmaps = fs.superblock().device.unwrap().bitmap_start;
    drop(file);
    fs.close().unwrap();
    // Both groups' bitmaps: one lost, one with bits that nobody owns and without some that somebody does.
    for (index, at, byte) in [(0, 64, 0), (1, 2000, 0xff)] {
        let region = Region::open(&tiered.path(), RegionOptions::default()).unwrap();
        let place = bitmaps.offset().raw() + index * 4096 + at;
        region.store(place, &[byte; 8]).unwrap();
        region.flush(place, 8).unwrap();
        region.fence().unwrap();
    }
    assert!(!report(&tiered.path()).problems.is_empty());
    let region = Region::open(&tiered.path(), RegionOptions::default()).unwrap();
    let repair = CheckOptions {
        repair: true,
        ..CheckOptions::default()
    };
    udax_check::check(&region, &repair, &Silent).unwrap();
    drop(region);
    check(&tiered.path());
    let fs = tiered.open();
    assert!(content(&open(&fs, "/f")) == bytes(2 * MIB, 11));
    assert!(fs.stat_filesystem().device_free_blocks >= free);
    fs.close().unwrap();
}

#[test]
fn a_pool_with_a_device_grows() {
    let tiered = Tiered::new(32 * MIB, 32 * MIB);
    let fs = tiered.open();
    open(&fs, "/f").write_at(&bytes(2 * MIB, 12), 0).unwrap();
    fs.grow(300 * MIB).unwrap();
    open(&fs, "/g").write_at(&bytes(2 * MIB, 13), 0).unwrap();
    fs.close().unwrap();
    check(&tiered.path());
    let fs = tiered.open();
    assert!(content(&open(&fs, "/f")) == bytes(2 * MIB, 12));
    assert!(content(&open(&fs, "/g")) == bytes(2 * MIB, 13));
}

#[cfg(udax_faults)]
mod injected {
    use udax_sync::fault::{self, Fault};

    use super::*;

    #[test]
    fn data_that_is_published_without_a_flush_is_found() {
        fault::inject(Fault::UnflushedDevice).unwrap();
        let found = std::panic::catch_unwind(|| appends_are_whole(1));
        assert!(found.is_err(), "nobody noticed");
    }

    #[test]
    fn blocks_that_are_given_away_without_a_flush_are_found() {
        fault::inject(Fault::UnflushedSettle).unwrap();
        let found =
            std::panic::catch_unwind(blocks_that_another_file_is_given_hold_durably_what_they_are_given_for);
        assert!(found.is_err(), "nobody noticed");
    }
}

#[test]
fn a_file_that_is_switched_to_memory_access_while_it_moves_out_has_nothing_on_the_device() {
    let tiered = Tiered::new(32 * MIB, 64 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "f");
    file.set_dax(Dax::On).unwrap();
    // Each is moved in a step of its own.
    for block in 0..300 {
        file.write_at(&[7; 4096], block * 8192).unwrap();
    }
    for round in 0..20 {
        std::thread::scope(|scope| {
            let out = scope.spawn(|| file.set_dax(Dax::Off));
            while file.is_dax() && !out.is_finished() {
                std::thread::yield_now();
            }
            file.set_dax(Dax::On).unwrap();
            out.join().unwrap().unwrap();
        });
        assert_eq!(places(&file), (300 * 4096, 0), "round {round}");
    }
    drop(file);
    fs.close().unwrap();
    check(&tiered.path());
}

#[test]
fn a_scrub_tells_what_the_device_has_lost_and_reads_the_rest() {
    let tiered = Tiered::new(32 * MIB, 16 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    file.write_at(&bytes(4 * MIB, 1), 0).unwrap();
    file.sync().unwrap();
    let extent = file.extents(MIB, 4096).unwrap()[0];
    let place = extent.pool_offset - DEVICE + (MIB - extent.offset);
    tiered.medium.lose(place + 512..place + 513);
    let scrub = || {
        fs.scrub(udax::ScrubOptions::default(), &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
    };
    let report = scrub().unwrap();
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.kind, finding.path.as_deref()))
        .collect();
    assert_eq!(found, [(udax::ScrubKind::LostData, Some(b"/f".as_slice()))]);
    assert!(
        report.findings[0].what.contains(&format!("bytes {MIB}+4096")),
        "{report:?}"
    );
    assert!(report.bytes > 4 * MIB, "{report:?}");
    // What is written anew can be read.
    file.write_at(&[7; 4096], MIB).unwrap();
    file.sync().unwrap();
    assert!(scrub().unwrap().findings.is_empty());
}

#[test]
fn a_cut_that_a_lost_end_hinders_leaves_what_is_in_the_cache() {
    let tiered = Tiered::new(32 * MIB, 16 * MIB);
    let fs = tiered.open();
    let file = open(&fs, "/f");
    let mut model = bytes(1000, 1);
    file.append(&model).unwrap();
    file.sync().unwrap();
    let place = file.extents(0, 4096).unwrap()[0].pool_offset - DEVICE;
    file.dont_need(0, u64::MAX);
    file.write_at(&[2; 4096], 8 * 4096).unwrap();
    model.resize(8 * 4096, 0);
    model.resize(9 * 4096, 2);
    tiered.medium.lose(place..place + 1);
    file.truncate(5 * 4096).unwrap_err();
    assert_eq!(file.stat().unwrap().size, 9 * 4096);
    file.write_at(&model[..4096], 0).unwrap();
    file.truncate(9 * 4096).unwrap();
    assert!(content(&file) == model);
    drop(file);
    fs.close().unwrap();
    check(&tiered.path());
}
