//! Transactions: changes gathered as a record, in a buffer that threads keep for their next one.

use std::cell::Cell;

use udax_media::record::{HEADER_SIZE, MAX_WRITE_WORDS, MAX_ZERO_BLOCKS, Operation};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset};

use crate::{Committed, Durable, Journal, JournalError};

/// Buffers that have grown beyond this are not kept: twice the largest record.
const KEEP_BYTES: usize = 2 * udax_media::record::MAX_RECORD_BYTES;

thread_local! {
    static SPARE: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// A record in the making.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Room for the header, then the operations as they will be on media.
    pub(crate) bytes: Vec<u8>,
    /// What the operations are, so that applying them decodes nothing.
    steps: Vec<Step>,
    /// Lost blocks that the transaction takes from their owner without freeing them; not on media.
    pub(crate) given_up: Vec<BlockRange>,
}

/// An operation in a [`Buffer`].
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Bytes of the pool from `at`; they are at `from` in the buffer.
    Write {
        at: ByteOffset,
        from: usize,
        len: usize,
    },
    Allocate(BlockRange),
    Free(BlockRange),
    Zero(BlockRange),
}

impl Buffer {
    fn take() -> Self {
        let mut buffer = SPARE.take().unwrap_or_default();
        buffer.bytes.clear();
        buffer.bytes.resize(HEADER_SIZE, 0);
        buffer.steps.clear();
        buffer.given_up.clear();
        buffer
    }

    fn keep(self) {
        // At the end of a thread there may be no place to keep it.
        if self.bytes.capacity() <= KEEP_BYTES {
            let _ = SPARE.try_with(|spare| spare.set(Some(self)));
        }
    }

    fn push(&mut self, operation: Operation<'_>) {
        let step = match operation {
            Operation::Write { at, bytes } => Step::Write {
                at,
                from: self.bytes.len() + 8,
                len: bytes.len(),
            },
            Operation::Allocate(range) => Step::Allocate(range),
            Operation::Free(range) => Step::Free(range),
            Operation::Zero(range) => Step::Zero(range),
        };
        operation.encode_into(&mut self.bytes);
        self.steps.push(step);
    }

    /// The operations, in order.
    #[inline]
    pub(crate) fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.steps.iter().map(|step| match *step {
            Step::Write { at, from, len } => Operation::Write {
                at,
                bytes: self.bytes.get(from..from + len).unwrap_or_default(),
            },
            Step::Allocate(range) => Operation::Allocate(range),
            Step::Free(range) => Operation::Free(range),
            Step::Zero(range) => Operation::Zero(range),
        })
    }
}

/// Changes that become durable together or not at all. Dropped without a commit, it changes nothing.
#[derive(Debug)]
pub struct Transaction<'j> {
    journal: &'j Journal,
    buffer: Buffer,
    changes: Changes,
}

/// What a transaction changes besides its operations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) free_blocks: i64,
    pub(crate) inodes: i64,
    /// The end of the furthest byte changed.
    pub(crate) end: u64,
    /// The end of the furthest block of the data device, in bytes of the pool.
    pub(crate) device_end: u64,
}

impl<'j> Transaction<'j> {
    pub(crate) fn new(journal: &'j Journal) -> Self {
        Self {
            journal,
            buffer: Buffer::take(),
            changes: Changes::default(),
        }
    }

    /// `bytes` (a multiple of 8) will be at `at` (a multiple of 8).
    ///
    /// # Panics
    /// When the offset or the length is not a multiple of 8: the format cannot say that.
    #[inline]
    pub fn write(&mut self, at: ByteOffset, bytes: &[u8]) {
        assert!(
            at.raw().is_multiple_of(8) && bytes.len().is_multiple_of(8),
            "journal write of {} bytes at {at}: not whole words",
            bytes.len()
        );
        let mut next = at.raw();
        for part in bytes.chunks(MAX_WRITE_WORDS * 8) {
            self.buffer.push(Operation::Write {
                at: ByteOffset(next),
                bytes: part,
            });
            next = next.saturating_add(u64::try_from(part.len()).unwrap_or(0));
        }
        self.reaches(next);
    }

    /// The word at `at` (a multiple of 8) will be `value`, little-endian.
    ///
    /// # Panics
    /// When the offset is not a multiple of 8.
    #[inline]
    pub fn write_u64(&mut self, at: ByteOffset, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Marks blocks whose content is durable as allocated.
    pub fn allocate(&mut self, blocks: &Durable<impl AsRef<[BlockRange]>>) {
        for range in blocks.get().as_ref() {
            self.mark_allocated(*range);
        }
    }

    /// Whether the record has room for what was added and `more` bytes of further operations.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`].
    pub fn check_room(&self, more: usize) -> Result<(), JournalError> {
        self.journal
            .check_length(self.buffer.bytes.len().saturating_add(more))
    }

    /// Marks blocks that read as zeros by their extent's flag as allocated: their content does not matter.
    pub fn allocate_unwritten(&mut self, blocks: BlockRange) {
        self.mark_allocated(blocks);
    }

    /// Marks blocks as allocated for metadata, and zeroes them in the same record.
    pub fn allocate_metadata(&mut self, blocks: BlockRange) {
        self.mark_allocated(blocks);
        let mut next = blocks;
        while next.count > 0 {
            let part = BlockRange::new(next.start, next.count.min(MAX_ZERO_BLOCKS));
            self.buffer.push(Operation::Zero(part));
            next = BlockRange::new(part.end(), next.count - part.count);
        }
    }

    /// Marks blocks as free. What was metadata must go to the [`Quarantine`](crate::Quarantine) before it is used
    /// again.
    pub fn free(&mut self, blocks: BlockRange) {
        if blocks.count > 0 {
            self.buffer.push(Operation::Free(blocks));
            self.reaches_blocks(blocks);
            self.count_blocks(blocks, signed(blocks.count));
        }
    }

    /// Nobody will own `blocks` any more, but they stay allocated, because the medium has lost them. Changes nothing on
    /// media: without it a checkpoint that is to complete earlier changes of these blocks would stop the journal.
    pub fn give_up(&mut self, blocks: BlockRange) {
        self.buffer.given_up.push(blocks);
    }

    /// Changes the number of inodes in use.
    pub fn count_inodes(&mut self, delta: i64) {
        self.changes.inodes = self.changes.inodes.saturating_add(delta);
    }

    /// Changes the number of free blocks without changing a bit: a growth.
    pub(crate) fn count_free_blocks(&mut self, delta: i64) {
        self.changes.free_blocks = self.changes.free_blocks.saturating_add(delta);
    }

    /// Free blocks of the data device are in no counter: its bitmaps tell.
    fn count_blocks(&mut self, blocks: BlockRange, delta: i64) {
        if !blocks.start.is_on_device() {
            self.count_free_blocks(delta);
        }
    }

    fn mark_allocated(&mut self, blocks: BlockRange) {
        if blocks.count > 0 {
            self.buffer.push(Operation::Allocate(blocks));
            self.reaches_blocks(blocks);
            self.count_blocks(blocks, -signed(blocks.count));
        }
    }

    fn reaches(&mut self, end: u64) {
        self.changes.end = self.changes.end.max(end);
    }

    fn reaches_blocks(&mut self, blocks: BlockRange) {
        let end = blocks.end().raw().saturating_mul(BLOCK_BYTES);
        if blocks.start.is_on_device() {
            self.changes.device_end = self.changes.device_end.max(end);
        } else {
            self.reaches(end);
        }
    }

    /// The block as it will be: what is in place with this transaction's writes and zeroes over it. `None` when the
    /// transaction does neither to the block: read it in place. Bits of allocation bitmaps are not shown.
    ///
    /// # Errors
    /// [`JournalError::Region`]: the block cannot be read.
    pub fn pending(&self, block: BlockNo) -> Result<Option<Box<[u8; BLOCK_SIZE]>>, JournalError> {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        Ok(self.pending_into(block, &mut bytes)?.then_some(bytes))
    }

    /// As [`Transaction::pending`], into `to`. Gives whether the transaction touches the block; if not, `to` is
    /// as it was.
    ///
    /// # Errors
    /// [`JournalError::Region`]: the block cannot be read.
    pub fn pending_into(&self, block: BlockNo, to: &mut [u8; BLOCK_SIZE]) -> Result<bool, JournalError> {
        let start = block.offset().raw();
        let mut is_touched = false;
        for operation in self.buffer.operations() {
            match operation {
                Operation::Write { at, bytes } if overlaps(start, at.raw(), bytes.len()) => {
                    if !is_touched {
                        self.journal.region().read(start, to)?;
                    }
                    overlay_write(to, start, at.raw(), bytes);
                }
                Operation::Zero(range) if range.contains(block) => to.fill(0),
                _ => continue,
            }
            is_touched = true;
        }
        Ok(is_touched)
    }

    /// Bytes of the record so far.
    #[inline]
    pub fn record_len(&self) -> usize {
        self.buffer.bytes.len()
    }

    /// Bytes of operations that still fit: a write takes 8 more than its bytes, any other operation 16
    /// (and [`Transaction::allocate_metadata`] two of them).
    #[inline]
    pub fn remaining(&self) -> usize {
        self.journal.record_limit().saturating_sub(self.record_len())
    }

    /// Whether nothing is changed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.record_len() == HEADER_SIZE && self.changes.free_blocks == 0 && self.changes.inodes == 0
    }

    /// Writes the record with one fence, then applies it in place. An empty transaction writes nothing.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`], [`JournalError::OutsidePool`]: nothing is changed, the journal goes on.
    /// [`JournalError::Stopped`]: nothing is changed. [`JournalError::Region`] and [`JournalError::Format`]: a media
    /// error; the journal has stopped, and only the next open tells whether the record became durable.
    ///
    /// # Durability
    /// On success all of it is durable, and in place for every later read.
    ///
    /// # Locks
    /// A lane; when all lanes are full, first the checkpoint's lock (see the crate's head).
    #[inline]
    pub fn commit(mut self) -> Result<Committed, JournalError> {
        self.journal.commit(&mut self.buffer, self.changes)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.buffer).keep();
    }
}

/// Block counts of a pool are below 2^38; what is not in a pool is refused by its end.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[inline]
fn overlaps(block_start: u64, at: u64, len: usize) -> bool {
    let end = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    at < block_start.saturating_add(BLOCK_BYTES) && end > block_start
}

/// Puts the part of `bytes` (at `at`) that is in the block at `block_start` over the block's bytes.
pub(crate) fn overlay_write(to: &mut [u8; BLOCK_SIZE], block_start: u64, at: u64, bytes: &[u8]) {
    let skip = usize::try_from(block_start.saturating_sub(at)).unwrap_or(usize::MAX);
    let into = usize::try_from(at.saturating_sub(block_start)).unwrap_or(usize::MAX);
    let from = bytes.get(skip..).unwrap_or_default();
    let to = to.get_mut(into..).unwrap_or_default();
    let len = from.len().min(to.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}
