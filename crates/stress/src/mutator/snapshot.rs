//! Snapshots: clones that nobody stores to. Their bytes stay as they were whatever is stored to the file they are of:
//! blocks that are shared must be copied before they are pinned for writing.

use std::sync::Arc;

use rand::Rng;
use udax::File;

use super::Mutator;
use crate::life::{Life, OpenLife};
use crate::report::Kind;
use crate::stamp::{BLOCK, BLOCK_LEN};
use crate::tally::{Operation, Tally};

/// Snapshots of one thread.
const MAX_SNAPSHOTS: usize = 4;
/// Blocks of one.
const MAX_BLOCKS: u64 = 32;

/// A clone, and what it must hold.
pub(super) struct Snapshot {
    life: Arc<Life>,
    path: String,
    file: File,
    /// First block in the file that it is of.
    first: u64,
    bytes: Vec<u8>,
}

impl Mutator {
    /// Makes one of some whole blocks of a file, as its steward.
    pub(super) fn snapshot(&mut self, life: &OpenLife, whole: u64) {
        if self.snapshots.len() == MAX_SNAPSHOTS {
            self.end_snapshot(0);
        }
        let Some((first, count)) = self.some_blocks(whole, MAX_BLOCKS) else {
            return;
        };
        let contest = Arc::clone(&self.contest);
        let made = contest.settle(Operation::Snapshot, life, contest.make_snapshot());
        let Some((path, file)) = made else { return };
        let cloned = contest.timed(&self.actor, Operation::Snapshot, || {
            life.file
                .clone_range(first * BLOCK_LEN, &file, 0, count * BLOCK_LEN)
        });
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * BLOCK];
        let read = cloned.and_then(|()| file.read_at(&mut bytes, 0));
        let Some(len) = contest.settle(Operation::Snapshot, life, read) else {
            let _ = contest.filesystem.unlink(&path);
            return;
        };
        bytes.truncate(len);
        self.snapshots.push(Snapshot {
            life: Arc::clone(&life.life),
            path,
            file,
            first,
            bytes,
        });
    }

    /// Compares one of them, sometimes.
    pub(super) fn look_at_a_snapshot(&mut self) {
        if !self.snapshots.is_empty() && self.random.random_ratio(1, 4) {
            let at = self.random.random_range(0..self.snapshots.len());
            self.compare(at);
        }
    }

    fn compare(&self, at: usize) {
        let Some(snapshot) = self.snapshots.get(at) else {
            return;
        };
        let mut now = vec![0; snapshot.bytes.len()];
        let read = snapshot.file.read_at(&mut now, 0);
        let Some(len) = self.contest.settle(Operation::Snapshot, &snapshot.life, read) else {
            return;
        };
        // A read ends before what cannot be read.
        if self.contest.options.failing.is_some() {
            now.truncate(len);
        }
        let blocks = now.chunks(BLOCK).zip(snapshot.bytes.chunks(BLOCK));
        Tally::add(
            &self.contest.tally.judged_blocks,
            u64::try_from(blocks.len()).unwrap_or(0),
        );
        let changed = blocks.zip(snapshot.first..).find(|((now, then), _)| now != then);
        let Some((_, block)) = changed else { return };
        let place = crate::contest::pool_block(&snapshot.file, block - snapshot.first);
        let what = format!(
            "{}, a clone of blocks {}.. of file {}, has changed at block {block} though nobody wrote to it",
            snapshot.path, snapshot.first, snapshot.life.slot
        );
        let history = self.contest.history(&snapshot.life, Some(block), place);
        self.contest.find(Kind::SnapshotChanged, what, history);
    }

    /// Compares one for the last time, and removes it.
    pub(super) fn end_snapshot(&mut self, at: usize) {
        self.compare(at);
        let snapshot = self.snapshots.swap_remove(at);
        let removed = self.contest.filesystem.unlink(&snapshot.path);
        self.contest.settle(Operation::Unlink, &snapshot.life, removed);
    }
}
