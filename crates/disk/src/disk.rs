//! Any bytes of a medium of blocks, and when they are durable: [`Disk`].

use std::fmt;
use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::buffer::{Buffer, is_aligned};
use crate::overlay::Overlay;
use crate::{BLOCK, DiskError};

/// Bytes that go through other memory at once, where the caller's is not aligned.
const STAGE: u64 = 1 << 20;

/// Bytes and where they go.
#[derive(Clone, Copy, Debug)]
pub struct Write<'b> {
    /// The device's byte.
    pub at: u64,
    /// What goes there.
    pub bytes: &'b [u8],
}

/// Blocks that are read, written and flushed: places and lengths are multiples of [`BLOCK`], memory is aligned to it.
pub trait Medium: Send + Sync + fmt::Debug {
    /// Its size.
    fn len(&self) -> u64;

    /// Whether it has no blocks.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads blocks.
    ///
    /// # Errors
    /// `Failed`: what is in `to` is unknown.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError>;

    /// Writes blocks, in any order, several at once.
    ///
    /// # Errors
    /// `Failed`: the first; each of them may have been written or not.
    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError>;

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// `Failed`: what was written may be lost.
    fn flush(&self) -> Result<(), DiskError>;
}

/// A data device.
#[derive(Debug)]
pub struct Disk {
    medium: Arc<dyn Medium>,
    /// Writes that have returned.
    written: AtomicU64,
    /// Of these, how many the last flush has covered.
    flushed: Mutex<u64>,
    /// Flushes that failed.
    failures: AtomicU64,
}

impl Disk {
    /// The disk on `medium`.
    pub fn new(medium: Arc<dyn Medium>) -> Self {
        Self {
            medium,
            written: AtomicU64::new(0),
            flushed: Mutex::new(Rank::Disk, 0),
            failures: AtomicU64::new(0),
        }
    }

    /// A disk that is as this one now, on which what is written stays in memory. This one must not change meanwhile.
    #[must_use]
    pub fn overlaid(&self) -> Self {
        Self::new(Arc::new(Overlay::new(Arc::clone(&self.medium))))
    }

    /// Bytes of the device: whole blocks.
    pub fn len(&self) -> u64 {
        self.medium.len() / BLOCK * BLOCK
    }

    /// Whether it has no blocks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self, at: u64, len: usize) -> Result<(), DiskError> {
        let len = length(len);
        match at.checked_add(len).filter(|end| *end <= self.len()) {
            Some(_) => Ok(()),
            None => Err(DiskError::Outside {
                at,
                len,
                bytes: self.len(),
            }),
        }
    }

    /// Reads from `at` on.
    ///
    /// # Errors
    /// `Outside`; `Failed`.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        self.check(at, to.len())?;
        if is_aligned(at, to) {
            return self.medium.read(at, to);
        }
        let (mut at, mut rest) = (at, to);
        while !rest.is_empty() {
            let skipped = at % BLOCK;
            let count = in_memory(STAGE - skipped).min(rest.len());
            let (now, after) = std::mem::take(&mut rest).split_at_mut(count);
            // Whole blocks that happen to lie right are not copied.
            let whole = in_memory(length(now.len()) / BLOCK * BLOCK);
            if let Some(direct) = now
                .get_mut(..whole)
                .filter(|part| whole > 0 && is_aligned(at, part))
            {
                self.medium.read(at, direct)?;
                self.read_staged(at + length(whole), now.get_mut(whole..).unwrap_or_default())?;
            } else {
                self.read_staged(at, now)?;
            }
            at += length(count);
            rest = after;
        }
        Ok(())
    }

    fn read_staged(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        if to.is_empty() {
            return Ok(());
        }
        let first = at / BLOCK * BLOCK;
        let len = in_memory((at + length(to.len())).next_multiple_of(BLOCK) - first);
        let mut stage = Buffer::zeroed(len);
        self.medium
            .read(first, stage.bytes_mut().get_mut(..len).unwrap_or_default())?;
        let from = in_memory(at - first);
        if let Some(found) = stage.bytes().get(from..from + to.len()) {
            to.copy_from_slice(found);
        }
        Ok(())
    }

    /// Writes `bytes` at `at`. Of a block that they cover only partly, the rest is read first.
    ///
    /// # Errors
    /// As [`Disk::write_all`].
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_all(&[Write { at, bytes }])
    }

    /// Writes all of `writes`, which do not overlap, many at once where they are aligned.
    ///
    /// # Errors
    /// `Outside`, and nothing was written; `Failed`: each of them may have been written or not.
    ///
    /// # Durability
    /// None before [`Disk::flush`].
    pub fn write_all(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        for write in writes {
            self.check(write.at, write.bytes.len())?;
        }
        let (mut direct, mut staged) = (Vec::new(), Vec::new());
        for write in writes.iter().filter(|write| !write.bytes.is_empty()) {
            let whole = in_memory(length(write.bytes.len()) / BLOCK * BLOCK);
            let (blocks, tail) = write.bytes.split_at(whole);
            if whole > 0 && is_aligned(write.at, blocks) {
                let at = write.at + length(whole);
                direct.push(Write {
                    bytes: blocks,
                    ..*write
                });
                staged.extend((!tail.is_empty()).then_some(Write { at, bytes: tail }));
            } else {
                staged.push(*write);
            }
        }
        let written = self.write_parts(&direct, &staged);
        // Also what failed may have been written in part. Pairs with the Acquire in `flush`.
        self.written.fetch_add(1, Ordering::Release);
        written
    }

    fn write_parts(&self, direct: &[Write<'_>], staged: &[Write<'_>]) -> Result<(), DiskError> {
        if !direct.is_empty() {
            self.medium.write(direct)?;
        }
        staged
            .iter()
            .try_for_each(|write| self.write_staged(write.at, write.bytes))
    }

    fn write_staged(&self, mut at: u64, mut rest: &[u8]) -> Result<(), DiskError> {
        while !rest.is_empty() {
            let first = at / BLOCK * BLOCK;
            let from = in_memory(at - first);
            let count = (in_memory(STAGE) - from).min(rest.len());
            let (now, after) = rest.split_at(count);
            let len = in_memory((at + length(count)).next_multiple_of(BLOCK) - first);
            let mut stage = Buffer::zeroed(len);
            self.read_edges(first, (from, from + count), stage.bytes_mut())?;
            if let Some(to) = stage.bytes_mut().get_mut(from..from + count) {
                to.copy_from_slice(now);
            }
            self.medium.write(&[Write {
                at: first,
                bytes: stage.bytes().get(..len).unwrap_or_default(),
            }])?;
            at += length(count);
            rest = after;
        }
        Ok(())
    }

    /// Fills what is around `from..to` in the first and the last block of `stage`, which are to be written at `first`.
    fn read_edges(&self, first: u64, (from, to): (usize, usize), stage: &mut [u8]) -> Result<(), DiskError> {
        let block = in_memory(BLOCK);
        let last = to.next_multiple_of(block) - block;
        if from > 0 {
            self.medium
                .read(first, stage.get_mut(..block).unwrap_or_default())?;
        }
        if !to.is_multiple_of(block) && (last > 0 || from == 0) {
            let tail = stage.get_mut(last..last + block).unwrap_or_default();
            self.medium.read(first + length(last), tail)?;
        }
        Ok(())
    }

    /// Makes durable all writes that have returned. Nothing is done when a flush has done so meanwhile.
    ///
    /// # Errors
    /// `Failed`: any of them may be lost, and [`Disk::failures`] has grown.
    ///
    /// # Locks
    /// `Disk`: who comes second waits for the flush under way, which may be all he needs.
    pub fn flush(&self) -> Result<(), DiskError> {
        let wanted = self.written.load(Ordering::Acquire);
        let mut flushed = self.flushed.lock();
        if *flushed >= wanted {
            return Ok(());
        }
        let covered = self.written.load(Ordering::Acquire);
        match self.medium.flush() {
            Ok(()) => {
                *flushed = covered;
                Ok(())
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Release);
                Err(error)
            }
        }
    }

    /// As [`Disk::flush`], of what was written since there had been so many [`Disk::failures`].
    ///
    /// # Errors
    /// `Failed`; `FlushedBefore` if another one's flush has failed since. It was to make the same writes durable, which
    /// this one need not find any more: a device that fails a flush may have dropped what it had not stored.
    ///
    /// # Locks
    /// `Disk`.
    pub fn flush_since(&self, failures: u64) -> Result<(), DiskError> {
        self.flush()?;
        match self.failures() == failures {
            true => Ok(()),
            false => Err(DiskError::FlushedBefore),
        }
    }

    /// How many flushes have failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
