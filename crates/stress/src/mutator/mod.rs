//! Threads that change files while engines store to them: [`Mutator`].
//!
//! `steward` changes strict files, one thread a file at a time, and keeps account of each block's owner; `wild` changes
//! the others, all threads at once; `snapshot` keeps clones that nobody may change; `ways` switches files between
//! memory access and the page cache, and says how they are read and written.

mod pairs;
mod snapshot;
mod steward;
mod ways;
mod wild;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{File, Mode};
use udax_sync::atomic::{Ordering, fence};

use crate::contest::{Contest, Look};
use crate::history::What;
use crate::life::{Discipline, Glimpse, Life, OpenLife, Slot};
use crate::referee::Actor;
use crate::stamp::{BLOCK, BLOCK_LEN, Writer};
use crate::tally::{Operation, Tally};
use snapshot::Snapshot;
pub(crate) use ways::Door;

/// Blocks that are read or written at a time.
const AT_ONCE: u64 = 64;
/// How long an impatient operation waits.
const SHORT: Duration = Duration::from_micros(500);

/// A thread that changes files.
pub(crate) struct Mutator {
    contest: Arc<Contest>,
    actor: Arc<Actor>,
    random: SmallRng,
    snapshots: Vec<Snapshot>,
    turn: u64,
}

impl Mutator {
    pub(crate) fn new(contest: Arc<Contest>, actor: Arc<Actor>) -> Self {
        let seed = contest.options.seed.wrapping_add(actor.number << 32);
        Self {
            contest,
            actor,
            random: SmallRng::seed_from_u64(seed),
            snapshots: Vec::new(),
            turn: 0,
        }
    }

    /// Goes on until the contest is over.
    pub(crate) fn run(mut self) {
        while !self.contest.is_over() {
            let place = self.random.random_range(0..self.contest.slots.len());
            let contest = Arc::clone(&self.contest);
            let Some(slot) = contest.slots.get(place) else {
                return;
            };
            let Some(life) = slot.current() else { return };
            match life.discipline {
                Discipline::Strict => self.act_as_steward(slot, &life),
                Discipline::Wild(_) => self.act_wildly(slot, &life),
            }
            self.look_at_a_snapshot();
            self.contest.watch_cache();
        }
        while !self.snapshots.is_empty() {
            self.end_snapshot(0);
        }
    }

    /// Some blocks of `0..end`, at most `most`, as first and count.
    fn some_blocks(&mut self, end: u64, most: u64) -> Option<(u64, u64)> {
        if end == 0 {
            return None;
        }
        let first = self.random.random_range(0..end);
        let count = self.random.random_range(1..=(end - first).min(most.max(1)));
        Some((first, count))
    }

    /// Bytes for blocks from `first` on, by what is known of each.
    fn stamped(&mut self, life: &Life, (first, count): (u64, u64)) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * BLOCK];
        for (block, bytes) in (first..).zip(bytes.chunks_exact_mut(BLOCK)) {
            self.turn += 1;
            let writer = Writer {
                actor: self.actor.number,
                turn: self.turn,
            };
            if let Some(glimpse) = life.glimpse(block) {
                self.contest.stamps.fill(bytes, 0, glimpse.owner(), writer);
            }
        }
        bytes
    }

    /// Sometimes, a handle whose operations do not wait, or not for long: what they cannot do must not be done at all.
    fn impatient(&mut self, file: &File) -> Option<File> {
        match self.random.random_range(0..12) {
            0 => Some(file.waiting(Mode::NoWait)),
            1 => Some(file.waiting(Mode::deadline(Instant::now() + SHORT))),
            _ => None,
        }
    }

    /// Reads some of a file and judges it.
    fn read_some(&mut self, life: &OpenLife) {
        let end = self.contest.size_of(life).div_ceil(BLOCK_LEN);
        let range = if self.random.random_ratio(1, 4) {
            (0, end)
        } else {
            let Some(range) = self.some_blocks(end, AT_ONCE) else {
                return;
            };
            range
        };
        let door = self.some_door(life);
        judge_range(&self.contest, &self.actor, (life, door), range);
    }

    fn done(&self, life: &Life, what: What, range: (u64, u64)) {
        self.contest.note(&self.actor, life, what, range);
    }

    /// Makes a new file for `slot` in place of `old`, whose name goes: its blocks are free when its last pin is gone.
    fn replace(&mut self, slot: &Slot, old: &OpenLife) {
        let contest = Arc::clone(&self.contest);
        let made = contest.make_life(slot);
        let Some(life) = contest.settle(Operation::Replace, old, made) else {
            return;
        };
        // A slot has several names in turn, so that of several threads that replace a wild file each removes its own.
        let Some(old) = slot.replace(Some(life)) else {
            return;
        };
        old.is_removed.store(true, Ordering::Relaxed);
        let removed = if self.random.random() {
            contest.timed(&self.actor, Operation::Unlink, || {
                contest.filesystem.unlink(&old.path)
            })
        } else {
            self.rename_over(&old)
        };
        contest.settle(Operation::Replace, &old, removed);
        self.done(&old, What::Removed, (0, old.blocks().max(1)));
    }

    /// Removes a file by putting another in its place.
    fn rename_over(&self, old: &Life) -> udax::Result<()> {
        let (path, file) = self.contest.make_snapshot()?;
        drop(file);
        let filesystem = &self.contest.filesystem;
        self.contest.timed(&self.actor, Operation::Replace, || {
            filesystem.rename(&path, &old.path, udax::RenameMode::Replace)
        })?;
        filesystem.unlink(&old.path)
    }
}

/// Reads blocks of a file and judges those of which it is certain what they hold.
pub(crate) fn judge_range(
    contest: &Contest,
    actor: &Actor,
    (life, door): (&OpenLife, Door),
    (first, count): (u64, u64),
) {
    let mut bytes = vec![0; usize::try_from(AT_ONCE).unwrap_or(0) * BLOCK];
    let mut at = first;
    while at < first + count {
        let part = (first + count - at).min(AT_ONCE);
        let glimpses: Vec<Option<Glimpse>> = (at..at + part).map(|block| life.glimpse(block)).collect();
        fence(Ordering::SeqCst);
        let to = bytes
            .get_mut(..usize::try_from(part).unwrap_or(0) * BLOCK)
            .unwrap_or_default();
        let read = contest.timed(actor, Operation::Read, || door.read(life, to, at * BLOCK_LEN));
        let Some(len) = contest.settle(Operation::Read, life, read) else {
            return;
        };
        let to = to.get(..len).unwrap_or_default();
        for ((glimpse, block), bytes) in glimpses.iter().zip(at..).zip(to.chunks(BLOCK)) {
            let Some(rule) = glimpse.and_then(|glimpse| life.confirm(block, glimpse)) else {
                Tally::add(&contest.tally.unjudged_blocks, 1);
                continue;
            };
            let look = Look {
                how: "a read of",
                pool_block: None,
                file: Some(&life.file),
            };
            if !contest.judge(life, block, bytes, rule, look) {
                contest.note(actor, life, What::Read, (block, 1));
                return;
            }
        }
        at += part;
    }
}
