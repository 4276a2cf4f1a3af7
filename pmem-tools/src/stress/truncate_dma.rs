//! `udax stress truncate-dma`: does a store through a pin ever reach a block that has changed hands?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use udax::{DataSource, Disk, Filesystem, FormatOptions, MountOptions, Owner};
use udax_check::{CheckOptions, Silent};
use udax_disk::{Access, BlockMedium, Unreliable};
use udax_media::MIN_POOL_BYTES;
use udax_pmem::{Region, RegionOptions};
use udax_stress::{EngineKind, Failing, Options, Report, Stop, Ways};
use udax_sync::fault::{self, Fault};

use crate::failure;
use crate::live::{self, Source};
use crate::output::{self, Output, OutputArgs};
use crate::size::Size;

/// Truncate, punch, move, clone and replace files while DMA engines store to their pinned pages, and look for stores
/// that reach a block that has changed hands
///
/// The exit status is 1 when there is one, when something waits for too long, or when the check of the pool finds a
/// problem. Ctrl-C ends the contest with its report.
#[derive(Args, Debug)]
pub(crate) struct TruncateDma {
    /// Use this pool, in the directory /udax-stress, which is removed again. Default: a pool in memory
    #[arg(long, value_name = "POOL", conflicts_with = "size")]
    pool: Option<PathBuf>,
    /// Use a directory of the kernel's filesystem: files in it are mapped, and direct reads go to the mappings
    #[arg(long, value_name = "DIR", conflicts_with_all = ["pool", "size", "engine", "fault"])]
    dir: Option<PathBuf>,
    /// Size of the pool in memory (/dev/shm, or the directory for temporary files)
    #[arg(long, default_value = "128M")]
    size: Size,
    /// How long it goes on
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: u64,
    /// What engines are: threads that store, or real DMA by direct reads of a file through io_uring
    #[arg(long, value_enum, default_value_t = Engine::Simulated)]
    engine: Engine,
    /// Threads that act as DMA engines
    #[arg(long, default_value_t = 4)]
    engines: usize,
    /// Threads that change files
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Files
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(3..=64))]
    files: u64,
    /// Switch the files between memory access and a page cache of 2 MiB all the time, and read and write them through
    /// the cache, past it, and so that it keeps nothing
    #[arg(long, conflicts_with = "dir")]
    switched: bool,
    /// The same in a pool in memory with a data device as large beside it, between which the switches move the files
    #[arg(long, conflicts_with_all = ["dir", "pool"])]
    tiered: bool,
    /// Of the requests to the data device let one in so many fail, as long as the contest goes on
    #[arg(long, value_name = "REQUESTS", requires = "tiered", value_parser = clap::value_parser!(u64).range(2..))]
    fail_one_in: Option<u64>,
    /// Of the threads' choices; which thread comes first is up to the machine. Default: the time
    #[arg(long)]
    seed: Option<u64>,
    /// An operation or a pin that takes so many seconds is starved
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    patience: u64,
    /// Switch a protection off: the contest must find that. Only in a build with --cfg udax_faults
    #[arg(long, value_name = "FAULT")]
    fault: Option<Fault>,
    #[command(flatten)]
    format: OutputArgs,
}

/// What engines are.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Engine {
    Simulated,
    #[value(name = "io_uring")]
    IoUring,
}

/// What is told.
#[derive(Debug, Serialize)]
struct Results {
    /// A pool or a directory.
    place: String,
    engine: Engine,
    engines: usize,
    threads: usize,
    files: u64,
    #[serde(flatten)]
    report: Report,
    /// What the check of the closed pool finds.
    problems: Vec<String>,
    /// Does the same again.
    replay: String,
}

impl TruncateDma {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> Result<ExitCode> {
        if let Some(fault) = self.fault {
            fault::inject(fault)?;
        }
        let stop = stop_on_signals()?;
        let results = match (&self.dir, &self.pool) {
            (Some(directory), _) => self.hold_in_directory(directory, &stop)?,
            (None, Some(pool)) => self.hold(pool, None, &stop)?,
            (None, None) => {
                if self.size.0 < MIN_POOL_BYTES {
                    bail!(
                        "{} is too small for a pool of at least {}",
                        self.size,
                        Size(MIN_POOL_BYTES)
                    );
                }
                let directory = memory_directory()?;
                let pool = directory.path().join("pool");
                let device = self
                    .tiered
                    .then(|| new_device(&directory, self.size))
                    .transpose()?;
                let options = FormatOptions {
                    size: Some(self.size.0),
                    owner: Owner::current(),
                    data: device.clone().map(DataSource::Path),
                    ..FormatOptions::default()
                };
                Filesystem::format(&pool, &options)
                    .map_err(|error| failure::of_pool(&pool, "cannot make a pool", error))?;
                self.hold(&pool, device.as_deref(), &stop)?
            }
        };
        if self.format.is_json() {
            output.json(&results)?;
        } else {
            results.print(output)?;
        }
        let is_clean = results.report.is_clean() && results.problems.is_empty();
        Ok(if is_clean {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(failure::FAILED)
        })
    }

    fn options(&self) -> Options {
        let time = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        Options {
            seed: self.seed.unwrap_or_else(time),
            duration: Duration::from_secs(self.seconds),
            engine: match self.engine {
                Engine::Simulated => EngineKind::Simulated,
                Engine::IoUring => EngineKind::IoUring(std::env::temp_dir()),
            },
            engines: self.engines,
            threads: self.threads,
            files: self.files,
            patience: Duration::from_secs(self.patience),
            ways: match self.switched || self.tiered {
                true => Ways::Switched,
                false => Ways::AsOpened,
            },
            ..Options::default()
        }
    }

    /// Holds the contest, closes the pool and checks it.
    fn hold(&self, pool: &Path, device: Option<&Path>, stop: &Stop) -> Result<Results> {
        let mut options = self.options();
        options.failing = device
            .zip(self.fail_one_in)
            .map(|(device, one_in)| failing(device, one_in, options.seed))
            .transpose()?;
        let medium = options
            .failing
            .as_ref()
            .map(|failing| Arc::clone(&failing.device));
        let mount = options.ways.mount(MountOptions {
            no_atime: true,
            data: medium.map(|medium| DataSource::Disk(Arc::new(Disk::new(medium)))),
            ..MountOptions::default()
        });
        let filesystem = crate::pool::open_for_writing(pool, &mount)?;
        let live = live::Server::start(
            Source::new(pool, &filesystem).of_this_process(),
            live::make_runtime_directory(None),
        );
        let report = udax_stress::run(&filesystem, &options, stop);
        drop(live);
        let report = report.with_context(|| format!("{}: no contest", crate::name::shown(pool)))?;
        let mut problems = Vec::new();
        if report.is_clean() {
            crate::pool::close(pool, filesystem)?;
            problems = check(pool)?;
        }
        let place = self.pool.as_ref().map_or_else(
            || format!("{} in memory", self.size),
            |pool| crate::name::shown(pool).to_string(),
        );
        Ok(self.results(place, report, problems))
    }

    /// Holds the contest on a directory of the kernel's.
    fn hold_in_directory(&self, directory: &Path, stop: &Stop) -> Result<Results> {
        let place = crate::name::shown(directory).to_string();
        let report = udax_stress::run_directory(directory, &self.options(), stop)
            .with_context(|| format!("{place}: no contest"))?;
        Ok(self.results(place, report, Vec::new()))
    }

    fn results(&self, place: String, report: Report, problems: Vec<String>) -> Results {
        let engine = if self.dir.is_some() {
            Engine::IoUring
        } else {
            self.engine
        };
        Results {
            replay: self.replay(report.seed),
            place,
            engine,
            engines: self.engines,
            threads: self.threads,
            files: self.files,
            report,
            problems,
        }
    }

    /// The command line that makes the same choices.
    fn replay(&self, seed: u64) -> String {
        let pool = match (&self.dir, &self.pool) {
            (Some(directory), _) => format!("--dir {}", crate::name::shown(directory)),
            (None, Some(pool)) => format!("--pool {}", crate::name::shown(pool)),
            (None, None) => format!("--size {}", self.size.0),
        };
        let fault = self
            .fault
            .map_or_else(String::new, |fault| format!(" --fault {}", fault.name()));
        let threads = format!("--engines {} --threads {}", self.engines, self.threads);
        let length = format!("--seconds {}", self.seconds);
        let engine = match self.engine {
            Engine::Simulated => "",
            Engine::IoUring => " --engine io_uring",
        };
        let switched = match (self.tiered, self.switched) {
            (true, _) => " --tiered",
            (false, true) => " --switched",
            (false, false) => "",
        };
        let failing = self
            .fail_one_in
            .map_or_else(String::new, |one_in| format!(" --fail-one-in {one_in}"));
        format!(
            "udax stress truncate-dma {pool}{engine}{switched}{failing} {length} {threads} --files {} --seed {seed}{fault}",
            self.files
        )
    }
}

/// The first signal ends the contest with its report, the second the process.
fn stop_on_signals() -> Result<Stop> {
    let stop = Stop::default();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot catch signals")?;
    let stopped = stop.clone();
    udax_sync::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut signals = signals.forever();
            if signals.next().is_some() {
                stopped.stop();
            }
            if let Some(signal) = signals.next() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })
        .context("cannot start a thread for signals")?;
    Ok(stop)
}

/// A directory in memory, removed at the end.
fn memory_directory() -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("udax-stress-");
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        builder.tempdir_in(memory)
    } else {
        builder.tempdir()
    };
    made.context("cannot make a directory for the pool")
}

/// A file of `size` there, for a pool's data device.
fn new_device(directory: &tempfile::TempDir, size: Size) -> Result<PathBuf> {
    let path = directory.path().join("device");
    let file = std::fs::File::create(&path).context("cannot make a data device")?;
    file.set_len(size.0).context("cannot make a data device")?;
    Ok(path)
}

/// That device, which fails.
fn failing(device: &Path, one_in: u64, seed: u64) -> Result<Failing> {
    let medium = BlockMedium::open(device, Access::Write)?;
    let device = Arc::new(Unreliable::new(Arc::new(medium), seed));
    Ok(Failing { device, one_in })
}

/// What the check finds in the closed pool.
fn check(pool: &Path) -> Result<Vec<String>> {
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let region = Region::open(pool, options).context("cannot open the pool for its check")?;
    let report = udax_check::check(&region, &CheckOptions::default(), &Silent)?;
    Ok(report
        .problems
        .iter()
        .map(|problem| format!("{problem:?}"))
        .collect())
}

impl Results {
    fn print(&self, output: &mut Output) -> std::io::Result<()> {
        let Self { report, .. } = self;
        writeln!(
            output,
            "{}: {:.1} s, {} engines and {} threads on {} files, seed {}\n",
            self.place, report.seconds, self.engines, self.threads, self.files, report.seed
        )?;
        let mut table = output::table(&["Operation", "Count", "Refused", "Mean µs", "Longest µs"], 1);
        for row in &report.operations {
            table.add_row([
                row.operation.to_owned(),
                row.count.to_string(),
                row.refused.to_string(),
                row.mean_micros.to_string(),
                row.longest_micros.to_string(),
            ]);
        }
        output.table(&table)?;
        writeln!(output)?;
        output.table(&self.counters())?;
        self.print_verdict(output)
    }

    fn counters(&self) -> Table {
        let (dma, dax, cache) = (&self.report.dma, &self.report.dax, &self.report.cache);
        let device = &self.report.device;
        let mut table = output::table(&["Counter", "Number"], 1);
        for (what, count) in [
            ("Transfers", dma.transfers),
            ("of them to files without a name", dma.unlinked_transfers),
            ("Stores by DMA", dma.stores),
            ("MiB stored by DMA", dma.bytes >> 20),
            ("Bursts of direct reads through io_uring", dma.dma_reads),
            ("of them into registered buffers", dma.registered_reads),
            ("Blocks judged", dma.judged_blocks),
            (
                "Blocks not judged, as they were changing hands",
                dma.unjudged_blocks,
            ),
            ("Blocks of the pool that got another owner", dma.recycled_blocks),
            ("Pins", dax.pins),
            ("of them held back for a break", dax.gated_pins),
            ("Layouts broken", dax.breaks),
            ("Breaks that found a pinned page and began anew", dax.retries),
            ("Waits for a page to become idle", dax.waits),
            ("Longest of them, in µs", dax.longest_wait_micros),
            ("Pages that the page cache may take", cache.budget),
            ("The most that it took", cache.most_pages),
            ("The most that were dirty", cache.most_dirty),
            ("Folios that went for lack of memory", cache.evicted),
            ("Writers that had to wait for it", cache.throttled),
            ("Reads that failed on the data device", device.failed_reads),
            ("Writes", device.failed_writes),
            ("Flushes", device.failed_flushes),
            ("Operations that were refused for that", device.refused),
        ] {
            table.add_row([what.to_owned(), count.to_string()]);
        }
        table
    }

    fn print_verdict(&self, output: &mut Output) -> std::io::Result<()> {
        writeln!(output)?;
        for note in &self.report.notes {
            writeln!(output, "{note}")?;
        }
        for finding in &self.report.findings {
            writeln!(output, "{finding}\n")?;
        }
        for problem in &self.problems {
            writeln!(output, "the check finds {problem}")?;
        }
        if self.report.is_clean() && self.problems.is_empty() {
            return writeln!(output, "0 stray writes, nothing starved, no problem found");
        }
        writeln!(output, "Again: {}", self.replay)
    }
}
