//! `udax bench`: what operations cost, as ratios to what the machine itself can do.
//!
//! * [`machine`]: the machine's own primitives, on a mapping of the same kind as the pool's.
//! * [`operation`]: the filesystem's operations, and the same ones on the directory's own filesystem.
//! * [`target`]: the calls that the operations are made of.
//! * [`mount`]: a clean mount with many files.
//! * [`mounted`]: operations through a mount, beside other filesystems (`--mount`).
//!
//! An operation, its primitive and the kernel's operation alternate in small batches in one process, so that all see
//! the same machine, and what is compared are medians.

mod machine;
mod mount;
mod mounted;
mod operation;
mod target;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use udax::{Filesystem, FormatOptions, MountOptions, Owner};

use crate::failure;
use crate::output::{self, Output, OutputArgs};
use crate::scratch::Scratch;
use crate::size::float;
use machine::Machine;
use operation::{Operation, Setup};
use target::Kernel;

/// Bytes of the pool and of the mapping that the primitives use.
const POOL_BYTES: u64 = 512 << 20;
/// Operations timed together: enough that reading the clock costs little.
pub(crate) const BATCH: u64 = 32;
/// Most batches of an operation: more would run for hours, and tell no more.
const MAX_BATCHES: u64 = 1_000_000;
/// Bounds of the histograms: 0.01 ns to 10 s, in hundredths of a nanosecond.
const MAX_HUNDREDTHS: u64 = 1_000_000_000_000;

/// Measure operations, as ratios to the machine's own copy and flush
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// Where the pool and a file for the primitives are made; both are removed
    #[arg(long, default_value = "/dev/shm")]
    directory: PathBuf,
    /// Batches of 32 operations each
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..=MAX_BATCHES))]
    batches: u64,
    /// Files in the pool whose mount is timed; 0 leaves that out
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Measure operations through a mount instead, as ratios to bindfs over tmpfs and to ext4 on a loop device
    #[arg(long, conflicts_with_all = ["batches", "files"])]
    mount: bool,
    /// Rounds of --mount
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=MAX_BATCHES))]
    rounds: u64,
    #[command(flatten)]
    format: OutputArgs,
}

/// The times of one operation in nanoseconds, and its ratio.
#[derive(Clone, Debug, Serialize)]
struct Row {
    operation: &'static str,
    median_ns: f64,
    p90_ns: f64,
    p99_ns: f64,
    reference: &'static str,
    reference_median_ns: f64,
    ratio: f64,
    budget: Option<f64>,
    /// The same on the filesystem of the pool's directory, through the kernel and without a sync.
    kernel_median_ns: f64,
    kernel_ratio: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Results {
    persistence: &'static str,
    batch: u64,
    operations: Vec<Row>,
    mount: Option<mount::Mounted>,
}

impl Bench {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> Result<ExitCode> {
        let scratch = Scratch::directory_in(&self.directory, "udax-bench-").map_err(|error| {
            let shown = crate::name::shown(&self.directory);
            anyhow::Error::new(error).context(format!("{shown}: cannot make a directory"))
        })?;
        if self.mount {
            mounted::run(scratch.path(), self.rounds, self.format, output)?;
            return Ok(ExitCode::SUCCESS);
        }
        let results = self.measure(scratch.path())?;
        if self.format.is_json() {
            output.json(&results)?;
        } else {
            results.print(output)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, directory: &Path) -> Result<Results> {
        let machine = Machine::new(&directory.join("primitives"))?;
        let pool = directory.join("pool");
        let filesystem = format(&pool)?;
        let persistence = crate::info::promise(filesystem.persistence());
        let mut setup = Setup::new(filesystem)?;
        let below = directory.join("kernel");
        std::fs::create_dir(&below)?;
        let mut kernel = Setup::new(Kernel { directory: below })?;
        let mut operations = Vec::new();
        for operation in Operation::ALL {
            operations.push(self.compare(operation, &machine, &mut setup, &mut kernel)?);
        }
        setup.into_target().close()?;
        let mount = match self.files {
            0 => None,
            files => Some(mount::measure(&directory.join("mount"), files)?),
        };
        Ok(Results {
            persistence,
            batch: BATCH,
            operations,
            mount,
        })
    }

    /// Alternates batches of `operation`, of its primitive and of the kernel's.
    fn compare(
        &self,
        operation: Operation,
        machine: &Machine,
        setup: &mut Setup<Filesystem>,
        kernel: &mut Setup<Kernel>,
    ) -> Result<Row> {
        const WARM_UP: u64 = 8;
        let primitive = operation.primitive();
        let mut times = Histogram::<u64>::new_with_bounds(1, MAX_HUNDREDTHS, 3)?;
        let mut references = times.clone();
        let mut kernel_times = times.clone();
        for batch in 0..self.batches + WARM_UP {
            let reference = machine.batch(primitive, batch)?;
            let time = setup.batch(operation, batch)?;
            let kernel_time = kernel.batch(operation, batch)?;
            if batch >= WARM_UP {
                times.saturating_record(hundredths(time));
                references.saturating_record(hundredths(reference));
                kernel_times.saturating_record(hundredths(kernel_time));
            }
        }
        let median = nanoseconds(times.value_at_quantile(0.5));
        let reference_median = nanoseconds(references.value_at_quantile(0.5));
        let kernel_median = nanoseconds(kernel_times.value_at_quantile(0.5));
        Ok(Row {
            operation: operation.name(),
            median_ns: median,
            p90_ns: nanoseconds(times.value_at_quantile(0.9)),
            p99_ns: nanoseconds(times.value_at_quantile(0.99)),
            reference: primitive.name(),
            reference_median_ns: reference_median,
            ratio: median / reference_median.max(0.01),
            budget: operation.budget(),
            kernel_median_ns: kernel_median,
            kernel_ratio: median / kernel_median.max(0.01),
        })
    }
}

/// Makes and opens a pool for measuring.
fn format(pool: &Path) -> Result<Filesystem> {
    format_sized(pool, POOL_BYTES)
}

fn format_sized(pool: &Path, bytes: u64) -> Result<Filesystem> {
    let options = FormatOptions {
        size: Some(bytes),
        owner: Owner::current(),
        ..FormatOptions::default()
    };
    Filesystem::format(pool, &options)
        .and_then(|_| {
            // Persistent memory has no first touch of a page to pay for.
            let options = MountOptions {
                populate: true,
                ..MountOptions::default()
            };
            Filesystem::open(pool, &options)
        })
        .map_err(|error| failure::of_pool(pool, "cannot make a pool", error))
}

/// Hundredths of a nanosecond that one operation of a batch took.
fn hundredths(batch: std::time::Duration) -> u64 {
    u64::try_from(batch.as_nanos() * 100 / u128::from(BATCH)).unwrap_or(MAX_HUNDREDTHS)
}

fn nanoseconds(hundredths: u64) -> f64 {
    float(hundredths) / 100.0
}

impl Results {
    fn print(&self, output: &mut Output) -> std::io::Result<()> {
        writeln!(
            output,
            "Medians of batches of {} in one thread, nanoseconds each; persistence: {}\n\
             Kernel: the same calls on the filesystem of the pool's directory, nothing synced\n",
            self.batch, self.persistence
        )?;
        let header = [
            "Operation",
            "Machine's own",
            "Median",
            "p90",
            "p99",
            "Own median",
            "Ratio",
            "Goal",
            "Kernel",
            "Ratio",
        ];
        let mut table = output::table(&header, 2);
        for row in &self.operations {
            table.add_row([
                row.operation.to_owned(),
                row.reference.to_owned(),
                format!("{:.0}", row.median_ns),
                format!("{:.0}", row.p90_ns),
                format!("{:.0}", row.p99_ns),
                format!("{:.0}", row.reference_median_ns),
                format!("{:.2}", row.ratio),
                row.budget
                    .map_or_else(String::new, |budget| format!("{budget:.2}")),
                format!("{:.0}", row.kernel_median_ns),
                format!("{:.2}", row.kernel_ratio),
            ]);
        }
        output.table(&table)?;
        if let Some(mount) = &self.mount {
            writeln!(
                output,
                "\nClean mount with {} files: {:.2} ms (goal 20 ms)",
                mount.files, mount.median_ms
            )?;
        }
        Ok(())
    }
}
