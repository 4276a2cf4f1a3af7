//! Threads that do everything to the same few files at once: nobody waits for ever, and the pool stays whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{Access, AllocateMode, Error, File, Filesystem, Label, Mode, OpenFlags, Request, Term};

use crate::pins::BLOCK;
use crate::pool::{CREATE, MIB, TestPool, new_inode};

const BLOCKS: u64 = 40;
/// Enough for some ten thousand operations.
const SECONDS: u64 = 3;
/// On a machine, or under a sanitizer, where these many take longer.
const MAX_SECONDS: u64 = 60;
const MIN_DONE: u64 = 100;
const NAMES: [&str; 3] = ["/a", "/b", "/c"];

fn open_some(fs: &Filesystem, random: &mut SmallRng) -> udax::Result<File> {
    let name = NAMES[random.random_range(0..NAMES.len())];
    let file = fs.open_file(name, CREATE, new_inode())?;
    Ok(match random.random_range(0..3) {
        0 => file.waiting(Mode::NoWait),
        _ => file.waiting(Mode::deadline(Instant::now() + Duration::from_millis(30))),
    })
}

/// Does something to two files, which may be one, and may be unlinked by others meanwhile.
fn act(fs: &Filesystem, random: &mut SmallRng) -> udax::Result<()> {
    let one = open_some(fs, random)?;
    let other = open_some(fs, random)?;
    let (at, to) = (random.random_range(0..BLOCKS), random.random_range(0..BLOCKS));
    let count = random.random_range(1..10);
    let (start, len) = (at * BLOCK + random.random_range(0..2) * 77, count * BLOCK);
    let modes = [
        AllocateMode::Allocate,
        AllocateMode::KeepSize,
        AllocateMode::PunchHole,
        AllocateMode::ZeroRange,
        AllocateMode::ZeroRangeKeepSize,
        AllocateMode::Unshare,
    ];
    match random.random_range(0..17) {
        0 => one.truncate(start),
        1..4 => one
            .write_at(&vec![1; usize::try_from(len).unwrap()], start)
            .map(drop),
        4..6 => one.allocate(modes[random.random_range(0..modes.len())], start, len),
        6 => one.allocate(AllocateMode::Collapse, at * BLOCK, len),
        7 => one.allocate(AllocateMode::Insert, at * BLOCK, len),
        8 => one.clone_range(at * BLOCK, &other, to * BLOCK, len),
        9 => one.clone_range(0, &other, 0, 0),
        10 => one.exchange_range(at * BLOCK, &other, to * BLOCK, len),
        11 => one.dedupe_range(at * BLOCK, &other, to * BLOCK, len).map(drop),
        12 => one.copy_range(start, &other, to * BLOCK, len).map(drop),
        13 => one.sync(),
        14 => {
            let held = one.lease(start, len, Label::default(), Term::Short)?;
            drop(one);
            let before = held.slices()?.concat();
            std::thread::yield_now();
            assert!(before == held.slices()?.concat());
            // The holder changes what is beside it.
            other.write_at(&[3; 4096], to * BLOCK).map(drop)
        }
        15 => {
            fs.unlink(NAMES[random.random_range(0..NAMES.len())])?;
            fs.open_file(NAMES[0], CREATE.union(OpenFlags::TRUNCATE), new_inode())
                .map(drop)
        }
        _ => {
            let access = [Access::Read, Access::Write][random.random_range(0..2)];
            let held = one.pin(start, len, Request::new(access))?;
            drop(one);
            let _ = other.truncate(to * BLOCK);
            if access == Access::Write {
                held.write(0, &[7; 4096])?;
            }
            Ok(())
        }
    }
}

#[test]
fn nobody_waits_for_ever_and_nothing_is_lost_in_a_turmoil() {
    let pool = TestPool::new(32 * MIB);
    let fs = pool.open();
    let (done, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    let is_over = |done: &AtomicU64| {
        let elapsed = begin.elapsed().as_secs();
        elapsed >= MAX_SECONDS || elapsed >= SECONDS && done.load(Ordering::Relaxed) > MIN_DONE
    };
    std::thread::scope(|scope| {
        let spawn = |seed| {
            let (fs, done, refused) = (&fs, &done, &refused);
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed);
                while !is_over(done) {
                    match act(fs, &mut random) {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Dax(_) | Error::Invalid(_) | Error::NotFound | Error::NoSpace { .. }) => {
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(error) => panic!("seed {seed}: {error}"),
                    };
                }
            })
        };
        // A scope ends by a counter inside std, which the thread sanitizer does not see; it sees a join.
        for thread in [0, 1, 2, 3].map(spawn) {
            thread.join().unwrap();
        }
    });
    assert!(fs.pins().is_empty());
    assert_eq!(fs.dax_counters().entries_at_truncate, 0);
    let (done, refused) = (done.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert!(done > MIN_DONE, "{done} done, {refused} refused");
    pool.check();
    for name in NAMES {
        let _ = fs.unlink(name);
    }
    assert_eq!(fs.stat_filesystem().inodes, 1);
    fs.close().unwrap();
    pool.check();
}
