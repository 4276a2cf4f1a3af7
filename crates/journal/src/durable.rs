//! Persistence order as types: stored, durable, committed, checkpointed.
//!
//! None of these can be made outside this crate except by doing what it proves. `tests/compile_fail` holds what must
//! not compile.

use std::sync::Arc;

use udax_disk::{Buffer, Disk, Write};
use udax_media::{ByteOffset, DEVICE_START, Sequence};
use udax_pmem::Region;
use udax_sync::fault::{Fault, is_injected};

use crate::JournalError;

/// Something that is stored past the cache, or stored and flushed, but not yet fenced; what is on the data device is
/// written and not yet flushed.
#[derive(Debug)]
#[must_use = "what is stored is not durable before a fence"]
pub struct Stored<T> {
    what: T,
    /// The data device, if something went there, and how many of its flushes had failed before.
    disk: Option<(Arc<Disk>, u64)>,
}

/// Something that a fence has made durable. Only [`Stored::fence`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Durable<T>(T);

impl<T> Stored<T> {
    /// `what` is all stored in the pool, by this thread.
    pub(crate) fn new(what: T) -> Self {
        Self { what, disk: None }
    }

    /// One fence, and a flush of the data device if something went there; then it is durable.
    ///
    /// # Errors
    /// [`JournalError::Region`] where a fence can fail (`msync`); [`JournalError::Disk`], also if a flush has failed
    /// since the first write that somebody else had asked for.
    ///
    /// # Durability
    /// All that this thread stored past the cache or flushed before is durable on return.
    #[inline]
    pub fn fence(self, region: &Region) -> Result<Durable<T>, JournalError> {
        self.fence_unless(region, Fault::UnfencedData)
    }

    /// As [`Stored::fence`], but without the fence where this fault is injected.
    ///
    /// # Errors
    /// As [`Stored::fence`].
    ///
    /// # Durability
    /// As of [`Stored::fence`].
    #[inline]
    pub fn fence_unless(self, region: &Region, fault: Fault) -> Result<Durable<T>, JournalError> {
        if let Some((disk, failures)) = &self.disk
            && !is_injected(Fault::UnflushedDevice)
        {
            disk.flush_since(*failures)?;
        }
        if !is_injected(fault) {
            region.fence()?;
        }
        Ok(Durable(self.what))
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

/// Bytes that are copied at once where one side is the data device.
const COPY_BYTES: u64 = 1 << 20;

/// Writes file data to blocks that nothing references yet, in the pool or on its data device: places on the device are
/// those of its blocks' numbers.
#[derive(Debug)]
pub struct DataWriter<'r> {
    region: &'r Region,
    disk: Option<&'r Arc<Disk>>,
    /// Before something went to the device: how many of its flushes had failed.
    failures: Option<u64>,
}

/// The device's own byte, of one that is on it.
fn on_device(at: ByteOffset) -> Option<u64> {
    at.raw().checked_sub(DEVICE_START.offset().raw())
}

impl<'r> DataWriter<'r> {
    /// A writer to `region`.
    pub fn new(region: &'r Region) -> Self {
        Self::with_disk(region, None)
    }

    /// A writer to `region` and to its data device, if it has one.
    pub fn with_disk(region: &'r Region, disk: Option<&'r Arc<Disk>>) -> Self {
        Self {
            region,
            disk,
            failures: None,
        }
    }

    /// Stores bytes past the cache.
    ///
    /// # Errors
    /// [`JournalError::Region`]: outside the region, or a media error; [`JournalError::Disk`].
    #[inline]
    pub fn write(&mut self, at: ByteOffset, bytes: &[u8]) -> Result<(), JournalError> {
        if on_device(at).is_some() {
            return self.write_device(&[(at, bytes)]);
        }
        if is_injected(Fault::UnflushedData) {
            return Ok(self.region.store(at.raw(), bytes)?);
        }
        Ok(self.region.store_nontemporal(at.raw(), bytes)?)
    }

    /// Writes all of `writes`, each on the data device, with many requests under way.
    ///
    /// # Errors
    /// [`JournalError::Disk`]; [`JournalError::Region`] for a place in the pool, or without a device.
    #[cold]
    pub fn write_device(&mut self, writes: &[(ByteOffset, &[u8])]) -> Result<(), JournalError> {
        let parts: Option<Vec<Write<'_>>> = writes
            .iter()
            .map(|(at, bytes)| {
                Some(Write {
                    at: on_device(*at)?,
                    bytes,
                })
            })
            .collect();
        match (self.disk, parts) {
            (Some(disk), Some(parts)) => {
                self.failures.get_or_insert_with(|| disk.failures());
                Ok(disk.write_all(&parts)?)
            }
            _ => Err(no_device(writes.first().map_or(ByteOffset(0), |(at, _)| *at))),
        }
    }

    /// Zeroes `len` bytes past the cache.
    ///
    /// # Errors
    /// As [`DataWriter::write`].
    #[inline]
    pub fn zero(&mut self, at: ByteOffset, len: u64) -> Result<(), JournalError> {
        if on_device(at).is_some() {
            return self.in_parts(len, |this, from, bytes| {
                bytes.fill(0);
                this.write_device(&[(ByteOffset(at.raw() + from), bytes)])
            });
        }
        Ok(self.region.zero_nontemporal(at.raw(), len)?)
    }

    /// Copies `len` bytes, past the cache at the destination.
    ///
    /// # Errors
    /// As [`DataWriter::write`].
    pub fn copy(&mut self, from: ByteOffset, to: ByteOffset, len: u64) -> Result<(), JournalError> {
        if on_device(from).or(on_device(to)).is_some() {
            return self.in_parts(len, |this, done, bytes| {
                this.read(ByteOffset(from.raw() + done), bytes)?;
                this.write(ByteOffset(to.raw() + done), bytes)
            });
        }
        Ok(self.region.copy_nontemporal(from.raw(), to.raw(), len)?)
    }

    fn read(&self, at: ByteOffset, to: &mut [u8]) -> Result<(), JournalError> {
        match (on_device(at), self.disk) {
            (None, _) => Ok(self.region.read(at.raw(), to)?),
            (Some(at), Some(disk)) => Ok(disk.read(at, to)?),
            (Some(_), None) => Err(no_device(at)),
        }
    }

    /// Runs `step` with memory for each part of `len` bytes, and where the part begins.
    fn in_parts(
        &mut self,
        len: u64,
        mut step: impl FnMut(&mut Self, u64, &mut [u8]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let in_memory = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let mut buffer = Buffer::zeroed(in_memory(len.min(COPY_BYTES)));
        let mut done = 0;
        while done < len {
            let count = COPY_BYTES.min(len - done);
            let bytes = buffer.bytes_mut().get_mut(..in_memory(count)).unwrap_or_default();
            step(self, done, bytes)?;
            done += count;
        }
        Ok(())
    }

    /// `what` is all stored.
    pub fn finish<T>(self, what: T) -> Stored<T> {
        Stored {
            what,
            disk: self.disk.cloned().zip(self.failures),
        }
    }
}

/// A block of a device that there is not: what the region would say of it.
fn no_device(at: ByteOffset) -> JournalError {
    JournalError::OutsidePool {
        end: at.raw(),
        pool_bytes: 0,
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

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use udax_disk::MemoryMedium;

    use super::*;

    #[test]
    fn what_a_failed_flush_of_another_may_have_lost_is_not_durable() {
        let region = Region::anonymous(1 << 20, None).unwrap();
        let medium = Arc::new(MemoryMedium::new(1 << 20));
        let disk = Arc::new(Disk::new(medium.clone()));
        let at = DEVICE_START.offset();
        let write = |byte| {
            let mut writer = DataWriter::with_disk(&region, Some(&disk));
            writer.write(at, &[byte; 4096]).unwrap();
            writer.finish(())
        };
        write(1).fence(&region).unwrap();
        let stored = write(2);
        // It was to make the same bytes durable, and has lost them.
        medium.lose_flushes(1);
        disk.flush().unwrap_err();
        disk.flush().unwrap();
        let refused = stored.fence(&region).unwrap_err();
        assert!(matches!(refused, JournalError::Disk(_)), "{refused}");
        // What is written afterwards has nothing to do with it.
        write(3).fence(&region).unwrap();
    }
}
