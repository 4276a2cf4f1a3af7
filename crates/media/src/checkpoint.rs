//! Checkpoint slots: up to which journal record the pool's blocks are complete in place.
//!
//! Two blocks hold the same two slots; the slot with index `number % 2` is written in both blocks, then one fence
//! publishes it. The valid slot with the highest number counts.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::LINE_SIZE;
use crate::error::{FormatError, Place};
use crate::kinds::{BlockNo, ByteOffset, Sequence};
use crate::seal::{self, Prefix, Seed};

/// `uCKP`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uCKP");

/// In the place of *clean*, while a pool is repaired.
const HALF_MENDED: u32 = 2;

/// A checkpoint slot as it is on media: one line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawCheckpoint {
    /// Magic number and checksum of the slot.
    pub prefix: Prefix,
    /// Grows by one with each checkpoint.
    pub number: U64,
    /// Every record up to this sequence is complete in place.
    pub sequence: U64,
    /// What the records after it are checksummed with.
    pub nonce: U64,
    /// Free blocks, as of the sequence.
    pub free_blocks: U64,
    /// Inodes in use, as of the sequence.
    pub inodes: U64,
    /// 1 when the pool was closed cleanly: no record follows. 2 when a repair is under way.
    pub clean: U32,
    /// Zero.
    pub reserved: [u8; 12],
}
const _: () = assert!(size_of::<RawCheckpoint>() == LINE_SIZE);

/// A verified checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Grows by one with each checkpoint.
    pub number: u64,
    /// Every record up to this sequence is complete in place.
    pub sequence: Sequence,
    /// What the records after it are checksummed with.
    pub nonce: u64,
    /// Free blocks, as of the sequence.
    pub free_blocks: u64,
    /// Inodes in use, as of the sequence.
    pub inodes: u64,
    /// Whether the pool was closed cleanly: no record follows.
    pub is_clean: bool,
    /// Whether a repair has begun and not ended: names may lead to what is free, so that nothing may be made in the
    /// pool. Then it is not clean.
    pub is_half_mended: bool,
}

impl Checkpoint {
    /// Where the slot of this checkpoint is in the copy at `block`.
    pub const fn offset_in(&self, block: BlockNo) -> ByteOffset {
        ByteOffset(block.offset().raw() + self.number % 2 * crate::LINE_BYTES)
    }

    /// The slot's bytes, sealed.
    pub fn encode(&self, seed: Seed) -> [u8; LINE_SIZE] {
        let raw = RawCheckpoint {
            prefix: Prefix {
                magic: U32::new(MAGIC),
                checksum: U32::new(0),
            },
            number: U64::new(self.number),
            sequence: U64::new(self.sequence.raw()),
            nonce: U64::new(self.nonce),
            free_blocks: U64::new(self.free_blocks),
            inodes: U64::new(self.inodes),
            clean: U32::new(match (self.is_half_mended, self.is_clean) {
                (true, _) => HALF_MENDED,
                (false, is_clean) => u32::from(is_clean),
            }),
            reserved: [0; 12],
        };
        let mut bytes: [u8; LINE_SIZE] = zerocopy::transmute!(raw);
        seal::seal(seed, &mut bytes);
        bytes
    }

    /// Verifies one slot, read at `at`, of a pool of `total_blocks` blocks.
    ///
    /// # Errors
    /// A wrong magic number or checksum, or a field out of its range.
    pub fn decode(
        seed: Seed,
        bytes: &[u8; LINE_SIZE],
        at: ByteOffset,
        total_blocks: u64,
    ) -> Result<Self, FormatError> {
        const WHAT: &str = "checkpoint";
        let place = Place::Byte(at);
        seal::verify(seed, bytes, MAGIC, WHAT, place)?;
        let raw: RawCheckpoint = zerocopy::transmute!(*bytes);
        if raw.free_blocks.get() > total_blocks {
            return Err(FormatError::Field {
                what: WHAT,
                place,
                field: "free blocks",
                value: raw.free_blocks.get(),
            });
        }
        if raw.clean.get() > HALF_MENDED {
            return Err(FormatError::Field {
                what: WHAT,
                place,
                field: "clean",
                value: u64::from(raw.clean.get()),
            });
        }
        Ok(Self {
            number: raw.number.get(),
            sequence: Sequence(raw.sequence.get()),
            nonce: raw.nonce.get(),
            free_blocks: raw.free_blocks.get(),
            inodes: raw.inodes.get(),
            is_clean: raw.clean.get() == 1,
            is_half_mended: raw.clean.get() == HALF_MENDED,
        })
    }
}
