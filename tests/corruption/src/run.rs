//! Many cases, on all processors.
//!
//! Lock: one around the tally and what each worker is at, a leaf.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use udax_crash::Domain;

use crate::case::{Bench, Outcome};
use crate::damage::{Damage, Kind, cases};
use crate::image::Scratch;
use crate::place::Places;
use crate::sample::{self, Ending, Sample};

/// How long a case may take before it counts as a hang; one takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same where its repair is interrupted some hundred times.
const LONG_PATIENCE: Duration = Duration::from_secs(1800);
/// The most failures that are kept: more are of the same few causes.
const MAX_FAILURES: usize = 200;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Kinds of damage.
    pub kinds: Vec<Kind>,
    /// How the pools were left.
    pub endings: Vec<Ending>,
    /// At most so many cases of each kind and ending, of each structure as many as of another as far as it has some;
    /// all when `None`.
    pub limit: Option<usize>,
    /// Where the choice and the values of flipped bytes come from.
    pub seed: u64,
    /// Workers; 0 for one a processor.
    pub threads: usize,
    /// Power fails in each repair, too, on each kind of machine: at most so many images of each moment are judged.
    pub interrupted: Option<usize>,
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases by ending, kind and outcome.
    pub outcomes: BTreeMap<(Ending, Kind, Outcome), u64>,
    /// By role of the damaged block, where damage went unnoticed.
    pub unnoticed: BTreeMap<String, u64>,
    /// The case, as text that repeats it, and what is wrong.
    pub failures: Vec<(String, String)>,
    /// Cases that failed.
    pub failed: usize,
    /// Images of repairs that were interrupted.
    pub interrupted: u64,
}

impl Tally {
    /// All cases.
    pub fn cases(&self) -> u64 {
        let failed = u64::try_from(self.failed).unwrap_or(u64::MAX);
        self.outcomes.values().sum::<u64>() + failed
    }
}

/// The samples and what is known of them.
#[derive(Debug)]
pub struct Samples {
    all: Vec<(Sample, Places)>,
}

impl Samples {
    /// Makes them.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make() -> anyhow::Result<Self> {
        let scratch = Scratch::new("places")?;
        let mut all = Vec::new();
        for sample in sample::make()? {
            let places = Places::find(&sample, &scratch)?;
            all.push((sample, places));
        }
        Ok(Self { all })
    }

    /// The sample that was left so.
    ///
    /// # Panics
    /// Never: there is one of each.
    pub fn of(&self, ending: Ending) -> (&Sample, &Places) {
        let found = self.all.iter().find(|(sample, _)| sample.ending == ending);
        let (sample, places) = found.expect("there is a sample of each ending");
        (sample, places)
    }
}

type Job = (Ending, Kind, Damage);

struct Shared {
    tally: Tally,
    at: Vec<Option<(Job, Instant)>>,
}

/// Judges the cases of `plan`; `told` gets the number of cases done and of all, now and then.
///
/// # Errors
/// When a case does not end.
pub fn run(samples: &Samples, plan: &Plan, told: &dyn Fn(usize, usize, usize)) -> anyhow::Result<Tally> {
    let jobs = jobs(samples, plan);
    let workers = match plan.threads {
        0 => thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let patience = match plan.interrupted {
        None => PATIENCE,
        Some(_) => LONG_PATIENCE,
    };
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(Shared {
        tally: Tally::default(),
        at: vec![None; workers],
    });
    thread::scope(|scope| {
        let work = |worker: usize| {
            let (next, shared, jobs) = (&next, &shared, &jobs);
            move || -> anyhow::Result<()> {
                let scratch = Scratch::new(&format!("worker-{worker}"))?;
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    lock(shared).at[worker] = Some((*job, Instant::now()));
                    let judged = judge(samples, &scratch, *job, plan.interrupted);
                    note(&mut lock(shared), worker, *job, judged, samples);
                }
                Ok(())
            }
        };
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
        while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(20));
            let guard = lock(&shared);
            let late = guard
                .at
                .iter()
                .flatten()
                .find(|(_, since)| since.elapsed() > patience);
            if let Some((job, _)) = late {
                // The thread cannot be stopped, so the scope would wait for it for ever.
                eprintln!("{}: does not end", text(*job));
                std::process::exit(3);
            }
            told(
                next.load(Ordering::Relaxed).min(jobs.len()),
                jobs.len(),
                guard.tally.failed,
            );
        }
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })
    .map(|()| std::mem::take(&mut lock(&shared).tally))
}

fn lock<'s>(shared: &'s Mutex<Shared>) -> MutexGuard<'s, Shared> {
    // Cases that panic do so outside of it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn jobs(samples: &Samples, plan: &Plan) -> Vec<Job> {
    let mut jobs = Vec::new();
    for ending in &plan.endings {
        let (sample, places) = samples.of(*ending);
        for kind in &plan.kinds {
            let mut all = cases(*kind, sample, places, plan.seed);
            if let Some(limit) = plan.limit {
                all.shuffle(&mut SmallRng::seed_from_u64(plan.seed));
                spread(&mut all, |damage| places.structure(damage.block()));
                all.truncate(limit);
            }
            jobs.extend(all.into_iter().map(|damage| (*ending, *kind, damage)));
        }
    }
    jobs
}

/// Orders `all` so that each of the groups has its turn: the few cases of a rare structure come as early as those of a
/// frequent one.
fn spread<T, K: Ord>(all: &mut Vec<T>, group: impl Fn(&T) -> K) {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    let mut numbered: Vec<(usize, T)> = Vec::with_capacity(all.len());
    for one in all.drain(..) {
        let count = counts.entry(group(&one)).or_default();
        numbered.push((*count, one));
        *count += 1;
    }
    numbered.sort_by_key(|(number, _)| *number);
    all.extend(numbered.into_iter().map(|(_, one)| one));
}

/// How many cases `plan` has of each ending and kind.
pub fn count(samples: &Samples, plan: &Plan) -> Vec<(Ending, Kind, usize)> {
    let mut counts: BTreeMap<(Ending, Kind), usize> = BTreeMap::new();
    for (ending, kind, _) in jobs(samples, plan) {
        *counts.entry((ending, kind)).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((ending, kind), count)| (ending, kind, count))
        .collect()
}

/// What came of a case, and how many images of its interrupted repair there were.
type Judged = (Outcome, u64);

fn judge(
    samples: &Samples,
    scratch: &Scratch,
    (ending, _, damage): Job,
    interrupted: Option<usize>,
) -> Result<Judged, String> {
    let (sample, places) = samples.of(ending);
    let bench = Bench {
        sample,
        places,
        scratch,
    };
    match catch_unwind(AssertUnwindSafe(|| judge_all(&bench, damage, interrupted))) {
        Ok(judged) => judged.map_err(|error| format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Err(format!("panic: {text}"))
        }
    }
}

fn judge_all(bench: &Bench<'_>, damage: Damage, interrupted: Option<usize>) -> anyhow::Result<Judged> {
    let outcome = bench.judge(damage)?;
    let mut judged = 0;
    // What cannot be mended has no repair.
    if let Some(images) = interrupted.filter(|_| outcome != Outcome::Refused) {
        for domain in Domain::ALL {
            let images = bench.judge_interrupted(damage, domain, (images, 1));
            judged += images.with_context(|| format!("{domain:?}"))?;
        }
    }
    Ok((outcome, judged))
}

fn note(shared: &mut Shared, worker: usize, job: Job, judged: Result<Judged, String>, samples: &Samples) {
    shared.at[worker] = None;
    let (ending, kind, damage) = job;
    let tally = &mut shared.tally;
    match judged {
        Ok((outcome, images)) => {
            tally.interrupted += images;
            *tally.outcomes.entry((ending, kind, outcome)).or_default() += 1;
            if outcome == Outcome::Unnoticed {
                let (sample, places) = samples.of(ending);
                let blocks = damage.changes(sample);
                let role = blocks.first().and_then(|(block, _)| places.roles.get(block));
                let role = role.map_or_else(|| "?".to_owned(), |role| format!("{role:?}"));
                let role = role.split('(').next().unwrap_or_default();
                let key = format!("{} {} {role}", ending.name(), kind.name());
                *tally.unnoticed.entry(key).or_default() += 1;
            }
        }
        Err(why) => {
            tally.failed += 1;
            if tally.failures.len() < MAX_FAILURES {
                tally.failures.push((text(job), why));
            }
        }
    }
}

/// What repeats the case: the argument of `--case`.
fn text((ending, _, damage): Job) -> String {
    format!("{},{damage}", ending.name())
}

/// Judges the one case that `case` names: an ending and a damage, as a failure prints them.
///
/// # Errors
/// When it is no case, or what is wrong with it.
pub fn repeat(samples: &Samples, case: &str, interrupted: Option<usize>) -> anyhow::Result<Outcome> {
    let parts = case.split_once(',');
    let (ending, damage) = parts.ok_or_else(|| anyhow::anyhow!("{case} is no case"))?;
    let ending = Ending::ALL.into_iter().find(|one| one.name() == ending);
    let ending = ending.ok_or_else(|| anyhow::anyhow!("{case} is no case"))?;
    let (sample, places) = samples.of(ending);
    let damage: Damage = damage.parse()?;
    for (block, _) in damage.changes(sample) {
        eprintln!("block {block}: {:?}", places.roles.get(&block));
    }
    let scratch = Scratch::new("repeat")?;
    let bench = Bench {
        sample,
        places,
        scratch: &scratch,
    };
    Ok(judge_all(&bench, damage, interrupted)?.0)
}
