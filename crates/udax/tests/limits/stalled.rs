//! A data device that does not answer for a while: who waits for it, how long, and who does not.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax::{
    CacheError, Cancel, DataSource, Dax, DaxMode, Disk, Error, File, Filesystem, FormatOptions, Mode,
    MountOptions, OpenFlags, ReadFlags, WaitError, WriteFlags,
};
use udax_disk::{DiskError, Medium, MemoryMedium, Write};

use crate::pins::until;
use crate::pool::{MIB, TestPool, content, new_inode, open};

/// A medium in memory whose writes wait while it is stalled; one may panic then.
#[derive(Debug)]
pub(crate) struct Stalled {
    below: MemoryMedium,
    state: Mutex<State>,
    goes_on: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_stalled: bool,
    panics: bool,
    waiting: usize,
}

impl Stalled {
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.state.lock().unwrap().is_stalled = is_stalled;
        self.goes_on.notify_all();
    }

    /// The next write that goes on panics instead.
    pub(crate) fn panic(&self) {
        self.state.lock().unwrap().panics = true;
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }
}

impl Medium for Stalled {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        self.below.read(at, to)
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        let patience = Duration::from_secs(60);
        let (mut state, ended) = self
            .goes_on
            .wait_timeout_while(state, patience, |state| state.is_stalled)
            .unwrap();
        state.waiting -= 1;
        let panics = std::mem::take(&mut state.panics);
        drop(state);
        assert!(!ended.timed_out(), "nobody let it go on");
        assert!(!panics, "the medium panics");
        self.below.write(writes)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.below.flush()
    }
}

fn source(medium: &Arc<Stalled>) -> DataSource {
    let medium: Arc<dyn Medium> = medium.clone();
    DataSource::Disk(Arc::new(Disk::new(medium)))
}

/// A medium, the pool whose data device it is, and that open.
pub(crate) fn stalled_pool(options: MountOptions) -> (Arc<Stalled>, TestPool, Filesystem) {
    let medium = Arc::new(Stalled {
        below: MemoryMedium::new(32 * MIB),
        state: Mutex::default(),
        goes_on: Condvar::new(),
    });
    let pool = TestPool::formatted(&FormatOptions {
        size: Some(16 * MIB),
        data: Some(source(&medium)),
        ..FormatOptions::default()
    });
    let options = MountOptions {
        dax: DaxMode::Inode,
        data: Some(source(&medium)),
        ..options
    };
    let fs = Filesystem::open(&pool.path, &options).unwrap();
    (medium, pool, fs)
}

#[test]
fn a_writer_at_the_limit_of_dirty_pages_gives_up_as_it_was_told_and_has_written_nothing() {
    let options = MountOptions {
        dirty_bytes: MIB,
        ..MountOptions::default()
    };
    let (medium, pool, fs) = stalled_pool(options);
    let file = open(&fs, "/f");
    file.append(b"before").unwrap();
    file.sync().unwrap();
    medium.stall(true);
    // Each written once: the one that the flusher has got is not asked for again.
    let full = (0..30).find_map(|file| {
        let patient =
            open(&fs, &format!("/{file}")).waiting(Mode::deadline(Instant::now() + Duration::from_secs(1)));
        patient.write_at(&[7; 64 << 10], 0).err()
    });
    assert_eq!(full.unwrap().errno(), Errno::ETIMEDOUT);
    assert_eq!(medium.waiting(), 1);

    let refused = file.waiting(Mode::NoWait).append(b"x").unwrap_err();
    assert_eq!(refused.errno(), Errno::EAGAIN);
    let refused = file.write_with(b"x", 0, WriteFlags::NOWAIT).unwrap_err();
    assert_eq!(refused.errno(), Errno::EAGAIN);
    let soon = Instant::now() + Duration::from_millis(30);
    let late = file.waiting(Mode::deadline(soon)).append(b"x").unwrap_err();
    let is_late = matches!(late, Error::Cache(CacheError::Wait(WaitError::TimedOut)));
    assert!(is_late && Instant::now() >= soon, "{late}");
    std::thread::scope(|scope| {
        let (throttled, cancel) = (fs.cache_statistics().throttled, Cancel::new());
        let handle = file.waiting(Mode::cancelled(cancel.clone()));
        let writer = scope.spawn(move || handle.append(b"x"));
        until(|| fs.cache_statistics().throttled > throttled);
        cancel.cancel();
        let cancelled = writer.join().unwrap().unwrap_err();
        let is_cancelled = matches!(cancelled, Error::Cache(CacheError::Wait(WaitError::Cancelled)));
        assert!(is_cancelled, "{cancelled}");
    });
    // Who does not write there does not wait.
    assert_eq!(content(&file), b"before", "what gave up has written nothing");
    let direct = open(&fs, "/direct");
    direct.set_dax(Dax::On).unwrap();
    direct.append(b"goes on").unwrap();
    direct.sync().unwrap();

    std::thread::scope(|scope| {
        let throttled = fs.cache_statistics().throttled;
        let writer = scope.spawn(|| file.append(b" and after"));
        until(|| fs.cache_statistics().throttled > throttled);
        medium.stall(false);
        assert_eq!(writer.join().unwrap().unwrap(), 6);
    });
    fs.sync().unwrap();
    assert_eq!(content(&file), b"before and after");
    assert_eq!(content(&open(&fs, "/0")), [7; 64 << 10]);
    drop((file, direct));
    fs.close().unwrap();
    pool.check();
}

#[test]
fn who_reads_a_file_that_is_being_written_back_does_not_wait_for_the_device() {
    let options = MountOptions {
        no_flusher: true,
        ..MountOptions::default()
    };
    let (medium, pool, fs) = stalled_pool(options);
    let file = open(&fs, "/f");
    file.write_at(&[1; 3 * 4096], 0).unwrap();
    file.sync().unwrap();
    let direct = OpenFlags::READ.union(OpenFlags::DIRECT);
    let direct = fs.open_file("/f", direct, new_inode()).unwrap();
    // Over blocks that it has, and to new ones.
    for (step, at) in [(2, 4096), (3, 3 * 4096)] {
        file.write_at(&[step; 4096], at).unwrap();
        let expected = content(&file);
        medium.stall(true);
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| file.sync().unwrap());
            until(|| medium.waiting() > 0);
            assert!(content(&file) == expected);
            assert_eq!(file.stat().unwrap().size, u64::try_from(expected.len()).unwrap());
            // What looks beneath the cache, or changes something, waits.
            let beneath = scope.spawn(|| content(&direct));
            let writer = scope.spawn(|| file.write_at(&[9; 10], 0).unwrap());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!sync.is_finished() && !beneath.is_finished() && !writer.is_finished());
            medium.stall(false);
            let seen = beneath.join().unwrap();
            assert!(seen[4096..] == expected[4096..]);
        });
    }
    drop((file, direct));
    fs.close().unwrap();
    pool.check();
}

#[test]
fn nobody_waits_with_nowait_for_a_write_back_that_is_under_way() {
    let options = MountOptions {
        no_flusher: true,
        ..MountOptions::default()
    };
    let (medium, pool, fs) = stalled_pool(options);
    let file = open(&fs, "/f");
    file.write_at(&[1; 256 << 10], 0).unwrap();
    let flags = OpenFlags::READ.union(OpenFlags::WRITE).union(OpenFlags::DIRECT);
    let direct = fs.open_file("/f", flags, new_inode()).unwrap();
    let read = |file: &File| file.read_with(&mut [0; 4096], 0, ReadFlags::NOWAIT);
    let write = |file: &File| {
        let result = file.write_with(&[2; 4096], 0, WriteFlags::NOWAIT);
        result.map(|(_, count)| count)
    };
    let is_busy = |result: udax::Result<usize>| result.is_err_and(|error| error.errno() == Errno::EAGAIN);
    medium.stall(true);
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync().unwrap());
        until(|| medium.waiting() > 0);
        let (cached, beneath) = (read(&file), read(&direct));
        let written = [write(&file), write(&direct)];
        medium.stall(false);
        assert_eq!(cached.unwrap(), 4096, "the bytes are in memory");
        assert!(is_busy(beneath), "it looks beneath the cache");
        assert!(written.into_iter().all(is_busy));
        sync.join().unwrap();
    });
    read(&file).unwrap();
    file.write_with(&[2; 4096], 0, WriteFlags::NOWAIT.union(WriteFlags::DONTCACHE))
        .unwrap();
    assert_eq!(fs.cache_statistics().dirty, 1, "left to who may wait");
    assert!(is_busy(read(&direct)) && is_busy(write(&direct)));
    file.sync().unwrap();
    read(&direct).unwrap();
    write(&direct).unwrap();
    drop((file, direct));
    fs.close().unwrap();
    pool.check();
}
