//! Raw access to a pool's bytes, and the superblock and checkpoint that count.

use std::path::Path;

use anyhow::Context as _;
use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::{CHECKPOINTS, SUPERBLOCKS};
use udax_media::seal::Seed;
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockNo, ByteOffset, FormatError, LINE_BYTES, LINE_SIZE, MIN_POOL_BYTES, Place,
    Reach, Superblock,
};
use udax_pmem::{Region, RegionError, RegionOptions};

/// A block's bytes.
pub(crate) type Block = Box<[u8; BLOCK_SIZE]>;

/// A checkpoint slot and where it is.
pub(crate) struct CheckpointSlot {
    /// Its first byte.
    pub(crate) at: ByteOffset,
    /// What it holds.
    pub(crate) content: anyhow::Result<Checkpoint>,
}

/// The pool as bytes.
#[derive(Debug)]
pub(crate) struct Medium {
    region: Region,
}

/// What must be believed to find anything else.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The superblock that counts.
    pub(crate) superblock: Superblock,
    /// The checkpoint that counts.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Frame {
    /// The pool's checksum seed.
    pub(crate) fn seed(&self) -> Seed {
        self.superblock.seed()
    }

    /// Blocks in the pool.
    pub(crate) fn total_blocks(&self) -> u64 {
        self.superblock.total_blocks()
    }

    /// Which blocks there are, in the pool and on its data device.
    pub(crate) fn reach(&self) -> Reach {
        Reach {
            pool: self.total_blocks(),
            device: self.superblock.device.as_ref().map_or(0, |device| device.blocks),
        }
    }

    /// Whether every metadata block must have a right checksum: nothing was changed since the last
    /// checkpoint.
    pub(crate) fn is_sealed(&self) -> bool {
        self.checkpoint.is_some_and(|checkpoint| checkpoint.is_clean)
    }
}

impl Medium {
    /// Maps the pool without changing it.
    pub(crate) fn open(pool: &Path) -> anyhow::Result<Self> {
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        let region = crate::pool::open_region(pool, &options)?;
        Ok(Self { region })
    }

    /// The mapping.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Reads a block.
    pub(crate) fn read_block(&self, block: BlockNo) -> Result<Block, RegionError> {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        self.region.read(block.offset().raw(), bytes.as_mut_slice())?;
        Ok(bytes)
    }

    /// Reads superblock copy `copy`.
    pub(crate) fn superblock(&self, copy: usize) -> anyhow::Result<Superblock> {
        let block = SUPERBLOCKS.get(copy).copied().unwrap_or_default();
        let len = self.region.len();
        let bytes = match self.read_block(block) {
            Err(RegionError::OutOfBounds { .. }) => {
                let place = Place::Block(block);
                return Err(anyhow::Error::new(FormatError::TooSmall { found: len })
                    .context(format!("superblock at {place}")));
            }
            read => read.with_context(|| format!("superblock at block {block} (byte {})", block.offset()))?,
        };
        Ok(Superblock::decode(&bytes, copy, len)?)
    }

    /// Reads all checkpoint slots.
    pub(crate) fn checkpoints(&self, superblock: &Superblock) -> Vec<CheckpointSlot> {
        let mut slots = Vec::new();
        for block in CHECKPOINTS {
            for line in 0..2 {
                let at = ByteOffset(block.raw() * BLOCK_BYTES + line * LINE_BYTES);
                let mut bytes = [0; LINE_SIZE];
                let content = match self.region.read(at.raw(), &mut bytes) {
                    Ok(()) => Checkpoint::decode(superblock.seed(), &bytes, at, superblock.total_blocks())
                        .map_err(anyhow::Error::from),
                    Err(error) => Err(error.into()),
                };
                slots.push(CheckpointSlot { at, content });
            }
        }
        slots
    }

    /// The superblock and the checkpoint that count.
    ///
    /// # Errors
    /// Why no superblock can be believed.
    pub(crate) fn frame(&self) -> anyhow::Result<Frame> {
        let superblock = match (self.superblock(0), self.superblock(1)) {
            (Ok(first), Ok(second)) if second.generation > first.generation => second,
            (Ok(one), _) | (_, Ok(one)) => one,
            (Err(first), Err(second)) => {
                // That bytes are missing is what explains the rest.
                let is_cut =
                    |error: &anyhow::Error| matches!(error.downcast_ref(), Some(FormatError::Cut { .. }));
                let found = self.region.len();
                let why = match () {
                    () if is_cut(&first) => first,
                    () if is_cut(&second) => second,
                    () if found < MIN_POOL_BYTES => FormatError::TooSmall { found }.into(),
                    () => first,
                };
                return Err(why.context("no superblock can be believed"));
            }
        };
        let checkpoint = self
            .checkpoints(&superblock)
            .into_iter()
            .filter_map(|slot| slot.content.ok())
            .max_by_key(|checkpoint| checkpoint.number);
        Ok(Frame {
            superblock,
            checkpoint,
        })
    }
}

/// What to say of a checksum error: in a pool that was not closed cleanly it may only be out of date.
pub(crate) fn describe(error: &FormatError, frame: &Frame) -> String {
    match error {
        FormatError::Checksum { .. } if !frame.is_sealed() => {
            format!("{error}; the pool was not closed cleanly: it may only be out of date")
        }
        _ => error.to_string(),
    }
}
