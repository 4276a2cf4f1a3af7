//! A writer process that is killed at any moment, and what must be found afterwards.
//!
//! The writer makes its operations from a seed, against a scratch model that starts empty, so that the parent can
//! make the same ones. It reports each finished operation as 4 bytes on its standard output: the error number, 0 for
//! success. What was reported must be there after the kill; the one operation that was under way may be there or not,
//! and an overwrite may be there in part, by whole words.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
    /// Writers killed in the middle.
    pub killed: usize,
    /// Operations reported.
    pub operations: usize,
    /// Times that the operation under way had been done.
    pub done: usize,
    /// Times that it had not.
    pub undone: usize,
    /// Records that recoveries replayed.
    pub replayed: u64,
}

/// A pool that writers are killed on.
#[derive(Debug)]
pub struct Arena {
    writer: PathBuf,
    pool: PathBuf,
    model: Model,
    comparer: Comparer,
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
    /// A new pool in `pool`; `writer` is this package's program.
    ///
    /// # Errors
    /// When the pool cannot be made.
    pub fn new(writer: &Path, pool: &Path, seed: u64) -> anyhow::Result<Self> {
        let mut arena = Self {
            writer: writer.to_owned(),
            pool: pool.to_owned(),
            model: Model::new(0o755, Owner::default(), since(now())),
            comparer: Comparer::new(Times::Ignored, Scope::Whole),
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
        Pool::create(&self.pool, POOL_BYTES)?.close()?;
        self.model = Model::new(0o755, Owner::default(), since(now()));
        self.comparer = Comparer::new(Times::Ignored, Scope::Whole);
        Ok(())
    }

    /// Starts a writer with `seed`, kills it, recovers, checks and compares.
    ///
    /// # Errors
    /// What is lost, torn, there without having been written, or damaged.
    pub fn kill_one(&mut self, seed: u64) -> anyhow::Result<()> {
        let reports = self.reports_until_death(seed)?;
        let mut script = Script::new(seed);
        let moment = since(now());
        for (index, errno) in reports.iter().enumerate() {
            let operation = script.next();
            if is_refused(&operation, *errno) {
                continue;
            }
            let expected = self.model.apply(&operation, moment);
            ensure!(
                is_outcome(&expected, *errno)
                    || (expected.is_err() && *errno != 0 && ends_with_slash(&operation)),
                "operation {index} {operation:?} gave error {errno} instead of {expected:?}"
            );
        }
        self.tally.killed += 1;
        self.tally.operations += reports.len();
        self.settle(&script.next(), moment)
    }

    fn reports_until_death(&mut self, seed: u64) -> anyhow::Result<Vec<i32>> {
        let mut child = Command::new(&self.writer)
            .arg("--writer")
            .arg(&self.pool)
            .args(["--seed", &seed.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("start of the writer")?;
        let result = self.kill_in_the_middle(&mut child);
        // Whatever happened, no writer stays behind.
        let _ = child.kill();
        let status = child.wait().context("wait for the writer")?;
        ensure!(!status.success(), "the writer ended before it was killed");
        result
    }

    fn kill_in_the_middle(&mut self, child: &mut Child) -> anyhow::Result<Vec<i32>> {
        let mut pipe = child
            .stdout
            .take()
            .ok_or_else(|| anyhow!("no pipe to the writer"))?;
        let wanted = self.random.random_range(0..400);
        let mut bytes = vec![0; wanted * 4];
        pipe.read_exact(&mut bytes).context("reports of the writer")?;
        // Somewhere within the next operations, not at the same place of each report.
        for _ in 0..self.random.random_range(0..50_000) {
            std::hint::spin_loop();
        }
        child.kill().context("kill")?;
        pipe.read_to_end(&mut bytes)
            .context("last reports of the writer")?;
        let (reports, rest) = bytes.as_chunks::<4>();
        ensure!(
            rest.is_empty(),
            "half a report: the pipe does not keep 4 bytes together"
        );
        Ok(reports.iter().map(|report| i32::from_le_bytes(*report)).collect())
    }

    /// Recovers, and finds out whether the operation under way had been done.
    fn settle(&mut self, under_way: &Operation, moment: Moment) -> anyhow::Result<()> {
        check(&self.pool).context("before recovery")?;
        let filesystem = Filesystem::open(&self.pool, &MountOptions::default()).context("recovery")?;
        self.tally.replayed += filesystem.recovery().records;
        let mut pool = Pool::within(&self.pool, filesystem, b"");
        let mut without = self.model.clone();
        let mut with = self.model.clone();
        let _ = with.apply(under_way, moment);
        without.close_all();
        with.close_all();
        let mut comparer = self.comparer.clone();
        if let Err(first) = verify(&mut pool, &mut without.clone(), Some(&with), &mut comparer) {
            comparer = self.comparer.clone();
            if let Err(second) = verify(&mut pool, &mut with.clone(), Some(&without), &mut comparer) {
                bail!("{under_way:?} was under way; without it: {first}; with it: {second}");
            }
            self.tally.done += 1;
            self.model = with;
        } else {
            self.tally.undone += 1;
            self.model = self.untorn(&mut pool, without, with)?;
        }
        self.comparer = comparer;
        let free = pool.filesystem().stat_filesystem().free_blocks;
        pool.close().context("after recovery")?;
        if free < MIN_FREE_BLOCKS {
            self.renew()
        } else {
            Ok(())
        }
    }

    /// The model of what is there, when bytes may be from before and after an overwrite: whichever fits alone.
    fn untorn(&mut self, pool: &mut Pool, without: Model, with: Model) -> anyhow::Result<Model> {
        for mut candidate in [without.clone(), with] {
            if verify(pool, &mut candidate, None, &mut self.comparer.clone()).is_ok() {
                return Ok(candidate);
            }
        }
        // Torn: the bytes found are what the file holds from now on.
        let mut model = without;
        model.adopt_bytes(pool).map_err(|error| anyhow!(error))?;
        Ok(model)
    }
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
