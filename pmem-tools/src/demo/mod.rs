//! `udax demo`: one command that shows it all, and checks what it shows.
//!
//! * [`source`]: which real tree is used, and how large a pool it needs.
//! * [`promise`]: the writer that is killed, and the check of what it had promised.
//! * [`fences`]: what each operation costs in fences.
//! * [`result`]: the table.

mod fences;
mod promise;
mod result;
mod source;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use udax::{Filesystem, FormatOptions, MountOptions, NewInode, Owner};
use udax_check::CheckOptions;
use udax_pmem::{Region, RegionOptions};

use crate::copy::{self, Host, InPool, Plan, Tally};
use crate::failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::size::Size;
pub(crate) use promise::DemoWriter;
use result::{Outcome, Step};
use source::Choice;

/// Where the tree goes.
const TREE: &str = "/tree";

/// Show all of it: fill a pool, kill a writer, recover, check, compare
///
/// Makes a pool in memory, puts a real directory tree into it, kills a process in the middle of writing,
/// recovers, runs fsck, verifies every file that the writer had been told is durable, reads everything back
/// and compares it with the source. The pool is removed afterwards. Exit status: 0, or 1 when anything
/// differs.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// The file to make the pool in. Default: a new one in /dev/shm, or where that is missing a temporary one
    #[arg(long)]
    pool: Option<PathBuf>,
    /// Leave out files beyond so many bytes in all
    #[arg(long, default_value = "600M")]
    limit: Size,
    /// Threads. Default: one a processor
    #[arg(long, short = 'j')]
    threads: Option<usize>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    /// The tree. Default: the Rust toolchain's libraries and documentation, or /usr/share
    directory: Option<PathBuf>,
}

/// What the steps work on.
struct Run {
    pool: Scratch,
    host: Host,
    plan: Plan,
    threads: usize,
    outcome: Outcome,
}

impl Demo {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> Result<ExitCode> {
        let path = match &self.pool {
            Some(path) if path.exists() => {
                bail!(
                    "{}: exists: the demo makes and removes its own pool",
                    crate::name::shown(path)
                )
            }
            Some(path) => path.clone(),
            None => source::scratch_path(),
        };
        let choice = source::choose(self.directory.as_deref(), Path::new(TREE))?;
        let mut run = Run::new(path, &choice, &self)?;
        run.all()?;
        let is_good = run.outcome.is_good();
        if self.json {
            output.json(&run.outcome)?;
        } else {
            run.outcome.print(output)?;
        }
        Ok(if is_good {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(failure::FAILED)
        })
    }
}

impl Run {
    fn new(path: PathBuf, choice: &Choice, demo: &Demo) -> Result<Self> {
        let host = Host::beside(&path);
        let limit = source::affordable(&path, demo.limit.0);
        let scan = Tally::new(Progress::hidden());
        let plan = Plan::collect(&host, choice.roots.clone(), limit, &scan);
        let scanned = scan.finish();
        if plan.items.is_empty() {
            bail!("{}: nothing to copy: name another directory", choice.name);
        }
        let bytes = source::pool_bytes(&plan);
        let mut outcome = Outcome::new(choice.name.clone(), &path, bytes);
        outcome.count_failures("reading the source", scanned.failed);
        let options = FormatOptions {
            size: Some(bytes),
            label: "demo".to_owned(),
            owner: Owner::current(),
            ..FormatOptions::default()
        };
        // Removed from here on, also when a step fails.
        let pool = Scratch::new(path)?;
        Filesystem::format(pool.path(), &options)
            .map_err(|error| failure::of_pool(pool.path(), "cannot make a pool", error))?;
        Ok(Self {
            pool,
            host,
            plan,
            threads: demo.threads.unwrap_or_else(copy::default_threads),
            outcome,
        })
    }

    fn all(&mut self) -> Result<()> {
        self.put().context("put")?;
        let promised = promise::write_and_kill(self.pool.path()).context("killed writer")?;
        self.recover().context("recovery")?;
        self.check().context("fsck")?;
        self.verify(promised).context("promises")?;
        self.outcome.fences = fences::measure(self.pool.path()).context("fences")?;
        self.check().context("fsck")
    }

    fn open(&self, options: &MountOptions) -> Result<Filesystem> {
        Filesystem::open(self.pool.path(), options)
            .map_err(|error| failure::of_pool(self.pool.path(), failure::OPEN, error))
    }

    fn put(&mut self) -> Result<()> {
        let filesystem = self.open(&MountOptions::default())?;
        self.outcome.persistence = filesystem.persistence();
        filesystem.create_dir(TREE, NewInode::with_permissions(0o755))?;
        let tally = Tally::new(Progress::of_bytes(self.plan.bytes));
        copy::copy(
            &self.host,
            &InPool::new(&filesystem, self.pool.path()),
            &self.plan,
            self.threads,
            &tally,
        );
        let summary = tally.finish();
        self.outcome.count_failures("put", summary.failed);
        self.outcome.steps.push(Step::of_summary("put", &summary));
        filesystem.close()?;
        Ok(())
    }

    fn recover(&mut self) -> Result<()> {
        let started = Instant::now();
        let filesystem = self.open(&MountOptions::default())?;
        let seconds = started.elapsed().as_secs_f64();
        let recovery = filesystem.recovery().clone();
        if recovery.was_clean {
            bail!("the pool says that it was closed cleanly, but its writer was killed");
        }
        self.outcome.recovered_records = recovery.records;
        self.outcome.steps.push(Step {
            name: "recover after kill",
            files: None,
            bytes: Some(recovery.bytes),
            seconds,
        });
        filesystem.close()?;
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let started = Instant::now();
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        let region = Region::open(self.pool.path(), options)?;
        let options = CheckOptions {
            threads: self.threads,
            ..CheckOptions::default()
        };
        let report = udax_check::check(&region, &options, &udax_check::Silent)?;
        for problem in &report.problems {
            failure::tell(&format!("fsck: {}: {}", problem.place, problem.what));
        }
        let problems = u64::try_from(report.problems.len()).unwrap_or(u64::MAX);
        self.outcome.count_failures("fsck", problems);
        self.outcome.steps.push(Step {
            name: "fsck",
            files: Some(report.inodes),
            // It reads metadata, not these blocks' data: a rate would say nothing.
            bytes: None,
            seconds: started.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// Promises, then everything that was put.
    fn verify(&mut self, promised: u64) -> Result<()> {
        let options = MountOptions {
            read_only: true,
            no_atime: true,
            ..MountOptions::default()
        };
        let filesystem = self.open(&options)?;
        let pool = InPool::new(&filesystem, self.pool.path());
        let verified = promise::verify(&pool, promised)?;
        self.outcome.promised = promised;
        self.outcome.count_failures("promised files", verified.broken);
        self.outcome.steps.push(verified.step);

        let tally = Tally::new(Progress::of_bytes(self.plan.bytes));
        copy::read_all(&pool, &self.plan, self.threads, &tally);
        let summary = tally.finish();
        self.outcome.count_failures("read back", summary.failed);
        self.outcome.steps.push(Step::of_summary("read back", &summary));

        let tally = Tally::new(Progress::of_bytes(self.plan.bytes));
        copy::compare(&self.host, &pool, &self.plan, self.threads, &tally);
        let summary = tally.finish();
        self.outcome.count_failures("compare", summary.failed);
        self.outcome
            .steps
            .push(Step::of_summary("compare with source", &summary));
        filesystem.close()?;
        Ok(())
    }
}
