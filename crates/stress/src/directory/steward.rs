//! Threads that change the files of a directory, one steward a file at a time, and judge what they read.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::FallocateFlags;
use udax_sync::atomic::{Ordering, fence};
use udax_sync::thread;

use super::DirectoryContest;
use super::files::{MappedFile, ROOM, Slot};
use crate::expected::Seen;
use crate::history::{Event, What};
use crate::referee::Actor;
use crate::stamp::{BLOCK, BLOCK_LEN, Owner, Rule, Writer};
use crate::tally::{Operation, Tally};

/// How often a block is read again that was wrong, and how long after each other.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// A thread that changes files.
pub(super) struct Mutator {
    contest: Arc<DirectoryContest>,
    actor: Arc<Actor>,
    random: SmallRng,
    turn: u64,
}

impl Mutator {
    pub(super) fn new(contest: Arc<DirectoryContest>, actor: Arc<Actor>) -> Self {
        let seed = contest.options.seed.wrapping_add(actor.number << 32);
        Self {
            contest,
            actor,
            random: SmallRng::seed_from_u64(seed),
            turn: 0,
        }
    }

    pub(super) fn run(mut self) {
        while !self.contest.is_over() {
            let contest = Arc::clone(&self.contest);
            let place = self.random.random_range(0..contest.slots.len());
            let Some(slot) = contest.slots.get(place) else {
                return;
            };
            let Some(file) = slot.current() else { return };
            if self.random.random_ratio(1, 4) {
                contest.judge_file(&self.actor, &file);
            } else if file.try_steward() {
                if !file.is_removed.load(Ordering::Relaxed) {
                    self.act(slot, &file);
                }
                file.end_stewardship();
            }
        }
    }

    fn act(&mut self, slot: &Slot, file: &Arc<MappedFile>) {
        let whole = file.bytes() / BLOCK_LEN;
        if whole < 4 {
            self.write(file, (whole, 16));
            return;
        }
        let first = self.random.random_range(0..whole);
        let count = self.random.random_range(1..=(whole - first).min(12));
        match self.random.random_range(0..20) {
            0..5 => self.write(file, (first, count)),
            5..9 => self.cut(slot, file, first),
            9..12 => self.empty(slot, file, (first, count), Operation::Punch),
            12..14 => self.empty(slot, file, (first, count), Operation::Zero),
            14..16 if first + count < whole => self.collapse(slot, file, (first, count)),
            16 if file.bytes().div_ceil(BLOCK_LEN) + count <= ROOM => self.insert(slot, file, (first, count)),
            17 => self.clone_to_another(file),
            18 => self.replace(slot, file),
            _ => self.write(file, (whole, (ROOM - whole).min(16))),
        }
    }

    fn note(&self, file: &MappedFile, what: What, (first, count): (u64, u64)) {
        let owner = file
            .cell(first)
            .map_or(Owner::new(file.slot, 1, 0), |cell| cell.load().owner());
        file.ring.note(Event {
            micros: self.contest.micros(),
            what,
            actor: self.actor.number,
            owner,
            first,
            count: count.max(1),
        });
    }

    /// Writes blocks inside the file or at its end.
    fn write(&mut self, file: &MappedFile, (first, count): (u64, u64)) {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * BLOCK];
        let known = file.seen(first, first + count);
        for (bytes, seen) in bytes.chunks_exact_mut(BLOCK).zip(&known) {
            self.turn += 1;
            let writer = Writer {
                actor: self.actor.number,
                turn: self.turn,
            };
            self.contest.stamps.fill(bytes, 0, seen.owner(), writer);
        }
        let result = self.contest.timed(&self.actor, Operation::Write, || {
            file.file.write_all_at(&bytes, first * BLOCK_LEN)
        });
        if self.contest.settle(Operation::Write, file, result).is_none() {
            return;
        }
        self.note(file, What::Wrote, (first, count));
        for (block, seen) in (first..).zip(&known) {
            if let Some(cell) = file.cell(block) {
                cell.set(seen.owner(), false);
            }
        }
        let end = (first + count) * BLOCK_LEN;
        file.size.store(file.bytes().max(end), Ordering::Relaxed);
    }

    /// Does something to blocks `first..end`, which change hands if it succeeds; else they stay as they were.
    fn change(
        &self,
        operation: Operation,
        file: &MappedFile,
        (first, end): (u64, u64),
        work: impl FnOnce() -> io::Result<()>,
    ) -> Option<Vec<Seen>> {
        if !self.contest.is_supported(operation) {
            return None;
        }
        let before = file.seen(first, end);
        file.begin_change(first, end);
        let result = self.contest.timed(&self.actor, operation, work);
        if self.contest.settle(operation, file, result).is_some() {
            return Some(before);
        }
        set(file, first, before);
        None
    }

    fn cut(&mut self, slot: &Slot, file: &MappedFile, first: u64) {
        let end = file.bytes().div_ceil(BLOCK_LEN);
        let work = || file.file.set_len(first * BLOCK_LEN);
        if self
            .change(Operation::Truncate, file, (first, end), work)
            .is_none()
        {
            return;
        }
        self.note(file, What::Truncated, (first, end - first));
        file.size.store(first * BLOCK_LEN, Ordering::Relaxed);
        clear(slot, file, (first, end));
        if self.random.random() {
            self.write(file, (first, (ROOM - first).min(16)));
        }
    }

    fn empty(&mut self, slot: &Slot, file: &MappedFile, (first, count): (u64, u64), operation: Operation) {
        let (flags, what) = match operation {
            Operation::Punch => (
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                What::Punched,
            ),
            _ => (
                FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                What::Zeroed,
            ),
        };
        let work = || fallocate(file, flags, (first, count));
        if self
            .change(operation, file, (first, first + count), work)
            .is_none()
        {
            return;
        }
        self.note(file, what, (first, count));
        clear(slot, file, (first, first + count));
        if self.random.random() {
            self.write(file, (first, count));
        }
    }

    fn collapse(&self, slot: &Slot, file: &MappedFile, (first, count): (u64, u64)) {
        let end = file.bytes().div_ceil(BLOCK_LEN);
        let work = || fallocate(file, FallocateFlags::COLLAPSE_RANGE, (first, count));
        let Some(before) = self.change(Operation::Collapse, file, (first, end), work) else {
            return;
        };
        self.note(file, What::Collapsed, (first, end - first));
        file.size.fetch_sub(count * BLOCK_LEN, Ordering::Relaxed);
        set(
            file,
            first,
            before.into_iter().skip(usize::try_from(count).unwrap_or(0)),
        );
        clear(slot, file, (end - count, end));
    }

    fn insert(&self, slot: &Slot, file: &MappedFile, (first, count): (u64, u64)) {
        let end = file.bytes().div_ceil(BLOCK_LEN);
        let work = || fallocate(file, FallocateFlags::INSERT_RANGE, (first, count));
        let Some(before) = self.change(Operation::Insert, file, (first, end + count), work) else {
            return;
        };
        self.note(file, What::Inserted, (first, end + count - first));
        file.size.fetch_add(count * BLOCK_LEN, Ordering::Relaxed);
        let moved = usize::try_from(end - first).unwrap_or(0);
        set(file, first + count, before.into_iter().take(moved));
        clear(slot, file, (first, first + count));
    }

    /// Lets another file share all of this one.
    fn clone_to_another(&mut self, file: &MappedFile) {
        let place = self.random.random_range(0..self.contest.slots.len());
        if !self.contest.is_dax {
            // Then words of other files would not tell a stray.
            return;
        }
        let Some(other) = self.contest.slots.get(place).and_then(Slot::current) else {
            return;
        };
        // This thread is the steward of the first already: trying never waits.
        if !other.try_steward() {
            return;
        }
        let work = || Ok(rustix::fs::ioctl_ficlone(&other.file, &file.file)?);
        // Stores to the source meanwhile are in both, or in one: they have the same owner.
        if self.change(Operation::Clone, &other, (0, ROOM), work).is_some() {
            other.size.store(file.bytes(), Ordering::Relaxed);
            let known = file.seen(0, ROOM);
            for (block, seen) in (0..).zip(known) {
                if let Some(cell) = other.cell(block) {
                    cell.set(seen.owner(), seen.may_be_zero());
                }
            }
            self.note(&other, What::Cloned, (0, ROOM));
        }
        other.end_stewardship();
    }

    fn replace(&mut self, slot: &Slot, old: &MappedFile) {
        let made = self.contest.make_file(slot);
        let Some(file) = self.contest.settle(Operation::Replace, old, made) else {
            return;
        };
        slot.replace(Some(file));
        old.is_removed.store(true, Ordering::Relaxed);
        let removed = if self.random.random() {
            self.contest
                .timed(&self.actor, Operation::Unlink, || fs::remove_file(&old.path))
        } else {
            // Files of one slot may be replaced at the same time: the name is of this one.
            let other = old.path.with_added_extension("new");
            self.contest.timed(&self.actor, Operation::Replace, || {
                fs::File::create(&other)?;
                fs::rename(&other, &old.path)?;
                fs::remove_file(&old.path)
            })
        };
        self.contest.settle(Operation::Replace, old, removed);
        self.note(old, What::Removed, (0, ROOM));
    }
}

impl DirectoryContest {
    /// Reads a file and judges the blocks of which it is certain what they hold.
    pub(super) fn judge_file(&self, actor: &Actor, file: &MappedFile) {
        let known = file.seen(0, ROOM);
        fence(Ordering::SeqCst);
        let mut bytes = vec![0; known.len() * BLOCK];
        let read = self.timed(actor, Operation::Read, || file.file.read_at(&mut bytes, 0));
        let Some(len) = self.settle(Operation::Read, file, read) else {
            return;
        };
        let blocks = bytes.get(..len).unwrap_or_default().chunks(BLOCK);
        for ((seen, bytes), block) in known.iter().zip(blocks).zip(0..) {
            let Some(rule) = file.cell(block).and_then(|cell| cell.confirm(*seen)) else {
                Tally::add(&self.tally.unjudged_blocks, 1);
                continue;
            };
            if let Some((kind, found)) = self.look(bytes, rule) {
                if !self.is_wrong_still(file, block, *seen) {
                    continue;
                }
                let own = Rule::AnyOf(1 << file.slot);
                if !self.is_dax && self.stamps.judge(bytes, own).is_none() {
                    Tally::add(&self.tally.overtaken_blocks, 1);
                    continue;
                }
                let path = file.path.display();
                let what = format!("a read of block {block} of {path} finds that {found}");
                self.find(kind, what, file.history(Some(block)));
                return;
            }
        }
    }
}

impl DirectoryContest {
    /// Whether a block that was wrong is so when it is read again. The kernel's reads and writes of one page at a time
    /// meet at any byte, so that a word may be half of an old one: what has gone astray stays.
    fn is_wrong_still(&self, file: &MappedFile, block: u64, seen: Seen) -> bool {
        let mut bytes = [0; BLOCK];
        for _ in 0..LOOKS {
            thread::sleep(BETWEEN_LOOKS);
            let Ok(len) = file.file.read_at(&mut bytes, block * BLOCK_LEN) else {
                return true;
            };
            let rule = file.cell(block).and_then(|cell| cell.confirm(seen));
            let read = bytes.get(..len).unwrap_or_default();
            if rule.is_none_or(|rule| self.stamps.judge(read, rule).is_none()) {
                return false;
            }
        }
        true
    }
}

fn fallocate(file: &MappedFile, flags: FallocateFlags, (first, count): (u64, u64)) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        &file.file,
        flags,
        first * BLOCK_LEN,
        count * BLOCK_LEN,
    )?)
}

/// Blocks from `first` on are as these.
fn set(file: &MappedFile, first: u64, known: impl IntoIterator<Item = Seen>) {
    for (block, seen) in (first..).zip(known) {
        if let Some(cell) = file.cell(block) {
            cell.set(seen.owner(), seen.may_be_zero());
        }
    }
}

/// Blocks `first..end` are holes, of a new owner.
fn clear(slot: &Slot, file: &MappedFile, (first, end): (u64, u64)) {
    let epoch = slot.next_epoch();
    for block in first..end {
        if let Some(cell) = file.cell(block) {
            cell.set(Owner::new(slot.number, epoch, block), true);
        }
    }
}
