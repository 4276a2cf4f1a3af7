//! Crash tests, as many and as long as wanted.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use udax_crash::{DeviceEvent, Domain, Happened};
use udax_pmem::OwnedEvent;
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::fault::{self, Fault};
use udax_test_crash::explore::{Effort, Place};
use udax_test_crash::hunt;
use udax_test_crash::run::{
    Campaign, Failure, Finding, Limits, Outcome, Progress, Sequences, Silent, sequences,
};
use udax_test_crash::workload::{Workload, prepare, task_list};

/// Between two lines of progress where there is no terminal.
const LINE_SECONDS: u64 = 60;

#[derive(Debug, Parser)]
#[command(about = "Lets power fail at every moment of operations on a pool, and judges what is left")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
    /// Switch this protection off; in a build with `--cfg udax_faults`.
    #[arg(long, global = true)]
    without: Option<Fault>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Go through many workloads: all single actions, then pairs, triples, random ones and threads in turn.
    Run(Run),
    /// Go through all pairs of actions on each kind of files, with little of each, however many images that makes.
    Pairs(Pairs),
    /// Go through these workloads.
    Explore {
        /// Their names: `ace/ACTION,ACTION`, `random/SEED/OPERATIONS`, `threads/SEED/THREADS/OPERATIONS`,
        /// `shared/THREADS/ROUNDS`, `load/THREADS/RECORDS`, `reuse/THREADS/ROUNDS`, `many/TASK`; before them `cached/`,
        /// `sums/` or `tiered/`.
        #[arg(required = true)]
        workloads: Vec<Workload>,
        #[command(flatten)]
        how: How,
    },
    /// Let the crash tests find each protection's absence, one after the other. For builds with `--cfg udax_faults`.
    Faults {
        /// Those to hunt for; none: all that crash tests find.
        faults: Vec<Fault>,
        /// The longest hunt for one, in seconds.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// The machine: flush, eadr or msync.
        #[arg(long, default_value = "flush")]
        domain: Domain,
    },
    /// Switch this protection off, and end with status 3 when an image shows that.
    Hunt {
        /// The protection.
        fault: Fault,
        /// How long, in seconds.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// Chooses the workloads and the samples.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The machine: flush, eadr or msync.
        #[arg(long, default_value = "flush")]
        domain: Domain,
    },
    /// Look at one image again, as the line of a failure says.
    Replay {
        /// The workload.
        workload: Workload,
        /// The machine: flush, eadr or msync.
        domain: Domain,
        /// When power fails, and what is left: `EVENTS:CUT`, or two of them with a slash.
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// End after so many distinct images, those of recoveries among them.
    #[arg(long, default_value_t = 1_000_000)]
    until: u64,
    #[command(flatten)]
    how: How,
}

/// On what files a workload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Files {
    /// Files that are mapped.
    Plain,
    /// Files with checksums of their data.
    Sums,
    /// Files in the page cache.
    Cached,
    /// The same, on a pool with a data device.
    Tiered,
}

impl Files {
    fn of(self, workload: Workload) -> Workload {
        match self {
            Self::Plain => workload,
            Self::Sums => Workload::Summed(Box::new(workload)),
            Self::Cached => Workload::Cached(Box::new(workload)),
            Self::Tiered => Workload::Tiered(Box::new(workload)),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Pairs {
    /// On what files, one kind after the other.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "plain,sums,cached,tiered"
    )]
    files: Vec<Files>,
    /// Chooses the order and the samples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many minutes, with status 1 when pairs are left.
    #[arg(long, default_value_t = 120)]
    minutes: u64,
    /// Images of a moment, at most.
    #[arg(long, default_value_t = 2)]
    images: usize,
    /// Moments of a pair, at most.
    #[arg(long, default_value_t = 8)]
    moments: usize,
    /// The recovery of one in so many images of a pair in a domain is gone through: there are few.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

impl Task {
    /// What it goes through, if that is known from the start.
    fn workloads(&self) -> Vec<Workload> {
        match self {
            Self::Run(run) => all(run.how.seed),
            Self::Pairs(pairs) => pairs.workloads(),
            Self::Explore { workloads, .. } => workloads.clone(),
            Self::Replay { workload, .. } => vec![workload.clone()],
            Self::Faults { .. } | Self::Hunt { .. } => Vec::new(),
        }
    }
}

impl Pairs {
    fn workloads(&self) -> Vec<Workload> {
        let all = Sequences {
            length: 2,
            sample: None,
        };
        let pairs = sequences(all, self.seed);
        let of = |files: &Files| {
            let files = *files;
            pairs.iter().cloned().map(move |pair| files.of(pair))
        };
        self.files.iter().flat_map(of).collect()
    }

    /// Goes through all of them on all machines.
    fn run(&self) -> ExitCode {
        let campaign = Campaign {
            workloads: self.workloads(),
            domains: Domain::ALL.to_vec(),
            effort: Effort {
                images: self.images,
                again: 2,
                every: self.every,
                moments: self.moments,
            },
            seed: self.seed,
            limits: Limits {
                images: u64::MAX,
                time: Duration::from_secs(self.minutes * 60),
            },
            threads: 0,
        };
        let bar = Bar::new();
        let outcome = campaign.run(&bar);
        bar.bar.finish_and_clear();
        let found = report(&outcome);
        if outcome.failures.is_empty() && !outcome.is_complete {
            println!(
                "{} pairs, not all of them were gone through",
                campaign.workloads.len()
            );
            return ExitCode::FAILURE;
        }
        found
    }
}

#[derive(Clone, Debug, clap::Args)]
struct How {
    /// Chooses the workloads and the samples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many minutes.
    #[arg(long, default_value_t = 120)]
    minutes: u64,
    /// Images of a moment, at most.
    #[arg(long, default_value_t = 24)]
    images: usize,
    /// Images of a moment of a recovery, at most.
    #[arg(long, default_value_t = 6)]
    again: usize,
    /// The recovery of one in so many images is gone through.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Moments of a workload, at most.
    #[arg(long, default_value_t = usize::MAX)]
    moments: usize,
    /// The machines, each for every workload: flush, eadr, msync.
    #[arg(long, value_delimiter = ',', default_value = "flush,eadr,msync")]
    domains: Vec<Domain>,
    /// Worker threads; 0 for one a processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl How {
    fn campaign(&self, workloads: Vec<Workload>, images: u64) -> Campaign {
        Campaign {
            workloads,
            domains: self.domains.clone(),
            effort: Effort {
                images: self.images,
                again: self.again,
                every: self.every,
                moments: self.moments,
            },
            seed: self.seed,
            limits: Limits {
                images,
                time: Duration::from_secs(self.minutes * 60),
            },
            threads: self.threads,
        }
    }
}

/// All single actions and all operations of several records on each kind of files, in turn with all pairs, triples,
/// random workloads, threads, growths and full pools: whenever the run ends, something of each kind is through.
fn all(seed: u64) -> Vec<Workload> {
    let mut mixed = mixed(seed).into_iter();
    let mut workloads = Vec::new();
    for one in each(seed) {
        workloads.push(one);
        workloads.extend(mixed.next());
    }
    workloads.extend(mixed);
    workloads
}

/// What is done alone.
fn each(seed: u64) -> Vec<Workload> {
    let of = |length, sample| sequences(Sequences { length, sample }, seed);
    let mut workloads = of(1, None);
    let summed = |workload| Files::Sums.of(workload);
    workloads.extend(of(1, None).into_iter().map(summed));
    let cached = |workload| Files::Cached.of(workload);
    workloads.extend(of(1, None).into_iter().map(cached));
    workloads.extend(of(1, None).into_iter().map(cached).map(summed));
    let tiered = |workload| Files::Tiered.of(workload);
    workloads.extend(of(1, None).into_iter().map(tiered));
    for task in (0..task_list().len()).map(Workload::Many) {
        workloads.extend([
            task.clone(),
            summed(task.clone()),
            cached(task.clone()),
            tiered(task),
        ]);
    }
    workloads.push(Workload::Lanes { records: 700 });
    workloads.push(Workload::Load {
        threads: 2,
        records: 350,
    });
    workloads.push(Workload::Reuse {
        threads: 2,
        rounds: 60,
    });
    for threads in [2, 3] {
        let shared = Workload::Shared { threads, rounds: 20 };
        workloads.extend([cached(shared.clone()), tiered(shared.clone()), shared]);
    }
    workloads
}

/// What is done after something else, beside it, or in little space.
fn mixed(seed: u64) -> Vec<Workload> {
    let of = |length, sample| sequences(Sequences { length, sample }, seed);
    let [summed, cached, tiered] =
        [Files::Sums, Files::Cached, Files::Tiered].map(|files| move |workload| files.of(workload));
    let mut workloads = Vec::new();
    let mut triples = of(3, Some(20_000)).into_iter();
    for (index, pair) in (0_u64..).zip(of(2, None)) {
        workloads.push(pair.clone());
        if index % 3 == 0 {
            workloads.push(summed(pair.clone()));
        }
        if index % 3 == 1 {
            workloads.push(cached(pair.clone()));
        }
        if index % 3 == 2 {
            workloads.push(tiered(pair.clone()));
        }
        workloads.extend(triples.next());
        if index % 50 == 0
            && let Workload::Actions(actions) = pair
        {
            workloads.push(Workload::Grow(actions));
        }
        if index % 8 == 0 {
            let seed = seed.wrapping_mul(1_000_000).wrapping_add(index);
            let random = Workload::Random {
                seed,
                operations: 300,
            };
            let threads = Workload::Threads {
                seed,
                threads: 3,
                operations: 60,
            };
            if index % 16 == 0 {
                workloads.extend([cached(random.clone()), cached(threads.clone())]);
            } else {
                workloads.extend([tiered(random.clone()), tiered(threads.clone())]);
            }
            workloads.extend([random, threads]);
            let full = Workload::Full {
                seed,
                operations: 100,
            };
            let also = match index / 8 % 3 {
                0 => cached(full.clone()),
                1 => summed(full.clone()),
                _ => tiered(full.clone()),
            };
            workloads.extend([full, also]);
        }
    }
    workloads.extend(triples);
    workloads
}

/// A bar on terminals; elsewhere a line now and then, so that a log shows how far a long run got.
struct Bar {
    bar: ProgressBar,
    began: Instant,
    lines: AtomicU64,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {msg}, {per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            began: Instant::now(),
            lines: AtomicU64::new(0),
        }
    }
}

impl Progress for Bar {
    fn step(&self, begun: u64, workloads: u64, distinct: u64) {
        let text = format!("workload {begun} of {workloads}, {distinct} distinct images");
        if self.bar.is_hidden() {
            let elapsed = self.began.elapsed();
            let due = elapsed.as_secs() / LINE_SECONDS;
            if self.lines.fetch_max(due, Ordering::Relaxed) < due {
                eprintln!(
                    "{:.0} s: {text}, {} a second",
                    elapsed.as_secs_f64(),
                    rate(distinct, elapsed)
                );
            }
            return;
        }
        self.bar.set_position(distinct);
        self.bar.set_message(text);
    }
}

fn report(outcome: &Outcome) -> ExitCode {
    for failure in &outcome.failures {
        println!("{failure}");
    }
    for ((kind, domain), share) in &outcome.kinds {
        println!(
            "{kind} on {domain}: {} workloads, {} moments, {} images, {} of them of recoveries",
            share.workloads, share.tally.moments, share.tally.images, share.tally.recoveries
        );
    }
    let tally = &outcome.tally;
    println!(
        "{} workloads, {} moments, {} images judged in {:.0} s: {} images/s; {} after a first power failure ({} \
         distinct), {} after one in a recovery ({} distinct but for nonces); {} more were judged before",
        outcome.workloads,
        tally.moments,
        tally.images,
        outcome.time.as_secs_f64(),
        rate(tally.images, outcome.time),
        tally.images - tally.recoveries,
        outcome.distinct.first,
        tally.recoveries,
        outcome.distinct.recoveries,
        tally.repeated
    );
    let is_violation = |failure: &Failure| matches!(failure.what, Finding::Violation(..));
    if outcome.failures.iter().any(is_violation) {
        return ExitCode::from(hunt::VIOLATION);
    }
    match outcome.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn rate(images: u64, time: Duration) -> u64 {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    images.saturating_mul(1000) / milliseconds
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { command, without } = Arguments::parse();
    if let Some(fault) = without {
        switch_off(fault, &command.workloads())?;
    }
    match command {
        Task::Run(run) => {
            let bar = Bar::new();
            let limit = run.until;
            bar.bar.set_length(limit);
            let outcome = run.how.campaign(all(run.how.seed), limit).run(&bar);
            bar.bar.finish_and_clear();
            Ok(report(&outcome))
        }
        Task::Pairs(pairs) => Ok(pairs.run()),
        Task::Explore { workloads, how } => {
            let bar = Bar::new();
            let outcome = how.campaign(workloads, u64::MAX).run(&bar);
            bar.bar.finish_and_clear();
            Ok(report(&outcome))
        }
        Task::Faults {
            faults,
            seconds,
            domain,
        } => hunt_all(&faults, domain, Duration::from_secs(seconds)),
        Task::Hunt {
            fault,
            seconds,
            seed,
            domain,
        } => {
            let limits = Limits {
                images: u64::MAX,
                time: Duration::from_secs(seconds),
            };
            let campaign = hunt::campaign(fault, domain, seed, limits);
            switch_off(fault, &campaign.workloads)?;
            let outcome = campaign.run(&Silent);
            Ok(report(&outcome))
        }
        Task::Replay {
            workload,
            domain,
            place,
        } => replay(&workload, domain, &place),
    }
}

/// For the whole process, but not for what workloads begin with.
fn switch_off(fault: Fault, workloads: &[Workload]) -> anyhow::Result<()> {
    prepare(workloads)?;
    fault::inject(fault)?;
    // Panics are findings here, and told as such.
    std::panic::set_hook(Box::new(|_| {}));
    Ok(())
}

/// What is stored, flushed and fenced, and what the data device does, numbered from `first` on.
fn print_events(events: &[Happened], first: usize) {
    for (number, event) in (first..).zip(events) {
        match event {
            Happened::Memory(traced) => print_memory(number, &traced.event),
            Happened::Device(DeviceEvent::Write { at, bytes }) => {
                println!("  {number}: write {} bytes at {at} of the device", bytes.len());
            }
            Happened::Device(DeviceEvent::Flush) => println!("  {number}: flush the device"),
        }
    }
}

fn print_memory(number: usize, event: &OwnedEvent) {
    match event {
        OwnedEvent::Store { at, bytes } => println!("  {number}: store {} bytes at {at}", bytes.len()),
        OwnedEvent::NonTemporal { at, bytes } => {
            println!("  {number}: store {} bytes at {at} past the cache", bytes.len());
        }
        OwnedEvent::Flush { at, len } => println!("  {number}: flush {len} bytes at {at}"),
        OwnedEvent::Fence => println!("  {number}: fence"),
    }
}

fn hunt_all(faults: &[Fault], domain: Domain, time: Duration) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let faults = match faults {
        [] => hunt::faults().collect(),
        some => some.to_vec(),
    };
    let mut missed = 0;
    for fault in &faults {
        let began = Instant::now();
        match hunt::hunt(&program, *fault, domain, time) {
            Ok(found) => {
                let short: String = found.chars().take(200).collect();
                println!(
                    "{}: found in {:.1} s: {short}",
                    fault.name(),
                    began.elapsed().as_secs_f64()
                );
            }
            Err(error) => {
                missed += 1;
                println!("{error:#}");
            }
        }
    }
    println!("{} faults, {missed} not found", faults.len());
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn replay(workload: &Workload, domain: Domain, place: &Place) -> anyhow::Result<ExitCode> {
    ensure!(
        workload.is_deterministic(),
        "threads come in another order each time: explore the workload again"
    );
    let recording = workload.record()?;
    for lane in &recording.lanes {
        for (index, step) in lane.steps.iter().enumerate() {
            let state = match place.first.0 {
                events if step.returned <= events => "done",
                events if step.began < events => "under way",
                _ => break,
            };
            println!(
                "{index} ({} to {}) {state}: {:?}",
                step.began, step.returned, step.act
            );
            if state == "under way" {
                print_events(&recording.events[step.began..step.returned], step.began);
            }
        }
    }
    match recording.judge_at(domain, place) {
        Ok(()) => {
            println!("this image is right");
            Ok(ExitCode::SUCCESS)
        }
        Err(what) => {
            println!("{what}");
            Ok(ExitCode::FAILURE)
        }
    }
}
