//! Atomic, durable change of many on-media places with one fence.
//!
//! (interface; see the design notes of the implementation)

use std::sync::Arc;

use udax_media::record::Operation;
use udax_media::{BlockNo, BlockRange, ByteOffset, FormatError, Geometry, Sequence, Superblock};
use udax_pmem::{Region, RegionError};

/// Why a transaction, a checkpoint or a recovery failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The medium failed.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The journal or what it describes is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The transaction does not fit in a record.
    #[error("transaction of {bytes} bytes does not fit in a journal record of {limit} bytes")]
    TooLarge {
        /// What it needs.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// An earlier failure left the journal unusable: nothing more is written.
    #[error("the journal has stopped after a media error")]
    Stopped,
}

/// Something that is stored past the cache, or stored and flushed, but not yet fenced.
#[derive(Debug)]
#[must_use]
pub struct Stored<T>(T);

/// Something that a fence has made durable. Only [`DataWriter::fence`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// What is durable.
    pub fn get(&self) -> &T {
        &self.0
    }
    /// What is durable.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Writes file data to blocks that nothing references yet.
#[derive(Debug)]
pub struct DataWriter<'r> {
    region: &'r Region,
}

impl<'r> DataWriter<'r> {
    /// A writer to `region`.
    pub fn new(region: &'r Region) -> Self {
        Self { region }
    }
    /// Stores bytes past the cache.
    pub fn write(&mut self, _at: ByteOffset, _bytes: &[u8]) -> Result<(), JournalError> {
        todo!()
    }
    /// Zeroes past the cache.
    pub fn zero(&mut self, _at: ByteOffset, _len: u64) -> Result<(), JournalError> {
        todo!()
    }
    /// Copies inside the pool.
    pub fn copy(&mut self, _from: ByteOffset, _to: ByteOffset, _len: u64) -> Result<(), JournalError> {
        todo!()
    }
    /// `what` is all stored.
    pub fn finish<T>(self, what: T) -> Stored<T> {
        let _ = self.region;
        Stored(what)
    }
}

impl<T> Stored<T> {
    /// One fence; then it is durable.
    pub fn fence(self, _region: &Region) -> Result<Durable<T>, JournalError> {
        todo!()
    }
}

/// What a commit gives: the record's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(Sequence);

impl Committed {
    /// The record's sequence number.
    pub fn sequence(self) -> Sequence {
        self.0
    }
}

/// Proof that a checkpoint has passed: records up to this sequence will never be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpointed(Sequence);

impl Checkpointed {
    /// Every record up to here is complete in place.
    pub fn sequence(self) -> Sequence {
        self.0
    }
}

/// Counts that every record changes and every checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Free blocks.
    pub free_blocks: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Whether the pool had been closed cleanly.
    pub was_clean: bool,
    /// Records replayed.
    pub records: u64,
    /// Bytes written in place.
    pub bytes: u64,
}

/// The journal of an open pool.
#[derive(Debug)]
pub struct Journal {
    _region: Arc<Region>,
}

impl Journal {
    /// Writes the first checkpoint of a new pool: no records, these counters, clean.
    pub fn format(
        _region: &Region,
        _superblock: &Superblock,
        _counters: Counters,
    ) -> Result<(), JournalError> {
        todo!()
    }
    /// Opens the journal: replays what is after the last checkpoint, then publishes a checkpoint that is not clean,
    /// with a new nonce.
    pub fn open(_region: Arc<Region>, _superblock: &Superblock) -> Result<(Self, Recovery), JournalError> {
        todo!()
    }
    /// A transaction without changes.
    pub fn begin(&self) -> Transaction<'_> {
        todo!()
    }
    /// Completes all records in place and publishes that. 2 fences.
    pub fn checkpoint(&self) -> Result<Checkpointed, JournalError> {
        todo!()
    }
    /// The last published checkpoint.
    pub fn checkpointed(&self) -> Checkpointed {
        todo!()
    }
    /// The counters now.
    pub fn counters(&self) -> Counters {
        todo!()
    }
    /// Takes a grown pool's geometry; `added` free blocks.
    pub fn grow(&self, _geometry: Geometry, _added: u64) -> Result<(), JournalError> {
        todo!()
    }
    /// A last checkpoint that says the pool is clean.
    pub fn close(self) -> Result<(), JournalError> {
        todo!()
    }
}

/// Changes that become durable together or not at all.
#[derive(Debug)]
pub struct Transaction<'j> {
    _journal: &'j Journal,
}

impl Transaction<'_> {
    /// `bytes` (a multiple of 8) will be at `at` (a multiple of 8).
    pub fn write(&mut self, _at: ByteOffset, _bytes: &[u8]) {
        todo!()
    }
    /// The word at `at` will be `value`.
    pub fn write_u64(&mut self, at: ByteOffset, value: u64) {
        self.write(at, &value.to_le_bytes());
    }
    /// Marks blocks whose content is durable as allocated.
    pub fn allocate(&mut self, _blocks: &Durable<BlockRange>) {
        todo!()
    }
    /// Marks blocks that read as zeros by their extent's flag as allocated: their content does not matter.
    pub fn allocate_unwritten(&mut self, _blocks: BlockRange) {
        todo!()
    }
    /// Marks blocks as allocated for metadata, and zeroes them in the same record.
    pub fn allocate_metadata(&mut self, _blocks: BlockRange) {
        todo!()
    }
    /// Marks blocks as free. What was metadata must go to the [`Quarantine`] before it is used again.
    pub fn free(&mut self, _blocks: BlockRange) {
        todo!()
    }
    /// Changes the number of inodes in use.
    pub fn count_inodes(&mut self, _delta: i64) {
        todo!()
    }
    /// The block as it will be: what is in place with this transaction's writes over it. `None` when the transaction
    /// does not touch the block: read it in place.
    pub fn pending(&self, _block: BlockNo) -> Result<Option<Box<[u8; 4096]>>, JournalError> {
        todo!()
    }
    /// Bytes of the record so far.
    pub fn record_len(&self) -> usize {
        todo!()
    }
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Writes the record with one fence, then applies it in place. On return everything is durable.
    pub fn commit(self) -> Result<Committed, JournalError> {
        todo!()
    }
}

/// Freed metadata blocks, kept from use until a checkpoint has passed the record that freed them.
#[derive(Debug, Default)]
pub struct Quarantine {}

impl Quarantine {
    /// Keeps `blocks`, freed by `committed`.
    pub fn put(&mut self, _committed: Committed, _blocks: BlockRange) {
        todo!()
    }
    /// Takes out what `checkpointed` has passed.
    pub fn take(&mut self, _checkpointed: Checkpointed) -> Vec<BlockRange> {
        todo!()
    }
    /// Blocks kept.
    pub fn blocks(&self) -> u64 {
        todo!()
    }
}

/// Replays the records after the last checkpoint onto a region without opening it for writing further; fsck's door.
/// The same code as [`Journal::open`]. After it the pool is at a new checkpoint, not clean unless it was.
pub fn recover(_region: &Region, _superblock: &Superblock) -> Result<Recovery, JournalError> {
    todo!()
}

/// Calls `each` for every record that recovery would replay, in order, without changing anything.
pub fn inspect(
    _region: &Region,
    _superblock: &Superblock,
    _each: &mut dyn FnMut(Sequence, u16, &[Operation<'_>]),
) -> Result<(), JournalError> {
    todo!()
}
