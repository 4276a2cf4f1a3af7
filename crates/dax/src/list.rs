//! The list of pins: who holds what for how long, so that a stuck truncation can be explained.
//!
//! [`PinList`] is in shards by thread, each with slots that are used again: a pin costs one short lock and, once the
//! shard has grown, no allocation. Locks: shards are leaves.

use std::fmt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use udax_sync::{CachePadded, Mutex, Rank, thread_number};

use crate::{Access, PageRange, Request};

const SHARDS: usize = if cfg!(loom) { 1 } else { 16 };

/// Who holds a pin: what kind of holder, and which of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Label {
    /// The kind of holder.
    pub name: &'static str,
    /// Which of its kind.
    pub number: u64,
}

impl Label {
    /// A label without a number.
    pub fn new(name: &'static str) -> Self {
        Self { name, number: 0 }
    }
}

impl fmt::Display for Label {
    /// Its name, and its number unless that is 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name, self.number) {
            ("", 0) => f.write_str("somebody"),
            (name, 0) => f.write_str(name),
            (name, number) => write!(f, "{name} {number}"),
        }
    }
}

/// How long a pin is meant to be held.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Term {
    /// For one transfer.
    #[default]
    Short,
    /// For as long as somebody likes: breaks of its range may wait for ever.
    Long,
}

/// A pin as it is listed.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// [`crate::Mapping::number`] of its file.
    pub file: u64,
    /// Its pages.
    pub pages: PageRange,
    /// What it may do.
    pub access: Access,
    /// Its holder.
    pub label: Label,
    /// How long it is meant to be held.
    pub term: Term,
    /// How long it has been held, to some milliseconds.
    pub age: Duration,
}

impl fmt::Display for Listed {
    /// In one line, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        let term = match self.term {
            Term::Short => "",
            Term::Long => ", for a long term",
        };
        write!(
            f,
            "file {}, {}: pinned to {access} by {} for {:.3} s{term}",
            self.file,
            self.pages,
            self.label,
            self.age.as_secs_f64()
        )
    }
}

/// The time, as of the last tick of the kernel's clock: reading the exact time would cost a third of a pin.
pub(crate) fn now() -> Duration {
    // The clock exists wherever Linux runs; without it ages are zero.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// What the list keeps of a pin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    pub(crate) pages: PageRange,
    pub(crate) request: Request,
    pub(crate) file: u64,
    pub(crate) since: Duration,
}

impl Note {
    fn listed(&self, now: Duration) -> Listed {
        Listed {
            file: self.file,
            pages: self.pages,
            access: self.request.access,
            label: self.request.label,
            term: self.request.term,
            age: now.saturating_sub(self.since),
        }
    }
}

/// Where a pin is listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    shard: usize,
    slot: usize,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Option<Note>>,
    free: Vec<usize>,
    /// Pins that ever were in the shard.
    total: u64,
}

#[derive(Debug)]
pub(crate) struct PinList {
    shards: Box<[CachePadded<Mutex<Shard>>]>,
}

impl PinList {
    pub(crate) fn new() -> Self {
        let shard = |_| CachePadded::new(Mutex::new(Rank::Leaf, Shard::default()));
        Self {
            shards: (0..SHARDS).map(shard).collect(),
        }
    }

    pub(crate) fn add(&self, note: Note) -> Place {
        let shard = thread_number() % SHARDS;
        let mut guard = self.shards[shard].lock();
        guard.total += 1;
        let slot = match guard.free.pop() {
            Some(slot) => {
                guard.slots[slot] = Some(note);
                slot
            }
            None => {
                guard.slots.push(Some(note));
                guard.slots.len() - 1
            }
        };
        Place { shard, slot }
    }

    pub(crate) fn remove(&self, place: Place) {
        let mut guard = self.shards[place.shard].lock();
        guard.slots[place.slot] = None;
        guard.free.push(place.slot);
    }

    /// How many pins there ever were.
    pub(crate) fn total(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().total).sum()
    }

    /// All pins, the oldest first.
    pub(crate) fn all(&self) -> Vec<Listed> {
        let mut notes = Vec::new();
        for shard in &self.shards {
            notes.extend(shard.lock().slots.iter().flatten().copied());
        }
        let now = now();
        notes.sort_by_key(|note| note.since);
        notes.iter().map(|note| note.listed(now)).collect()
    }
}
