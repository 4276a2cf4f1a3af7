//! An engine of a contest on a directory: direct reads into mappings, many at once.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax_sync::atomic::Ordering;
use udax_sync::thread;

use super::DirectoryContest;
use super::dma::{MAX_BLOCKS, MappedRing, Target};
use super::files::MappedFile;
use crate::dma_ring::Patience;
use crate::expected::Seen;
use crate::history::{Event, What};
use crate::options::StressError;
use crate::referee::Actor;
use crate::report::Kind;
use crate::stamp::{BLOCK, BLOCK_LEN, Writer};
use crate::tally::{Operation, Tally};

/// A thread with a ring.
pub(super) struct Engine {
    contest: Arc<DirectoryContest>,
    actor: Arc<Actor>,
    random: SmallRng,
    ring: MappedRing,
    remembered: Option<Arc<MappedFile>>,
    turn: u64,
}

impl Engine {
    pub(super) fn new(contest: Arc<DirectoryContest>, actor: Arc<Actor>) -> Result<Self, StressError> {
        let seed = contest.options.seed.wrapping_add(actor.number << 32);
        let ring = MappedRing::new(&contest.directory, actor.number);
        Ok(Self {
            ring: ring.map_err(|(what, source)| StressError::NoDma { what, source })?,
            contest,
            actor,
            random: SmallRng::seed_from_u64(seed),
            remembered: None,
            turn: 0,
        })
    }

    pub(super) fn run(mut self) {
        while !self.contest.is_over() {
            if self.start().is_none() {
                thread::yield_now();
            }
            self.complete(Patience::None);
        }
        while !self.ring.is_idle() {
            self.complete(Patience::One);
        }
    }

    fn choose(&mut self) -> Option<Arc<MappedFile>> {
        if self.random.random_ratio(1, 10) && self.remembered.is_some() {
            return self.remembered.take();
        }
        let place = self.random.random_range(0..self.contest.slots.len());
        let file = self.contest.slots.get(place)?.current()?;
        if self.random.random_ratio(1, 10) {
            self.remembered = Some(Arc::clone(&file));
        }
        Some(file)
    }

    /// Begins a read into some blocks of a file.
    fn start(&mut self) -> Option<()> {
        let place = self.ring.free_place()?;
        let file = self.choose()?;
        let blocks = file.bytes().div_ceil(BLOCK_LEN);
        if blocks == 0 {
            return None;
        }
        let first = self.random.random_range(0..blocks);
        let most = u64::try_from(MAX_BLOCKS).unwrap_or(1).min(blocks - first);
        let end = first + self.random.random_range(1..=most);
        let known: Vec<Seen> = file.seen(first, end);
        self.turn += 1;
        let writer = Writer {
            actor: self.actor.number,
            turn: self.turn,
        };
        let stamps = self.contest.stamps;
        let prepared = self.ring.prepare(place, |bytes| {
            for (bytes, seen) in bytes.chunks_exact_mut(BLOCK).zip(&known) {
                stamps.fill(bytes, 0, seen.owner(), writer);
            }
        });
        if let Err(error) = prepared {
            self.failed("prepare a direct read", &error);
            return None;
        }
        let starting = file.start();
        // Of the same owners as when the source was written, and not changing hands.
        let now = file.seen(first, end);
        let is_same = |(one, other): (&Seen, &Seen)| one.owner() == other.owner() && other.rule().is_some();
        if now.len() != known.len() || !now.iter().zip(&known).all(|(now, then)| is_same((then, now))) {
            return None;
        }
        let target = Target {
            first: usize::try_from(first).ok()?,
            blocks: known.len(),
        };
        let contest = Arc::clone(&self.contest);
        let read = contest.timed(&self.actor, Operation::Pin, || {
            self.ring.read(place, &file.mapped, target)
        });
        drop(starting);
        if let Err(error) = read {
            self.failed("begin a direct read", &error);
            return None;
        }
        self.note(&file, known.first()?, (first, end));
        Some(())
    }

    fn note(&self, file: &MappedFile, seen: &Seen, (first, end): (u64, u64)) {
        let tally = &self.contest.tally;
        Tally::add(&tally.transfers, 1);
        if file.is_removed.load(Ordering::Relaxed) {
            Tally::add(&tally.unlinked_transfers, 1);
        }
        file.ring.note(Event {
            micros: self.contest.micros(),
            what: What::Stored,
            actor: self.actor.number,
            owner: seen.owner(),
            first,
            count: end - first,
        });
    }

    fn complete(&mut self, patience: Patience) {
        for result in self.ring.completed(patience) {
            match result {
                Ok(bytes) => {
                    let blocks = u64::try_from(bytes / BLOCK).unwrap_or(0);
                    Tally::add(&self.contest.tally.dma_reads, 1);
                    Tally::add(&self.contest.tally.stores, blocks);
                    Tally::add(&self.contest.tally.bytes, blocks * BLOCK_LEN);
                }
                // The pages have gone, or the kernel would have had to wait.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EAGAIN)) => {
                    self.contest.tally.refuse(Operation::Pin);
                }
                Err(error) => self.failed("read directly", &error),
            }
        }
    }

    fn failed(&self, what: &str, error: &std::io::Error) {
        let what = format!("{} cannot {what}: {error}", self.actor.name);
        self.contest.find(Kind::Failed, what, Vec::new());
    }
}
