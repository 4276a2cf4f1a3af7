//! Writers with several threads, pins and checkpoints, killed again and again; now and then also who recovers.
//!
//! Each thread has a directory with a model of its own, and another with files that it keeps pinned; a further thread
//! syncs the pool all the time. So each thread has one operation under way when the kill comes, and what is found in
//! its directories is judged by itself. After each kill the pool is checked, perhaps opened by processes that are
//! killed while they recover it, recovered, compared, counted, closed and checked again.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, setrlimit};
use udax::{Filesystem, MountOptions, NewInode, OpenFlags, Owner};

use super::held::Held;
use super::pinned::{Holder, Step, Steps};
use super::victim::Victim;
use super::{MAX_OPERATIONS, Settled, Tally, is_expected, nix_number, settle_models};
use crate::compare::{Comparer, Scope, Times};
use crate::generate::{Generator, Profile};
use crate::model::{Model, Moment};
use crate::operation::Operation;
use crate::pool::{Pool, Target, check_report};
use crate::run::{now, since};

/// Bytes of the pool.
const POOL_BYTES: u64 = 512 << 20;
/// A pool with fewer free blocks than this is made anew: none of the writer's operations may find it full.
const MIN_FREE_BLOCKS: u64 = 64 << 10;
/// Writers of one pool at most, so that its tree stays small enough to be compared often.
const MAX_WRITERS: usize = 40;
/// Reports of a thread that are waited for at most.
const MAX_WANTED: usize = 150;
/// Between two syncs of the writer.
const SYNC_EVERY: Duration = Duration::from_micros(500);
/// One recovery in so many is killed itself, and the most that are, one after the other.
const CUT_RECOVERIES: u32 = 3;
const MAX_CUTS: u32 = 3;
/// Turns of a loop between the start of a recovery and its end by a kill, at most: longer than recoveries take.
const MAX_RECOVERY_TURNS: u32 = 400_000;
/// KiB that a writer gets at most before it runs out of memory.
const MAX_MEMORY: u64 = 3_000;
/// Bytes that it keeps after each deed, so that they are used up: fewer than an operation takes at once.
const BALLAST: usize = 2048;
/// Threads of a writer at most: a report has 16 bits for who it is from.
const MAX_THREADS: u16 = 64;
const NEW: NewInode = NewInode {
    permissions: 0o755,
    owner: Owner { uid: 0, gid: 0 },
};

fn directory(thread: u16) -> String {
    format!("/thread{thread}")
}

fn pinned_directory(thread: u16) -> String {
    format!("/pinned{thread}")
}

#[derive(Clone, Debug)]
enum Deed {
    Operation(Operation),
    Step(Step),
}

/// What one thread does: the same in both processes, from the seed.
struct Script {
    generator: Generator,
    scratch: Model,
    moment: Moment,
    random: SmallRng,
    steps: Steps,
}

impl Script {
    fn new(seed: u64, thread: u16) -> Self {
        let seed = seed.wrapping_mul(1_000).wrapping_add(u64::from(thread));
        let moment = since(now());
        Self {
            generator: Generator::new(seed, Profile::Beneath),
            scratch: Model::new(NEW.permissions, NEW.owner, moment),
            moment,
            random: SmallRng::seed_from_u64(!seed),
            steps: Steps::new(),
        }
    }

    fn next(&mut self) -> Deed {
        if self.random.random_range(0..3) == 0 {
            return Deed::Step(self.steps.next(&mut self.random));
        }
        let operation = self.generator.next(&self.scratch);
        let _ = self.scratch.apply(&operation, self.moment);
        Deed::Operation(operation)
    }
}

/// What the writer process does, until it is killed. With `memory` it soon gets so many KiB more at most than it has;
/// when they are used up the language's allocator ends it, in the middle of whatever it does.
///
/// # Errors
/// When the pool cannot be opened or synced, or the reader of the reports is gone.
pub fn write(pool: &Path, seed: u64, threads: u16, memory: Option<u64>) -> anyhow::Result<()> {
    let filesystem = Filesystem::open(pool, &MountOptions::default()).context("open")?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let filesystem = filesystem.clone();
                scope.spawn(move || work(pool, filesystem, (seed, thread), memory.map(|_| BALLAST)))
            })
            .collect();
        if let Some(memory) = memory {
            limit_memory(memory)?;
        }
        while !workers.iter().any(thread::ScopedJoinHandle::is_finished) {
            filesystem.sync().context("sync")?;
            thread::sleep(SYNC_EVERY);
        }
        bail!("a thread of the writer ended before it was killed")
    })
}

/// From now on the process gets `more` KiB of memory at most.
fn limit_memory(more: u64) -> anyhow::Result<()> {
    let pages = std::fs::read_to_string("/proc/self/statm").context("size of the process")?;
    let pages: u64 = pages.split(' ').next().unwrap_or_default().parse()?;
    let limit = Some(pages * 4096 + more * 1024);
    let limits = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::As, limits).context("limit of memory")
}

/// Does what the seed says; with `ballast`, keeps so many bytes more after each deed.
fn work(
    pool: &Path,
    filesystem: Filesystem,
    (seed, thread): (u64, u16),
    ballast: Option<usize>,
) -> anyhow::Result<()> {
    let mut kept = Vec::new();
    let mut holder = Holder::new(filesystem.clone(), pinned_directory(thread));
    let mut target = Pool::within(pool, filesystem, directory(thread).as_bytes());
    let mut script = Script::new(seed, thread);
    let output = std::io::stdout();
    for _ in 0..MAX_OPERATIONS {
        let errno = match script.next() {
            Deed::Operation(operation) => target.apply(&operation).map_or_else(nix_number, |_| 0),
            Deed::Step(step) => holder.apply(step).map_or_else(nix_number, |()| 0),
        };
        // One write of 4 bytes: pipes keep them together, whoever else writes.
        let report = u32::from(thread) << 16 | u32::try_from(errno).context("error number")?;
        let written = rustix::io::write(output.as_fd(), &report.to_le_bytes()).context("report")?;
        ensure!(written == 4, "half a report");
        kept.extend(ballast.map(|bytes| vec![1_u8; bytes]));
    }
    Ok(())
}

/// What a process does that is killed while it opens the pool: it tells when it begins, and when it has done so. With
/// `memory` it gets so many KiB at most for that.
///
/// # Errors
/// When the pool cannot be opened or closed.
pub fn recover(pool: &Path, memory: Option<u64>) -> anyhow::Result<()> {
    let output = std::io::stdout();
    memory.map_or(Ok(()), limit_memory)?;
    rustix::io::write(output.as_fd(), b"o").context("report")?;
    let filesystem = Filesystem::open(pool, &MountOptions::default()).context("open")?;
    rustix::io::write(output.as_fd(), b"c").context("report")?;
    filesystem.close().context("close")
}

/// One thread's directories, as the parent knows them.
#[derive(Debug)]
struct Lane {
    thread: u16,
    model: Model,
    comparer: Comparer,
    held: Held,
    /// What the last writer's thread has reported, for messages.
    deeds: Vec<Deed>,
}

impl Lane {
    fn new(thread: u16) -> Self {
        Self {
            thread,
            model: Model::new(NEW.permissions, NEW.owner, since(now())),
            comparer: Comparer::new(Times::Ignored, Scope::Subtree),
            held: Held::default(),
            deeds: Vec::new(),
        }
    }

    /// Does what was reported; what was under way then.
    fn follow(&mut self, seed: u64, reports: &[i32], moment: Moment) -> anyhow::Result<Deed> {
        let mut script = Script::new(seed, self.thread);
        self.deeds.clear();
        for (index, errno) in reports.iter().enumerate() {
            let deed = script.next();
            let result = match &deed {
                Deed::Operation(operation) => is_expected(&mut self.model, operation, *errno, moment),
                Deed::Step(step) => self.held.apply(*step, *errno),
            };
            result.with_context(|| format!("thread {}, deed {index} {deed:?}", self.thread))?;
            self.deeds.push(deed);
        }
        Ok(script.next())
    }

    fn settle(
        &mut self,
        path: &Path,
        filesystem: &Filesystem,
        deed: &Deed,
        moment: Moment,
    ) -> anyhow::Result<Settled> {
        let (operation, step) = match deed {
            Deed::Operation(operation) => (Some(operation), None),
            Deed::Step(step) => (None, Some(*step)),
        };
        let held = self
            .held
            .settle(filesystem, &pinned_directory(self.thread), step)?;
        let mut pool = Pool::within(path, filesystem.clone(), directory(self.thread).as_bytes());
        let settled = settle_models(&mut pool, &mut self.model, &mut self.comparer, operation, moment)
            .with_context(|| format!("{}, after {}", directory(self.thread), self.history()))?;
        Ok(if step.is_some() { held } else { settled })
    }

    /// What the last writer has done in the first directory, one a line.
    fn history(&self) -> String {
        let operations = self
            .deeds
            .iter()
            .enumerate()
            .filter_map(|(index, deed)| match deed {
                Deed::Operation(operation) => Some(format!("{index}: {operation:?}")),
                Deed::Step(_) => None,
            });
        operations.collect::<Vec<_>>().join("\n  ")
    }

    /// Inodes of both directories, themselves too.
    fn inodes(&self) -> usize {
        self.model.inodes().count() + 1 + self.held.names()
    }
}

/// A pool that writers with several threads are killed on.
#[derive(Debug)]
pub struct Arena {
    program: PathBuf,
    pool: PathBuf,
    lanes: Vec<Lane>,
    writers: usize,
    random: SmallRng,
    tally: Tally,
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A pool that was never made needs no removal.
        let _ = std::fs::remove_file(&self.pool);
    }
}

impl Arena {
    /// A new pool in `pool`; `program` is this package's.
    ///
    /// # Errors
    /// When the pool cannot be made, or for no thread or too many.
    pub fn new(program: &Path, pool: &Path, seed: u64, threads: u16) -> anyhow::Result<Self> {
        ensure!(
            (1..=MAX_THREADS).contains(&threads),
            "a writer has 1 to {MAX_THREADS} threads"
        );
        let mut arena = Self {
            program: program.to_owned(),
            pool: pool.to_owned(),
            lanes: (0..threads).map(Lane::new).collect(),
            writers: 0,
            random: SmallRng::seed_from_u64(seed),
            tally: Tally::default(),
        };
        arena.renew()?;
        Ok(arena)
    }

    /// What was found so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn renew(&mut self) -> anyhow::Result<()> {
        let mut pool = Pool::create(&self.pool, POOL_BYTES)?;
        for lane in &mut self.lanes {
            pool.filesystem().create_dir(directory(lane.thread), NEW)?;
            pool.filesystem().create_dir(pinned_directory(lane.thread), NEW)?;
            *lane = Lane::new(lane.thread);
        }
        self.writers = 0;
        pool.close()
    }

    /// Starts a writer with `seed`, kills it, recovers, checks and compares.
    ///
    /// # Errors
    /// What is lost, torn, there without having been written, leaked, or damaged.
    pub fn kill_one(&mut self, seed: u64) -> anyhow::Result<()> {
        let reports = self.reports_until_death(seed)?;
        self.judge(seed, &reports)
    }

    /// Starts a writer with `seed` that runs out of memory, recovers, checks and compares.
    ///
    /// # Errors
    /// As [`Arena::kill_one`]; when it does not die.
    pub fn starve_one(&mut self, seed: u64) -> anyhow::Result<()> {
        let memory = self.random.random_range(0..MAX_MEMORY).to_string();
        let writer = self.start(seed, &["--memory", &memory])?;
        let reports = self.by_lane(&writer.dies_by(Signal::SIGABRT)?)?;
        self.judge(seed, &reports)
    }

    fn judge(&mut self, seed: u64, reports: &[Vec<i32>]) -> anyhow::Result<()> {
        let moment = since(now());
        let mut under_way = Vec::new();
        for (lane, reports) in self.lanes.iter_mut().zip(reports) {
            under_way.push(lane.follow(seed, reports, moment)?);
            self.tally.operations += reports.len();
        }
        self.tally.killed += 1;
        check_report(&self.pool).context("before recovery")?;
        if self.random.random_range(0..CUT_RECOVERIES) == 0 {
            self.tally.cut_recoveries += cut_recoveries(&self.program, &self.pool, &mut self.random)?;
        }
        self.settle(&under_way, moment)
    }

    fn start(&self, seed: u64, more: &[&str]) -> anyhow::Result<Victim> {
        let (pool, seed) = (self.pool.to_string_lossy(), seed.to_string());
        let threads = self.lanes.len().to_string();
        let arguments = ["--writer", &pool, "--seed", &seed, "--threads", &threads];
        Victim::start(&self.program, &[&arguments, more].concat())
    }

    fn reports_until_death(&mut self, seed: u64) -> anyhow::Result<Vec<Vec<i32>>> {
        let writer = self.start(seed, &[])?;
        let wanted = self.random.random_range(0..MAX_WANTED * self.lanes.len());
        let reports = writer.kill_after(wanted, &mut self.random)?;
        self.by_lane(&reports)
    }

    fn by_lane(&self, words: &[u32]) -> anyhow::Result<Vec<Vec<i32>>> {
        let mut reports = vec![Vec::new(); self.lanes.len()];
        for word in words {
            let lane = usize::try_from(word >> 16)?;
            let lane = reports
                .get_mut(lane)
                .ok_or_else(|| anyhow!("a report of thread {lane}"))?;
            lane.push(i32::try_from(word & 0xffff)?);
        }
        Ok(reports)
    }

    fn settle(&mut self, under_way: &[Deed], moment: Moment) -> anyhow::Result<()> {
        let filesystem = Filesystem::open(&self.pool, &MountOptions::default()).context("recovery")?;
        self.tally.replayed += filesystem.recovery().records;
        for (lane, deed) in self.lanes.iter_mut().zip(under_way) {
            let settled = lane
                .settle(&self.pool, &filesystem, deed, moment)
                .with_context(|| format!("{deed:?} was under way"))?;
            self.tally.count(settled);
        }
        let told = filesystem.stat_filesystem();
        filesystem.close().context("close")?;
        let report = check_report(&self.pool).context("after recovery")?;
        let free = report.total_blocks - report.used_blocks;
        ensure!(
            free == told.free_blocks,
            "{free} blocks are free, and {} were told",
            told.free_blocks
        );
        ensure!(report.orphans == 0, "{} orphans are left", report.orphans);
        let inodes = 1 + self.lanes.iter().map(Lane::inodes).sum::<usize>();
        ensure!(
            u64::try_from(inodes) == Ok(report.inodes),
            "{} inodes are in use instead of {inodes}",
            report.inodes
        );
        self.writers += 1;
        if free < MIN_FREE_BLOCKS || self.writers == MAX_WRITERS {
            self.renew()?;
        }
        Ok(())
    }

    /// Removes everything; then nothing may be in use but what an empty pool keeps.
    ///
    /// # Errors
    /// What cannot be removed, or what the check finds.
    pub fn empty(&self) -> anyhow::Result<u64> {
        let filesystem = Filesystem::open(&self.pool, &MountOptions::default()).context("open")?;
        remove_below(&filesystem, b"")?;
        // What cannot be met makes the pool give back what it keeps.
        let file = filesystem.open_file("/last", OpenFlags::WRITE | OpenFlags::CREATE, NEW)?;
        let refused = file.allocate(udax::AllocateMode::KeepSize, 0, POOL_BYTES);
        ensure!(refused.is_err(), "more was allocated than there is");
        drop(file);
        filesystem.unlink("/last")?;
        filesystem.sync()?;
        let free = filesystem.stat_filesystem().free_blocks;
        filesystem.close().context("close")?;
        let report = check_report(&self.pool)?;
        ensure!(report.inodes == 1, "{} inodes are left", report.inodes);
        let empty = self.pool.with_extension("empty");
        Pool::create(&empty, POOL_BYTES)?.close()?;
        let fresh = check_report(&empty);
        let _ = std::fs::remove_file(&empty);
        let fresh = fresh?;
        Ok(fresh.total_blocks - fresh.used_blocks - free)
    }
}

/// Kills processes while they open the pool, how many of them; each leaves what the check must find sound.
pub(super) fn cut_recoveries(program: &Path, pool: &Path, random: &mut SmallRng) -> anyhow::Result<usize> {
    let mut cut = 0;
    for _ in 0..random.random_range(1..=MAX_CUTS) {
        let opener = Victim::start(program, &["--recover", &pool.to_string_lossy()])?;
        let turns = random.random_range(0..MAX_RECOVERY_TURNS);
        let is_open = opener.kill_soon(turns)? > 1;
        cut += usize::from(!is_open);
        check_report(pool).context("after a recovery that was killed")?;
    }
    Ok(cut)
}

pub(super) fn remove_below(filesystem: &Filesystem, path: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::ffi::OsStrExt;

    let as_path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let listed = if path.is_empty() { b"/" } else { path };
    loop {
        let entries = filesystem.read_dir(as_path(listed), 0, 1000)?;
        let mut entries = entries
            .into_iter()
            .filter(|entry| entry.name != b"." && entry.name != b"..")
            .peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        for entry in entries {
            let name = [path, b"/", &entry.name].concat();
            if entry.kind == udax::FileKind::Directory {
                remove_below(filesystem, &name)?;
                filesystem.remove_dir(as_path(&name))?;
            } else {
                filesystem.unlink(as_path(&name))?;
            }
        }
    }
}
