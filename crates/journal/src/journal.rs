//! The journal of an open pool, and commit.

use std::sync::Arc;

use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::{CHECKPOINTS, SUPERBLOCKS};
use udax_media::record::{self, HEADER_SIZE, MAX_RECORD_BYTES, RecordHeader};
use udax_media::seal::Seed;
use udax_media::{BLOCK_BYTES, DEVICE_START, Geometry, Sequence, Superblock};
use udax_pmem::Region;
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::fault::{Fault, is_injected};
use udax_sync::{CachePadded, Mutex, MutexGuard, Rank};

use crate::apply::apply;
use crate::checkpoint::Checkpointer;
use crate::durable::{Durable, Stored};
use crate::head::{self, Counters};
use crate::lane::{Lane, LaneState, Lanes, Room};
use crate::recovery::{self, Recovery};
use crate::transaction::{Buffer, Changes};
use crate::{Checkpointed, Committed, JournalError, Transaction};

/// The journal of an open pool. Shared by all threads.
///
/// Dropped without [`Journal::close`] it leaves the pool as a crash would: whole, to be recovered by the next open.
#[derive(Debug)]
pub struct Journal {
    region: Arc<Region>,
    /// The pool's seed with this mount's nonce.
    record_seed: Seed,
    record_limit: usize,
    lanes: Lanes,
    /// The last sequence number given out. Taken under a lane's lock, which orders it.
    last: CachePadded<AtomicU64>,
    /// Pairs the Release of a finished checkpoint with the Acquire of a committer that reuses a half.
    checkpointed: AtomicU64,
    /// How many were published since the open. Relaxed: a count.
    pub(crate) checkpoints: AtomicU64,
    pool_bytes: AtomicU64,
    /// The end of the data device's blocks as bytes of the pool; never changes.
    device_end: u64,
    wants_checkpoint: AtomicBool,
    stopped: AtomicBool,
    checkpointer: Mutex<Checkpointer>,
}

/// A record whose number is given, to be stored in a lane: what [`Stored`] and [`Durable`] are of.
struct Record<'b> {
    buffer: &'b Buffer,
    sequence: Sequence,
}

/// Stops the journal unless disarmed: however a step ends that leaves a record's fate unknown.
struct StopUnlessDone<'j>(&'j AtomicBool);

impl Drop for StopUnlessDone<'_> {
    fn drop(&mut self) {
        tracing::error!("the journal stops: a record or a checkpoint was not completed");
        // Relaxed: who misses it commits a record of its own, which is as good as one committed before.
        self.0.store(true, Ordering::Relaxed);
    }
}

impl StopUnlessDone<'_> {
    fn done(self) {
        std::mem::forget(self);
    }
}

impl Journal {
    /// Writes the first checkpoint of a new pool: no records, these counters, clean.
    ///
    /// # Errors
    /// [`JournalError::Region`]: the medium failed.
    ///
    /// # Durability
    /// The checkpoint is durable on return, and all that this thread stored past the cache or flushed before.
    pub fn format(region: &Region, superblock: &Superblock, counters: Counters) -> Result<(), JournalError> {
        head::half_bytes(superblock)?;
        for copy in CHECKPOINTS {
            region.zero_nontemporal(copy.offset().raw(), BLOCK_BYTES)?;
        }
        let first = Checkpoint {
            number: 1,
            sequence: Sequence(0),
            nonce: head::fresh_nonce(),
            free_blocks: counters.free_blocks,
            inodes: counters.inodes,
            is_clean: true,
            is_half_mended: false,
        };
        head::publish(region, superblock.seed(), &first)
    }

    /// Opens the journal: replays what is after the last checkpoint, then publishes a checkpoint that is not clean,
    /// with a new nonce.
    ///
    /// # Errors
    /// [`JournalError::HalfMended`]: a repair was interrupted, and has to be finished. [`JournalError::Format`]: no
    /// valid checkpoint, or a record that cannot be. [`JournalError::Region`]: the medium failed. In these two cases
    /// another open may be tried: what is half-replayed will be replayed again.
    ///
    /// # Durability
    /// All that was replayed is durable in place.
    pub fn open(region: Arc<Region>, superblock: &Superblock) -> Result<(Self, Recovery), JournalError> {
        let (checkpoint, recovery) = recovery::open(&region, superblock)?;
        Ok((Self::new(region, superblock, checkpoint, &recovery)?, recovery))
    }

    /// Opens the journal of a pool that is only read: nothing is written, and nothing may be committed.
    ///
    /// # Errors
    /// [`JournalError::Unclean`] when there may be records to replay; else, and of a half mended pool, as
    /// [`Journal::open`].
    pub fn open_read_only(
        region: Arc<Region>,
        superblock: &Superblock,
    ) -> Result<(Self, Recovery), JournalError> {
        let checkpoint = head::read_checkpoint(&region, superblock)?;
        head::refuse_half_mended(&checkpoint)?;
        if !checkpoint.is_clean {
            return Err(JournalError::Unclean);
        }
        let recovery = Recovery {
            was_clean: true,
            ..Recovery::default()
        };
        let journal = Self::new(region, superblock, checkpoint, &recovery)?;
        journal.stopped.store(true, Ordering::Relaxed);
        Ok((journal, recovery))
    }

    fn new(
        region: Arc<Region>,
        superblock: &Superblock,
        checkpoint: Checkpoint,
        recovery: &Recovery,
    ) -> Result<Self, JournalError> {
        let half_bytes = head::half_bytes(superblock)?;
        let grown = recovery.superblock.as_ref().unwrap_or(superblock);
        let geometry = Arc::new(Geometry::new(grown));
        let counters = Counters {
            free_blocks: checkpoint.free_blocks,
            inodes: checkpoint.inodes,
        };
        let half_limit = usize::try_from(half_bytes / 2).unwrap_or(MAX_RECORD_BYTES);
        let journal = Self {
            record_seed: superblock.seed().with(checkpoint.nonce),
            record_limit: MAX_RECORD_BYTES.min(half_limit),
            lanes: Lanes::new(superblock, half_bytes, &geometry, counters),
            last: CachePadded::new(AtomicU64::new(checkpoint.sequence.raw())),
            checkpointed: AtomicU64::new(checkpoint.sequence.raw()),
            checkpoints: AtomicU64::new(0),
            pool_bytes: AtomicU64::new(geometry.total_blocks() * BLOCK_BYTES),
            device_end: DEVICE_START.raw().saturating_add(geometry.reach().device) * BLOCK_BYTES,
            wants_checkpoint: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            checkpointer: Mutex::new(
                Rank::Checkpoint,
                Checkpointer::new(superblock.seed(), checkpoint, geometry),
            ),
            region,
        };
        Ok(journal)
    }

    /// A transaction without changes.
    #[inline]
    pub fn begin(&self) -> Transaction<'_> {
        Transaction::new(self)
    }

    /// Completes all records in place and publishes that. Commits go on meanwhile. Two fences; none when no record
    /// was committed since the last checkpoint.
    ///
    /// # Errors
    /// [`JournalError::Stopped`], or what stopped it now: a media error, or records that do not read back.
    ///
    /// # Durability
    /// Every record committed before the call is complete in place, sealed and durable.
    ///
    /// # Locks
    /// The checkpoint's, then each lane's once, briefly.
    pub fn checkpoint(&self) -> Result<Checkpointed, JournalError> {
        let mut checkpointer = self.checkpointer.lock();
        self.checkpoint_with(&mut checkpointer, Checkpointer::run)
    }

    /// The last published checkpoint.
    pub fn checkpointed(&self) -> Checkpointed {
        Checkpointed(self.checkpointed_sequence())
    }

    /// Whether a checkpoint now would spare a committer to wait for one: a lane's half has filled. For who
    /// runs [`Journal::checkpoint`] in the background.
    pub fn needs_checkpoint(&self) -> bool {
        // Relaxed: a hint.
        self.wants_checkpoint.load(Ordering::Relaxed)
    }

    /// Whether a record was committed that no checkpoint has passed.
    pub fn is_ahead(&self) -> bool {
        self.last_sequence() > self.checkpointed_sequence()
    }

    /// The counters with all that is committed.
    pub fn counters(&self) -> Counters {
        self.lanes.counters()
    }

    /// The most bytes of a record. See [`Transaction::remaining`].
    #[inline]
    pub fn record_limit(&self) -> usize {
        self.record_limit
    }

    /// The region that the journal writes to.
    #[inline]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Gives the pool another superblock, of the next generation, in both copies. It may have more segments than the
    /// old one, with `added` free blocks: their bitmaps must be durable before, their blocks may be used after. The
    /// caller runs one of these at a time, and both copies must be good: while one is written, the other must be whole.
    ///
    /// The new superblock's copy and the count are one record, so that a crash leaves both or neither. That record is
    /// passed by a checkpoint before the other superblock is written: at any time one of them is whole, and no record
    /// names a new block before the superblock says that it exists.
    ///
    /// # Errors
    /// As [`Transaction::commit`] and [`Journal::checkpoint`]; the next open tells which superblock the pool has.
    ///
    /// # Durability
    /// The new superblock is durable on return.
    pub fn set_superblock(&self, superblock: &Superblock, added: u64) -> Result<(), JournalError> {
        let geometry = Arc::new(Geometry::new(superblock));
        let bytes = superblock.encode();
        let mut transaction = self.begin();
        transaction.write(SUPERBLOCKS[1].offset(), bytes.as_slice());
        transaction.count_free_blocks(i64::try_from(added).unwrap_or(i64::MAX));
        transaction.commit()?;
        {
            let mut checkpointer = self.checkpointer.lock();
            // Before the count of free blocks is compared with the size of the pool.
            checkpointer.set_geometry(Arc::clone(&geometry));
            self.checkpoint_with(&mut checkpointer, Checkpointer::run)?;
        }
        for lane in self.lanes.iter() {
            lane.lock().geometry = Arc::clone(&geometry);
        }
        // Relaxed: who uses the new blocks has learned of them after this call, by some lock.
        self.pool_bytes
            .store(geometry.total_blocks() * BLOCK_BYTES, Ordering::Relaxed);
        let stop = StopUnlessDone(&self.stopped);
        self.region
            .store_nontemporal(SUPERBLOCKS[0].offset().raw(), bytes.as_slice())?;
        self.region.fence()?;
        stop.done();
        Ok(())
    }

    /// A last checkpoint that says the pool is clean. Nothing is committed after it.
    ///
    /// # Errors
    /// As [`Journal::checkpoint`]; then the pool is not clean, and the next open recovers it.
    ///
    /// # Durability
    /// Everything is complete in place, sealed and durable.
    pub fn close(&self) -> Result<(), JournalError> {
        let mut checkpointer = self.checkpointer.lock();
        self.checkpoint_with(&mut checkpointer, Checkpointer::run_last)?;
        Ok(())
    }

    fn checkpoint_with(
        &self,
        checkpointer: &mut Checkpointer,
        run: fn(&mut Checkpointer, &Self) -> Result<Sequence, JournalError>,
    ) -> Result<Checkpointed, JournalError> {
        self.check_running()?;
        // Before the lanes are looked at: a half that fills from now on asks again.
        self.wants_checkpoint.store(false, Ordering::Relaxed);
        let stop = StopUnlessDone(&self.stopped);
        let sequence = run(checkpointer, self)?;
        stop.done();
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.checkpointed.store(sequence.raw(), Ordering::Release);
        Ok(Checkpointed(sequence))
    }

    /// Makes sure that a checkpoint has passed `sequence`, by waiting for one that runs or by running one.
    fn checkpoint_past(&self, sequence: Sequence) -> Result<(), JournalError> {
        let mut checkpointer = self.checkpointer.lock();
        if self.checkpointed_sequence() < sequence {
            self.checkpoint_with(&mut checkpointer, Checkpointer::run)?;
        }
        Ok(())
    }

    pub(crate) fn checkpointed_sequence(&self) -> Sequence {
        Sequence(self.checkpointed.load(Ordering::Acquire))
    }

    fn check_running(&self) -> Result<(), JournalError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(JournalError::Stopped);
        }
        Ok(())
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(crate) fn record_seed(&self) -> Seed {
        self.record_seed
    }

    /// The last sequence number given out, in this mount or before it: records committed from now on have higher ones.
    pub fn last_sequence(&self) -> Sequence {
        // Relaxed: the lanes' locks order it, see invariant 3 in the crate's head.
        Sequence(self.last.load(Ordering::Relaxed))
    }

    pub(crate) fn check_length(&self, bytes: usize) -> Result<(), JournalError> {
        let limit = self.record_limit;
        if bytes > limit {
            return Err(JournalError::TooLarge { bytes, limit });
        }
        Ok(())
    }

    pub(crate) fn commit(&self, buffer: &mut Buffer, changes: Changes) -> Result<Committed, JournalError> {
        let length = buffer.bytes.len();
        if length == HEADER_SIZE && changes.free_blocks == 0 && changes.inodes == 0 {
            self.check_running()?;
            return Ok(Committed(self.last_sequence()));
        }
        self.check_length(length)?;
        let pool_bytes = self.pool_bytes.load(Ordering::Relaxed);
        if changes.end > pool_bytes {
            return Err(JournalError::OutsidePool {
                end: changes.end,
                pool_bytes,
            });
        }
        if changes.device_end > self.device_end {
            return Err(JournalError::OutsidePool {
                end: changes.device_end,
                pool_bytes: self.device_end,
            });
        }
        let padded = u64::try_from(record::padded_len(length)).unwrap_or(u64::MAX);
        let (lane, mut state, at) = self.find_room(padded)?;
        let stop = StopUnlessDone(&self.stopped);
        if is_injected(Fault::EarlyApply) {
            for operation in buffer.operations() {
                apply(&self.region, &state.geometry, &operation)?;
            }
        }
        let stored = self.store_record(buffer, changes, lane.number, at)?;
        let durable = stored.fence_unless(&self.region, Fault::UnfencedRecord)?;
        let sequence = self.apply_record(&durable, &state.geometry)?;
        state.append(padded, sequence);
        state.give_up(sequence, &buffer.given_up);
        lane.count(&state, changes.free_blocks, changes.inodes);
        stop.done();
        Ok(Committed(sequence))
    }

    /// A locked lane with room for `bytes`, and where.
    #[inline]
    fn find_room(&self, bytes: u64) -> Result<(&Lane, MutexGuard<'_, LaneState>, u64), JournalError> {
        loop {
            self.check_running()?;
            let checkpointed = self.checkpointed_sequence();
            let mut full = None;
            for lane in self.lanes.own_first() {
                let Some(mut state) = lane.try_lock() else {
                    continue;
                };
                match self.reserve(&mut state, bytes, checkpointed) {
                    Ok(at) => return Ok((lane, state, at)),
                    Err(after) => full = full.or(Some(after)),
                }
            }
            // No lane is held here: see "Locks" in the crate's head.
            match full {
                Some(after) => self.checkpoint_past(after)?,
                None => {
                    if let Some(own) = self.lanes.own_first().next() {
                        let mut state = own.lock();
                        let checkpointed = self.checkpointed_sequence();
                        if let Ok(at) = self.reserve(&mut state, bytes, checkpointed) {
                            return Ok((own, state, at));
                        }
                    }
                }
            }
        }
    }

    #[inline]
    fn reserve(&self, state: &mut LaneState, bytes: u64, checkpointed: Sequence) -> Result<u64, Sequence> {
        match state.reserve(bytes, checkpointed) {
            Room::At(at) => Ok(at),
            Room::Switched(at) => {
                self.wants_checkpoint.store(true, Ordering::Relaxed);
                Ok(at)
            }
            Room::After(sequence) => Err(sequence),
        }
    }

    /// Numbers the record, completes it and stores it past the cache. The caller holds the lane.
    #[inline]
    fn store_record<'b>(
        &self,
        buffer: &'b mut Buffer,
        changes: Changes,
        lane: u16,
        at: u64,
    ) -> Result<Stored<Record<'b>>, JournalError> {
        let sequence = Sequence(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let free_blocks_delta = match is_injected(Fault::UncountedRecord) {
            true => 0,
            false => changes.free_blocks,
        };
        let header = RecordHeader {
            sequence,
            lane,
            free_blocks_delta,
            inodes_delta: changes.inodes,
        };
        record::finish(self.record_seed, &mut buffer.bytes, header);
        let padded = record::padded_len(buffer.bytes.len());
        buffer.bytes.resize(padded, 0);
        if is_injected(Fault::UnflushedRecord) {
            self.region.store(at, &buffer.bytes)?;
        } else {
            self.region.store_nontemporal(at, &buffer.bytes)?;
        }
        Ok(Stored::new(Record { buffer, sequence }))
    }

    /// Does in place what the record says. Only for a durable one.
    #[inline]
    fn apply_record(
        &self,
        record: &Durable<Record<'_>>,
        geometry: &Geometry,
    ) -> Result<Sequence, JournalError> {
        let record = record.get();
        for operation in record.buffer.operations() {
            apply(&self.region, geometry, &operation)?;
        }
        Ok(record.sequence)
    }
}
