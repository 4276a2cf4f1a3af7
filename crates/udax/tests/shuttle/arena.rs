//! A pool for each schedule: always the same bytes, so that the same schedule gives the same run.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, Runner};
use udax::{
    AllocateMode, DataSource, DaxMode, DirEntry, Disk, File, FileKind, Filesystem, FormatOptions,
    MountOptions, NewInode, OpenFlags, Owner,
};
use udax_check::{CheckOptions, Silent};
use udax_disk::MemoryMedium;
use udax_media::BLOCK_SIZE;
use udax_media::geometry::SUPERBLOCKS;
use udax_pmem::{Region, RegionOptions};

pub(crate) const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
pub(crate) const POOL_BYTES: u64 = 16 * MIB;
const DEVICE_BYTES: u64 = MIB;
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

/// The blocks of a new pool, and of its data device, that are not zeros.
struct Template {
    pool: Blocks,
    device: Option<Blocks>,
}

type Blocks = Vec<(u64, [u8; BLOCK_SIZE])>;

impl Template {
    /// A new pool at `path`, with nothing in it that differs from one run to the next but the identity of its device.
    fn new(path: &Path, has_device: bool) -> Self {
        let device = has_device.then(|| Arc::new(Disk::new(Arc::new(MemoryMedium::new(DEVICE_BYTES)))));
        let options = FormatOptions {
            size: Some(POOL_BYTES),
            uuid: Some(uuid::Uuid::from_u128(7)),
            force: true,
            data: device.clone().map(DataSource::Disk),
            ..FormatOptions::default()
        };
        let mut superblock = Filesystem::format(path, &options).unwrap();
        superblock.hash_key = [7; 16];
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        for block in SUPERBLOCKS {
            file.write_all_at(superblock.encode().as_slice(), block.offset().raw())
                .unwrap();
        }
        let of_device = |disk: Arc<Disk>| blocks(DEVICE_BYTES, |at, block| disk.read(at, block).unwrap());
        Self {
            pool: blocks(POOL_BYTES, |at, block| file.read_exact_at(block, at).unwrap()),
            device: device.map(of_device),
        }
    }

    /// Puts the pool at `path`, and gives its device.
    fn write(&self, path: &Path) -> Option<Arc<MemoryMedium>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        file.set_len(POOL_BYTES).unwrap();
        for (at, block) in &self.pool {
            file.write_all_at(block, *at).unwrap();
        }
        let blocks = self.device.as_ref()?;
        let medium = Arc::new(MemoryMedium::new(DEVICE_BYTES));
        let disk = Disk::new(medium.clone());
        for (at, block) in blocks {
            disk.write(*at, block).unwrap();
        }
        disk.flush().unwrap();
        Some(medium)
    }
}

fn blocks(bytes: u64, mut read: impl FnMut(u64, &mut [u8; BLOCK_SIZE])) -> Blocks {
    let mut blocks = Vec::new();
    for at in (0..bytes).step_by(BLOCK_SIZE) {
        let mut block = [0; BLOCK_SIZE];
        read(at, &mut block);
        if block != [0; BLOCK_SIZE] {
            blocks.push((at, block));
        }
    }
    blocks
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
    explore_as(
        name,
        move |fs, _| scenario(fs),
        (cached(), Schedulers::RandomAndPct, false),
    );
}

/// As [`explore_cached`], with the files' data on a device in memory.
pub(crate) fn explore_tiered(name: &'static str, scenario: fn(&Filesystem, &MemoryMedium)) {
    let scenario = move |fs: &Filesystem, device: Option<&MemoryMedium>| scenario(fs, device.unwrap());
    explore_as(name, scenario, (cached(), Schedulers::RandomAndPct, true));
}

fn cached() -> MountOptions {
    MountOptions {
        dax: DaxMode::Inode,
        cache_bytes: 16 * BLOCK,
        no_flusher: true,
        ..MountOptions::default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Schedulers {
    Random,
    RandomAndPct,
}

fn explore_in(name: &'static str, scenario: fn(&Filesystem), schedulers: Schedulers) {
    explore_as(
        name,
        move |fs, _| scenario(fs),
        (MountOptions::default(), schedulers, false),
    );
}

fn explore_as(
    name: &'static str,
    scenario: impl Fn(&Filesystem, Option<&MemoryMedium>) + Copy + Send + Sync + 'static,
    (options, schedulers, has_device): (MountOptions, Schedulers, bool),
) {
    let schedules = std::env::var("UDAX_SCHEDULES").map_or(SCHEDULES, |value| value.parse().unwrap());
    let path = pool_path(name);
    let template = Arc::new(OnceLock::new());
    let run = {
        let path = path.clone();
        move || {
            let device = template
                .get_or_init(|| Template::new(&path, has_device))
                .write(&path);
            let data = device
                .clone()
                .map(|device| DataSource::Disk(Arc::new(Disk::new(device))));
            let options = MountOptions {
                data,
                ..options.clone()
            };
            let fs = Filesystem::open(&path, &options).unwrap();
            scenario(&fs, device.as_deref());
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
    let free = report.total_blocks - report.used_blocks;
    if told.device_blocks == 0 {
        assert_eq!(free, told.free_blocks);
    }
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
