//! A pool for each schedule: always the same bytes, so that the same schedule gives the same run.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, Runner};
use udax::{
    AllocateMode, DaxMode, DirEntry, File, FileKind, Filesystem, FormatOptions, MountOptions, NewInode,
    OpenFlags, Owner,
};
use udax_check::{CheckOptions, Silent};
use udax_media::BLOCK_SIZE;
use udax_media::geometry::SUPERBLOCKS;
use udax_pmem::{Region, RegionOptions};

pub(crate) const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
pub(crate) const POOL_BYTES: u64 = 16 * MIB;
pub(crate) const READ_WRITE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
pub(crate) const CREATE: OpenFlags = READ_WRITE.union(OpenFlags::CREATE);
/// Schedules of each test, unless the environment says otherwise.
const SCHEDULES: usize = 150;
/// Changes of priority that the second scheduler makes in a schedule: most defects need no more than three.
const DEPTH: usize = 3;
const SEED: u64 = 2026;
/// udax has blocks on its stack.
const STACK_BYTES: usize = 1 << 20;

pub(crate) const NEW: NewInode = NewInode {
    permissions: 0o755,
    owner: Owner { uid: 0, gid: 0 },
};

/// The blocks of a new pool that are not zeros.
struct Template(Vec<(u64, [u8; BLOCK_SIZE])>);

impl Template {
    /// A new pool at `path`, with nothing in it that differs from one run to the next.
    fn new(path: &Path) -> Self {
        let options = FormatOptions {
            size: Some(POOL_BYTES),
            uuid: Some(uuid::Uuid::from_u128(7)),
            force: true,
            ..FormatOptions::default()
        };
        let mut superblock = Filesystem::format(path, &options).unwrap();
        superblock.hash_key = [7; 16];
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        for block in SUPERBLOCKS {
            file.write_all_at(superblock.encode().as_slice(), block.offset().raw())
                .unwrap();
        }
        let mut blocks = Vec::new();
        for at in (0..POOL_BYTES).step_by(BLOCK_SIZE) {
            let mut block = [0; BLOCK_SIZE];
            file.read_exact_at(&mut block, at).unwrap();
            if block != [0; BLOCK_SIZE] {
                blocks.push((at, block));
            }
        }
        Self(blocks)
    }

    fn write(&self, path: &Path) {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        file.set_len(POOL_BYTES).unwrap();
        for (at, block) in &self.0 {
            file.write_all_at(block, *at).unwrap();
        }
    }
}

fn pool_path(name: &str) -> PathBuf {
    PathBuf::from(format!(
        "/dev/shm/udax-shuttle-{name}-{}.pool",
        std::process::id()
    ))
}

/// Runs `scenario` on a new pool in many schedules; all that it opened must be closed when it returns. Then there is no
/// problem in the pool, and as many files and blocks as it tells.
pub(crate) fn explore(name: &'static str, scenario: fn(&Filesystem)) {
    explore_in(name, scenario, Schedulers::RandomAndPct);
}

/// As [`explore`], for what waits until a deadline: it looks at the clock again and again, and where one thread runs
/// for as long as it can, as PCT lets it, nobody else gets anywhere before then.
pub(crate) fn explore_fairly(name: &'static str, scenario: fn(&Filesystem)) {
    explore_in(name, scenario, Schedulers::Random);
}

/// As [`explore`], with files that are DAX files only when they are switched; what is dirty is written by who must, and
/// the cache has a few pages.
pub(crate) fn explore_cached(name: &'static str, scenario: fn(&Filesystem)) {
    let options = MountOptions {
        dax: DaxMode::Inode,
        cache_bytes: 16 * BLOCK,
        no_flusher: true,
        ..MountOptions::default()
    };
    explore_as(name, scenario, (options, Schedulers::RandomAndPct));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Schedulers {
    Random,
    RandomAndPct,
}

fn explore_in(name: &'static str, scenario: fn(&Filesystem), schedulers: Schedulers) {
    explore_as(name, scenario, (MountOptions::default(), schedulers));
}

fn explore_as(
    name: &'static str,
    scenario: fn(&Filesystem),
    (options, schedulers): (MountOptions, Schedulers),
) {
    let schedules = std::env::var("UDAX_SCHEDULES").map_or(SCHEDULES, |value| value.parse().unwrap());
    let path = pool_path(name);
    let template = Arc::new(OnceLock::new());
    let run = {
        let path = path.clone();
        move || {
            template.get_or_init(|| Template::new(&path)).write(&path);
            let fs = Filesystem::open(&path, &options).unwrap();
            scenario(&fs);
            finish(fs, &path);
        }
    };
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    if let Ok(schedule) = std::env::var("UDAX_REPLAY") {
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config).run(run);
    } else {
        Runner::new(RandomScheduler::new_from_seed(SEED, schedules), config.clone()).run(run.clone());
        if schedulers == Schedulers::RandomAndPct {
            Runner::new(PctScheduler::new_from_seed(SEED, DEPTH, schedules), config).run(run);
        }
    }
    std::fs::remove_file(&path).unwrap();
}

fn finish(fs: Filesystem, path: &Path) {
    assert!(fs.pins().is_empty());
    fs.sync().unwrap();
    let told = fs.stat_filesystem();
    fs.close().unwrap();
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let region = Region::open(path, options).unwrap();
    let report = udax_check::check(&region, &CheckOptions::default(), &Silent).unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert_eq!(report.total_blocks - report.used_blocks, told.free_blocks);
    assert_eq!((report.inodes, report.orphans), (told.inodes, 0));
}

/// Runs `threads` at once.
pub(crate) fn at_once(threads: &[&(dyn Fn() + Sync)]) {
    udax_sync::thread::scope(|scope| {
        for thread in threads {
            scope.spawn(thread);
        }
    });
}

/// Makes or opens a file for reading and writing.
#[track_caller]
pub(crate) fn open(fs: &Filesystem, path: &str) -> File {
    fs.open_file(path, CREATE, NEW).unwrap()
}

/// A file of `blocks` blocks that are full of `byte`.
#[track_caller]
pub(crate) fn filled(fs: &Filesystem, path: &str, blocks: usize, byte: u8) -> File {
    let file = open(fs, path);
    file.write_at(&vec![byte; blocks * BLOCK_SIZE], 0).unwrap();
    file
}

/// Takes all blocks but `left`.
pub(crate) fn fill(fs: &Filesystem, left: u64) {
    let blocks = fs.stat_filesystem().available_blocks - left;
    open(fs, "/ballast")
        .allocate(AllocateMode::KeepSize, 0, blocks * BLOCK)
        .unwrap();
}

/// Every byte of a file.
#[track_caller]
pub(crate) fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let count = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(count);
    bytes
}

/// The result, when it is one of these errors or none.
#[track_caller]
pub(crate) fn allow<T>(result: udax::Result<T>, errors: &[nix::errno::Errno]) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if errors.contains(&error.errno()) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Each name leads to what its directory says, and each file has as many names as it says.
pub(crate) fn assert_names_agree(fs: &Filesystem) {
    let mut all = Vec::new();
    collect(fs, "", &mut all);
    for (path, entry) in &all {
        let stat = fs.stat_link(path).unwrap();
        assert_eq!((stat.ino, stat.kind), (entry.ino, entry.kind), "{path}");
        let names = all.iter().filter(|(_, other)| other.ino == entry.ino).count();
        if entry.kind != FileKind::Directory {
            assert_eq!(usize::try_from(stat.nlink).unwrap(), names, "{path}");
        }
    }
}

fn collect(fs: &Filesystem, directory: &str, all: &mut Vec<(String, DirEntry)>) {
    let listed = if directory.is_empty() { "/" } else { directory };
    for entry in fs.read_dir(listed, 0, 1000).unwrap() {
        if entry.name == b"." || entry.name == b".." {
            continue;
        }
        let path = format!("{directory}/{}", String::from_utf8(entry.name.clone()).unwrap());
        if entry.kind == FileKind::Directory {
            collect(fs, &path, all);
        }
        all.push((path, entry));
    }
}
