//! A writer process that is killed at any moment, and what must be found afterwards.
//!
//! [`Arena`] is for writers of one thread that change the whole tree, [`threads`] for those of several, which have
//! files pinned, [`cached`] for those whose files are in the page cache. [`Judge`] is the half of an arena that does
//! not care who has killed the writer, and how.
//!
//! The writer makes its operations from a seed, against a scratch model that starts empty, so that the parent can
//! make the same ones. It reports each finished operation as 4 bytes on its standard output: the error number, 0 for
//! success. What was reported must be there after the kill; the one operation that was under way may be there or not,
//! and an overwrite may be there in part, by whole words.

pub mod cached;
pub mod threads;

mod dirty;
mod held;
mod pinned;
mod promised;
mod victim;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{Filesystem, MountOptions, Owner};

use crate::compare::{Comparer, Scope, Times};
use crate::generate::{Generator, Profile};
use crate::model::{Expected, Fault, Model, Moment};
use crate::operation::Operation;
use crate::pool::{Pool, Target, check};
use crate::run::{ends_with_slash, is_refused, now, since};
use crate::verify::verify;
use victim::Victim;

/// The most operations of one writer.
const MAX_OPERATIONS: usize = 20_000;
/// A pool with fewer free blocks than this is made anew.
const MIN_FREE_BLOCKS: u64 = 8_192;
/// Bytes of the pool.
const POOL_BYTES: u64 = 256 << 20;

/// A sequence that both processes make: its operations depend on the seed only.
struct Script {
    generator: Generator,
    scratch: Model,
    moment: Moment,
}

impl Script {
    fn new(seed: u64) -> Self {
        let moment = since(now());
        Self {
            generator: Generator::new(seed, Profile::Whole),
            scratch: Model::new(0o755, Owner::default(), moment),
            moment,
        }
    }

    fn next(&mut self) -> Operation {
        let operation = self.generator.next(&self.scratch);
        let _ = self.scratch.apply(&operation, self.moment);
        operation
    }
}

/// What the writer process does.
///
/// # Errors
/// When the pool cannot be opened or the reader of the reports is gone.
pub fn write(pool: &Path, seed: u64) -> anyhow::Result<()> {
    let mut pool = Pool::open(pool)?;
    let mut script = Script::new(seed);
    let mut reports = std::io::stdout().lock();
    for _ in 0..MAX_OPERATIONS {
        let operation = script.next();
        let errno = pool.apply(&operation).map_or_else(nix_number, |_| 0);
        reports.write_all(&errno.to_le_bytes()).context("report")?;
        reports.flush().context("report")?;
    }
    Ok(())
}

fn nix_number(errno: nix::errno::Errno) -> i32 {
    // The enumeration's discriminants are the system's numbers.
    std::io::Error::from(errno).raw_os_error().unwrap_or(i32::MAX)
}

/// What the loops found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Writers killed, or copied, in the middle.
    pub killed: usize,
    /// Operations reported.
    pub operations: usize,
    /// Times that the operation under way had been done.
    pub done: usize,
    /// Times that it had not, or changes nothing.
    pub undone: usize,
    /// Times that an overwrite had been done in part.
    pub torn: usize,
    /// Records that recoveries replayed.
    pub replayed: u64,
    /// Recoveries killed in the middle.
    pub cut_recoveries: usize,
    /// Syncs of all that were promised, of files that are in the page cache.
    pub syncs: usize,
    /// Such files that had lost what was not promised.
    pub behind: usize,
}

/// Whether an operation that was under way had been done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settled {
    Done,
    Undone,
    Torn,
}

impl Tally {
    fn count(&mut self, settled: Settled) {
        match settled {
            Settled::Done => self.done += 1,
            Settled::Undone => self.undone += 1,
            Settled::Torn => self.torn += 1,
        }
    }
}

/// What a pool must hold, after all writers so far.
#[derive(Clone, Debug)]
pub struct Judge {
    model: Model,
    comparer: Comparer,
    tally: Tally,
}

impl Default for Judge {
    /// Of a new pool.
    fn default() -> Self {
        Self {
            model: Model::new(0o755, Owner::default(), since(now())),
            comparer: Comparer::new(Times::Ignored, Scope::Whole),
            tally: Tally::default(),
        }
    }
}

impl Judge {
    /// What was found so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Recovers the pool that a killed writer with `seed` has left, checks and compares it. `reports` is what the
    /// writer had reported. Whether the pool has room for another writer.
    ///
    /// # Errors
    /// What is lost, torn, there without having been written, or damaged.
    pub fn judge(&mut self, pool: &Path, seed: u64, reports: &[i32]) -> anyhow::Result<bool> {
        let mut script = Script::new(seed);
        let moment = since(now());
        for (index, errno) in reports.iter().enumerate() {
            let operation = script.next();
            is_expected(&mut self.model, &operation, *errno, moment)
                .with_context(|| format!("operation {index} {operation:?}"))?;
        }
        self.tally.killed += 1;
        self.tally.operations += reports.len();
        self.settle(pool, &script.next(), moment)
    }

    /// Judges a copy of the pool that was made while the writer with `seed` had reported `reports` and went on.
    ///
    /// # Errors
    /// As of [`judge`](Self::judge).
    pub fn judge_copy(&mut self, copy: &Path, seed: u64, reports: &[i32]) -> anyhow::Result<()> {
        let mut fork = self.clone();
        fork.judge(copy, seed, reports)?;
        self.tally = fork.tally;
        Ok(())
    }

    /// Recovers, and finds out whether the operation under way had been done.
    fn settle(&mut self, path: &Path, under_way: &Operation, moment: Moment) -> anyhow::Result<bool> {
        check(path).context("before recovery")?;
        let filesystem = Filesystem::open(path, &MountOptions::default()).context("recovery")?;
        self.tally.replayed += filesystem.recovery().records;
        let mut pool = Pool::within(path, filesystem, b"");
        let under_way = Some(under_way);
        let settled = settle_models(&mut pool, &mut self.model, &mut self.comparer, under_way, moment)?;
        self.tally.count(settled);
        let free = pool.filesystem().stat_filesystem().free_blocks;
        pool.close().context("after recovery")?;
        Ok(free >= MIN_FREE_BLOCKS)
    }

    /// Goes on with a new pool.
    pub fn renew(&mut self) {
        *self = Self {
            tally: self.tally,
            ..Self::default()
        };
    }
}

/// A pool that writers are killed on.
#[derive(Debug)]
pub struct Arena {
    writer: PathBuf,
    pool: PathBuf,
    judge: Judge,
    random: SmallRng,
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A pool that was never made needs no removal.
        let _ = std::fs::remove_file(&self.pool);
    }
}

impl Arena {
    /// A new pool in `pool`; `writer` is this package's program.
    ///
    /// # Errors
    /// When the pool cannot be made.
    pub fn new(writer: &Path, pool: &Path, seed: u64) -> anyhow::Result<Self> {
        let arena = Self {
            writer: writer.to_owned(),
            pool: pool.to_owned(),
            judge: Judge::default(),
            random: SmallRng::seed_from_u64(seed),
        };
        arena.make_pool()?;
        Ok(arena)
    }

    /// What was found so far.
    pub fn tally(&self) -> Tally {
        self.judge.tally()
    }

    fn make_pool(&self) -> anyhow::Result<()> {
        Pool::create(&self.pool, POOL_BYTES)?.close()
    }

    /// Starts a writer with `seed`, kills it, recovers, checks and compares.
    ///
    /// # Errors
    /// What is lost, torn, there without having been written, or damaged.
    pub fn kill_one(&mut self, seed: u64) -> anyhow::Result<()> {
        let reports = self.reports_until_death(seed)?;
        if !self.judge.judge(&self.pool, seed, &reports)? {
            self.make_pool()?;
            self.judge.renew();
        }
        Ok(())
    }

    fn reports_until_death(&mut self, seed: u64) -> anyhow::Result<Vec<i32>> {
        let (pool, seed) = (self.pool.to_string_lossy(), seed.to_string());
        let writer = Victim::start(&self.writer, &["--writer", &pool, "--seed", &seed])?;
        let wanted = self.random.random_range(0..400);
        let reports = writer.kill_after(wanted, &mut self.random)?;
        Ok(reports.into_iter().map(u32::cast_signed).collect())
    }
}

/// Does in the model what was reported with `errno`.
///
/// # Errors
/// Another result was to be expected.
fn is_expected(model: &mut Model, operation: &Operation, errno: i32, moment: Moment) -> anyhow::Result<()> {
    if is_refused(operation, errno) {
        return Ok(());
    }
    let expected = model.apply(operation, moment);
    ensure!(
        is_outcome(&expected, errno) || (expected.is_err() && errno != 0 && ends_with_slash(operation)),
        "error {errno} instead of {expected:?}"
    );
    Ok(())
}

/// Compares what is there after a kill with `model`, without or with the operation that was under way.
fn settle_models(
    pool: &mut Pool,
    model: &mut Model,
    comparer: &mut Comparer,
    under_way: Option<&Operation>,
    moment: Moment,
) -> anyhow::Result<Settled> {
    let mut without = model.clone();
    let mut with = model.clone();
    if let Some(operation) = under_way {
        let _ = with.apply(operation, moment);
    }
    without.close_all();
    with.close_all();
    let mut learned = comparer.clone();
    let may_be_torn = !under_way.is_some_and(Operation::is_atomic_write);
    if let Err(first) = verify(
        pool,
        &mut without.clone(),
        Some(&with).filter(|_| may_be_torn),
        &mut learned,
    ) {
        learned = comparer.clone();
        let torn = Some(&without).filter(|_| may_be_torn);
        if let Err(second) = verify(pool, &mut with.clone(), torn, &mut learned) {
            bail!("{under_way:?} was under way; without it: {first}; with it: {second}");
        }
        *model = with;
        *comparer = learned;
        return Ok(Settled::Done);
    }
    let (settled, found) = untorn(pool, without, with, comparer)?;
    *model = found;
    *comparer = learned;
    Ok(settled)
}

/// The model of what is there, when bytes may be from before and after an overwrite: whichever fits alone.
fn untorn(
    pool: &mut Pool,
    without: Model,
    with: Model,
    comparer: &Comparer,
) -> anyhow::Result<(Settled, Model)> {
    for (settled, model) in [(Settled::Undone, without.clone()), (Settled::Done, with)] {
        if verify(pool, &mut model.clone(), None, &mut comparer.clone()).is_ok() {
            return Ok((settled, model));
        }
    }
    // The bytes found are what the file holds from now on.
    let mut model = without;
    model.adopt_bytes(pool).map_err(|error| anyhow!(error))?;
    Ok((Settled::Torn, model))
}

fn is_outcome(expected: &Result<Expected, Fault>, errno: i32) -> bool {
    let number = nix::errno::Errno::from_raw(errno);
    match expected {
        // Whether there is data or a hole is not in the reports.
        Ok(Expected::SeekData(..) | Expected::SeekHole(..)) => {
            errno == 0 || number == nix::errno::Errno::ENXIO
        }
        Ok(Expected::Directory(_) | Expected::Stream(_)) => errno == 0 || number == nix::errno::Errno::ENOENT,
        Ok(_) => errno == 0,
        Err(fault) => errno != 0 && (fault.0.is_empty() || fault.0.contains(&number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does the first operations of `seed`, and gives what would have been reported.
    fn work(pool: &mut Pool, script: &mut Script, count: usize) -> Vec<i32> {
        (0..count)
            .map(|_| pool.apply(&script.next()).map_or_else(nix_number, |_| 0))
            .collect()
    }

    #[test]
    fn a_copy_is_judged_by_what_was_promised_when_it_was_made() {
        const SEED: u64 = 7;
        let directory = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
        let [path, copy] = ["pool", "copy"].map(|name| directory.path().join(name));
        let mut pool = Pool::create(&path, 64 << 20).unwrap();
        let mut script = Script::new(SEED);
        let early = work(&mut pool, &mut script, 60);
        std::fs::copy(&path, &copy).unwrap();
        let late = work(&mut pool, &mut script, 60);
        let all = [early.as_slice(), &late].concat();

        let mut judge = Judge::default();
        let again = directory.path().join("again");
        std::fs::copy(&copy, &again).unwrap();
        judge.judge_copy(&copy, SEED, &early).unwrap();
        assert!(judge.judge_copy(&again, SEED, &all).is_err());
        // What the copy was compared with is not what the pool is.
        std::fs::copy(&path, &again).unwrap();
        pool.close().unwrap();
        judge.judge(&again, SEED, &all).unwrap();
        assert_eq!(judge.tally().operations, 180);
    }
}
