//! Each place where each kind of operation may find the pool full: it fails whole, keeps nothing, and goes on to work.
//! On all [`Ground`]s: also where files are cached, have checksums, or are on a data device.
//!
//! At first a pool gets full by nature, with any number of blocks left. What was written to the cache then is written
//! back when others have taken all blocks. In a build with `--cfg udax_faults` the allocator, and the cache when it
//! reserves blocks, also refuse each request in turn, once or for good (`udax_sync::refusal`).

use std::collections::BTreeMap;

use nix::errno::Errno;
use udax::{Dax, FileKind, Filesystem, OpenFlags, Stat};

use crate::grounds::{Ground, Grounds, Scarce};
use crate::kinds::{Chance, Kind, Refused};
use crate::placed::kinds_on;
use crate::pool::{MIB, content, entries, new_inode, remove_all};

const POOL_BYTES: u64 = 16 * MIB;
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
            if refused == Refused::Moved {
                stat.dax = Dax::Off;
            }
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
        let others = |entry: &udax::DirEntry| !entry.name.starts_with(b"ballast");
        for entry in entries(fs, listed).unwrap().into_iter().filter(others) {
            let name = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
            see_below(fs, &name, seen);
        }
    }
}

/// What came of one attempt, and whether nothing is left to be refused.
struct Attempt {
    result: udax::Result<()>,
    is_last: bool,
}

/// As [`see`]. Of what is dirty in the cache both the blocks that it has and those that it will have instead count.
fn seen_on(grounds: &Grounds, fs: &Filesystem, kind: &Kind) -> Seen {
    let mut seen = see(fs, kind.refused);
    for (stat, _, _) in seen.values_mut().filter(|_| grounds.ground.is_cached()) {
        stat.blocks = 0;
    }
    seen
}

/// What kinds write that cut or punch it again.
const WRITTEN: u8 = 3;

/// That `found` is `before` with any bytes as in `after`, or `WRITTEN` where that is so meanwhile: what was done in
/// part. Where a file is short it has zeros.
#[track_caller]
fn assert_between(kind: &Kind, (before, found, after): (&Seen, &Seen, &Seen), what: &str) {
    let is_rewritten = kind.name.starts_with("writes and a ");
    let empty = Vec::new();
    for (path, (stat, _, bytes)) in found {
        let [was, will] = [before, after].map(|seen| seen.get(path).map_or(&empty, |(_, _, bytes)| bytes));
        let is_there = before.contains_key(path) || after.contains_key(path);
        assert!(is_there, "{what}: {path} is there in part");
        let lens = was.len().min(will.len())..=was.len().max(will.len());
        assert!(
            stat.kind != FileKind::Regular || lens.contains(&bytes.len()),
            "{what}: {path} has {} bytes, not {lens:?}",
            bytes.len()
        );
        let at = |bytes: &[u8], index: usize| bytes.get(index).copied().unwrap_or(0);
        let wrong = (0..bytes.len()).find(|index| {
            let byte = bytes[*index];
            let is_meanwhile = is_rewritten && byte == WRITTEN;
            !is_meanwhile && byte != at(was, *index) && byte != at(will, *index)
        });
        assert_eq!(wrong, None, "{what}: {path}: a byte of neither");
    }
    for path in before.keys().filter(|path| after.contains_key(*path)) {
        assert!(found.contains_key(path), "{what}: {path} is gone");
    }
}

/// Does the operation with refusal 1, 2, ... until nothing was left to be refused. What failed, with `errno`, must not
/// have happened; or in part, where that may be.
fn sweep(
    (grounds, fs): (&Grounds, &Filesystem),
    (kind, errno): (&Kind, Errno),
    number: &mut u64,
    mut attempt: impl FnMut(u64, u64) -> Attempt,
) {
    let mut is_begun = false;
    // What was there before the first attempt, and what failed ones have left since.
    let mut parts: Vec<Seen> = Vec::new();
    for turn in 1..MAX_REFUSALS {
        if !is_begun {
            (kind.begin)(fs, *number);
        }
        let ground = grounds.ground;
        let what = format!("{ground:?}: {}, time {number}, refusal {turn}", kind.name);
        let before = seen_on(grounds, fs, kind);
        let Attempt { result, is_last } = attempt(turn, *number);
        is_begun = result.is_err();
        let after = seen_on(grounds, fs, kind);
        match result {
            Ok(()) => {
                *number += 1;
                if let Some((first, failed)) = parts.split_first() {
                    for found in failed {
                        assert_between(kind, (first, found, &after), &what);
                    }
                }
                parts.clear();
            }
            Err(error) => {
                assert!(error.errno() == errno && !is_last, "{what}: {error}");
                if kind.refused == Refused::Partial {
                    if parts.is_empty() {
                        parts.push(before);
                    }
                    parts.push(after);
                } else {
                    assert!(before == after, "{what}: {}", difference(&before, &after));
                }
                grounds.assert_sound(fs, &what);
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

/// The pool, what is free of it and of its device, and an open filesystem, prepared for `kind`.
struct Prepared {
    grounds: Grounds,
    fs: Filesystem,
    free: (u64, u64),
    name: &'static str,
}

fn free_of(fs: &Filesystem) -> (u64, u64) {
    let told = fs.stat_filesystem();
    (told.free_blocks, told.device_free_blocks)
}

impl Prepared {
    fn new(ground: Ground, kind: &Kind) -> Self {
        let grounds = Grounds::new(ground, POOL_BYTES);
        let fs = grounds.open();
        let free = free_of(&fs);
        (kind.prepare)(&fs);
        Self {
            grounds,
            fs,
            free,
            name: kind.name,
        }
    }

    /// What is there is so after a mount, too; and when all is removed, no block is lost.
    fn end(self) {
        let ground = self.grounds.ground;
        let what = format!("{ground:?}: {}, at the end", self.name);
        self.grounds.assert_sound(&self.fs, &what);
        let before = see(&self.fs, Refused::SameBytes);
        self.fs.close().unwrap();
        let fs = self.grounds.open();
        let after = see(&fs, Refused::SameBytes);
        assert!(before == after, "{what}: {}", difference(&before, &after));
        remove_all(&fs, "");
        self.grounds.assert_sound(&fs, &what);
        let now = free_of(&fs);
        let kept = self.free.0 - now.0;
        assert!(kept <= KEPT_BLOCKS, "{what}: {kept} blocks are gone");
        assert_eq!(now.1, self.free.1, "{what}: blocks of the device are gone");
    }
}

fn each_kind_works_when_blocks_suffice(ground: Ground) {
    for kind in kinds_on(ground) {
        let prepared = Prepared::new(ground, kind);
        for number in 0..40 {
            (kind.begin)(&prepared.fs, number);
            let result = (kind.work)(&prepared.fs, number);
            result.unwrap_or_else(|error| panic!("{ground:?}: {}, time {number}: {error}", kind.name));
        }
        prepared.end();
    }
}

/// Blocks of the whole pool.
const PLENTY: u64 = u64::MAX;

/// Does `kind` with 0, 1, 2, ... blocks left of what is scarce until it works, some times. What works is written back
/// when there is none left at all.
fn each_level_is_met(ground: Ground, scarce: Scarce, kind: &Kind) {
    let prepared = Prepared::new(ground, kind);
    let Prepared { grounds, fs, .. } = &prepared;
    grounds.leave(fs, scarce, PLENTY);
    let mut number = 0;
    while number < 4 {
        sweep(
            (grounds, fs),
            (kind, Errno::ENOSPC),
            &mut number,
            |turn, number| {
                grounds.leave(fs, scarce, turn - 1);
                let result = (kind.work)(fs, number);
                let what = format!(
                    "{ground:?}, {scarce:?}: {}, time {number}, level {turn}",
                    kind.name
                );
                if let (Chance::Sure, Err(error)) = (kind.chance, &result) {
                    panic!("{what}: {error}");
                }
                if ground.is_cached() {
                    grounds.take_all(fs);
                    fs.sync()
                        .unwrap_or_else(|error| panic!("{what}: write-back: {error}"));
                }
                grounds.leave(fs, scarce, PLENTY);
                let is_last = result.is_ok();
                Attempt { result, is_last }
            },
        );
    }
    prepared.end();
}

fn each_kind_fails_whole_or_works_at_each_level(ground: Ground) {
    for scarce in ground.scarcities() {
        for kind in kinds_on(ground) {
            each_level_is_met(ground, *scarce, kind);
        }
    }
}

/// The tests of one ground.
macro_rules! on_ground {
    ($($module:ident: $ground:expr;)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn each_kind_of_operation_works_when_blocks_suffice() {
                each_kind_works_when_blocks_suffice($ground);
            }

            #[test]
            fn with_any_number_of_blocks_left_each_kind_fails_whole_or_works() {
                each_kind_fails_whole_or_works_at_each_level($ground);
            }
        }
    )*};
}

on_ground! {
    plain: Ground::Plain;
    summed: Ground::Summed;
    cached: Ground::Cached;
    cached_and_summed: Ground::CachedSummed;
    tiered: Ground::Tiered;
}

#[cfg(udax_faults)]
mod injected {
    use std::ops::Range;

    use udax_sync::refusal::{self, Refusal, Resource};

    use super::*;
    use crate::pool::open;

    fn each_request_is_refused(
        ground: Ground,
        resource: Resource,
        refusal: fn(u64) -> Refusal,
        times: u64,
    ) -> u64 {
        let errno = match resource {
            Resource::Blocks => Errno::ENOSPC,
            Resource::Memory => Errno::ENOMEM,
        };
        let mut requests = 0;
        for kind in kinds_on(ground) {
            let prepared = Prepared::new(ground, kind);
            let Prepared { grounds, fs, .. } = &prepared;
            let mut number = 0;
            while number < times {
                sweep((grounds, fs), (kind, errno), &mut number, |turn, number| {
                    refusal::plan(resource, refusal(turn)).unwrap();
                    let result = (kind.work)(fs, number);
                    let asked = refusal::plan(resource, Refusal::None).unwrap();
                    requests += u64::from(asked >= turn);
                    Attempt {
                        result,
                        is_last: asked < turn,
                    }
                });
            }
            prepared.end();
        }
        println!("{ground:?}: {requests} requests for {resource:?} were refused");
        requests
    }

    macro_rules! on_ground {
        ($($module:ident: $ground:expr;)*) => {$(
            mod $module {
                use super::*;

                #[test]
                fn from_each_request_on_each_kind_fails_whole() {
                    let requests = each_request_is_refused($ground, Resource::Blocks, Refusal::From, 12);
                    assert!(requests > 300, "only {requests} were refused");
                }

                #[test]
                fn each_request_alone_is_refused_and_tried_again_or_fails_whole() {
                    let requests = each_request_is_refused($ground, Resource::Blocks, Refusal::Only, 40);
                    assert!(requests > 500, "only {requests} were refused");
                }
            }
        )*};
    }

    on_ground! {
        plain: Ground::Plain;
        summed: Ground::Summed;
        cached: Ground::Cached;
        cached_and_summed: Ground::CachedSummed;
        tiered: Ground::Tiered;
    }

    /// Where the page cache gets no memory an operation fails whole, or does without.
    macro_rules! in_the_cache {
        ($($test:ident: $ground:expr;)*) => {$(
            #[test]
            fn $test() {
                for refusal in [Refusal::From, Refusal::Only] {
                    let requests = each_request_is_refused($ground, Resource::Memory, refusal, 12);
                    assert!(requests > 150, "only {requests} were refused");
                }
                nothing_wrong_is_read($ground);
            }
        )*};
    }

    /// Gives which bytes it has read.
    type Access = fn(&udax::File, &mut [u8]) -> udax::Result<Range<usize>>;

    const READ: Range<usize> = 70_000..90_000;
    const SIZE: usize = 200_000;

    /// What is done, and which bytes it changes, or cuts off at the end.
    const ACCESSES: [(&str, Access, Range<usize>); 4] = [
        ("read", |file, to| Ok(0..file.read_at(to, 0)?), 0..0),
        (
            "read in the middle",
            |file, to| Ok(READ.start..READ.start + file.read_at(&mut to[READ], 70_000)?),
            0..0,
        ),
        (
            "cut",
            |file, _| file.truncate(100_001).map(|()| 0..0),
            100_001..SIZE,
        ),
        (
            "write",
            |file, _| file.write_at(&[1; 10], 50_001).map(|_| 0..0),
            50_001..50_011,
        ),
    ];

    /// What nobody has read since the mount is read, cut and overwritten in part, with each request for memory refused,
    /// alone and with all after it. What is told is true, and what fails has changed nothing.
    fn nothing_wrong_is_read(ground: Ground) {
        let bytes = crate::cached::bytes(200_000, 5);
        for (name, access, changes) in ACCESSES {
            for refusal in [Refusal::From, Refusal::Only] {
                for turn in 1..MAX_REFUSALS {
                    let grounds = Grounds::new(ground, POOL_BYTES);
                    let fs = grounds.open();
                    open(&fs, "/f").append(&bytes).unwrap();
                    fs.close().unwrap();
                    let fs = grounds.open();
                    let file = open(&fs, "/f");
                    let mut read = vec![0; SIZE];
                    refusal::plan(Resource::Memory, refusal(turn)).unwrap();
                    let result = access(&file, &mut read);
                    let asked = refusal::plan(Resource::Memory, Refusal::None).unwrap();
                    let what = format!("{ground:?}: {name}, {:?}", refusal(turn));
                    let changed = match result {
                        Ok(found) => {
                            // What is cut is not read for that.
                            let may_do = name == "cut" || refusal(turn) != Refusal::From(1);
                            assert!(may_do, "{what}: there is none at all");
                            assert!(read[found.clone()] == bytes[found], "{what}: wrong bytes");
                            changes.clone()
                        }
                        Err(error) => {
                            assert_eq!(error.errno(), Errno::ENOMEM, "{what}");
                            0..0
                        }
                    };
                    let found = content(&file);
                    let size = if changed.end == SIZE { changed.start } else { SIZE };
                    assert_eq!(found.len(), size, "{what}");
                    let is_right = |at: usize| found[at] == bytes[at] || changed.contains(&at);
                    assert!((0..size).all(is_right), "{what}: other bytes");
                    drop(file);
                    grounds.assert_sound(&fs, &what);
                    if asked < turn {
                        break;
                    }
                }
            }
        }
    }

    in_the_cache! {
        memory_of_cached_files: Ground::Cached;
        memory_of_cached_files_with_checksums: Ground::CachedSummed;
        memory_of_files_on_a_device: Ground::Tiered;
    }
}
