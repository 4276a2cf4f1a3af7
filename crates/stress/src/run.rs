//! How a contest begins, is watched, and ends: [`run`].

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use udax::{Counters, Filesystem};
use udax_disk::FailedRequests;
use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::thread::{self, JoinHandle};

use crate::contest::Contest;
use crate::dma_ring::DmaRing;
use crate::engine::{Engine, Port};
use crate::mutator::{Door, Mutator, judge_range};
use crate::options::{EngineKind, Failing, Options, StressError};
use crate::referee::{Actor, Referee};
use crate::report::{DaxCounts, DeviceCounts, Kind, Report};

/// How often the watchdog looks.
const TICK: Duration = Duration::from_millis(20);

/// Ends a contest before its time, from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends it: what is under way is finished and reported.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A thread, and what the watchdog knows of it.
pub(crate) struct Running {
    actor: Arc<Actor>,
    handle: JoinHandle<()>,
}

/// Says what a wait that does not end may wait for.
pub(crate) type Held<'h> = dyn Fn() -> Vec<String> + 'h;

/// Holds a contest in the directory `/udax-stress` of `filesystem`, which nobody else uses meanwhile.
///
/// It ends after its duration, by `stop`, or with its first finding; when a thread does not come back, that is told and
/// the thread is left behind.
///
/// # Errors
/// `Options`; `Filesystem` when the files cannot be made; `Thread`. What goes wrong in the contest is in the report.
pub fn run(filesystem: &Filesystem, options: &Options, stop: &Stop) -> Result<Report, StressError> {
    options.check()?;
    let before = filesystem.dax_counters();
    let contest = Arc::new(Contest::new(filesystem, options)?);
    fail_one_in(options, |failing| failing.one_in);
    let mut running = Vec::new();
    let started = start(&contest, &mut running);
    if started.is_err() {
        contest.end();
    }
    watch(&contest, &running, stop, &|| held_pins(&contest));
    contest.end();
    let is_back = join(&contest, running, &|| held_pins(&contest));
    fail_one_in(options, |_| 0);
    started?;
    let seconds = contest.elapsed().as_secs_f64();
    if is_back {
        conclude(&contest)?;
    }
    let dax = counted(&contest, before);
    Ok(Report {
        seed: options.seed,
        seconds,
        dma: contest.tally.dma(),
        dax,
        cache: contest.cache.counted(filesystem),
        device: device_counts(&contest),
        operations: contest.tally.operations(),
        notes: Vec::new(),
        findings: contest.take_findings(),
    })
}

/// Has the data device fail, if it is to.
fn fail_one_in(options: &Options, one_in: impl Fn(&Failing) -> u64) {
    if let Some(failing) = &options.failing {
        failing.device.fail_one_in(one_in(failing));
    }
}

fn device_counts(contest: &Contest) -> DeviceCounts {
    let failing = contest.options.failing.as_ref();
    let failed = failing.map_or_else(FailedRequests::default, |failing| failing.device.failed());
    DeviceCounts {
        failed_reads: failed.reads,
        failed_writes: failed.writes,
        failed_flushes: failed.flushes,
        refused: contest.tally.refused_by_device.load(Ordering::Relaxed),
    }
}

/// Starts all threads, with numbers from 1.
fn start(contest: &Arc<Contest>, running: &mut Vec<Running>) -> Result<(), StressError> {
    let engines = contest.options.engines;
    for number in 0..engines + contest.options.threads {
        let is_engine = number < engines;
        let actor = named_actor(number, is_engine);
        let (contest, watched) = (Arc::clone(contest), Arc::clone(&actor));
        let port = if is_engine {
            Some(make_port(&contest.options.engine, actor.number)?)
        } else {
            None
        };
        let work = move || match port {
            Some(port) => Engine::new(contest, actor, port).run(),
            None => Mutator::new(contest, actor).run(),
        };
        running.push(spawn(watched, work)?);
    }
    Ok(())
}

/// A thread's name and number, from 1.
pub(crate) fn named_actor(number: usize, is_engine: bool) -> Arc<Actor> {
    let name = format!("{} {}", if is_engine { "engine" } else { "mutator" }, number + 1);
    Arc::new(Actor::new(u64::try_from(number + 1).unwrap_or(0), name))
}

/// Starts a thread.
pub(crate) fn spawn(actor: Arc<Actor>, work: impl FnOnce() + Send + 'static) -> Result<Running, StressError> {
    let handle = thread::Builder::new()
        .name(actor.name.clone())
        .spawn(work)
        .map_err(StressError::Thread)?;
    Ok(Running { actor, handle })
}

/// What an engine stores through.
fn make_port(kind: &EngineKind, number: u64) -> Result<Port, StressError> {
    match kind {
        EngineKind::Simulated => Ok(Port::Thread),
        EngineKind::IoUring(directory) => match DmaRing::new(directory, number) {
            Ok(ring) => Ok(Port::Ring(Box::new(ring))),
            Err((what, source)) => Err(StressError::NoDma { what, source }),
        },
    }
}

/// Waits until it is over.
pub(crate) fn watch(contest: &Referee, running: &[Running], stop: &Stop, held: &Held<'_>) {
    let end = Instant::now() + contest.options.duration;
    while Instant::now() < end && !stop.is_stopped() && !contest.is_over() {
        thread::sleep(TICK);
        for one in running {
            if let Some(what) = contest.is_starved(&one.actor) {
                contest.find(Kind::Starved, what, held());
                return;
            }
            if one.handle.is_finished() {
                // It has panicked; `join` says how.
                return;
            }
        }
    }
}

/// What a wait that does not end waits for.
fn held_pins(contest: &Contest) -> Vec<String> {
    let pins = contest.filesystem.pins().into_iter().take(32);
    pins.map(|pin| {
        format!(
            "pin of inode {} pages {}..={} by {} {}, {:?}, for {:?}",
            pin.file,
            pin.pages.first(),
            pin.pages.last(),
            pin.label.name,
            pin.label.number,
            pin.access,
            pin.age
        )
    })
    .collect()
}

/// Waits for all threads; whether all have come back.
pub(crate) fn join(contest: &Referee, running: Vec<Running>, held: &Held<'_>) -> bool {
    let end = Instant::now() + contest.options.patience;
    while Instant::now() < end && running.iter().any(|one| !one.handle.is_finished()) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut are_back = true;
    for Running { actor, handle } in running {
        if !handle.is_finished() {
            are_back = false;
            let what = format!("{} does not end", actor.name);
            contest.find(Kind::Starved, what, held());
        } else if let Err(panic) = handle.join() {
            let what = format!("{}: {}", actor.name, message(&*panic));
            contest.find(Kind::Panicked, what, Vec::new());
        }
    }
    are_back
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

/// Judges all files for the last time, and removes them.
fn conclude(contest: &Contest) -> Result<(), StressError> {
    let actor = Actor::new(0, "the end".to_owned());
    for slot in &contest.slots {
        if let Some(life) = slot.current() {
            let blocks = contest.size_of(&life).div_ceil(crate::stamp::BLOCK_LEN);
            judge_range(contest, &actor, (&life, Door::Plain), (0, blocks));
            slot.replace(None);
        }
    }
    if contest.has_findings() {
        // What is wrong stays, to be looked at.
        return Ok(());
    }
    for pin in held_pins(contest) {
        contest.find(Kind::Counted, format!("left behind: {pin}"), Vec::new());
    }
    contest.remove_directory()?;
    Ok(contest.filesystem.sync()?)
}

/// What the filesystem has counted since `before`; its defects are findings.
fn counted(contest: &Contest, before: Counters) -> DaxCounts {
    let after = contest.filesystem.dax_counters();
    let defects = [
        (
            "entries found by truncations",
            after.entries_at_truncate - before.entries_at_truncate,
        ),
        (
            "blocks shared unexpectedly",
            after.unexpected_sharing - before.unexpected_sharing,
        ),
        ("pins of pages that had moved", contest.tally.dma().moved_pins),
    ];
    for (what, count) in defects.into_iter().filter(|(_, count)| *count > 0) {
        contest.find(Kind::Counted, format!("{what}: {count}"), Vec::new());
    }
    DaxCounts {
        pins: after.pins - before.pins,
        gated_pins: after.gated_pins - before.gated_pins,
        breaks: after.breaks - before.breaks,
        retries: after.busy_breaks - before.busy_breaks,
        waits: after.waits - before.waits,
        longest_wait_micros: after.longest_wait_nanos / 1000,
    }
}
