//! A thread that panics inside an operation, at each access to the medium: no lock stays taken, nobody waits for ever,
//! and what the next mount finds is as before the operation or as after it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use udax::{Access, Error, Filesystem, MountOptions, Request};
use udax_pmem::{Event, Recorder};

use crate::kinds::{Kind, Refused, kinds};
use crate::pins::{BLOCK, filled, pin};
use crate::pool::{CREATE, MIB, TestPool, check, new_inode, open};
use crate::refusals::see;

/// Panics at the store, flush or fence with this number from now on; 0 for none.
#[derive(Debug, Default)]
struct Bomb(AtomicU64);

impl Recorder for Bomb {
    fn record(&self, _: Event<'_>) {
        let before = self.0.load(Ordering::Relaxed);
        if before > 0 {
            self.0.store(before - 1, Ordering::Relaxed);
            assert!(before != 1, "the bomb went off");
        }
    }
}

fn open_with(pool: &TestPool, bomb: &Arc<Bomb>) -> Filesystem {
    let recorder: Arc<dyn Recorder> = Arc::<Bomb>::clone(bomb);
    let options = MountOptions {
        recorder: Some(recorder),
        ..MountOptions::default()
    };
    Filesystem::open(&pool.path, &options).unwrap()
}

/// What is seen of each path but what only the others of [`others_go_on`] change: bytes, names, attributes' names.
pub(crate) type Shape = BTreeMap<String, (Vec<u8>, u32, Vec<Vec<u8>>)>;

pub(crate) fn shape(fs: &Filesystem) -> Shape {
    let seen = see(fs, Refused::SameBytes).into_iter();
    let mine = seen.filter(|(path, _)| !path.starts_with("/others") && !path.is_empty());
    mine.map(|(path, (stat, names, bytes))| (path, (bytes, stat.nlink, names)))
        .collect()
}

pub(crate) fn prepared(kind: &Kind) -> TestPool {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("/others", new_inode()).unwrap();
    (kind.prepare)(&fs);
    (kind.begin)(&fs, 0);
    fs.close().unwrap();
    pool
}

/// Another thread does something and returns: a lock that stayed taken would keep it waiting for ever.
fn others_go_on(fs: &Filesystem, what: &str) {
    let results = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let written = fs
                .open_file("/others/f", CREATE, new_inode())
                .and_then(|file| file.append(&[1; 100]).map(drop));
            [written, fs.sync()]
        });
        let begin = Instant::now();
        while !other.is_finished() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{what}: others wait");
            std::thread::yield_now();
        }
        other.join().unwrap()
    });
    for result in results {
        // The journal may have stopped, which makes the pool one to read only.
        let is_told = matches!(result, Ok(()) | Err(Error::Journal(_) | Error::ReadOnly));
        assert!(is_told, "{what}: {result:?}");
    }
}

/// Does the operation with a panic at event `at`; whether there were so many.
fn panic_at(kind: &Kind, at: u64, done: &Shape) -> bool {
    let what = format!("{} with a panic at event {at}", kind.name);
    let pool = prepared(kind);
    let bomb = Arc::new(Bomb::default());
    let fs = open_with(&pool, &bomb);
    let before = shape(&fs);
    bomb.0.store(at, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| (kind.work)(&fs, 0)));
    if bomb.0.swap(0, Ordering::Relaxed) > 0 {
        result.unwrap().unwrap();
        return false;
    }
    others_go_on(&fs, &what);
    drop(fs);
    let fs = pool.open();
    let found = shape(&fs);
    let is_whole = found == before || found == *done;
    assert!(
        is_whole || kind.refused != Refused::Unchanged,
        "{what}: it is half done"
    );
    fs.close().unwrap();
    check(&pool.path);
    true
}

#[test]
fn a_panic_at_any_access_leaves_no_lock_taken_and_a_sound_pool() {
    // The message of each panic that is caught would fill the log.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_bomb = panic
            .payload()
            .downcast_ref::<&str>()
            .is_some_and(|text| *text == "the bomb went off");
        if !is_bomb {
            loud(panic);
        }
    }));
    for kind in kinds().filter(|kind| !kind.name.starts_with("long ") || kind.name == "long symlink") {
        let done = {
            let pool = prepared(kind);
            let fs = pool.open();
            (kind.work)(&fs, 0).unwrap();
            shape(&fs)
        };
        let mut at = 1;
        while panic_at(kind, at, &done) {
            // All of the first accesses, and some of the many of long operations.
            at += 1 + at / 4;
        }
        assert!(at > 1, "{} has no access to the medium", kind.name);
    }
}

#[test]
fn a_thread_that_dies_with_pins_and_leases_keeps_nobody_back() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let file = filled(&fs, "/f", 16);
    let died = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let held = pin(&file, 2, 4, Access::Write);
            let _lease = file
                .lease(8 * BLOCK, BLOCK, udax::Label::default(), udax::Term::Short)
                .unwrap();
            held.write(0, &[9; 4096]).unwrap();
            std::panic::resume_unwind(Box::new("it dies with what it holds"));
        });
        thread.join()
    });
    assert!(died.is_err());
    assert!(fs.pins().is_empty());
    let mut bytes = [0; 4096];
    file.read_at(&mut bytes, 2 * BLOCK).unwrap();
    assert_eq!(bytes, [9; 4096]);
    let now = file.waiting(udax::Mode::NoWait);
    now.write_at(&[3; 4096], 8 * BLOCK).unwrap();
    now.truncate(BLOCK).unwrap();
    drop(file.try_pin(0, BLOCK, Request::new(Access::Write)).unwrap());
    drop((now, file));
    drop(open(&fs, "/g"));
    fs.close().unwrap();
    check(&pool.path);
}
