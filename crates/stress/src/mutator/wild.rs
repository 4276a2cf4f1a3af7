//! Changes of wild files: any thread, anything, at any time. Bytes that are cut, moved and copied between them are
//! still words of wild files; what must never be there is a word of a strict file, or no word at all.
//!
//! Offsets are multiples of 8, or whole blocks where bytes move, so that a word keeps its place in its block.

use std::sync::Arc;

use rand::Rng;
use udax::{AllocateMode, Error};

use super::Mutator;
use crate::history::What;
use crate::life::{Discipline, Life, OpenLife, Slot};
use crate::stamp::{BLOCK, BLOCK_LEN};
use crate::tally::Operation;

impl Mutator {
    /// Does something to a wild file.
    pub(super) fn act_wildly(&mut self, slot: &Slot, life: &OpenLife) {
        self.switch_sometimes(life);
        self.sync_sometimes(life);
        let blocks = self.contest.size_of(life) / BLOCK_LEN;
        if blocks < 2 || blocks > slot.room {
            let count = if blocks < 2 { 24 } else { 0 };
            self.cut_wildly(life, blocks.min(2) * BLOCK_LEN);
            self.write_wildly(life, (0, count));
            return;
        }
        let Some((first, count)) = self.some_blocks(blocks, 16) else {
            return;
        };
        let byte = self.random.random_range(0..blocks * BLOCK_LEN / 8) * 8;
        match self.random.random_range(0..20) {
            0..4 => self.write_wildly(life, (first, count)),
            4..6 => self.append(life),
            6..9 => self.cut_wildly(life, byte),
            9..11 => self.allocate(life, AllocateMode::PunchHole, (byte, count * BLOCK_LEN / 2)),
            11 => self.allocate(life, AllocateMode::ZeroRangeKeepSize, (byte, count * BLOCK_LEN)),
            12 => self.allocate(
                life,
                AllocateMode::Collapse,
                (first * BLOCK_LEN, count * BLOCK_LEN),
            ),
            13 => self.allocate(life, AllocateMode::Insert, (first * BLOCK_LEN, count * BLOCK_LEN)),
            14..16 => self.share_wildly(life, (first, count)),
            16 => self.replace(slot, life),
            _ => self.read_some(life),
        }
    }

    /// Of several threads that change a file at once, one may find that its range is not there any more.
    fn settle_wildly<T>(&self, operation: Operation, life: &Life, result: udax::Result<T>) -> Option<T> {
        match result {
            Err(Error::Invalid(_) | Error::NotFound) => {
                self.contest.tally.refuse(operation);
                None
            }
            other => self.contest.settle(operation, life, other),
        }
    }

    fn write_wildly(&mut self, life: &OpenLife, (first, count): (u64, u64)) {
        let bytes = self.stamped(life, (first, count));
        let part = bytes.len()
            - if bytes.len() > BLOCK {
                self.random.random_range(0..512) * 8
            } else {
                0
            };
        let bytes = bytes.get(..part).unwrap_or_default();
        let door = self.some_door(life);
        let result = self.contest.timed(&self.actor, Operation::Write, || {
            door.write(life, bytes, first * BLOCK_LEN)
        });
        self.settle_wildly(Operation::Write, life, result);
        self.done(life, What::Wrote, (first, count.max(1)));
    }

    fn append(&mut self, life: &OpenLife) {
        // The end may be inside a block, where words would lose their places: only whole words of whole blocks.
        let Ok(stat) = life.file.stat() else { return };
        if !stat.size.is_multiple_of(BLOCK_LEN) {
            return;
        }
        let bytes = self.stamped(life, (stat.size / BLOCK_LEN, 3));
        let result = self.contest.timed(&self.actor, Operation::Append, || {
            life.file.write_at(&bytes, stat.size)
        });
        self.settle_wildly(Operation::Append, life, result);
    }

    fn cut_wildly(&mut self, life: &OpenLife, bytes: u64) {
        let result = self
            .contest
            .timed(&self.actor, Operation::Truncate, || life.file.truncate(bytes));
        self.settle_wildly(Operation::Truncate, life, result);
        self.done(life, What::Truncated, (bytes.div_ceil(BLOCK_LEN), 1));
    }

    fn allocate(&mut self, life: &OpenLife, mode: AllocateMode, (offset, len): (u64, u64)) {
        let (operation, what) = match mode {
            AllocateMode::PunchHole => (Operation::Punch, What::Punched),
            AllocateMode::Collapse => (Operation::Collapse, What::Collapsed),
            AllocateMode::Insert => (Operation::Insert, What::Inserted),
            _ => (Operation::Zero, What::Zeroed),
        };
        let result = self
            .contest
            .timed(&self.actor, operation, || life.file.allocate(mode, offset, len));
        self.settle_wildly(operation, life, result);
        self.done(life, what, (offset / BLOCK_LEN, len.div_ceil(BLOCK_LEN).max(1)));
    }

    /// Clones or copies to another wild file, or to the same.
    fn share_wildly(&mut self, life: &OpenLife, (first, count): (u64, u64)) {
        let place = self.random.random_range(0..self.contest.slots.len());
        let contest = Arc::clone(&self.contest);
        let slot = contest.slots.get(place);
        let slot = slot.filter(|slot| matches!(slot.discipline, Discipline::Wild(_)));
        let Some(other) = slot.and_then(Slot::current) else {
            return;
        };
        let to = self.random.random_range(0..=other.blocks().max(32)) * BLOCK_LEN;
        let (from, len) = (first * BLOCK_LEN, count * BLOCK_LEN);
        match self.random.random_range(0..4) {
            0 => {
                let result = contest.timed(&self.actor, Operation::Copy, || {
                    life.file.copy_range(from, &other.file, to, len)
                });
                self.settle_wildly(Operation::Copy, life, result);
                self.done(&other, What::Copied, (to / BLOCK_LEN, count));
            }
            1 => {
                let result = contest.timed(&self.actor, Operation::Exchange, || {
                    life.file.exchange_range(from, &other.file, to, len)
                });
                self.settle_wildly(Operation::Exchange, life, result);
                self.done(&other, What::Exchanged, (to / BLOCK_LEN, count));
            }
            2 => {
                let result = contest.timed(&self.actor, Operation::Clone, || {
                    life.file.clone_range(from, &other.file, to, len)
                });
                self.settle_wildly(Operation::Clone, life, result);
                self.done(&other, What::Cloned, (to / BLOCK_LEN, count));
            }
            _ => {
                let result = contest.timed(&self.actor, Operation::Dedupe, || {
                    life.file.dedupe_range(from, &other.file, to, len)
                });
                self.settle_wildly(Operation::Dedupe, life, result);
            }
        }
    }
}
