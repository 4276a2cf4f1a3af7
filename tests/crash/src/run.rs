//! Many workloads on all processors.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use udax_crash::Domain;
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::explore::{Effort, Explorer, Tally, Violation};
use crate::workload::{Workload, alphabet};

/// When a campaign ends, whatever is left of its workloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// After so many distinct images.
    pub images: u64,
    /// After so long.
    pub time: Duration,
}

/// What a campaign goes through.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// In this order; each on the next of the domains.
    pub workloads: Vec<Workload>,
    /// The machines.
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
    /// On which machine.
    pub domain: Domain,
    /// What is wrong; no place when the workload itself failed.
    pub what: Result<Box<Violation>, String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, domain, .. } = self;
        match &self.what {
            Ok(violation) => write!(
                f,
                "{workload} on {}: {}\nrepeat it: cargo run -p udax-test-crash -- replay {workload} {} {}",
                domain.name(),
                violation.what,
                domain.name(),
                violation.place
            ),
            Err(what) => write!(f, "{workload}: {what}"),
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
    pub distinct: u64,
    /// How long it took.
    pub time: Duration,
    /// The first failure of each worker: they end then.
    pub failures: Vec<Failure>,
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
    distinct: Mutex<HashSet<u128>>,
    /// How many those are, for who has not the lock.
    images: AtomicU64,
    has_failed: AtomicBool,
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
            distinct: Mutex::new(Rank::Leaf, HashSet::new()),
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
            distinct: number(shared.distinct.lock().len()),
            time: shared.began.elapsed(),
            ..Outcome::default()
        };
        for outcome in outcomes {
            sum.tally.add(&outcome.tally);
            sum.workloads += outcome.workloads;
            sum.failures.extend(outcome.failures);
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
            let domains = &self.campaign.domains;
            let domain = domains[usize::try_from(begun).unwrap_or(0) % domains.len()];
            outcome.workloads += 1;
            let explored = self.explore(workload, domain, begun, &mut outcome.tally);
            if let Err(what) = explored {
                self.has_failed.store(true, Ordering::Relaxed);
                outcome.failures.push(Failure {
                    workload: workload.clone(),
                    domain,
                    what,
                });
            }
        }
        outcome
    }

    fn explore(
        &self,
        workload: &Workload,
        domain: Domain,
        begun: u64,
        tally: &mut Tally,
    ) -> Result<(), Result<Box<Violation>, String>> {
        let recording = workload.record().map_err(|error| Err(format!("{error:#}")))?;
        let Campaign { effort, seed, .. } = *self.campaign;
        let mut explorer = Explorer::new(&recording, domain, effort, seed ^ begun);
        let explored = explorer.explore(&mut |explorer| {
            let mut distinct = self.distinct.lock();
            distinct.extend(explorer.fingerprints.drain(..));
            let images = number(distinct.len());
            self.images.store(images, Ordering::Relaxed);
            drop(distinct);
            self.progress
                .step(begun + 1, number(self.campaign.workloads.len()), images);
            self.goes_on()
        });
        tally.add(&explorer.tally);
        explored.map_err(Ok)
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
