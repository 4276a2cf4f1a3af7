//! Many workloads on all processors.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use udax_crash::Domain;
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::explore::{Effort, Explorer, Tally, Violation};
use crate::record::Recording;
use crate::workload::{Workload, alphabet};

/// When a campaign ends, whatever is left of its workloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// After so many distinct images, those of recoveries among them.
    pub images: u64,
    /// After so long.
    pub time: Duration,
}

/// What a campaign goes through.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// In this order.
    pub workloads: Vec<Workload>,
    /// The machines: what one recording of a workload leaves is judged on each.
    pub domains: Vec<Domain>,
    /// How many images of each moment.
    pub effort: Effort,
    /// Chooses samples.
    pub seed: u64,
    /// When it ends.
    pub limits: Limits,
    /// Worker threads; 0 for one a processor.
    pub threads: usize,
}

/// Something that is not right, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was done.
    pub workload: Workload,
    /// What is wrong.
    pub what: Finding,
    /// Of a workload that cannot be repeated exactly: a file with the image, the data device's bytes in one beside it.
    pub kept: Option<PathBuf>,
}

/// What can be wrong.
#[derive(Clone, Debug)]
pub enum Finding {
    /// An image on this machine breaks a promise.
    Violation(Domain, Box<Violation>),
    /// The workload itself failed, before any power failure.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = &self.workload;
        match &self.what {
            Finding::Violation(domain, violation) => {
                let (name, what, place) = (domain.name(), &violation.what, violation.place);
                writeln!(f, "{workload} on {name}: {what}")?;
                match &self.kept {
                    None => write!(
                        f,
                        "repeat it: cargo run -p udax-test-crash -- replay {workload} {name} {place}"
                    ),
                    Some(kept) => write!(
                        f,
                        "at {place}, of threads that come in another order each time: the image after the first power \
                         failure is {}; more of them: cargo run -p udax-test-crash -- explore {workload}",
                        kept.display()
                    ),
                }
            }
            Finding::Refused(what) => write!(
                f,
                "{workload}: {what}\nrepeat it: cargo run -p udax-test-crash -- explore {workload}"
            ),
        }
    }
}

/// What a campaign found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Counts.
    pub tally: Tally,
    /// Workloads gone through.
    pub workloads: u64,
    /// Images that differ from all others.
    pub distinct: Distinct,
    /// Counts of each kind of workload on each machine, by their names.
    pub kinds: BTreeMap<(String, &'static str), Share>,
    /// How long it took.
    pub time: Duration,
    /// Whether all workloads were gone through, on all machines, before time or images were used up.
    pub is_complete: bool,
    /// The first failure of each worker: they end then.
    pub failures: Vec<Failure>,
}

/// How many images differ from all others. Recordings of the same operations differ by the clock and a nonce: what they
/// leave counts as different. Recoveries that differ by their nonces only count as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Distinct {
    /// After a first power failure.
    pub first: u64,
    /// After one in a recovery, nonces aside.
    pub recoveries: u64,
}

/// A kind of workload's part of a campaign, on one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// Workloads gone through, or begun when the campaign ended.
    pub workloads: u64,
    /// Counts.
    pub tally: Tally,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.tally.add(&other.tally);
        self.workloads += other.workloads;
        self.failures.extend(other.failures);
        for (kind, share) in other.kinds {
            let sum = self.kinds.entry(kind).or_default();
            sum.workloads += share.workloads;
            sum.tally.add(&share.tally);
        }
    }
}

/// Told how far a campaign is.
pub trait Progress: Sync {
    /// So many workloads of all are begun, with so many distinct images.
    fn step(&self, begun: u64, workloads: u64, distinct: u64);
}

/// No progress wanted.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: u64, _: u64, _: u64) {}
}

/// What workers share.
struct Shared<'c> {
    campaign: &'c Campaign,
    progress: &'c dyn Progress,
    began: Instant,
    next: AtomicU64,
    distinct: Mutex<Seen>,
    /// How many those are, for who has not the lock.
    images: AtomicU64,
    has_failed: AtomicBool,
}

#[derive(Default)]
struct Seen {
    first: HashSet<u128>,
    recoveries: HashSet<u128>,
}

impl Seen {
    fn count(&self) -> Distinct {
        Distinct {
            first: number(self.first.len()),
            recoveries: number(self.recoveries.len()),
        }
    }
}

impl Campaign {
    /// Goes through the workloads until they, the time or the images are used up, or something is not right. Judges
    /// catch the panics of what they judge; others go on here.
    pub fn run(&self, progress: &dyn Progress) -> Outcome {
        let shared = Shared {
            campaign: self,
            progress,
            began: Instant::now(),
            next: AtomicU64::new(0),
            distinct: Mutex::new(Rank::Leaf, Seen::default()),
            images: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        };
        let workers = match self.threads {
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        };
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| shared.work())).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Outcome>| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        let mut sum = Outcome {
            distinct: shared.distinct.lock().count(),
            is_complete: shared.goes_on()
                && shared.next.load(Ordering::Relaxed) >= number(self.workloads.len()),
            time: shared.began.elapsed(),
            ..Outcome::default()
        };
        for outcome in outcomes {
            sum.add(outcome);
        }
        sum
    }
}

impl Shared<'_> {
    fn work(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let workloads = &self.campaign.workloads;
        while self.goes_on() && outcome.failures.is_empty() {
            let begun = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(workload) = usize::try_from(begun).ok().and_then(|index| workloads.get(index)) else {
                break;
            };
            outcome.workloads += 1;
            if let Err(failure) = self.explore(workload, begun, &mut outcome) {
                self.has_failed.store(true, Ordering::Relaxed);
                outcome.failures.push(failure);
            }
        }
        outcome
    }

    /// Records `workload` once, and judges on each machine what that may leave.
    fn explore(&self, workload: &Workload, begun: u64, outcome: &mut Outcome) -> Result<(), Failure> {
        let failure = |what| Failure {
            workload: workload.clone(),
            what,
            kept: None,
        };
        let recording = workload.record();
        let recording = recording.map_err(|error| failure(Finding::Refused(format!("{error:#}"))))?;
        for domain in &self.campaign.domains {
            let mut tally = Tally::default();
            let explored = self.explore_on(*domain, &recording, begun, &mut tally);
            let share = outcome.kinds.entry((workload.kind(), domain.name())).or_default();
            share.workloads += 1;
            share.tally.add(&tally);
            outcome.tally.add(&tally);
            if let Err(violation) = explored {
                let keep = || recording.keep_image(*domain, violation.place.first).ok();
                let kept = (!workload.is_deterministic()).then(keep).flatten();
                let found = failure(Finding::Violation(*domain, violation));
                return Err(Failure { kept, ..found });
            }
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }

    fn explore_on(
        &self,
        domain: Domain,
        recording: &Recording,
        begun: u64,
        tally: &mut Tally,
    ) -> Result<(), Box<Violation>> {
        let Campaign { effort, seed, .. } = *self.campaign;
        let mut explorer = Explorer::new(recording, domain, effort, seed ^ begun);
        let explored = explorer.explore(&mut |explorer| {
            let mut distinct = self.distinct.lock();
            distinct.first.extend(explorer.fingerprints.first.drain(..));
            distinct
                .recoveries
                .extend(explorer.fingerprints.recoveries.drain(..));
            let Distinct { first, recoveries } = distinct.count();
            drop(distinct);
            let images = first + recoveries;
            self.images.store(images, Ordering::Relaxed);
            self.progress
                .step(begun + 1, number(self.campaign.workloads.len()), images);
            self.goes_on()
        });
        tally.add(&explorer.tally);
        explored
    }

    fn goes_on(&self) -> bool {
        let Limits { images, time } = self.campaign.limits;
        !self.has_failed.load(Ordering::Relaxed)
            && self.began.elapsed() < time
            && self.images.load(Ordering::Relaxed) < images
    }
}

/// Which sequences of actions are gone through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequences {
    /// All of this length.
    pub length: usize,
    /// At most so many of them, chosen by seed; `None`: all.
    pub sample: Option<usize>,
}

/// Sequences of actions of the alphabet, in random order.
pub fn sequences(wanted: Sequences, seed: u64) -> Vec<Workload> {
    let count = alphabet().len();
    let mut random = SmallRng::seed_from_u64(seed);
    let all = u32::try_from(wanted.length)
        .ok()
        .and_then(|length| count.checked_pow(length));
    let mut indices: Vec<usize> = match (wanted.sample, all) {
        (Some(sample), Some(all)) if sample < all / 2 => {
            (0..sample).map(|_| random.random_range(0..all)).collect()
        }
        (_, all) => (0..all.unwrap_or(0)).collect(),
    };
    indices.shuffle(&mut random);
    indices.truncate(wanted.sample.unwrap_or(usize::MAX));
    let actions = |mut index: usize| {
        let digits = (0..wanted.length).map(|_| {
            let digit = index % count;
            index /= count;
            digit
        });
        Workload::Actions(digits.collect())
    };
    indices.into_iter().map(actions).collect()
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
