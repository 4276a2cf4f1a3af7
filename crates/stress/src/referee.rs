//! What every contest has, on a pool or on a directory: [`Referee`], who knows the time, counts, and keeps findings.
//!
//! Lock: `findings` is a leaf.

use std::time::{Duration, Instant};

use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::options::Options;
use crate::report::{Finding, Kind};
use crate::stamp::{Rule, Stamps, Wrong};
use crate::tally::{Operation, Tally};

/// Findings that are kept: the first ones say what is wrong.
const MAX_FINDINGS: usize = 8;

/// A thread of the contest, as the watchdog sees it.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) number: u64,
    pub(crate) name: String,
    /// Microseconds after the start at which it began what it does; 0: nothing that could take long.
    since: AtomicU64,
    doing: AtomicU64,
}

impl Actor {
    pub(crate) fn new(number: u64, name: String) -> Self {
        Self {
            number,
            name,
            since: AtomicU64::new(0),
            doing: AtomicU64::new(0),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Referee {
    pub(crate) options: Options,
    pub(crate) stamps: Stamps,
    pub(crate) tally: Tally,
    start: Instant,
    is_over: AtomicBool,
    findings: Mutex<Vec<Finding>>,
}

impl Referee {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            stamps: Stamps::new(options.seed),
            tally: Tally::default(),
            start: Instant::now(),
            is_over: AtomicBool::new(false),
            findings: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }

    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether threads are to end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.findings.lock())
    }

    pub(crate) fn has_findings(&self) -> bool {
        !self.findings.lock().is_empty()
    }

    /// Notes a defect; the contest is over.
    pub(crate) fn find(&self, kind: Kind, what: String, history: Vec<String>) {
        let mut findings = self.findings.lock();
        if findings.len() < MAX_FINDINGS {
            findings.push(Finding {
                kind,
                seconds: self.start.elapsed().as_secs_f64(),
                what,
                history,
            });
        }
        drop(findings);
        self.end();
    }

    /// Does something that may take long, timed and watched.
    pub(crate) fn timed<T>(&self, actor: &Actor, operation: Operation, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        actor.doing.store(operation.number(), Ordering::Relaxed);
        actor.since.store(self.micros().max(1), Ordering::Relaxed);
        let result = work();
        actor.since.store(0, Ordering::Relaxed);
        self.tally.note(operation, begin.elapsed());
        result
    }

    /// Whether `actor` has been at one operation for longer than the contest's patience.
    pub(crate) fn is_starved(&self, actor: &Actor) -> Option<String> {
        let since = actor.since.load(Ordering::Relaxed);
        let waited = Duration::from_micros(self.micros().saturating_sub(since));
        if since == 0 || waited < self.options.patience {
            return None;
        }
        let operation = Operation::of_number(actor.doing.load(Ordering::Relaxed));
        let operation = operation.map_or("", Operation::name);
        Some(format!(
            "{} has waited {:.1} s in {operation}",
            actor.name,
            waited.as_secs_f64()
        ))
    }

    /// What is wrong with the bytes of a block, or of its start, in words.
    pub(crate) fn look(&self, bytes: &[u8], rule: Rule) -> Option<(Kind, String)> {
        Tally::add(&self.tally.judged_blocks, 1);
        let wrong = self.stamps.judge(bytes, rule)?;
        let (kind, found) = match wrong {
            Wrong::Stray { owner, actor, word } => (
                Kind::Stray,
                format!("word {word} is of {owner}, stored by thread {actor}"),
            ),
            Wrong::Garbage { value, word } => (Kind::Garbage, format!("word {word} is {value:#018x}")),
            Wrong::Lost { word } => (Kind::Lost, format!("word {word} is zero")),
        };
        let expected = match rule {
            Rule::Owned {
                owner,
                may_be_zero: false,
            } => format!("{owner}"),
            Rule::Owned {
                owner,
                may_be_zero: true,
            } => format!("{owner}, or zeros"),
            Rule::AnyOf(_) => "any file that is changed at will".to_owned(),
        };
        Some((kind, format!("{found}; it is of {expected}")))
    }
}
