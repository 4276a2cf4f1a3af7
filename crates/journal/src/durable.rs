//! Persistence order as types: stored, durable, committed, checkpointed.
//!
//! None of these can be made outside this crate except by doing what it proves. `tests/compile_fail` holds what must
//! not compile.

use udax_media::{ByteOffset, Sequence};
use udax_pmem::Region;
use udax_sync::fault::{Fault, is_injected};

use crate::JournalError;

/// Something that is stored past the cache, or stored and flushed, but not yet fenced.
#[derive(Debug)]
#[must_use = "what is stored is not durable before a fence"]
pub struct Stored<T>(T);

/// Something that a fence has made durable. Only [`Stored::fence`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Durable<T>(T);

impl<T> Stored<T> {
    /// `what` is all stored, by this thread.
    pub(crate) fn new(what: T) -> Self {
        Self(what)
    }

    /// One fence; then it is durable.
    ///
    /// # Errors
    /// [`JournalError::Region`] where a fence can fail (`msync`).
    ///
    /// # Durability
    /// All that this thread stored past the cache or flushed before is durable on return.
    #[inline]
    pub fn fence(self, region: &Region) -> Result<Durable<T>, JournalError> {
        self.fence_unless(region, Fault::UnfencedData)
    }

    #[inline]
    pub(crate) fn fence_unless(self, region: &Region, fault: Fault) -> Result<Durable<T>, JournalError> {
        if !is_injected(fault) {
            region.fence()?;
        }
        Ok(Durable(self.0))
    }
}

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
    ///
    /// # Errors
    /// [`JournalError::Region`]: outside the region, or a media error.
    #[inline]
    pub fn write(&mut self, at: ByteOffset, bytes: &[u8]) -> Result<(), JournalError> {
        if is_injected(Fault::UnflushedData) {
            return Ok(self.region.store(at.raw(), bytes)?);
        }
        Ok(self.region.store_nontemporal(at.raw(), bytes)?)
    }

    /// Zeroes `len` bytes past the cache.
    ///
    /// # Errors
    /// [`JournalError::Region`]: outside the region, or a media error.
    #[inline]
    pub fn zero(&mut self, at: ByteOffset, len: u64) -> Result<(), JournalError> {
        Ok(self.region.zero_nontemporal(at.raw(), len)?)
    }

    /// Copies `len` bytes inside the pool, past the cache at the destination.
    ///
    /// # Errors
    /// [`JournalError::Region`]: outside the region, or a media error.
    pub fn copy(&mut self, from: ByteOffset, to: ByteOffset, len: u64) -> Result<(), JournalError> {
        Ok(self.region.copy_nontemporal(from.raw(), to.raw(), len)?)
    }

    /// `what` is all stored.
    pub fn finish<T>(self, what: T) -> Stored<T> {
        Stored::new(what)
    }
}

/// What a commit gives: the record's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(pub(crate) Sequence);

impl Committed {
    /// The record's sequence number.
    pub fn sequence(self) -> Sequence {
        self.0
    }
}

/// Proof that a checkpoint has passed: records up to this sequence will never be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpointed(pub(crate) Sequence);

impl Checkpointed {
    /// Every record up to here is complete in place.
    pub fn sequence(self) -> Sequence {
        self.0
    }
}
