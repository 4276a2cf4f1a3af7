//! Atomic steps of a repair.
//!
//! A step is a journal record in the first lane: durable with one fence, then applied in place, sealed and passed by
//! a checkpoint. A crash before the fence leaves the pool as it was; after it, the journal's replay completes the step.
//! Lane records of earlier steps are behind the checkpoint, so every step may use the start of the lane.
//!
//! From before the first step until the closing checkpoint all checkpoints say that the pool is half mended: a mount
//! refuses it. Between two steps names may lead to inodes that are free, and a new file there would have their names.

use std::collections::BTreeMap;

use udax_journal::JournalError;
use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::CHECKPOINTS;
use udax_media::inode::Inode;
use udax_media::record::{self, HEADER_SIZE, MAX_RECORD_BYTES, Operation, RecordHeader};
use udax_media::seal::Seed;
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockNo, ByteOffset, LINE_BYTES, LINE_SIZE, Sequence, Superblock, seal,
};
use udax_pmem::{Region, RegionError};
use udax_sync::fault::{Fault, is_injected};

use crate::CheckError;
use crate::source::{BlockSource, touched_lines};

/// Bytes to be at an offset, both multiples of 8.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) at: ByteOffset,
    pub(super) bytes: Vec<u8>,
}

impl Write {
    pub(super) fn new(at: ByteOffset, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            at,
            bytes: bytes.into(),
        }
    }

    /// `inode` at `at`, sealed: what else is in its chunk's block may look like a node, and then is sealed as one.
    pub(super) fn inode(at: ByteOffset, inode: &Inode, seed: Seed) -> Self {
        let mut bytes = inode.encode();
        seal::seal(seed, &mut bytes);
        Self::new(at, bytes)
    }
}

/// The region being repaired, and its last checkpoint.
#[derive(Debug)]
pub(super) struct Log<'r> {
    pub(super) region: &'r Region,
    pub(super) superblock: &'r Superblock,
    checkpoint: Checkpoint,
    /// The copy of the checkpoints that the medium has lost, and takes no more.
    lost_copy: Option<BlockNo>,
}

impl<'r> Log<'r> {
    /// Continues after `checkpoint`; without one, starts a new journal at once.
    pub(super) fn open(
        region: &'r Region,
        superblock: &'r Superblock,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self, CheckError> {
        let mut log = Self {
            region,
            superblock,
            checkpoint: checkpoint.unwrap_or(Checkpoint {
                number: 0,
                sequence: Sequence(0),
                nonce: 0,
                free_blocks: 0,
                inodes: 0,
                is_clean: false,
                is_half_mended: true,
            }),
            lost_copy: None,
        };
        if checkpoint.is_none() {
            log.empty_journal()?;
        }
        Ok(log)
    }

    /// The last published checkpoint.
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Makes every record in the lanes void, by a checkpoint with a new nonce. The pool is half mended then.
    pub(super) fn empty_journal(&mut self) -> Result<(), CheckError> {
        let (nonce, _) = uuid::Uuid::new_v4().as_u64_pair();
        self.checkpoint.nonce = nonce;
        self.checkpoint.is_half_mended = true;
        if is_injected(Fault::UnmarkedMend) {
            return Ok(());
        }
        self.publish(false)
    }

    /// Carries `writes` out, together or not at all. Durable on return.
    pub(super) fn commit(&mut self, writes: &[Write]) -> Result<(), CheckError> {
        if !self.checkpoint.is_half_mended {
            // Also, nothing is replayed after a clean checkpoint, and a crash may come in the middle.
            self.empty_journal()?;
        }
        let mut record = vec![0; HEADER_SIZE];
        for write in writes {
            Operation::Write {
                at: write.at,
                bytes: &write.bytes,
            }
            .encode_into(&mut record);
        }
        if record.len() > MAX_RECORD_BYTES {
            return Err(JournalError::TooLarge {
                bytes: record.len(),
                limit: MAX_RECORD_BYTES,
            }
            .into());
        }
        let sequence = Sequence(self.checkpoint.sequence.raw().saturating_add(1));
        let header = RecordHeader {
            sequence,
            lane: 0,
            free_blocks_delta: 0,
            inodes_delta: 0,
        };
        record::finish(
            self.superblock.seed().with(self.checkpoint.nonce),
            &mut record,
            header,
        );
        record.resize(record::padded_len(record.len()), 0);
        let lane = self.superblock.lane(0).start.offset().raw();
        if is_injected(Fault::EarlyMend) {
            self.apply(writes)?;
        }
        self.region.store_nontemporal(lane, &record)?;
        if !is_injected(Fault::UnfencedMend) {
            self.region.fence()?;
        }
        self.apply(writes)?;
        self.checkpoint.sequence = sequence;
        self.publish(false)
    }

    fn apply(&self, writes: &[Write]) -> Result<(), RegionError> {
        let mut touched: BTreeMap<u64, u64> = BTreeMap::new();
        for write in writes {
            self.region.store(write.at.raw(), &write.bytes)?;
            let block = write.at.block().raw();
            let length = u64::try_from(write.bytes.len()).unwrap_or(0);
            *touched.entry(block).or_default() |= touched_lines(write.at.in_block(), length);
        }
        for (block, mut lines) in touched {
            let mut bytes = Box::new([0; BLOCK_SIZE]);
            self.region.read_block(BlockNo(block), &mut bytes)?;
            let changed = seal::seal_block(self.superblock.seed(), &mut bytes, lines);
            lines |= changed;
            let first = BlockNo(block).offset().raw();
            for (index, line) in (0_u64..).zip(bytes.as_chunks::<LINE_SIZE>().0) {
                let at = first + index * LINE_BYTES;
                if (changed >> index) & 1 != 0 {
                    self.region.store(at, line)?;
                }
                if (lines >> index) & 1 != 0 {
                    self.region.flush(at, LINE_BYTES)?;
                }
            }
        }
        self.region.fence()
    }

    fn publish(&mut self, is_clean: bool) -> Result<(), CheckError> {
        self.checkpoint.number = self.checkpoint.number.saturating_add(1);
        self.checkpoint.is_clean = is_clean;
        let bytes = self.checkpoint.encode(self.superblock.seed());
        self.lost_copy = None;
        for block in CHECKPOINTS {
            match self.publish_in(block, &bytes) {
                // The other one is enough.
                Err(RegionError::Media { .. }) if self.lost_copy.is_none() => self.lost_copy = Some(block),
                published => published?,
            }
        }
        self.region.fence()?;
        Ok(())
    }

    fn publish_in(&self, copy: BlockNo, slot: &[u8; LINE_SIZE]) -> Result<(), RegionError> {
        let start = copy.offset().raw();
        if self.region.first_bad(start, BLOCK_BYTES).is_some() {
            // Stored as a whole it is good again; the other copy has what was in the other slot.
            self.region.zero_nontemporal(start, BLOCK_BYTES)?;
        }
        self.region
            .store_nontemporal(self.checkpoint.offset_in(copy).raw(), slot)
    }

    /// The copy of the checkpoints that the medium has lost, and takes no more.
    pub(super) fn lost_copy(&self) -> Option<BlockNo> {
        self.lost_copy
    }

    /// Publishes these counters and that the pool is clean, in both slots.
    pub(super) fn close(&mut self, free_blocks: u64, inodes: u64) -> Result<(), CheckError> {
        self.checkpoint.free_blocks = free_blocks;
        self.checkpoint.inodes = inodes;
        self.checkpoint.is_half_mended = false;
        self.publish(false)?;
        self.publish(true)
    }

    /// Stores a block that nothing names yet; the next step makes it durable.
    pub(super) fn store_new(&self, block: BlockNo, bytes: &[u8; BLOCK_SIZE]) -> Result<(), RegionError> {
        self.region.store_nontemporal(block.offset().raw(), bytes)
    }
}
