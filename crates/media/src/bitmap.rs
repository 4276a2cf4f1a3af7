//! Allocation bitmaps: one block for each group of 63 x 512 blocks.
//!
//! Line 0 of the block is the header; each further 64-byte line holds the 512 bits of one 2 MiB chunk, bit `b` of
//! little-endian word `w` for block `64 w + b` of the chunk. A set bit is a block in use. Blocks beyond the end of
//! the segment are in use.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::kinds::{BlockNo, BlockRange};
use crate::seal::{self, Prefix, Seed};
use crate::{BLOCK_SIZE, HUGE_BLOCKS, LINE_SIZE};

/// `uBMP`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uBMP");
/// 2 MiB chunks in a group: a block's lines less the header.
pub const GROUP_CHUNKS: u64 = 63;
/// Blocks in a group.
pub const GROUP_BLOCKS: u64 = GROUP_CHUNKS * HUGE_BLOCKS;
/// 64-bit words of bits in a bitmap block.
pub const GROUP_WORDS: usize = 504;

/// The header line of a bitmap block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawBitmapHeader {
    /// Magic number and checksum of the whole block.
    pub prefix: Prefix,
    /// The block this is.
    pub own_block: U64,
    /// The first block it describes.
    pub first_block: U64,
    /// How many blocks it describes; the bits after them are set.
    pub block_count: U32,
    /// Zero.
    pub reserved: [u8; 36],
}
const _: () = assert!(size_of::<RawBitmapHeader>() == LINE_SIZE);

/// A fresh bitmap block at `own`, describing `covers` (at most [`GROUP_BLOCKS`]), all of them free; sealed.
pub fn format(seed: Seed, own: BlockNo, covers: BlockRange) -> Box<[u8; BLOCK_SIZE]> {
    let mut block = Box::new([0_u8; BLOCK_SIZE]);
    let count = covers.count.min(GROUP_BLOCKS);
    let header = RawBitmapHeader {
        prefix: Prefix {
            magic: U32::new(MAGIC),
            checksum: U32::new(0),
        },
        own_block: U64::new(own.raw()),
        first_block: U64::new(covers.start.raw()),
        block_count: U32::new(u32::try_from(count).unwrap_or(u32::MAX)),
        reserved: [0; 36],
    };
    let (head, bits) = block.split_at_mut(LINE_SIZE);
    head.copy_from_slice(header.as_bytes());
    for bit in count..GROUP_BLOCKS {
        if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| bits.get_mut(at)) {
            *byte |= 1 << (bit % 8);
        }
    }
    seal::seal(seed, block.as_mut_slice());
    block
}

/// Verifies a bitmap block and gives its words of bits.
///
/// # Errors
/// What [`seal::verify`] says, or the field that does not match `own` and `covers`.
pub fn verify(
    seed: Seed,
    block: &[u8; BLOCK_SIZE],
    own: BlockNo,
    covers: BlockRange,
) -> Result<Box<[u64; GROUP_WORDS]>, FormatError> {
    const WHAT: &str = "allocation bitmap";
    let place = Place::Block(own);
    seal::verify(seed, block, MAGIC, WHAT, place)?;
    let bad = |field, value| FormatError::Field {
        what: WHAT,
        place,
        field,
        value,
    };
    let (header, bits) = RawBitmapHeader::ref_from_prefix(block.as_slice()).map_err(|_| bad("length", 0))?;
    if header.own_block.get() != own.raw() {
        return Err(bad("own block", header.own_block.get()));
    }
    if header.first_block.get() != covers.start.raw() {
        return Err(bad("first block", header.first_block.get()));
    }
    if u64::from(header.block_count.get()) != covers.count {
        return Err(bad("block count", u64::from(header.block_count.get())));
    }
    let mut words = Box::new([0_u64; GROUP_WORDS]);
    for (word, bytes) in words.iter_mut().zip(bits.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(words)
}

/// Sets the bits of `used` in a bitmap block that describes `covers`. The block is to be sealed afterwards.
pub fn mark_used(block: &mut [u8; BLOCK_SIZE], covers: BlockRange, used: BlockRange) {
    let first = used.start.max(covers.start).raw();
    let end = used.end().min(covers.end()).raw();
    let (_, bits) = block.split_at_mut(LINE_SIZE);
    for bit in first.saturating_sub(covers.start.raw())..end.saturating_sub(covers.start.raw()) {
        if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| bits.get_mut(at)) {
            *byte |= 1 << (bit % 8);
        }
    }
}
