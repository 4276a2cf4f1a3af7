//! Changes of two strict files at once: clones, exchanges, and attempts to dedupe.

use std::sync::Arc;

use rand::Rng;

use super::Mutator;
use super::steward::Steward;
use crate::history::What;
use crate::life::{Discipline, Slot};
use crate::stamp::BLOCK_LEN;
use crate::tally::Operation;

/// The most blocks that are shared or exchanged.
const MOST: u64 = 24;

impl Mutator {
    /// Does something to this file and another one, unless that has a steward.
    pub(super) fn with_another(&mut self, steward: &Steward<'_>) {
        let contest = Arc::clone(&self.contest);
        let place = self.random.random_range(0..contest.slots.len());
        let slot = contest.slots.get(place);
        let Some(slot) = slot.filter(|slot| slot.discipline == Discipline::Strict) else {
            return;
        };
        let Some(other) = slot.current() else { return };
        // This thread is the steward of the first already: trying never waits.
        let Some(target) = Steward::of(&other) else { return };
        if self.random.random_ratio(1, 3) {
            self.exchange(steward, &target);
        } else {
            self.clone_to(steward, &target, slot);
        }
    }

    /// Exchanges some blocks of the two.
    fn exchange(&mut self, one: &Steward<'_>, other: &Steward<'_>) {
        let Some((from, count)) = self.some_blocks(one.whole(), MOST) else {
            return;
        };
        let Some((to, count)) = self.some_blocks(other.whole(), count) else {
            return;
        };
        let (mine, theirs) = (one.seen(from, from + count), other.seen(to, to + count));
        one.life.begin_change(from, from + count);
        other.life.begin_change(to, to + count);
        let result = self.contest.timed(&self.actor, Operation::Exchange, || {
            one.life.file.exchange_range(
                from * BLOCK_LEN,
                &other.life.file,
                to * BLOCK_LEN,
                count * BLOCK_LEN,
            )
        });
        let is_done = self
            .contest
            .settle(Operation::Exchange, one.life, result)
            .is_some();
        let (mine, theirs) = if is_done { (theirs, mine) } else { (mine, theirs) };
        one.set(from, mine);
        other.set(to, theirs);
        if is_done {
            self.done(one.life, What::Exchanged, (from, count));
            self.done(other.life, What::Exchanged, (to, count));
        }
    }

    /// Lets another file share some blocks, in place of its own.
    fn clone_to(&mut self, steward: &Steward<'_>, target: &Steward<'_>, slot: &Slot) {
        let contest = Arc::clone(&self.contest);
        let other = target.life;
        let Some((from, count)) = self.some_blocks(steward.whole(), MOST) else {
            return;
        };
        let to = self.random.random_range(0..=target.whole());
        let count = count.min(slot.room.saturating_sub(to));
        if count == 0 {
            return;
        }
        let sources = steward.seen(from, from + count);
        other.begin_change(to, to + count);
        let result = contest.timed(&self.actor, Operation::Clone, || {
            steward
                .life
                .file
                .clone_range(from * BLOCK_LEN, &other.file, to * BLOCK_LEN, count * BLOCK_LEN)
        });
        let end = (to + count) * BLOCK_LEN;
        if contest.settle(Operation::Clone, other, result).is_none() {
            // A part of it may have been done: nothing that it may have is known until all is cut away.
            let bytes = other.file.truncate(to * BLOCK_LEN);
            if contest.settle(Operation::Truncate, other, bytes).is_some() {
                target.clear(slot, to, other.blocks().max(to + count));
                target.set_bytes(to * BLOCK_LEN);
            }
            return;
        }
        self.done(other, What::Cloned, (to, count));
        target.set_bytes(target.bytes().max(end));
        target.set(to, sources);
        if self.random.random_ratio(1, 3) {
            self.dedupe(steward, (from, count), target, to);
        }
    }

    /// Asks to share what is shared, or may have been stored to since: neither file changes.
    fn dedupe(&mut self, steward: &Steward<'_>, (from, count): (u64, u64), target: &Steward<'_>, to: u64) {
        let result = self.contest.timed(&self.actor, Operation::Dedupe, || {
            steward.life.file.dedupe_range(
                from * BLOCK_LEN,
                &target.life.file,
                to * BLOCK_LEN,
                count * BLOCK_LEN,
            )
        });
        self.contest.settle(Operation::Dedupe, target.life, result);
    }
}
