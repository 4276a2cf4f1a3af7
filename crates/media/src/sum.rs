//! Sum blocks: the checksums of blocks of file data, one word for each block of the pool.
//!
//! Line 0 of the block is the header; each further word holds the sum of one block: the low half its CRC-32C from the
//! pool's seed, the high half 1. A block that never had one has the word 0. Whether a word means anything is said by
//! the extents that own the block ([`ExtentFlags::SUMMED`](crate::extent::ExtentFlags)), not by the word: what a
//! block without such an owner has there is left over.
//!
//! A word for each block, not half a word: words are what records write, and two blocks may belong to two files that
//! are written to at the same time.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::geometry::SumBlock;
use crate::seal::{self, Prefix, Seed};
use crate::{BLOCK_SIZE, LINE_SIZE};

/// `uSUM`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uSUM");
/// Words in a sum block.
pub const SUMS_PER_BLOCK: u64 = 504;

/// What the high half of a sum's word is.
const PRESENT: u64 = 1 << 32;

/// The header line of a sum block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSumHeader {
    /// Magic number and checksum of the whole block.
    pub prefix: Prefix,
    /// The block this is.
    pub own_block: U64,
    /// The first block whose sum it holds.
    pub first_block: U64,
    /// How many blocks it has sums of; the words after them are zero.
    pub block_count: U32,
    /// Zero.
    pub reserved: [u8; 36],
}
const _: () = assert!(size_of::<RawSumHeader>() == LINE_SIZE);

/// The checksum of a block of file data, as it is in its sum block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The sum of a block that holds `bytes`.
    pub fn of(seed: Seed, bytes: &[u8]) -> Self {
        Self(PRESENT | u64::from(seed.checksum(bytes)))
    }

    /// The sum in this word, whatever it is: it is compared, not believed.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Its word.
    pub const fn word(self) -> u64 {
        self.0
    }
}

/// A fresh sum block, without sums; sealed.
pub fn format(seed: Seed, at: SumBlock) -> Box<[u8; BLOCK_SIZE]> {
    let mut block = Box::new([0_u8; BLOCK_SIZE]);
    let header = RawSumHeader {
        prefix: Prefix {
            magic: U32::new(MAGIC),
            checksum: U32::new(0),
        },
        own_block: U64::new(at.block.raw()),
        first_block: U64::new(at.covers.start.raw()),
        block_count: U32::new(u32::try_from(at.covers.count).unwrap_or(u32::MAX)),
        reserved: [0; 36],
    };
    let (head, _) = block.split_at_mut(LINE_SIZE);
    head.copy_from_slice(header.as_bytes());
    seal::seal(seed, block.as_mut_slice());
    block
}

/// Verifies a sum block.
///
/// # Errors
/// What [`seal::verify`] says, or the field that does not match `at`.
pub fn verify(seed: Seed, block: &[u8; BLOCK_SIZE], at: SumBlock) -> Result<(), FormatError> {
    const WHAT: &str = "sum block";
    let place = Place::Block(at.block);
    seal::verify(seed, block, MAGIC, WHAT, place)?;
    let bad = |field, value| FormatError::Field {
        what: WHAT,
        place,
        field,
        value,
    };
    let (header, _) = RawSumHeader::ref_from_prefix(block.as_slice()).map_err(|_| bad("length", 0))?;
    if header.own_block.get() != at.block.raw() {
        return Err(bad("own block", header.own_block.get()));
    }
    if header.first_block.get() != at.covers.start.raw() {
        return Err(bad("first block", header.first_block.get()));
    }
    if u64::from(header.block_count.get()) != at.covers.count {
        return Err(bad("block count", u64::from(header.block_count.get())));
    }
    Ok(())
}
