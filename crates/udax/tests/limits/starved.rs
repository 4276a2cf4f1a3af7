//! Processes that die where an allocation of memory fails, at each one: the pool they leave is sound, keeps what was
//! promised, and has the operation that was under way as a whole or not at all.
//!
//! But for the page cache's pages nothing in the library asks for memory in a way that could be refused
//! (`try_reserve`), so that std ends the process.
//! The test starts itself again for each allocation, with an [`Order`] in the environment.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use udax::{DaxMode, Filesystem, MountOptions};
use udax_sync::allocation::plan;

use crate::grounds::Ground;
use crate::kinds::{Kind, Refused, kinds};
use crate::panics::{Shape, prepared, shape};
use crate::placed::kinds_on;
use crate::pool::{MIB, TestPool, check};

const ORDER: &str = "UDAX_STARVED";
const SIGABRT: i32 = 6;
/// Some hundred processes for all kinds of operations: some seconds on an idle machine.
const SPARING: u64 = 3;
/// The same on each further ground.
const MORE_SPARING: u64 = 1;
const GROUNDS: [Ground; 3] = [Ground::Plain, Ground::Summed, Ground::Cached];

fn options(ground: Ground) -> MountOptions {
    MountOptions {
        dax: match ground.is_cached() {
            true => DaxMode::Never,
            false => DaxMode::Always,
        },
        no_flusher: true,
        ..MountOptions::default()
    }
}

fn prepared_on(ground: Ground, kind: &Kind) -> TestPool {
    let pool = match ground.is_summed() {
        true => TestPool::with_checksums(16 * MIB),
        false => TestPool::new(16 * MIB),
    };
    let fs = Filesystem::open(&pool.path, &options(ground)).unwrap();
    (kind.prepare)(&fs);
    (kind.begin)(&fs, 0);
    fs.close().unwrap();
    pool
}

/// What a process does with a pool, and which of its allocations meanwhile fails.
struct Order<'o> {
    ground: Ground,
    /// An operation of this kind; `None` for opening and closing alone.
    kind: Option<&'o Kind>,
    failing: u64,
    pool: PathBuf,
}

impl Order<'_> {
    fn to_text(&self) -> String {
        let kind = self.kind.map_or("", |kind| kind.name);
        let ground = self.ground;
        format!("{ground:?}\n{kind}\n{}\n{}", self.failing, self.pool.display())
    }

    fn from_text(text: &str) -> Self {
        let mut parts = text.splitn(4, '\n');
        let mut next = || parts.next().unwrap();
        let ground = next();
        let ground = GROUNDS
            .into_iter()
            .find(|one| format!("{one:?}") == ground)
            .unwrap();
        let name = next();
        Self {
            ground,
            kind: kinds_on(ground).find(|kind| kind.name == name),
            failing: next().parse().unwrap(),
            pool: next().into(),
        }
    }

    /// Follows it in this process.
    fn obey(&self) {
        let open = || Filesystem::open(&self.pool, &options(self.ground)).unwrap();
        let Some(kind) = self.kind else {
            plan(Some(self.failing));
            let fs = open();
            fs.close().unwrap();
            plan(None);
            return;
        };
        let fs = open();
        plan(Some(self.failing));
        (kind.work)(&fs, 0).unwrap();
        plan(None);
    }

    /// Has a process follow it; whether that has died of it.
    fn kills(&self, test: &str) -> bool {
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--test-threads", "1"])
            .env(ORDER, self.to_text())
            // A backtrace takes memory: without any, std waits for its own lock for ever.
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr)
        );
        let what = self.to_text();
        match ended.status.signal() {
            Some(SIGABRT) => assert!(said.contains("memory allocation of"), "{what}: {said}"),
            _ => assert!(ended.status.success(), "{what}: {} {said}", ended.status),
        }
        !ended.status.success()
    }
}

/// Recovers; what was found. The check must find nothing, before and after, and no block lost.
fn recovered(path: &Path, what: &str) -> Shape {
    check(path);
    let fs = Filesystem::open(path, &MountOptions::default()).unwrap();
    let found = shape(&fs);
    let told = fs.stat_filesystem();
    fs.close().unwrap();
    let report = check(path);
    let free = report.total_blocks - report.used_blocks;
    assert_eq!((free, report.inodes), (told.free_blocks, told.inodes), "{what}");
    assert_eq!(report.orphans, 0, "{what}");
    found
}

/// Lets one allocation after the other fail on copies of `pool`, until none is left; how many did. The first ones all,
/// then one in a number that grows: `sparing` times slower than the number of the allocation.
fn starve(
    pool: &TestPool,
    (ground, kind): (Ground, Option<&'static Kind>),
    test: &str,
    sparing: u64,
    judge: impl Fn(Shape, &str),
) -> u64 {
    let mut killed = 0;
    let mut failing = 1;
    loop {
        let copy = TestPool::copy_of(pool);
        let order = Order {
            ground,
            kind,
            failing,
            pool: copy.path.clone(),
        };
        if !order.kills(test) {
            return killed;
        }
        let what = order.to_text();
        judge(recovered(&copy.path, &what), &what);
        killed += 1;
        failing += 1 + failing / sparing;
    }
}

/// The order that this process was started for, if it was.
fn given() -> Option<String> {
    std::env::var(ORDER).ok()
}

#[test]
fn what_dies_in_an_operation_for_want_of_memory_leaves_it_whole_or_not_done() {
    if let Some(order) = given() {
        return Order::from_text(&order).obey();
    }
    let test = "starved::what_dies_in_an_operation_for_want_of_memory_leaves_it_whole_or_not_done";
    let mut deaths = 0;
    for kind in kinds() {
        let pool = prepared(kind);
        let before = recovered(&pool.path, kind.name);
        let done = {
            let pool = TestPool::copy_of(&pool);
            let fs = pool.open();
            (kind.work)(&fs, 0).unwrap();
            shape(&fs)
        };
        let killed = starve(
            &pool,
            (Ground::Plain, Some(kind)),
            test,
            SPARING,
            |found, what| {
                let is_whole = found == before || found == done;
                assert!(
                    is_whole || kind.refused != Refused::Unchanged,
                    "{what}: it is half done"
                );
            },
        );
        assert!(killed > 0, "{} allocates nothing", kind.name);
        deaths += killed;
    }
    println!("{deaths} processes died");
}

/// Bytes that are in the page cache only die with the process, so that what is there of them is not asked: the pool is
/// sound, and no block is lost.
#[test]
fn so_it_does_with_checksums_and_in_the_page_cache() {
    if let Some(order) = given() {
        return Order::from_text(&order).obey();
    }
    let test = "starved::so_it_does_with_checksums_and_in_the_page_cache";
    let mut deaths = 0;
    for ground in [Ground::Summed, Ground::Cached] {
        for kind in kinds_on(ground) {
            let pool = prepared_on(ground, kind);
            let before = recovered(&pool.path, kind.name);
            let done = {
                let pool = TestPool::copy_of(&pool);
                let fs = Filesystem::open(&pool.path, &options(ground)).unwrap();
                (kind.work)(&fs, 0).unwrap();
                shape(&fs)
            };
            let is_durable = !ground.is_cached() && kind.refused == Refused::Unchanged;
            let killed = starve(&pool, (ground, Some(kind)), test, MORE_SPARING, |found, what| {
                assert!(
                    !is_durable || found == before || found == done,
                    "{what}: it is half done"
                );
            });
            assert!(killed > 0, "{ground:?}: {} allocates nothing", kind.name);
            deaths += killed;
        }
    }
    println!("{deaths} processes died");
}

#[test]
fn what_dies_while_it_opens_or_closes_a_pool_for_want_of_memory_loses_nothing() {
    if let Some(order) = given() {
        return Order::from_text(&order).obey();
    }
    let test = "starved::what_dies_while_it_opens_or_closes_a_pool_for_want_of_memory_loses_nothing";
    // With records to replay, and with an orphan to free.
    let pool = prepared(kinds().next().unwrap());
    let fs = pool.open();
    let names = ["create", "long symlink", "large attribute"];
    for (number, kind) in (1..).zip(kinds().filter(|kind| names.contains(&kind.name))) {
        (kind.prepare)(&fs);
        (kind.work)(&fs, number).unwrap();
    }
    let open = crate::pool::open(&fs, "/unlinked");
    open.append(&[1; 50_000]).unwrap();
    fs.unlink("/unlinked").unwrap();
    let expected = shape(&fs);
    let unclean = TestPool::copy_of(&pool);
    let killed = starve(&unclean, (Ground::Plain, None), test, u64::MAX, |found, what| {
        assert!(found == expected, "{what}: something is lost");
    });
    println!("{killed} processes died");
    assert!(killed > 20, "opening allocates {killed} times");
}
