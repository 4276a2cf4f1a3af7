//! Each place where each kind of operation may find the pool full: it fails whole, keeps nothing, and goes on to work.
//!
//! At first a pool gets full by nature, with any number of blocks left. In a build with `--cfg udax_faults` the
//! allocator also refuses each request in turn, once or for good (`udax_sync::refusal`).

use std::collections::BTreeMap;

use udax::{AllocateMode, Error, FileKind, Filesystem, OpenFlags, Stat};

use crate::kinds::{Kind, Refused, kinds};
use crate::pool::{MIB, TestPool, content, entries, new_inode, open, remove_all};

const POOL_BYTES: u64 = 16 * MIB;
/// Blocks that only what frees space may take.
const RESERVE: u64 = POOL_BYTES / 4096 / 64;
/// Blocks that stay in use when all is removed.
const KEPT_BLOCKS: u64 = 4;
/// More than an operation ever asks for.
const MAX_REFUSALS: u64 = 2000;

/// What is seen of an inode: attributes, names of extended ones, bytes or target.
pub(crate) type Seen = BTreeMap<String, (Stat, Vec<Vec<u8>>, Vec<u8>)>;

pub(crate) fn see(fs: &Filesystem, refused: Refused) -> Seen {
    let mut seen = Seen::new();
    see_below(fs, "", &mut seen);
    if refused != Refused::Unchanged {
        for (stat, _, _) in seen.values_mut() {
            // Holes that were filled, blocks that were copied, and that this was done.
            (stat.blocks, stat.change) = (0, 0);
            (stat.mtime, stat.ctime) = (stat.btime, stat.btime);
        }
    }
    seen
}

fn see_below(fs: &Filesystem, path: &str, seen: &mut Seen) {
    let listed = if path.is_empty() { "/" } else { path };
    let mut stat = fs.stat_link(listed).unwrap();
    stat.atime = stat.btime;
    let bytes = match stat.kind {
        FileKind::Regular if stat.size < MIB * 8 => {
            content(&fs.open_file(listed, OpenFlags::READ, new_inode()).unwrap())
        }
        FileKind::Symlink => fs.read_link(listed).unwrap(),
        _ => Vec::new(),
    };
    seen.insert(path.to_owned(), (stat, fs.list_xattrs(listed).unwrap(), bytes));
    if stat.kind == FileKind::Directory {
        let others = |entry: &udax::DirEntry| entry.name != b"ballast";
        for entry in entries(fs, listed).unwrap().into_iter().filter(others) {
            let name = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
            see_below(fs, &name, seen);
        }
    }
}

/// The check finds nothing, and blocks that are free are there to be taken: none is held by an operation that failed.
#[track_caller]
fn assert_sound(pool: &TestPool, fs: &Filesystem, what: &str) {
    // What cannot be met makes the pool give back what it keeps for appends and in quarantine.
    let file = open(fs, "/too much");
    let refused = file.allocate(AllocateMode::KeepSize, 0, POOL_BYTES);
    assert!(
        matches!(refused, Err(Error::NoSpace { .. })),
        "{what}: {refused:?}"
    );
    drop(file);
    fs.unlink("/too much").unwrap();
    fs.sync().unwrap();
    let told = fs.stat_filesystem();
    let report = pool.check();
    assert_eq!(
        report.total_blocks - report.used_blocks,
        told.free_blocks,
        "{what}"
    );
    assert_eq!(report.inodes, told.inodes, "{what}");
    assert_eq!(report.orphans, 0, "{what}");
    let available = told.free_blocks.saturating_sub(RESERVE);
    assert_eq!(told.available_blocks, available, "{what}: some are held");
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::NoSpace { .. })
}

/// What came of one attempt, and whether nothing is left to be refused.
struct Attempt {
    result: udax::Result<()>,
    is_last: bool,
}

/// Does the operation with refusal 1, 2, ... until nothing was left to be refused. What failed must not have happened.
fn sweep(
    (pool, fs): (&TestPool, &Filesystem),
    kind: &Kind,
    number: &mut u64,
    mut attempt: impl FnMut(u64, u64) -> Attempt,
) {
    let mut is_begun = false;
    for turn in 1..MAX_REFUSALS {
        if !is_begun {
            (kind.begin)(fs, *number);
        }
        let what = format!("{}, time {number}, refusal {turn}", kind.name);
        let before = see(fs, kind.refused);
        let Attempt { result, is_last } = attempt(turn, *number);
        is_begun = result.is_err();
        match result {
            Ok(()) => *number += 1,
            Err(error) => {
                assert!(is_full(&error) && !is_last, "{what}: {error}");
                let after = see(fs, kind.refused);
                let is_unchanged = before == after || kind.refused == Refused::Partial;
                assert!(is_unchanged, "{what}: {}", difference(&before, &after));
                assert_sound(pool, fs, &what);
            }
        }
        if is_last {
            return;
        }
    }
    panic!("{} is refused for ever", kind.name);
}

fn difference(before: &Seen, after: &Seen) -> String {
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.retain(|path| before.get(*path) != after.get(*path));
    let of = |seen: &Seen, path| {
        seen.get(path)
            .map(|(stat, names, _)| format!("{stat:?} {names:?}"))
    };
    let pairs = paths
        .iter()
        .map(|path| format!("{path}: {:?} {:?}", of(before, *path), of(after, *path)));
    pairs.collect::<Vec<_>>().join("\n")
}

fn assert_emptied(pool: &TestPool, fs: &Filesystem, free: u64, what: &str) {
    remove_all(fs, "");
    assert_sound(pool, fs, what);
    let kept = free - fs.stat_filesystem().free_blocks;
    assert!(kept <= KEPT_BLOCKS, "{what}: {kept} blocks are gone");
}

#[test]
fn each_kind_of_operation_works_when_blocks_suffice() {
    for kind in kinds() {
        let pool = TestPool::new(POOL_BYTES);
        let fs = pool.open();
        let free = fs.stat_filesystem().free_blocks;
        (kind.prepare)(&fs);
        for number in 0..40 {
            (kind.begin)(&fs, number);
            let result = (kind.work)(&fs, number);
            result.unwrap_or_else(|error| panic!("{}, time {number}: {error}", kind.name));
        }
        assert_emptied(&pool, &fs, free, kind.name);
    }
}

/// Leaves `available` blocks for ordinary requests.
fn leave(fs: &Filesystem, available: u64) {
    let ballast = open(fs, "/ballast");
    ballast.truncate(0).unwrap();
    fs.sync().unwrap();
    let blocks = fs.stat_filesystem().available_blocks.saturating_sub(available);
    if blocks > 0 {
        ballast
            .allocate(AllocateMode::KeepSize, 0, blocks * 4096)
            .unwrap();
    }
}

#[test]
fn with_any_number_of_blocks_left_each_kind_fails_whole_or_works() {
    for kind in kinds() {
        let pool = TestPool::new(POOL_BYTES);
        let fs = pool.open();
        let free = fs.stat_filesystem().free_blocks;
        (kind.prepare)(&fs);
        leave(&fs, u64::MAX);
        let mut number = 0;
        while number < 4 {
            sweep((&pool, &fs), kind, &mut number, |turn, number| {
                leave(&fs, turn - 1);
                let result = (kind.work)(&fs, number);
                leave(&fs, u64::MAX);
                let is_last = result.is_ok();
                Attempt { result, is_last }
            });
        }
        assert_emptied(&pool, &fs, free, kind.name);
    }
}

#[cfg(udax_faults)]
mod injected {
    use udax_sync::refusal::{self, Refusal};

    use super::*;

    fn each_request_is_refused(refusal: fn(u64) -> Refusal, times: u64) -> u64 {
        let mut requests = 0;
        for kind in kinds() {
            let pool = TestPool::new(POOL_BYTES);
            let fs = pool.open();
            let free = fs.stat_filesystem().free_blocks;
            (kind.prepare)(&fs);
            let mut number = 0;
            while number < times {
                sweep((&pool, &fs), kind, &mut number, |turn, number| {
                    refusal::plan(refusal(turn)).unwrap();
                    let result = (kind.work)(&fs, number);
                    let asked = refusal::plan(Refusal::None).unwrap();
                    requests += u64::from(asked >= turn);
                    Attempt {
                        result,
                        is_last: asked < turn,
                    }
                });
            }
            assert_emptied(&pool, &fs, free, kind.name);
        }
        requests
    }

    #[test]
    fn from_each_request_on_each_kind_fails_whole() {
        let requests = each_request_is_refused(Refusal::From, 12);
        assert!(requests > 300, "only {requests} were refused");
    }

    #[test]
    fn each_request_alone_is_refused_and_tried_again_or_fails_whole() {
        let requests = each_request_is_refused(Refusal::Only, 40);
        assert!(requests > 500, "only {requests} were refused");
    }
}
