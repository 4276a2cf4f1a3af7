//! What may be there after a power failure at a moment of a recording.

use std::sync::Arc;

use udax::{Checksums, DaxMode};
use udax_test_model::operation::{FileOperation, Operation};

use crate::base::State;
use crate::cached::History;
use crate::parts::Rule;
use crate::record::{Act, Lane, Parts, Recording, Share};

/// What may be there of what is one thread's.
#[derive(Clone, Debug)]
pub struct Promise {
    /// What is the thread's.
    pub share: Share,
    /// One of these.
    pub candidates: Vec<Candidate>,
    /// Where files are in the page cache: what they have held.
    pub history: Option<History>,
    /// Blocks in use when all has been removed, where that is known: what is more has leaked.
    pub emptied: Option<u64>,
}

/// A state that is legal.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What must be there.
    pub state: Arc<State>,
    /// Where a first part may be as in this one.
    pub part: Option<(Rule, Arc<State>)>,
    /// Where bytes may already be as in this one, word by word.
    pub torn: Option<Arc<State>>,
    /// What it is, for messages.
    pub what: String,
    /// Of the history: its version, and the last one whose bytes may be there.
    pub versions: (usize, usize),
}

/// Which operations had returned, and whether the next one had begun; for each thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Moment(Vec<(usize, bool)>);

impl Recording {
    /// Which promises count after the first `events` events.
    pub fn moment(&self, events: usize) -> Moment {
        let of = |lane: &Lane| {
            let returned = lane.steps.partition_point(|step| step.returned <= events);
            let has_begun = lane.steps.get(returned).is_some_and(|step| step.began < events);
            (returned, has_begun)
        };
        Moment(self.lanes.iter().map(of).collect())
    }

    /// The promises of a moment.
    pub fn promises(&self, moment: &Moment) -> Vec<Promise> {
        let lanes = self.lanes.iter().zip(&moment.0);
        lanes
            .map(|(lane, (returned, has_begun))| lane.promise((*returned, *has_begun), self))
            .collect()
    }

    /// The events at which the pool had been opened: from there on operations were done.
    pub fn opened(&self) -> usize {
        let first = self.lanes.iter().filter_map(|lane| lane.steps.first());
        first.map(|step| step.began).min().unwrap_or(0)
    }
}

impl Lane {
    fn promise(&self, (returned, has_begun): (usize, bool), recording: &Recording) -> Promise {
        let has_cache = recording.dax != DaxMode::Always;
        let before = match returned.checked_sub(1) {
            Some(last) => &self.steps[last].after,
            None => &self.before,
        };
        let mut candidates = Vec::new();
        match self.steps.get(returned).filter(|_| has_begun) {
            None => candidates.push(Candidate {
                state: Arc::clone(before),
                part: None,
                torn: None,
                what: format!("after {returned} operations"),
                versions: (returned, returned),
            }),
            Some(step) => {
                let act = &step.act;
                let is_torn = !has_cache && stores_in_place(act, recording.checksums);
                let rule = rule_of(act, recording);
                let is_partly = rule.is_some() || stores_in_place(act, Checksums::Off);
                let last = returned + usize::from(is_partly);
                candidates.push(Candidate {
                    state: Arc::clone(before),
                    part: None,
                    torn: is_torn.then(|| Arc::clone(&step.after)),
                    what: format!("before {act:?}"),
                    versions: (returned, last),
                });
                candidates.push(Candidate {
                    state: Arc::clone(&step.after),
                    part: None,
                    torn: None,
                    what: format!("after {act:?}"),
                    versions: (returned + 1, returned + 1),
                });
                // Of cached files any word may be there.
                candidates.extend(rule.filter(|_| !has_cache).map(|rule| Candidate {
                    state: Arc::clone(before),
                    part: Some((rule, Arc::clone(&step.after))),
                    torn: None,
                    what: format!("a first part of {act:?}"),
                    versions: (returned, returned),
                }));
            }
        }
        Promise {
            share: self.share.clone(),
            candidates,
            history: has_cache.then(|| self.history(returned + usize::from(has_begun))),
            emptied: recording.emptied,
        }
    }

    /// Up to the version `last`.
    fn history(&self, last: usize) -> History {
        let steps = self.steps.get(..last).unwrap_or(&self.steps);
        let first = std::iter::once(Arc::clone(&self.before));
        History {
            versions: first
                .chain(steps.iter().map(|step| Arc::clone(&step.after)))
                .collect(),
            kept: steps.iter().map(|step| step.kept.clone()).collect(),
        }
    }
}

/// How a part of the operation may be there, where it may.
fn rule_of(act: &Act, recording: &Recording) -> Option<Rule> {
    match act {
        Act::Operation(operation) if recording.parts == Parts::Records => {
            Rule::of(operation, recording.checksums == Checksums::On)
        }
        _ => None,
    }
}

/// Whether the operation may overwrite bytes where they are, so that a part of them may be new. What has checksums is
/// overwritten through pins only.
fn stores_in_place(act: &Act, checksums: Checksums) -> bool {
    let Act::Operation(operation) = act else {
        return false;
    };
    match operation {
        Operation::File { what, .. } => match what {
            FileOperation::StorePinned { .. }
            | FileOperation::OverwritePinned { .. }
            | FileOperation::SyncPinned { .. } => true,
            FileOperation::WriteWith { .. } if operation.is_atomic_write() => false,
            FileOperation::Write { .. }
            | FileOperation::WriteWith { .. }
            | FileOperation::WriteVectored { .. }
            | FileOperation::Append { .. } => checksums == Checksums::Off,
            _ => false,
        },
        Operation::CopyRange { .. } => checksums == Checksums::Off,
        _ => false,
    }
}
