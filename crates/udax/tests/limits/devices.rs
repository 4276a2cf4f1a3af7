//! Data devices that are files and block devices: how they are found, refused and flushed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax::{
    DataSource, Dax, DaxMode, Disk, Error, Filesystem, FormatOptions, MountOptions, Region, RegionOptions,
    WriteFlags,
};
use udax_disk::{Medium, MemoryMedium, Step, Watcher};

use crate::cached::bytes;
use crate::pool::{MIB, TestPool, check, content, open};

/// A pool whose data device is in the file or device that `path` names.
fn format(directory: &Path, device: &Path) -> PathBuf {
    let pool = directory.join("test.pool");
    let options = FormatOptions {
        size: Some(32 * MIB),
        data: Some(DataSource::Path(device.to_owned())),
        ..FormatOptions::default()
    };
    Filesystem::format(&pool, &options).unwrap();
    pool
}

fn file(directory: &Path, len: u64) -> PathBuf {
    let path = directory.join("data");
    std::fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

fn inode_options() -> MountOptions {
    MountOptions {
        dax: DaxMode::Inode,
        no_flusher: true,
        ..MountOptions::default()
    }
}

fn refusal(pool: &Path) -> Error {
    Filesystem::open(pool, &inode_options()).map(drop).unwrap_err()
}

#[test]
fn a_device_that_cannot_be_opened_is_named_once() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 8 * MIB);
    let pool = format(directory.path(), &device);
    let name = device.to_str().unwrap();
    let somebody = udax_disk::BlockMedium::open(&device, udax_disk::Access::Write).unwrap();
    let busy = refusal(&pool);
    drop(somebody);
    std::fs::remove_file(&device).unwrap();
    let missing = refusal(&pool);
    for (error, why) in [(busy, "in use"), (missing, "No such file")] {
        let line = error.to_string();
        assert_eq!(error.errno(), Errno::ENODEV, "{line}");
        assert_eq!(line.matches(name).count(), 1, "{line}");
        assert!(line.contains(why) && line.contains("data=PATH"), "{line}");
    }
}

/// A header that is lost, in bytes of the device.
fn damage(device: &Path, at: u64) {
    store(device, at, &[0xA5; 4096]);
}

fn store(device: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(device).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
}

#[test]
fn either_header_of_a_device_does_and_who_writes_makes_the_other_anew() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 8 * MIB);
    let pool = format(directory.path(), &device);
    let whole = std::fs::read(&device).unwrap();
    let last = 8 * MIB - 4096;
    for at in [0, last] {
        damage(&device, at);
        let damaged = std::fs::read(&device).unwrap();
        for (read_only, private) in [(true, false), (false, true)] {
            let options = MountOptions {
                read_only,
                private,
                ..inode_options()
            };
            drop(Filesystem::open(&pool, &options).unwrap());
            assert!(
                damaged == std::fs::read(&device).unwrap(),
                "only who writes mends"
            );
        }
        check(&pool);
        Filesystem::open(&pool, &inode_options())
            .unwrap()
            .close()
            .unwrap();
        assert!(whole == std::fs::read(&device).unwrap(), "the header at {at}");
    }
    damage(&device, 0);
    damage(&device, last);
    let error = refusal(&pool);
    assert_eq!(error.errno(), Errno::ENODEV, "{error}");
}

/// Damaged headers that a check of the device finds, by where they begin, and whether it has mended them.
fn damaged(pool: &Path, named: Option<&Path>, repair: bool) -> udax::Result<Vec<(u64, bool)>> {
    let region = Region::open(pool, RegionOptions::default()).unwrap();
    let found = Filesystem::check_data_device(&region, named, repair)?.unwrap();
    let headers = found.damaged_headers.iter();
    Ok(headers.map(|header| (header.at, header.is_mended)).collect())
}

#[test]
fn a_check_of_the_device_finds_damaged_headers_and_mends_them() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 8 * MIB);
    let pool = format(directory.path(), &device);
    let fs = Filesystem::open(&pool, &inode_options()).unwrap();
    open(&fs, "/f").write_at(&bytes(MIB, 3), 0).unwrap();
    fs.close().unwrap();
    let whole = std::fs::read(&device).unwrap();
    let last = 8 * MIB - 4096;
    assert_eq!(damaged(&pool, None, true).unwrap(), []);
    for at in [0, last] {
        damage(&device, at);
        assert_eq!(damaged(&pool, None, false).unwrap(), [(at, false)]);
        assert_eq!(damaged(&pool, None, true).unwrap(), [(at, true)]);
        assert!(std::fs::read(&device).unwrap() == whole);
    }
    // Both: only by name, and not over what looks like somebody else's.
    damage(&device, 0);
    damage(&device, last);
    let refused = damaged(&pool, None, true).unwrap_err();
    assert!(refused.to_string().contains("both of its headers"), "{refused}");
    let named = Some(device.as_path());
    assert_eq!(damaged(&pool, named, false).unwrap(), [(0, false), (last, false)]);
    store(&device, 0, b"XFSB");
    let refused = damaged(&pool, named, true).unwrap_err();
    assert!(refused.to_string().contains("an XFS filesystem"), "{refused}");
    damage(&device, 0);
    assert_eq!(damaged(&pool, named, true).unwrap(), [(0, true), (last, true)]);
    assert!(std::fs::read(&device).unwrap() == whole);
    // One that moved; somebody else's; and none.
    let moved = directory.path().join("moved");
    std::fs::rename(&device, &moved).unwrap();
    assert_eq!(damaged(&pool, None, false).unwrap_err().errno(), Errno::ENODEV);
    assert_eq!(damaged(&pool, Some(&moved), false).unwrap(), []);
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let other = file(elsewhere.path(), 8 * MIB);
    format(elsewhere.path(), &other);
    let refused = damaged(&pool, Some(&other), true).unwrap_err();
    assert!(refused.to_string().contains("belongs to pool"), "{refused}");
    let plain = TestPool::new(16 * MIB);
    let region = Region::open(&plain.path, RegionOptions::default()).unwrap();
    assert!(
        Filesystem::check_data_device(&region, None, true)
            .unwrap()
            .is_none()
    );
    let refused = Filesystem::check_data_device(&region, Some(&moved), false).unwrap_err();
    assert_eq!(refused.errno(), Errno::EINVAL);
}

#[test]
fn a_lost_header_that_the_device_does_not_take_hinders_nothing() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = directory.path().join("test.pool");
    let medium = Arc::new(MemoryMedium::new(8 * MIB));
    let disk = Arc::new(Disk::new(medium.clone()));
    let options = FormatOptions {
        size: Some(32 * MIB),
        data: Some(DataSource::Disk(Arc::clone(&disk))),
        ..FormatOptions::default()
    };
    Filesystem::format(&pool, &options).unwrap();
    medium.lose(0..4096);
    let mount = MountOptions {
        data: Some(DataSource::Disk(Arc::clone(&disk))),
        ..inode_options()
    };
    let is_lost = || disk.read(0, &mut [0; 4096]).is_err();
    for failing in [1, 0] {
        assert!(is_lost());
        medium.fail_writes(failing);
        let fs = Filesystem::open(&pool, &mount).unwrap();
        assert_eq!(is_lost(), failing > 0);
        let file = open(&fs, "/f");
        file.write_at(&bytes(MIB, 3), 0).unwrap();
        file.sync().unwrap();
        drop(file);
        fs.close().unwrap();
    }
}

#[test]
fn where_a_device_is_now_is_kept_by_who_writes() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 8 * MIB);
    let pool = format(directory.path(), &device);
    let moved = directory.path().join("moved");
    std::fs::rename(&device, &moved).unwrap();
    let there = |read_only| MountOptions {
        data: Some(DataSource::Path(moved.clone())),
        read_only,
        ..inode_options()
    };
    // Who only reads changes nothing.
    Filesystem::open(&pool, &there(true)).unwrap().close().unwrap();
    assert_eq!(refusal(&pool).errno(), Errno::ENODEV);
    let fs = Filesystem::open(&pool, &there(false)).unwrap();
    open(&fs, "/f").write_at(&bytes(MIB, 1), 0).unwrap();
    let generation = fs.superblock().generation;
    fs.close().unwrap();
    check(&pool);
    for options in [inode_options(), there(false)] {
        let fs = Filesystem::open(&pool, &options).unwrap();
        assert_eq!(fs.superblock().generation, generation, "it is noted once");
        let mut found = bytes(MIB, 0);
        assert_eq!(open(&fs, "/f").read_at(&mut found, 0).unwrap(), found.len());
        assert_eq!(found, bytes(MIB, 1));
        fs.close().unwrap();
    }
    check(&pool);
}

#[test]
fn a_device_that_has_become_larger_is_used_as_far_as_the_pool_knows_it() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 8 * MIB);
    let pool = format(directory.path(), &device);
    let larger = std::fs::OpenOptions::new().write(true).open(&device).unwrap();
    larger.set_len(64 * MIB).unwrap();
    let fs = Filesystem::open(&pool, &inode_options()).unwrap();
    assert!(fs.stat_filesystem().device_free_blocks < 8 * 256);
    // As much as there is room for, or nothing.
    let written = open(&fs, "/f")
        .write_at(&bytes(12 * MIB, 1), 0)
        .unwrap_or_else(|error| {
            assert_eq!(error.errno(), Errno::ENOSPC);
            0
        });
    assert!(
        written < 8 << 20,
        "{written} bytes are more than the pool's device has"
    );
    // Growing the pool does not grow the device, nor move its end.
    fs.grow(64 * MIB).unwrap();
    assert!(fs.stat_filesystem().device_free_blocks < 8 * 256);
    fs.close().unwrap();
    check(&pool);
}

#[test]
fn checksums_are_refused_in_words_that_name_the_device() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 8 * MIB);
    let options = FormatOptions {
        size: Some(32 * MIB),
        data: Some(DataSource::Path(device.clone())),
        data_checksums: true,
        ..FormatOptions::default()
    };
    let error = Filesystem::format(&directory.path().join("sums.pool"), &options).unwrap_err();
    assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    let line = error.to_string();
    assert!(
        line.contains("checksums of data in a pool with a data device"),
        "{line}"
    );
    // Nor can they come later.
    let pool = format(directory.path(), &device);
    let fs = Filesystem::open(&pool, &inode_options()).unwrap();
    let error = open(&fs, "/f").set_checksums(udax::Checksums::On).unwrap_err();
    assert_eq!(error.errno(), Errno::EOPNOTSUPP, "{error}");
}

/// Counts flushes.
#[derive(Default)]
struct Flushes(AtomicU64);

impl Watcher for Flushes {
    fn saw(&self, step: Step) {
        if step == Step::Flush {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_sync_of_a_dax_file_does_not_flush_what_others_have_written_to_the_device() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let flushes = Arc::new(Flushes::default());
    let medium: Arc<dyn Medium> = Arc::new(MemoryMedium::new(32 * MIB).watched(flushes.clone()));
    let source = || Some(DataSource::Disk(Arc::new(Disk::new(Arc::clone(&medium)))));
    let pool = directory.path().join("test.pool");
    let options = FormatOptions {
        size: Some(32 * MIB),
        data: source(),
        ..FormatOptions::default()
    };
    Filesystem::format(&pool, &options).unwrap();
    let mount = MountOptions {
        data: source(),
        ..inode_options()
    };
    let fs = Filesystem::open(&pool, &mount).unwrap();
    let count = || flushes.0.load(Ordering::Relaxed);
    let (cached, dax) = (open(&fs, "/cached"), open(&fs, "/dax"));
    dax.set_dax(Dax::On).unwrap();
    cached.write_at(&bytes(MIB, 1), 0).unwrap();
    cached.sync().unwrap();
    // In place, and not flushed: a seek makes the cache write.
    cached.write_at(&bytes(4096, 2), 0).unwrap();
    cached.extents(0, 1).unwrap();
    let before = count();
    dax.write_at(&bytes(4096, 3), 0).unwrap();
    dax.sync().unwrap();
    assert_eq!(count(), before, "nothing of the file is on the device");
    cached.sync().unwrap();
    assert_eq!(count(), before + 1);
    cached.write_at(&bytes(4096, 4), 0).unwrap();
    cached.extents(0, 1).unwrap();
    fs.sync().unwrap();
    assert_eq!(count(), before + 2, "all of the pool is");
    // What was a cached file's is durable in the pool when it is a DAX file.
    cached.write_at(&bytes(4096, 5), 0).unwrap();
    cached.set_dax(Dax::On).unwrap();
    let before = count();
    cached.sync().unwrap();
    assert_eq!(count(), before);
}

/// In the environment of a writer: the pool.
const WRITER: &str = "UDAX_DEVICE_WRITER";
/// Blocks that a writer writes to, again and again.
const WRITTEN: u64 = 512;

/// A block that says which write it is of, in each of its words.
fn stamped(turn: u64) -> Vec<u8> {
    turn.to_le_bytes().repeat(512)
}

/// Writes for ever, and tells of each write when it is durable; run by the test below only.
#[test]
fn writes_until_it_is_killed() {
    let Some(pool) = std::env::var_os(WRITER) else {
        return;
    };
    let options = MountOptions {
        cache_bytes: MIB,
        ..inode_options()
    };
    let fs = Filesystem::open(Path::new(&pool), &options).unwrap();
    let file = open(&fs, "/f");
    let mut told = std::io::stderr().lock();
    for turn in 1.. {
        // In place, at the end and far behind it; each eighth write moves the file, or syncs it.
        let at = turn * 37 % WRITTEN * 4096;
        let flags = if turn % 3 == 0 {
            WriteFlags::DSYNC
        } else {
            WriteFlags::empty()
        };
        file.write_with(&stamped(turn), at, flags).unwrap();
        match turn % 64 {
            8 | 24 => file.sync().unwrap(),
            16 => file.set_dax(Dax::On).unwrap(),
            40 => file.set_dax(Dax::Off).unwrap(),
            _ if turn % 3 != 0 => continue,
            _ => {}
        }
        writeln!(told, "durable {turn}").unwrap();
    }
}

/// The turns that a writer, killed after `time`, has told of.
fn kill_writer(pool: &Path, time: Duration) -> Vec<u64> {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "devices::writes_until_it_is_killed", "--nocapture"])
        .env(WRITER, pool)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = writer.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(told).lines().map_while(Result::ok);
        let turns = lines.filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
        turns.collect::<Vec<u64>>()
    });
    std::thread::sleep(time);
    writer.kill().unwrap();
    writer.wait().unwrap();
    reader.join().unwrap()
}

/// Opens the pool of a process that was killed. The kernel ends its io_uring after the process, and the lock of the
/// device with it.
fn open_after_kill(pool: &Path) -> Filesystem {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match Filesystem::open(pool, &inode_options()) {
            Err(Error::NotDevice { why, .. }) if why == "it is in use" && Instant::now() < end => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn what_a_killed_writer_told_of_is_on_the_device_and_in_the_pool() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = file(directory.path(), 16 * MIB);
    let pool = format(directory.path(), &device);
    let mut told = 0;
    for round in 0..12 {
        let turns = kill_writer(&pool, Duration::from_millis(120 + 37 * round));
        told += turns.len();
        let fs = open_after_kill(&pool);
        let file = open(&fs, "/f");
        let bytes = content(&file);
        // Of a block, what was written last before something told of it, or something later, whole.
        let mut least = vec![0; 512];
        for turn in turns {
            // A sync and a switch tell of all before them; a durable write of itself.
            let is_whole = matches!(turn % 64, 8 | 24 | 16 | 40);
            let first = if is_whole {
                turn.saturating_sub(WRITTEN) + 1
            } else {
                turn
            };
            for of in first..=turn {
                least[usize::try_from(of * 37 % WRITTEN).unwrap()] = of;
            }
        }
        for (block, bytes) in bytes.chunks(4096).enumerate() {
            let turn = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes == stamped(turn), "round {round}: block {block} is torn");
            assert!(
                turn >= least[block],
                "round {round}: block {block} has turn {turn}, not {}",
                least[block]
            );
        }
        let reach = least.iter().rposition(|turn| *turn > 0);
        assert!(reach.is_none_or(|block| bytes.len() >= (block + 1) * 4096));
        // Each writer begins with its own turns.
        file.truncate(0).unwrap();
        drop(file);
        fs.close().unwrap();
        check(&pool);
    }
    assert!(told > 100, "the writers were killed too early: {told}");
}

/// A loop device over a file, which goes with it.
struct Loop(PathBuf);

impl Loop {
    /// `None`, and a line that says why: not root, or no such devices here.
    fn over(file: &Path) -> Option<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .output();
        match made {
            Ok(output) if output.status.success() => {
                let name = String::from_utf8(output.stdout).unwrap();
                Some(Self(PathBuf::from(name.trim())))
            }
            Ok(output) => {
                println!(
                    "skipped: no loop device: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                None
            }
            Err(error) => {
                println!("skipped: no losetup: {error}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_of_the_kernel_is_a_data_device() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(device) = Loop::over(&file(directory.path(), 64 * MIB)) else {
        return;
    };
    let pool = format(directory.path(), &device.0);
    let data = bytes(20 * MIB + 777, 1);
    let fs = Filesystem::open(&pool, &inode_options()).unwrap();
    let file = open(&fs, "/f");
    file.write_at(&data, 0).unwrap();
    file.sync().unwrap();
    // Nobody else has it meanwhile.
    let second = udax_disk::BlockMedium::open(&device.0, udax_disk::Access::Write);
    assert_eq!(second.map(drop).unwrap_err().errno(), Errno::EBUSY);
    drop(file);
    fs.close().unwrap();
    check(&pool);
    let fs = Filesystem::open(&pool, &inode_options()).unwrap();
    let file = open(&fs, "/f");
    assert!(content(&file) == data);
    file.set_dax(Dax::On).unwrap();
    assert!(content(&file) == data);
    drop(file);
    fs.close().unwrap();
    check(&pool);
}
