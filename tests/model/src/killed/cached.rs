//! Writers with several threads on files in the page cache, killed again and again.
//!
//! Each thread has a directory of files ([`super::dirty`]), the cache is smaller than they are, and a flusher writes
//! back. Beside the threads one syncs the pool all the time, and one moves files between memory access and the cache,
//! and between the pool and its data device. After each kill the pool is checked, perhaps opened by processes that are
//! killed while they recover it, recovered, compared with what was promised ([`super::promised`]), counted, closed and
//! checked again.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{Dax, Filesystem, MountOptions, OpenFlags};
use udax_sync::fault::Fault;

use super::dirty::{FILES, Holder, Step, Steps, path};
use super::pinned::NEW;
use super::promised::Promised;
use super::threads::{cut_recoveries, remove_below};
use super::victim::Victim;
use super::{MAX_OPERATIONS, Tally, nix_number};
use crate::pool::{Files, Pool, check_report, data_device};

/// Bytes of the pool, and of its data device.
const POOL_BYTES: u64 = 128 << 20;
/// Writers of one pool at most.
const MAX_WRITERS: usize = 200;
/// Reports of a thread that are waited for at most.
const MAX_WANTED: usize = 60;
/// Between two syncs of the writer, at most, in microseconds.
const MAX_SYNC_EVERY: u64 = 3_000;
/// Between two moves of a file, at most, in microseconds.
const MAX_MOVE_EVERY: u64 = 3_000;
/// One recovery in so many is killed itself.
const CUT_RECOVERIES: u32 = 3;
/// What a sync of all reports when it begins, and when it has ended.
const BEGUN: u32 = 1;
const ENDED: u32 = 2;
/// What the device's first byte is in the pool's space of blocks.
const DEVICE_START: u64 = 1 << 52;

fn directory(thread: u16) -> String {
    format!("/cached{thread}")
}

/// How the writer opens the pool: so that most of what it does goes through a cache that is too small.
fn mount(files: Files) -> MountOptions {
    MountOptions {
        cache_bytes: 1 << 20,
        dirty_bytes: 512 << 10,
        ..files.mount()
    }
}

/// What one thread does: the same in both processes, from the seed.
struct Script {
    random: SmallRng,
    steps: Steps,
}

impl Script {
    fn new(seed: u64, thread: u16) -> Self {
        let seed = seed.wrapping_mul(1_000).wrapping_add(u64::from(thread));
        Self {
            random: SmallRng::seed_from_u64(seed),
            steps: Steps::new(),
        }
    }

    fn next(&mut self) -> Step {
        self.steps.next(&mut self.random)
    }
}

/// One write of 4 bytes: pipes keep them together, whoever else writes.
fn report(thread: u16, word: u32) -> anyhow::Result<()> {
    let word = u32::from(thread) << 16 | word;
    let written = rustix::io::write(std::io::stdout().as_fd(), &word.to_le_bytes()).context("report")?;
    ensure!(written == 4, "half a report");
    Ok(())
}

/// What the writer process does, until it is killed.
///
/// # Errors
/// When the pool cannot be opened or synced, or the reader of the reports is gone.
pub fn write(pool: &Path, seed: u64, threads: u16, files: Files) -> anyhow::Result<()> {
    let filesystem = Filesystem::open(pool, &mount(files)).context("open")?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let filesystem = filesystem.clone();
                scope.spawn(move || work(filesystem, seed, thread))
            })
            .collect();
        let mover = scope.spawn(|| move_about(&filesystem, seed, threads));
        let mut random = SmallRng::seed_from_u64(!seed);
        while !mover.is_finished() && !workers.iter().any(thread::ScopedJoinHandle::is_finished) {
            report(threads, BEGUN)?;
            filesystem.sync().context("sync")?;
            report(threads, ENDED)?;
            let wait = random.random_range(0..MAX_SYNC_EVERY);
            thread::sleep(Duration::from_micros(wait));
        }
        bail!("a thread of the writer ended before it was killed")
    })
}

fn work(filesystem: Filesystem, seed: u64, thread: u16) -> anyhow::Result<()> {
    let mut holder = Holder::new(filesystem, directory(thread));
    let mut script = Script::new(seed, thread);
    for _ in 0..MAX_OPERATIONS {
        let errno = holder.apply(script.next()).map_or_else(nix_number, |()| 0);
        report(thread, u32::try_from(errno).context("error number")?)?;
    }
    Ok(())
}

/// Gives the threads' files the DAX flag, or takes it, whatever is done to them.
fn move_about(filesystem: &Filesystem, seed: u64, threads: u16) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed);
    loop {
        let name = path(
            &directory(random.random_range(0..threads)),
            random.random_range(0..FILES),
        );
        let dax = [Dax::On, Dax::Off][usize::from(random.random_bool(0.6))];
        match filesystem.open_file(name, OpenFlags::WRITE, NEW) {
            Ok(file) => file.set_dax(dax).context("set_dax")?,
            Err(udax::Error::NotFound) => {}
            Err(error) => return Err(anyhow!(error)).context("a file to be moved"),
        }
        thread::sleep(Duration::from_micros(random.random_range(0..MAX_MOVE_EVERY)));
    }
}

/// A pool that such writers are killed on.
#[derive(Debug)]
pub struct Arena {
    program: PathBuf,
    pool: PathBuf,
    files: Files,
    /// A protection that the writers miss.
    fault: Option<Fault>,
    lanes: Vec<Promised>,
    /// What the last writer has done, for messages.
    deeds: Vec<Vec<Step>>,
    /// Blocks of the device that an empty pool has free.
    device_blocks: u64,
    writers: usize,
    random: SmallRng,
    tally: Tally,
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A pool that was never made needs no removal.
        let _ = std::fs::remove_file(&self.pool);
        let _ = std::fs::remove_file(data_device(&self.pool));
    }
}

impl Arena {
    /// A new pool in `pool` that keeps its files so; `program` is this package's.
    ///
    /// # Errors
    /// When the pool cannot be made.
    pub fn new(
        program: &Path,
        pool: &Path,
        seed: u64,
        (threads, files): (u16, Files),
    ) -> anyhow::Result<Self> {
        let mut arena = Self {
            program: program.to_owned(),
            pool: pool.to_owned(),
            files,
            fault: None,
            lanes: vec![Promised::default(); usize::from(threads)],
            deeds: Vec::new(),
            device_blocks: 0,
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

    fn threads(&self) -> u16 {
        u16::try_from(self.lanes.len()).unwrap_or(u16::MAX)
    }

    fn renew(&mut self) -> anyhow::Result<()> {
        let mut pool = Pool::create_with(&self.pool, POOL_BYTES, self.files)?;
        self.device_blocks = pool.filesystem().stat_filesystem().device_free_blocks;
        for thread in 0..self.threads() {
            pool.filesystem().create_dir(directory(thread), NEW)?;
        }
        self.lanes.fill(Promised::default());
        self.writers = 0;
        pool.close()
    }

    /// Lets the writers miss a protection, in a build that can: to see that it is found.
    pub fn without(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Starts a writer with `seed`, kills it, recovers, checks and compares.
    ///
    /// # Errors
    /// What is lost, there without having been written, leaked, or damaged.
    pub fn kill_one(&mut self, seed: u64) -> anyhow::Result<()> {
        let reports = self.reports_until_death(seed)?;
        let under_way = self.follow(seed, &reports)?;
        self.tally.killed += 1;
        check_report(&self.pool).context("before recovery")?;
        if self.random.random_range(0..CUT_RECOVERIES) == 0 {
            self.tally.cut_recoveries += cut_recoveries(&self.program, &self.pool, &mut self.random)?;
        }
        self.settle(&under_way)
    }

    fn reports_until_death(&mut self, seed: u64) -> anyhow::Result<Vec<u32>> {
        let (pool, seed) = (self.pool.to_string_lossy(), seed.to_string());
        let (threads, files) = (self.lanes.len().to_string(), self.files.name());
        let mut arguments = vec![
            "--writer",
            &pool,
            "--seed",
            &seed,
            "--threads",
            &threads,
            "--files",
            files,
        ];
        if let Some(fault) = self.fault {
            arguments.extend(["--without", fault.name()]);
        }
        let writer = Victim::start(&self.program, &arguments)?;
        let wanted = self.random.random_range(0..MAX_WANTED * self.lanes.len());
        writer.kill_after(wanted, &mut self.random)
    }

    /// Does what was reported; what each thread had under way then.
    fn follow(&mut self, seed: u64, reports: &[u32]) -> anyhow::Result<Vec<Step>> {
        let mut scripts: Vec<Script> = (0..self.threads())
            .map(|thread| Script::new(seed, thread))
            .collect();
        self.deeds = vec![Vec::new(); self.lanes.len()];
        let mut begun = None;
        for word in reports {
            let (thread, word) = (usize::try_from(word >> 16)?, word & 0xffff);
            let Some(lane) = self.lanes.get_mut(thread) else {
                // The thread that syncs the pool.
                if word == BEGUN {
                    begun = Some(self.lanes.iter().map(Promised::steps).collect::<Vec<_>>());
                } else if let Some(steps) = begun.take() {
                    let all = self.lanes.iter_mut().zip(steps);
                    all.for_each(|(lane, steps)| lane.promise(steps));
                    self.tally.syncs += 1;
                }
                continue;
            };
            let step = scripts[thread].next();
            lane.apply(step, i32::try_from(word)?)
                .with_context(|| format!("thread {thread}, step {}", self.deeds[thread].len()))?;
            self.deeds[thread].push(step);
            self.tally.operations += 1;
        }
        Ok(scripts.iter_mut().map(Script::next).collect())
    }

    fn settle(&mut self, under_way: &[Step]) -> anyhow::Result<()> {
        let filesystem = Filesystem::open(&self.pool, &MountOptions::default()).context("recovery")?;
        self.tally.replayed += filesystem.recovery().records;
        let lanes = self.lanes.iter_mut().zip(under_way).zip(&self.deeds);
        for (thread, ((lane, step), deeds)) in (0..).zip(lanes) {
            let (settled, behind) = lane
                .settle(&filesystem, &directory(thread), Some(*step))
                .with_context(|| history(deeds))?;
            self.tally.count(settled);
            self.tally.behind += behind;
        }
        let told = filesystem.stat_filesystem();
        let on_device = self.device_blocks_in_use(&filesystem)?;
        filesystem.close().context("close")?;
        ensure!(
            told.device_free_blocks + on_device == self.device_blocks,
            "of {} blocks of the device {} are free, and the files have {on_device}",
            self.device_blocks,
            told.device_free_blocks
        );
        let report = check_report(&self.pool).context("after recovery")?;
        let free = report.total_blocks - report.used_blocks;
        let of_device = free.saturating_sub(told.free_blocks);
        ensure!(
            // Of the device some are kept.
            of_device.saturating_sub(told.device_free_blocks) <= 256 && free >= told.free_blocks,
            "{free} blocks are free, and {} and {} of the device were told",
            told.free_blocks,
            told.device_free_blocks
        );
        ensure!(report.orphans == 0, "{} orphans are left", report.orphans);
        let files: usize = self.lanes.iter().map(Promised::names).sum();
        let inodes = 1 + self.lanes.len() + files;
        ensure!(
            u64::try_from(inodes) == Ok(report.inodes),
            "{} inodes are in use instead of {inodes}",
            report.inodes
        );
        self.writers += 1;
        if self.writers == MAX_WRITERS {
            self.empty()?;
            self.renew()?;
        }
        Ok(())
    }

    /// Blocks of the device that files have: some of them several ones.
    fn device_blocks_in_use(&self, filesystem: &Filesystem) -> anyhow::Result<u64> {
        let mut blocks = BTreeSet::new();
        for thread in 0..self.threads() {
            for name in 0..FILES {
                let Ok(file) = filesystem.open_file(path(&directory(thread), name), OpenFlags::READ, NEW)
                else {
                    continue;
                };
                let extents = file.extents(0, usize::MAX)?.into_iter();
                for extent in extents.filter(|extent| extent.pool_offset >= DEVICE_START) {
                    let end = extent.pool_offset + extent.len;
                    blocks.extend((extent.pool_offset..end).step_by(4096));
                }
            }
        }
        Ok(u64::try_from(blocks.len())?)
    }

    /// Removes everything: the blocks that the pool then has in use beyond those of a new one, of pool and device.
    ///
    /// # Errors
    /// What cannot be removed, or what the check finds.
    pub fn empty(&self) -> anyhow::Result<u64> {
        let filesystem = Filesystem::open(&self.pool, &MountOptions::default()).context("open")?;
        remove_below(&filesystem, b"")?;
        // What cannot be met makes the pool give back what it keeps.
        let file = filesystem.open_file("/last", OpenFlags::WRITE | OpenFlags::CREATE, NEW)?;
        file.set_dax(Dax::On)?;
        let refused = file.allocate(udax::AllocateMode::KeepSize, 0, POOL_BYTES);
        ensure!(refused.is_err(), "more was allocated than there is");
        drop(file);
        filesystem.unlink("/last")?;
        filesystem.sync()?;
        let told = filesystem.stat_filesystem();
        filesystem.close().context("close")?;
        let report = check_report(&self.pool)?;
        ensure!(report.inodes == 1, "{} inodes are left", report.inodes);
        let path = self.pool.with_extension("empty");
        let mut empty = Pool::create_with(&path, POOL_BYTES, self.files)?;
        let fresh = empty.filesystem().stat_filesystem();
        let closed = empty.close();
        let _ = std::fs::remove_file(&path);
        if self.files == Files::Tiered {
            let _ = std::fs::remove_file(data_device(&path));
        }
        closed?;
        ensure!(
            fresh.device_free_blocks == told.device_free_blocks,
            "blocks of the device are gone"
        );
        Ok(fresh.free_blocks.saturating_sub(told.free_blocks))
    }
}

fn history(deeds: &[Step]) -> String {
    let lines = deeds
        .iter()
        .enumerate()
        .map(|(index, step)| format!("{index}: {step:?}"));
    format!("after\n  {}", lines.collect::<Vec<_>>().join("\n  "))
}
