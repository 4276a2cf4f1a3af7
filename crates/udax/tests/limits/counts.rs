//! Fences and lines of each operation, exactly: what a record holds is what an operation costs.
//!
//! Everything is warm: free inode numbers are listed, and the directory's only node has room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use udax::{
    Access, AllocateMode, FileKind, Filesystem, MountOptions, RenameMode, Request, SetAttributes, SetTime,
    Timestamp, XattrMode,
};
use udax_pmem::{CountingRecorder, Event, Recorder};

use crate::pool::{MIB, READ_WRITE, TestPool, content, new_inode, open};

/// An operation, its fences, the lines it stores past the cache and those it flushes.
type Cost = (&'static str, u64, u64, u64);

/// Measures operations of one pool.
struct Meter {
    fs: Filesystem,
    recorder: Arc<CountingRecorder>,
    costs: Vec<Cost>,
}

impl Meter {
    fn new(pool: &TestPool) -> Self {
        let recorder = Arc::new(CountingRecorder::new());
        let options = MountOptions {
            recorder: Some(recorder.clone()),
            ..MountOptions::default()
        };
        let fs = Filesystem::open(&pool.path, &options).unwrap();
        Self {
            fs,
            recorder,
            costs: Vec::new(),
        }
    }

    /// Notes what `operation` costs. The journal is checkpointed first, so that it need not be during it.
    fn measure<T>(&mut self, name: &'static str, operation: impl FnOnce(&Filesystem) -> T) -> T {
        self.fs.sync().unwrap();
        self.measure_next(name, operation)
    }

    /// As `measure`, without a checkpoint, which would also write lazy times.
    fn measure_next<T>(&mut self, name: &'static str, operation: impl FnOnce(&Filesystem) -> T) -> T {
        self.recorder.reset();
        let result = operation(&self.fs);
        let counts = self.recorder.reset();
        self.costs.push((
            name,
            counts.fences,
            counts.nontemporal_lines,
            counts.flushed_lines,
        ));
        result
    }

    #[track_caller]
    fn assert_costs(&self, expected: &[Cost]) {
        let table = |costs: &[Cost]| -> String { costs.iter().map(|cost| format!("{cost:?},\n")).collect() };
        assert_eq!(self.costs, expected, "found\n{}", table(&self.costs));
    }
}

/// Makes directories `/d` and `/e`, so that each has a node and free inode numbers are listed.
fn warm(fs: &Filesystem) {
    for directory in ["/d", "/e"] {
        fs.create_dir(directory, new_inode()).unwrap();
        for name in ["one", "two", "own"] {
            drop(open(fs, &format!("{directory}/{name}")));
        }
    }
}

#[test]
fn names_cost_one_fence() {
    let pool = TestPool::new(64 * MIB);
    let mut meter = Meter::new(&pool);
    warm(&meter.fs);
    let new = new_inode();
    drop(meter.measure("create", |fs| open(fs, "/d/abc")));
    meter.measure("mkdir", |fs| fs.create_dir("/d/dir", new)).unwrap();
    meter.measure("create in a new directory", |fs| drop(open(fs, "/d/dir/abc")));
    meter
        .measure("unlink the only name", |fs| fs.unlink("/d/dir/abc"))
        .unwrap();
    meter.measure("rmdir", |fs| fs.remove_dir("/d/dir")).unwrap();
    meter
        .measure("symlink, 9 bytes", |fs| fs.symlink(b"somewhere", "/d/lin", new))
        .unwrap();
    meter
        .measure("symlink, 97 bytes", |fs| fs.symlink(&[b'x'; 97], "/d/lon", new))
        .unwrap();
    meter
        .measure("fifo", |fs| fs.make_node("/d/fif", FileKind::Fifo, 0, new))
        .unwrap();
    meter.measure("link", |fs| fs.link("/d/abc", "/d/abd")).unwrap();
    meter
        .measure("unlink, not the last name", |fs| fs.unlink("/d/abd"))
        .unwrap();
    meter
        .measure("unlink, empty file", |fs| fs.unlink("/d/abc"))
        .unwrap();
    meter
        .measure("unlink, symlink of 97 bytes", |fs| fs.unlink("/d/lon"))
        .unwrap();
    let replace = RenameMode::Replace;
    meter
        .measure("rename in a directory", |fs| {
            fs.rename("/d/one", "/d/neo", replace)
        })
        .unwrap();
    meter
        .measure("rename across", |fs| fs.rename("/d/neo", "/e/neo", replace))
        .unwrap();
    meter
        .measure("rename over a file", |fs| fs.rename("/d/two", "/d/own", replace))
        .unwrap();
    let exchange = RenameMode::Exchange;
    meter
        .measure("exchange", |fs| fs.rename("/e/one", "/e/two", exchange))
        .unwrap();
    meter
        .measure("exchange across", |fs| fs.rename("/d/own", "/e/own", exchange))
        .unwrap();
    meter.assert_costs(&[
        ("create", 1, 6, 0),
        ("mkdir", 1, 6, 0),
        ("create in a new directory", 1, 7, 0),
        ("unlink the only name", 1, 3, 0),
        ("rmdir", 1, 3, 0),
        ("symlink, 9 bytes", 1, 6, 0),
        ("symlink, 97 bytes", 2, 70, 2),
        ("fifo", 1, 6, 0),
        ("link", 1, 4, 0),
        ("unlink, not the last name", 1, 3, 0),
        ("unlink, empty file", 1, 3, 0),
        ("unlink, symlink of 97 bytes", 1, 3, 0),
        ("rename in a directory", 1, 4, 0),
        ("rename across", 1, 5, 0),
        ("rename over a file", 1, 4, 0),
        ("exchange", 1, 4, 0),
        ("exchange across", 1, 5, 0),
    ]);
}

#[test]
fn attributes_cost_one_fence() {
    let pool = TestPool::new(64 * MIB);
    let mut meter = Meter::new(&pool);
    warm(&meter.fs);
    let file = open(&meter.fs, "/d/one");
    let permissions = SetAttributes {
        permissions: Some(0o600),
        ..SetAttributes::default()
    };
    meter
        .measure("chmod", |_| file.set_attributes(permissions))
        .unwrap();
    let owner = SetAttributes {
        uid: Some(7),
        gid: Some(8),
        ..SetAttributes::default()
    };
    meter.measure("chown", |_| file.set_attributes(owner)).unwrap();
    let then = SetTime::To(Timestamp {
        seconds: 5,
        nanoseconds: 6,
    });
    let times = SetAttributes {
        atime: Some(then),
        mtime: Some(then),
        ..SetAttributes::default()
    };
    meter.measure("utimens", |_| file.set_attributes(times)).unwrap();
    let either = XattrMode::Either;
    meter
        .measure("first attribute", |_| file.set_xattr(b"user.a", b"one", either))
        .unwrap();
    meter
        .measure("second attribute", |_| file.set_xattr(b"user.b", b"two", either))
        .unwrap();
    meter
        .measure("replaced attribute", |_| {
            file.set_xattr(b"user.b", b"eno", either)
        })
        .unwrap();
    meter
        .measure("attribute of 5000 bytes", |_| {
            file.set_xattr(b"user.l", &[3; 5000], either)
        })
        .unwrap();
    meter
        .measure("remove 5000 bytes", |_| file.remove_xattr(b"user.l"))
        .unwrap();
    meter
        .measure("remove attribute", |_| file.remove_xattr(b"user.b"))
        .unwrap();
    meter
        .measure("remove last attribute", |_| file.remove_xattr(b"user.a"))
        .unwrap();
    meter.assert_costs(&[
        ("chmod", 1, 2, 0),
        ("chown", 1, 2, 0),
        ("utimens", 1, 2, 0),
        ("first attribute", 1, 5, 0),
        ("second attribute", 1, 3, 0),
        ("replaced attribute", 1, 2, 0),
        ("attribute of 5000 bytes", 2, 131, 2),
        ("remove 5000 bytes", 1, 3, 0),
        ("remove attribute", 1, 2, 0),
        ("remove last attribute", 1, 3, 0),
    ]);
}

#[test]
fn data_costs_its_lines_and_at_most_two_fences() {
    let pool = TestPool::new(64 * MIB);
    let mut meter = Meter::new(&pool);
    warm(&meter.fs);
    let file = open(&meter.fs, "/d/one");
    let block = [1; 4096];
    file.append(&block).unwrap();
    meter.measure("append 4 KiB", |_| file.append(&block)).unwrap();
    meter
        .measure("overwrite 4 KiB", |_| file.write_at(&block, 0))
        .unwrap();
    meter
        .measure("overwrite 64 B", |_| file.write_at(&block[..64], 64))
        .unwrap();
    meter
        .measure("overwrite 1 B", |_| file.write_at(&block[..1], 100))
        .unwrap();
    meter
        .measure_next("fsync with lazy times", |_| file.sync())
        .unwrap();
    meter
        .measure_next("fsync with nothing lazy", |_| file.sync())
        .unwrap();
    meter
        .measure("append 100 B", |_| file.append(&block[..100]))
        .unwrap();
    meter
        .measure("shrink in a block", |_| file.truncate(8200))
        .unwrap();
    meter
        .measure("extend from inside a block", |_| file.truncate(20_000))
        .unwrap();
    meter
        .measure("shrink by blocks", |_| file.truncate(4096))
        .unwrap();
    meter
        .measure("extend from a block's end", |_| file.truncate(8192))
        .unwrap();
    meter
        .measure("fill a hole", |_| file.write_at(&block, 4096))
        .unwrap();
    meter.assert_costs(&[
        ("append 4 KiB", 2, 67, 0),
        ("overwrite 4 KiB", 1, 64, 0),
        ("overwrite 64 B", 1, 1, 0),
        ("overwrite 1 B", 1, 0, 1),
        ("fsync with lazy times", 1, 2, 0),
        ("fsync with nothing lazy", 0, 0, 0),
        ("append 100 B", 2, 66, 2),
        ("shrink in a block", 1, 3, 0),
        ("extend from inside a block", 2, 65, 1),
        ("shrink by blocks", 1, 3, 0),
        ("extend from a block's end", 1, 2, 0),
        ("fill a hole", 2, 67, 0),
    ]);
}

#[test]
fn allocation_costs_a_record_and_what_it_zeroes() {
    let pool = TestPool::new(64 * MIB);
    let mut meter = Meter::new(&pool);
    warm(&meter.fs);
    let file = open(&meter.fs, "/d/one");
    let block = [1; 4096];
    file.append(&[1; 8192]).unwrap();
    let allocate = |mode, offset, len| file.allocate(mode, offset, len).unwrap();
    meter.measure("allocate 1 MiB", |_| allocate(AllocateMode::Allocate, 8192, MIB));
    meter
        .measure("write 4 KiB into unwritten", |_| file.write_at(&block, 12_288))
        .unwrap();
    meter
        .measure(
            "write 64 B into unwritten, which makes a tree of five extents",
            |_| file.write_at(&block[..64], 32_768),
        )
        .unwrap();
    meter.measure("punch blocks", |_| {
        allocate(AllocateMode::PunchHole, 12_288, 4096)
    });
    meter.measure("punch inside a block", |_| {
        allocate(AllocateMode::PunchHole, 64, 64)
    });
    meter.measure("punch what is a hole", |_| {
        allocate(AllocateMode::PunchHole, 12_288, 4096)
    });
    meter.assert_costs(&[
        ("allocate 1 MiB", 1, 4, 0),
        ("write 4 KiB into unwritten", 2, 68, 0),
        (
            "write 64 B into unwritten, which makes a tree of five extents",
            2,
            74,
            0,
        ),
        ("punch blocks", 1, 3, 0),
        // The block's rest goes to a new one.
        ("punch inside a block", 2, 68, 0),
        ("punch what is a hole", 1, 2, 0),
    ]);
}

#[test]
fn looking_costs_nothing() {
    let pool = TestPool::new(64 * MIB);
    let mut meter = Meter::new(&pool);
    warm(&meter.fs);
    let file = open(&meter.fs, "/d/one");
    file.append(&[1; 5000]).unwrap();
    file.set_xattr(b"user.a", b"one", XattrMode::Either).unwrap();
    let mut buffer = [0; 5000];
    // The first look after a change renews the access time, once the clock has ticked.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let is_looked_at = |path: &str| {
        let stat = meter.fs.stat(path).unwrap();
        stat.atime > stat.mtime
    };
    while !is_looked_at("/d") || !is_looked_at("/d/one") {
        assert!(std::time::Instant::now() < deadline, "the clock stands still");
        meter.fs.read_dir("/d", 0, 100).unwrap();
        file.read_at(&mut buffer, 0).unwrap();
    }
    meter.measure("open and close", |fs| {
        drop(fs.open_file("/d/one", READ_WRITE, new_inode()).unwrap());
    });
    meter.measure("read", |_| file.read_at(&mut buffer, 0)).unwrap();
    meter.measure("stat", |fs| fs.stat("/d/one")).unwrap();
    meter.measure("readdir", |fs| fs.read_dir("/d", 0, 100)).unwrap();
    meter.measure("getxattr", |_| file.xattr(b"user.a")).unwrap();
    meter.measure("seek", |_| file.seek_hole(0)).unwrap();
    meter.measure("statfs", |fs| fs.stat_filesystem());
    let looked: Vec<&str> = meter.costs.iter().map(|cost| cost.0).collect();
    let nothing: Vec<Cost> = looked.into_iter().map(|name| (name, 0, 0, 0)).collect();
    meter.assert_costs(&nothing);
}

/// Counts fences, and checkpoints: each publishes a slot in both copies of the journal's head.
#[derive(Debug, Default)]
struct CheckpointRecorder {
    fences: AtomicU64,
    published: AtomicU64,
}

impl Recorder for CheckpointRecorder {
    fn record(&self, event: Event<'_>) {
        let head = udax_media::geometry::CHECKPOINTS[0].offset().raw();
        match event {
            Event::Fence => {
                self.fences.fetch_add(1, Ordering::Relaxed);
            }
            Event::NonTemporal { at, .. } if at / 4096 == head / 4096 => {
                self.published.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

#[test]
fn creates_cost_a_fence_each_and_those_of_inode_chunks_and_checkpoints() {
    /// Numbers that chunk 0 has left after inode 0, the root and the directory.
    const LISTED: u64 = 13;
    /// Four chunks of 16 are made at a time.
    const INODES_PER_RECORD: u64 = 64;
    // A small pool has a short journal, which 3000 creates fill several times.
    for (bytes, files) in [(64 * MIB, 1000), (16 * MIB, 3000)] {
        let pool = TestPool::new(bytes);
        let recorder = Arc::new(CheckpointRecorder::default());
        let options = MountOptions {
            recorder: Some(recorder.clone()),
            ..MountOptions::default()
        };
        let fs = Filesystem::open(&pool.path, &options).unwrap();
        fs.create_dir("/d", new_inode()).unwrap();
        fs.sync().unwrap();
        let before = recorder.fences.load(Ordering::Relaxed);
        let published = recorder.published.load(Ordering::Relaxed);
        for number in 0..files {
            drop(open(&fs, &format!("/d/{number}")));
        }
        let fences = recorder.fences.load(Ordering::Relaxed) - before;
        let checkpoints = recorder.published.load(Ordering::Relaxed) - published;
        let chunk_records = (files - LISTED).div_ceil(INODES_PER_RECORD);
        // Splits of the directory's nodes are in the records of the creates that cause them.
        assert_eq!(
            fences,
            files + chunk_records + 2 * checkpoints,
            "{checkpoints} checkpoints"
        );
        assert_eq!(checkpoints > 0, bytes == 16 * MIB, "{checkpoints} checkpoints");
    }
}

#[test]
fn checksums_cost_a_word_for_each_block_in_the_record_of_its_extent() {
    let pool = TestPool::with_checksums(64 * MIB);
    let mut meter = Meter::new(&pool);
    warm(&meter.fs);
    let file = open(&meter.fs, "/d/one");
    let block = [1; 4096];
    file.append(&block).unwrap();
    meter.measure("append 4 KiB", |_| file.append(&block)).unwrap();
    meter
        .measure("overwrite 4 KiB", |_| file.write_at(&block, 0))
        .unwrap();
    meter
        .measure("overwrite 1 B", |_| file.write_at(&block[..1], 100))
        .unwrap();
    meter.measure_next("read 4 KiB", |_| content(&file));
    meter
        .measure("append 100 B", |_| file.append(&block[..100]))
        .unwrap();
    meter
        .measure("extend from inside a block", |_| file.truncate(20_000))
        .unwrap();
    meter
        .measure("shrink in a block", |_| file.truncate(4100))
        .unwrap();
    meter
        .measure("extend over bytes behind the end", |_| file.truncate(20_000))
        .unwrap();
    meter
        .measure("append 1 MiB", |_| file.append(&vec![1; 1 << 20]))
        .unwrap();
    let pin = meter.measure("pin to write", |_| {
        file.pin(0, 4096, Request::new(Access::Write)).unwrap()
    });
    meter
        .measure("overwrite 4 KiB that is pinned", |_| file.write_at(&block, 0))
        .unwrap();
    drop(pin);
    meter.measure("close", |_| drop(file));
    meter.assert_costs(&[
        ("append 4 KiB", 2, 67, 0),
        ("overwrite 4 KiB", 2, 68, 0),
        ("overwrite 1 B", 2, 67, 0),
        ("read 4 KiB", 0, 0, 0),
        ("append 100 B", 2, 67, 0),
        ("extend from inside a block", 1, 2, 0),
        ("shrink in a block", 1, 3, 0),
        ("extend over bytes behind the end", 3, 69, 0),
        ("append 1 MiB", 2, 16484, 0),
        ("pin to write", 1, 3, 0),
        // What is dirty is made durable before the pin is found.
        ("overwrite 4 KiB that is pinned", 2, 64, 64),
        // The bytes, their sums, the time.
        ("close", 3, 3, 64),
    ]);
}
