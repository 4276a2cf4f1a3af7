//! Changes of strict files: each marks the blocks that change hands, does it, and says who owns them then.

use rand::Rng;
use udax::AllocateMode;
use udax_sync::atomic::Ordering;

use super::{AT_ONCE, Mutator};
use crate::contest::pool_block;
use crate::expected::Seen;
use crate::history::{Event, What};
use crate::life::{OpenLife, Slot};
use crate::report::Kind;
use crate::stamp::{BLOCK_LEN, Owner};
use crate::tally::{Operation, Tally};

/// Blocks that a file has at least before something is cut out of it.
const FEW: u64 = 4;

/// A file whose steward this thread is, until it is dropped.
pub(super) struct Steward<'l> {
    pub(super) life: &'l OpenLife,
}

impl<'l> Steward<'l> {
    pub(super) fn of(life: &'l OpenLife) -> Option<Self> {
        if life.is_removed.load(Ordering::Relaxed) || !life.try_steward() {
            return None;
        }
        let steward = Self { life };
        // It may have been replaced before.
        (!life.is_removed.load(Ordering::Relaxed)).then_some(steward)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.life.size.load(Ordering::Relaxed)
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.life.size.store(bytes, Ordering::Relaxed);
    }

    /// Blocks that are wholly inside the file.
    pub(super) fn whole(&self) -> u64 {
        self.bytes() / BLOCK_LEN
    }

    /// What is known of blocks `first..end`.
    pub(super) fn seen(&self, first: u64, end: u64) -> Vec<Seen> {
        (first..end)
            .filter_map(|block| self.life.cell(block))
            .map(|cell| cell.load())
            .collect()
    }

    /// Blocks from `first` on are as these: after a change, or because it did not happen.
    pub(super) fn set(&self, first: u64, known: impl IntoIterator<Item = Seen>) {
        for (block, seen) in (first..).zip(known) {
            if let Some(cell) = self.life.cell(block) {
                cell.set(seen.owner(), seen.may_be_zero());
            }
        }
    }

    /// Blocks `first..end` are nobody's any more: holes, of a new owner.
    pub(super) fn clear(&self, slot: &Slot, first: u64, end: u64) {
        let epoch = slot.next_epoch();
        for block in first..end {
            if let Some(cell) = self.life.cell(block) {
                cell.set(Owner::new(slot.number, epoch, block), true);
            }
        }
    }
}

impl Drop for Steward<'_> {
    fn drop(&mut self) {
        self.life.end_stewardship();
    }
}

impl Mutator {
    /// Does something to a strict file, unless another thread is its steward.
    pub(super) fn act_as_steward(&mut self, slot: &Slot, life: &OpenLife) {
        self.switch_sometimes(life);
        self.sync_sometimes(life);
        if self.random.random_ratio(1, 4) {
            // Judging needs no stewardship.
            self.read_some(life);
            return;
        }
        let Some(steward) = Steward::of(life) else { return };
        if steward.whole() < FEW {
            self.extend(&steward, slot);
            return;
        }
        match self.random.random_range(0..24) {
            0..5 => self.overwrite(&steward),
            5..9 => self.cut(&steward, slot),
            9..12 => self.empty(&steward, slot, AllocateMode::PunchHole),
            12..14 => self.empty(&steward, slot, AllocateMode::ZeroRange),
            14..16 => self.collapse(&steward, slot),
            16..18 => self.insert(&steward, slot),
            18 => self.snapshot(life, steward.whole()),
            19..21 => self.with_another(&steward),
            21 => self.sync(life, &life.file),
            22 => self.replace(slot, life),
            _ => self.extend(&steward, slot),
        }
    }

    /// Stores to some blocks, which stay whose they are.
    fn overwrite(&mut self, steward: &Steward<'_>) {
        let Some(range) = self.some_blocks(steward.whole(), 16) else {
            return;
        };
        self.write(steward, range);
    }

    /// Writes blocks in the file or at its end; whether all of them.
    fn write(&mut self, steward: &Steward<'_>, (first, count): (u64, u64)) -> bool {
        let life = steward.life;
        let bytes = self.stamped(life, (first, count));
        let before = steward.seen(first, first + count);
        let door = self.some_door(life);
        let result = self.contest.timed(&self.actor, Operation::Write, || {
            door.write(life, &bytes, first * BLOCK_LEN)
        });
        let Some(len) = self.contest.settle(Operation::Write, life, result) else {
            // What could not be made durable is in the cache all the same, and then in the file.
            if self.contest.options.failing.is_some() {
                steward.set_bytes(self.contest.size_of(life).max(steward.bytes()));
            }
            return false;
        };
        let written = u64::try_from(len).unwrap_or(0) / BLOCK_LEN;
        let end = (first + written) * BLOCK_LEN;
        steward.set_bytes(
            steward
                .bytes()
                .max(first * BLOCK_LEN + u64::try_from(len).unwrap_or(0)),
        );
        self.done(life, What::Wrote, (first, written.max(1)));
        let fresh = before
            .iter()
            .filter(|seen| seen.may_be_zero() && seen.owner().slot() == life.slot);
        // A cached file has no blocks yet.
        if fresh.count() > 0 && life.file.is_dax() {
            self.look_for_strangers(life, (first, written), &before);
        }
        let full = |seen: &Seen| seen.owner();
        for (block, owner) in (first..first + written).zip(before.iter().map(full)) {
            if let Some(cell) = life.cell(block) {
                cell.set(owner, false);
            }
        }
        end == (first + count) * BLOCK_LEN
    }

    /// Nobody else may have blocks pinned that a hole was just filled with.
    fn look_for_strangers(&self, life: &OpenLife, (first, count): (u64, u64), before: &[Seen]) {
        for (block, seen) in (first..first + count).zip(before) {
            if !seen.may_be_zero() || seen.owner().slot() != life.slot {
                continue;
            }
            let Some(place) = pool_block(&life.file, block) else {
                continue;
            };
            if self.contest.blocks.give(place, seen.owner()) {
                Tally::add(&self.contest.tally.recycled_blocks, 1);
            }
            self.contest.blocks.note(Event {
                micros: self.contest.micros(),
                what: What::Wrote,
                actor: self.actor.number,
                owner: seen.owner(),
                first: place,
                count: 1,
            });
            if let Some(other) = self.contest.blocks.stranger(place, life.id) {
                let what = format!(
                    "block {place} of the pool is given to block {block} of {}, but file {other} has it pinned",
                    life.path
                );
                let history = self.contest.history(life, Some(block), Some(place));
                self.contest.find(Kind::TwoHolders, what, history);
            }
        }
    }

    /// Writes behind the end, and sometimes leaves a hole there.
    fn extend(&mut self, steward: &Steward<'_>, slot: &Slot) {
        let whole = steward.whole();
        let room = slot.room.saturating_sub(whole);
        if room == 0 {
            self.cut(steward, slot);
            return;
        }
        let most = if slot.room > 2 * AT_ONCE {
            room
        } else {
            room.min(AT_ONCE)
        };
        let count = self.random.random_range(1..=most);
        let gap = if self.random.random_ratio(1, 4) {
            count / 3
        } else {
            0
        };
        let mut first = whole + gap;
        while first < whole + count {
            let part = (whole + count - first).min(4 * AT_ONCE);
            if !self.write(steward, (first, part)) {
                return;
            }
            first += part;
        }
    }

    /// Cuts the file, to whole blocks or inside of one.
    fn cut(&mut self, steward: &Steward<'_>, slot: &Slot) {
        let (life, whole) = (steward.life, steward.whole());
        let first = self.random.random_range(0..=whole);
        let odd = if first > 0 && first < whole && self.random.random_ratio(1, 4) {
            self.random.random_range(1..512) * 8
        } else {
            0
        };
        let bytes = first * BLOCK_LEN + odd;
        let end = life.blocks();
        let kept = bytes.div_ceil(BLOCK_LEN);
        if odd > 0
            && let Some(cell) = life.cell(first)
        {
            // What is behind the new end becomes zeros when the file grows again.
            cell.set(cell.load().owner(), true);
        }
        let before = steward.seen(kept, end);
        let impatient = self.impatient(&life.file);
        let file = impatient.as_ref().unwrap_or(&life.file);
        life.begin_change(kept, end);
        let result = self
            .contest
            .timed(&self.actor, Operation::Truncate, || file.truncate(bytes));
        if self.contest.settle(Operation::Truncate, life, result).is_none() {
            self.expect_size(steward, Operation::Truncate);
            steward.set(kept, before);
            return;
        }
        self.done(life, What::Truncated, (kept, end.saturating_sub(kept).max(1)));
        steward.set_bytes(bytes);
        steward.clear(slot, kept, end);
        if self.random.random() {
            self.extend(steward, slot);
        }
    }

    /// What was refused has not changed the file's size.
    fn expect_size(&self, steward: &Steward<'_>, operation: Operation) {
        let life = steward.life;
        let found = self.contest.size_of(life);
        if found != steward.bytes() {
            let what = format!(
                "{} of file {} was refused, but its size is {found} bytes, and was {}",
                operation.name(),
                life.slot,
                steward.bytes()
            );
            self.contest
                .find(Kind::Failed, what, self.contest.history(life, None, None));
        }
    }

    /// Makes holes or zeros of some blocks, and sometimes writes to them.
    fn empty(&mut self, steward: &Steward<'_>, slot: &Slot, mode: AllocateMode) {
        let life = steward.life;
        let Some((first, count)) = self.some_blocks(steward.whole(), 24) else {
            return;
        };
        let (operation, what) = match mode {
            AllocateMode::PunchHole => (Operation::Punch, What::Punched),
            _ => (Operation::Zero, What::Zeroed),
        };
        let before = steward.seen(first, first + count);
        life.begin_change(first, first + count);
        let result = self.contest.timed(&self.actor, operation, || {
            life.file.allocate(mode, first * BLOCK_LEN, count * BLOCK_LEN)
        });
        if self.contest.settle(operation, life, result).is_none() {
            steward.set(first, before);
            return;
        }
        self.done(life, what, (first, count));
        steward.clear(slot, first, first + count);
        if self.random.random_ratio(2, 3) {
            self.write(steward, (first, count));
        }
    }

    fn collapse(&mut self, steward: &Steward<'_>, slot: &Slot) {
        let (life, whole, end) = (steward.life, steward.whole(), steward.life.blocks());
        // The range must end before the file does.
        let Some((first, count)) = self.some_blocks(whole.saturating_sub(1), 8) else {
            return;
        };
        let before = steward.seen(first, end);
        life.begin_change(first, end);
        let result = self.contest.timed(&self.actor, Operation::Collapse, || {
            life.file
                .allocate(AllocateMode::Collapse, first * BLOCK_LEN, count * BLOCK_LEN)
        });
        if self.contest.settle(Operation::Collapse, life, result).is_none() {
            self.expect_size(steward, Operation::Collapse);
            steward.set(first, before);
            return;
        }
        self.done(life, What::Collapsed, (first, end - first));
        steward.set_bytes(steward.bytes() - count * BLOCK_LEN);
        let moved = before
            .into_iter()
            .skip(usize::try_from(count).unwrap_or(usize::MAX));
        steward.set(first, moved);
        steward.clear(slot, end - count, end);
    }

    fn insert(&mut self, steward: &Steward<'_>, slot: &Slot) {
        let (life, whole, end) = (steward.life, steward.whole(), steward.life.blocks());
        let room = slot.room.saturating_sub(end);
        if room == 0 {
            return;
        }
        let first = self.random.random_range(0..whole);
        let count = self.random.random_range(1..=room.min(8));
        let before = steward.seen(first, end);
        life.begin_change(first, end + count);
        let result = self.contest.timed(&self.actor, Operation::Insert, || {
            life.file
                .allocate(AllocateMode::Insert, first * BLOCK_LEN, count * BLOCK_LEN)
        });
        if self.contest.settle(Operation::Insert, life, result).is_none() {
            self.expect_size(steward, Operation::Insert);
            steward.set(first, before);
            steward.clear(slot, end, end + count);
            return;
        }
        self.done(life, What::Inserted, (first, end + count - first));
        steward.set_bytes(steward.bytes() + count * BLOCK_LEN);
        steward.set(first + count, before);
        steward.clear(slot, first, first + count);
    }
}
