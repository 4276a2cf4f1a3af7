//! Checkpoints: completing in place what records changed, and publishing how far that is.
//!
//! The touched places are not kept in memory: they are read back from the records, which stay in their lanes until
//! the checkpoint is published (invariant 2 of the crate's head).

use std::sync::Arc;

use udax_media::checkpoint::Checkpoint;
use udax_media::seal::Seed;
use udax_media::{ByteOffset, FormatError, Geometry, Place, Sequence};
use udax_pmem::RegionError;
use udax_sync::fault::{Fault, is_injected};

use crate::chain::{Chain, ChainOf};
use crate::head::{self, Deltas};
use crate::lane::{GivenUp, Half, Lane};
use crate::lost::{LostBlocks, is_free};
use crate::touched::{Touched, complete};
use crate::{Journal, JournalError};

/// What the checkpoint's lock protects.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    seed: Seed,
    /// The last one published.
    published: Checkpoint,
    geometry: Arc<Geometry>,
    /// Of each lane's halves, how much earlier checkpoints have passed.
    passed: Vec<[Passed; 2]>,
    /// Lost blocks without an owner that records after the published checkpoint may touch.
    given_up: Vec<GivenUp>,
}

/// How much of one filling of a half is behind the published checkpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    turn: u64,
    bytes: u64,
}

impl Checkpointer {
    pub(crate) fn new(seed: Seed, published: Checkpoint, geometry: Arc<Geometry>) -> Self {
        Self {
            seed,
            published,
            geometry,
            passed: Vec::new(),
            given_up: Vec::new(),
        }
    }

    pub(crate) fn set_geometry(&mut self, geometry: Arc<Geometry>) {
        self.geometry = geometry;
    }

    /// A checkpoint, if a record was committed since the last one.
    pub(crate) fn run(&mut self, journal: &Journal) -> Result<Sequence, JournalError> {
        let until = journal.last_sequence();
        if until > self.published.sequence {
            self.publish(journal, until, false)?;
        }
        Ok(self.published.sequence)
    }

    /// The last checkpoint of a mount: clean. Nobody commits any more.
    pub(crate) fn run_last(&mut self, journal: &Journal) -> Result<Sequence, JournalError> {
        self.publish(journal, journal.last_sequence(), true)?;
        Ok(self.published.sequence)
    }

    fn publish(&mut self, journal: &Journal, until: Sequence, is_clean: bool) -> Result<(), JournalError> {
        // Each lane's lock once, after `until` was read: all records up to it are applied (invariant 3).
        let halves_of = |lane: &Lane| {
            let mut state = lane.lock();
            state.take_given_up(&mut self.given_up);
            state.halves()
        };
        let lanes: Vec<[Half; 2]> = journal.lanes().iter().map(halves_of).collect();
        self.passed.resize(lanes.len(), [Passed::default(); 2]);
        let mut gathered = Gathered::default();
        for (index, halves) in lanes.into_iter().enumerate() {
            for (side, half) in halves.into_iter().enumerate() {
                // What a checkpoint has passed may be overwritten at any time.
                if half.last > self.published.sequence {
                    let from = self.passed_bytes(index, side, half.turn);
                    let to = self.read_back(journal, half, from, until, &mut gathered)?;
                    self.set_passed(index, side, half.turn, to);
                }
            }
        }
        let blocks = gathered.touched.into_blocks();
        if !blocks.is_empty() {
            let lost = complete(journal.region(), self.seed, &blocks, Fault::UnflushedCheckpoint)?;
            self.check_unowned(journal, &lost)?;
            if !is_injected(Fault::UnfencedCheckpoint) {
                journal.region().fence()?;
            }
        }
        let counters = gathered
            .deltas
            .applied_to(&self.published, self.geometry.total_blocks())?;
        let next = Checkpoint {
            number: self.published.number + 1,
            sequence: until,
            nonce: self.published.nonce,
            free_blocks: counters.free_blocks,
            inodes: counters.inodes,
            is_clean,
            is_half_mended: false,
        };
        head::publish(journal.region(), self.seed, &next)?;
        self.published = next;
        self.given_up.retain(|(sequence, _)| *sequence > until);
        tracing::debug!(sequence = until.raw(), blocks = blocks.len(), "checkpoint");
        Ok(())
    }
}

impl Checkpointer {
    /// That nobody owns the blocks that could not be completed: what records say of them is needed no more.
    fn check_unowned(&self, journal: &Journal, lost: &LostBlocks) -> Result<(), JournalError> {
        for block in lost {
            let is_given_up = self.given_up.iter().any(|(_, blocks)| blocks.contains(*block));
            if !is_given_up && !is_free(journal.region(), &self.geometry, *block)? {
                let at = block.offset().raw();
                return Err(RegionError::Media { at }.into());
            }
            tracing::warn!(%block, "a lost block without an owner is left out of a checkpoint");
        }
        Ok(())
    }

    fn passed_bytes(&self, lane: usize, side: usize, turn: u64) -> u64 {
        self.passed
            .get(lane)
            .and_then(|sides| sides.get(side))
            .filter(|passed| passed.turn == turn)
            .map_or(0, |passed| passed.bytes)
    }

    fn set_passed(&mut self, lane: usize, side: usize, turn: u64, bytes: u64) {
        if let Some(passed) = self.passed.get_mut(lane).and_then(|sides| sides.get_mut(side)) {
            *passed = Passed { turn, bytes };
        }
    }

    /// Gathers the records of a half from offset `from` in it up to sequence `until`; gives the offset after them.
    fn read_back(
        &self,
        journal: &Journal,
        half: Half,
        from: u64,
        until: Sequence,
        gathered: &mut Gathered,
    ) -> Result<u64, JournalError> {
        let base = ByteOffset(half.start + from);
        let len = usize::try_from(half.used.saturating_sub(from)).unwrap_or(0);
        gathered.bytes.resize(len, 0);
        journal.region().read(base.raw(), &mut gathered.bytes)?;
        let of = ChainOf {
            seed: journal.record_seed(),
            lane: half.lane,
            geometry: &self.geometry,
        };
        let mut chain = Chain::new(of, &gathered.bytes, base);
        let mut done = 0;
        while let Some(entry) = chain.next()? {
            if entry.header.sequence > until {
                return Ok(from + done);
            }
            gathered.deltas.add(&entry.header);
            for operation in &entry.operations {
                gathered.touched.add(&self.geometry, operation);
            }
            done = u64::try_from(chain.position()).unwrap_or(u64::MAX);
        }
        if chain.position() < len {
            return Err(FormatError::Field {
                what: "journal",
                place: Place::Byte(ByteOffset(base.raw() + done)),
                field: "record overwritten by something else, lane",
                value: u64::from(half.lane),
            }
            .into());
        }
        Ok(from + done)
    }
}

/// What the records of a checkpoint sum up to.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    touched: Touched,
    deltas: Deltas,
}
