//! A soak: stress-ng's filesystem stressors on a mounted pool, whose daemon is killed (SIGKILL) again and again,
//! beside writers that remember what they were promised. After each kill the pool is mounted again and every promise
//! is compared; in the end the pool is closed and checked with all its data.
//!
//! Half of each round the stressors run to their end, and must have found nothing; in the other half the kill comes.
//! Every wait is bounded: what takes longer is a hang, and a finding.
#![forbid(unsafe_code)]

mod promises;
mod stressors;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use promises::{Counts, Promise, Stopped, Writer};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use stressors::Stress;
use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::thread;
use udax_test_posix::{Daemon, bounded, installed};

/// How long a writer may take to notice that its mount is gone, and a removal of what stressors left.
const PATIENCE: Duration = Duration::from_secs(120);
/// More than a daemon should ever have of its own: its caches are bounded.
const MEMORY_LIMIT: u64 = 1 << 30;
/// Rounds between checks of the pool as the kill left it.
const CHECK_EVERY: u64 = 5;

/// Stress a mounted pool and kill its daemon, again and again; nothing promised may be lost
#[derive(Parser, Debug)]
#[command(version)]
struct Soak {
    /// How long
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Seconds between kills
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..))]
    kill_every: u64,
    /// Choices of operations, stressors and moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mount options
    #[arg(long, default_value = "")]
    options: String,
    /// Size of the pool
    #[arg(long, default_value = "2G")]
    size: String,
    /// Make the pool with checksums of data
    #[arg(long)]
    data_checksum: bool,
    /// Threads that keep account of promises
    #[arg(long, default_value_t = 2)]
    writers: u64,
    /// Stressors at a time
    #[arg(long, default_value_t = 4)]
    stressors: usize,
}

fn main() -> ExitCode {
    let soak = Soak::parse();
    println!("{soak:?}");
    match soak.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FOUND: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was seen.
#[derive(Default)]
struct Seen {
    kills: u64,
    most_memory: u64,
    longest_mount: Duration,
}

impl Soak {
    fn run(&self) -> anyhow::Result<()> {
        ensure!(
            installed("stress-ng").is_some(),
            "there is no stress-ng; install Debian's package"
        );
        let format: &[&str] = if self.data_checksum {
            &["--data-checksum"]
        } else {
            &[]
        };
        let mut daemon =
            Daemon::new(&self.size, format, &self.options)?.context("nothing can be mounted here")?;
        let is_cached = self.options.contains("dax=never") || self.options.contains("dax=inode");
        let promise = if is_cached {
            Promise::AtSync
        } else {
            Promise::AtReturn
        };
        let mut writers = Vec::new();
        for number in 0..self.writers {
            let directory = daemon.path().join(format!("writer{number}"));
            writers.push(Writer::new(directory, promise, self.seed << 8 | number)?);
        }
        let mut choices = SmallRng::seed_from_u64(self.seed);
        let mut seen = Seen::default();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(self.minutes * 60) {
            writers = self
                .round(&mut daemon, writers, &mut choices, &mut seen)
                .inspect_err(|_| eprintln!("the daemons have said:\n{}", bounded::last_of(&daemon.told())))?;
        }
        let told = daemon.told();
        ensure!(
            !told.contains("ERROR") && !told.contains("panic"),
            "a daemon has said:\n{told}"
        );
        let counts = total(&writers);
        ensure!(counts.promised > 0 && seen.kills > 0, "nothing was done");
        daemon.unmount()?;
        print!("{}", daemon.check()?);
        println!(
            "{} kills in {:.0?}; {counts:?}; longest mount {:.1?}; most memory {} MiB; nothing lost",
            seen.kills,
            began.elapsed(),
            seen.longest_mount,
            seen.most_memory >> 20
        );
        Ok(())
    }

    /// Works, kills the daemon, mounts again and compares.
    fn round(
        &self,
        daemon: &mut Daemon,
        writers: Vec<Writer>,
        choices: &mut SmallRng,
        seen: &mut Seen,
    ) -> anyhow::Result<Vec<Writer>> {
        let began = Instant::now();
        let directory = daemon.path().join("stress");
        std::fs::create_dir(&directory).context("a place for stressors")?;
        let half = Duration::from_secs(self.kill_every / 2);
        let is_killed = Arc::new(AtomicBool::new(false));
        let working = start(writers, &is_killed);
        let first = Stress::start(&directory, choices, self.stressors, half)?;
        let mut names = first.names.clone();
        first.finish()?;
        let second = Stress::start(&directory, choices, self.stressors, 4 * half)?;
        names = format!("{names} | {}", second.names);
        // Not always when all stressors are in the same part of their work.
        let rest = half.mul_f64(choices.random_range(0.5..1.5));
        thread::sleep(rest);
        second.must_be_content()?;
        let memory = daemon.memory()?;
        is_killed.store(true, Ordering::Release);
        daemon.kill()?;
        second.end()?;
        let mut writers = wait_for(&working, self.writers)?;
        seen.kills += 1;
        if seen.kills.is_multiple_of(CHECK_EVERY) {
            daemon.check().context("the pool as the kill left it")?;
        }
        let mounting = Instant::now();
        daemon.mount()?;
        let mounted = mounting.elapsed();
        for writer in &mut writers {
            writer.verify().context("after a kill")?;
        }
        remove(&directory)?;
        seen.longest_mount = seen.longest_mount.max(mounted);
        seen.most_memory = seen.most_memory.max(memory);
        ensure!(memory < MEMORY_LIMIT, "the daemon has {} MiB", memory >> 20);
        let counts = total(&writers);
        println!(
            "kill {} after {:.0?}: {} promised, {} compared; memory {} MiB; mounted in {:.2?}; {names}",
            seen.kills,
            began.elapsed(),
            counts.promised,
            counts.compared,
            memory >> 20,
            mounted,
        );
        std::io::stdout().flush()?;
        Ok(writers)
    }
}

/// A writer that has stopped, and why.
type Stop = (Writer, Option<Stopped>);

/// Lets each writer work in a thread of its own until the daemon is killed.
fn start(writers: Vec<Writer>, is_killed: &Arc<AtomicBool>) -> mpsc::Receiver<Stop> {
    let (tell, told) = mpsc::channel();
    for mut writer in writers {
        let tell = tell.clone();
        let is_killed = Arc::clone(is_killed);
        thread::spawn(move || {
            let stopped = loop {
                // Pairs with the Release before the kill: what fails because of it fails after this says so.
                match writer.step() {
                    Ok(()) if is_killed.load(Ordering::Acquire) => break None,
                    Ok(()) => {}
                    Err(_) if is_killed.load(Ordering::Acquire) => break None,
                    Err(stopped) => break Some(stopped),
                }
            };
            let _ = tell.send((writer, stopped));
        });
    }
    told
}

fn wait_for(working: &mpsc::Receiver<Stop>, count: u64) -> anyhow::Result<Vec<Writer>> {
    let mut writers = Vec::new();
    for _ in 0..count {
        let (writer, stopped) = working
            .recv_timeout(PATIENCE)
            .context("a writer hangs, or has panicked")?;
        if let Some(Stopped::Failed(what, error)) = stopped {
            bail!("{what}: {error}");
        }
        writers.push(writer);
    }
    Ok(writers)
}

/// Removes what killed stressors have left.
fn remove(directory: &Path) -> anyhow::Result<()> {
    bounded::succeed(Command::new("rm").arg("-rf").arg(directory), PATIENCE).map(drop)
}

fn total(writers: &[Writer]) -> Counts {
    writers.iter().fold(Counts::default(), |sum, writer| Counts {
        promised: sum.promised + writer.counts.promised,
        refused: sum.refused + writer.counts.refused,
        kept: sum.kept + writer.counts.kept,
        dropped: sum.dropped + writer.counts.dropped,
        compared: sum.compared + writer.counts.compared,
    })
}
