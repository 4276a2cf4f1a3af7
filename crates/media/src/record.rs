//! Journal records: what one transaction changes, as bytes.
//!
//! A record is a header and then operations, padded to whole lines. Each half of a lane is a chain of records from
//! its start with growing sequence numbers; the chain ends at the first place that is not a valid record. The
//! checksum is seeded with the nonce of the last mount, so neither a stale record nor bytes that a user wrote can
//! pass for one.
//!
//! An operation begins with a word whose four highest bits tell its kind:
//!
//! | kind | bits 0..47 | bits 47..60 | then |
//! |---|---|---|---|
//! | 1 write | pool offset / 8 | length in words, 1 to 8191 | the words |
//! | 2 allocate | first block | | number of blocks |
//! | 3 free | first block | | number of blocks |
//! | 4 zero | first block | | number of blocks, at most 65536 |

use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::geometry::Geometry;
use crate::kinds::{BlockNo, BlockRange, ByteOffset, Sequence};
use crate::seal::{self, Prefix, Seed};
use crate::{BLOCK_BYTES, LINE_SIZE};

/// `uREC`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uREC");
/// Bytes of a record's header.
pub const HEADER_SIZE: usize = 48;
/// The most bytes in a record: half of the smallest lane's half.
pub const MAX_RECORD_BYTES: usize = 128 << 10;
/// The most words in one write operation.
pub const MAX_WRITE_WORDS: usize = 8191;
/// The most blocks that one zero operation clears.
pub const MAX_ZERO_BLOCKS: u64 = 65536;

const KIND_SHIFT: u32 = 60;
const LENGTH_SHIFT: u32 = 47;
const LOW_MASK: u64 = (1 << LENGTH_SHIFT) - 1;
const WRITE: u64 = 1;
const ALLOCATE: u64 = 2;
const FREE: u64 = 3;
const ZERO: u64 = 4;

/// A record's header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawRecordHeader {
    /// Magic number and checksum of the record without its padding, seeded with the mount's nonce.
    pub prefix: Prefix,
    /// The record's place in the global order.
    pub sequence: U64,
    /// Bytes of header and operations, a multiple of 8; the record takes this, rounded up to whole lines.
    pub length: U32,
    /// The lane it is in.
    pub lane: U16,
    /// Zero.
    pub reserved: U16,
    /// Change of the number of free blocks.
    pub free_blocks_delta: I64,
    /// Change of the number of inodes in use.
    pub inodes_delta: I64,
    /// Zero.
    pub reserved1: U64,
}
const _: () = assert!(size_of::<RawRecordHeader>() == HEADER_SIZE);

/// A verified record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// The record's place in the global order.
    pub sequence: Sequence,
    /// The lane it is in.
    pub lane: u16,
    /// Change of the number of free blocks.
    pub free_blocks_delta: i64,
    /// Change of the number of inodes in use.
    pub inodes_delta: i64,
}

/// One change that a record makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation<'r> {
    /// These bytes (a multiple of 8) are at this offset (a multiple of 8).
    Write {
        /// Where, 8-byte aligned.
        at: ByteOffset,
        /// What, whole words.
        bytes: &'r [u8],
    },
    /// The bits of these blocks are set in the allocation bitmaps.
    Allocate(BlockRange),
    /// The bits of these blocks are cleared.
    Free(BlockRange),
    /// These blocks are zero.
    Zero(BlockRange),
}

impl Operation<'_> {
    /// Appends the operation's bytes to `record`.
    ///
    /// The caller keeps to the limits above; what exceeds them is cut and would not verify.
    #[inline]
    pub fn encode_into(&self, record: &mut Vec<u8>) {
        let (word, tail): (u64, &[u8]) = match self {
            Self::Write { at, bytes } => {
                let words = u64::try_from(bytes.len() / 8).unwrap_or(0);
                (
                    (WRITE << KIND_SHIFT) | (words << LENGTH_SHIFT) | ((at.raw() / 8) & LOW_MASK),
                    bytes,
                )
            }
            Self::Allocate(range) => (range_word(ALLOCATE, *range), &range.count.to_le_bytes()),
            Self::Free(range) => (range_word(FREE, *range), &range.count.to_le_bytes()),
            Self::Zero(range) => (range_word(ZERO, *range), &range.count.to_le_bytes()),
        };
        record.extend_from_slice(&word.to_le_bytes());
        record.extend_from_slice(tail);
    }

    /// Bytes that the operation takes in a record.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Write { bytes, .. } => 8 + bytes.len(),
            _ => 16,
        }
    }
}

fn range_word(kind: u64, range: BlockRange) -> u64 {
    (kind << KIND_SHIFT) | (range.start.raw() & LOW_MASK)
}

/// Completes a record: `record` begins with [`HEADER_SIZE`] bytes of room, then the operations. Fills in the header
/// and the checksum; the padding is the writer's.
pub fn finish(seed: Seed, record: &mut [u8], header: RecordHeader) {
    let raw = RawRecordHeader {
        prefix: Prefix {
            magic: U32::new(MAGIC),
            checksum: U32::new(0),
        },
        sequence: U64::new(header.sequence.raw()),
        length: U32::new(u32::try_from(record.len()).unwrap_or(u32::MAX)),
        lane: U16::new(header.lane),
        reserved: U16::new(0),
        free_blocks_delta: I64::new(header.free_blocks_delta),
        inodes_delta: I64::new(header.inodes_delta),
        reserved1: U64::new(0),
    };
    if let Some(head) = record.get_mut(..HEADER_SIZE) {
        head.copy_from_slice(raw.as_bytes());
    }
    seal::seal(seed, record);
}

/// The length that the record at the start of `bytes` claims, if that could be a record of this lane: magic, a
/// multiple of 8, at least a header, at most what is there and [`MAX_RECORD_BYTES`].
pub fn claimed_len(bytes: &[u8]) -> Option<usize> {
    let (raw, _) = RawRecordHeader::ref_from_prefix(bytes).ok()?;
    let length = usize::try_from(raw.length.get()).ok()?;
    let fits = raw.prefix.magic.get() == MAGIC
        && length.is_multiple_of(8)
        && (HEADER_SIZE..=MAX_RECORD_BYTES.min(bytes.len())).contains(&length);
    fits.then_some(length)
}

/// The space that a record of `length` bytes takes in its lane: whole lines.
pub const fn padded_len(length: usize) -> usize {
    length.next_multiple_of(LINE_SIZE)
}

/// Verifies the record in `bytes` (exactly the claimed length) found at `at` in lane `lane`, and gives its header
/// and its operations, each checked against the pool's `geometry`.
///
/// # Errors
/// A wrong checksum (then it is no record: the chain ends here), or, under a right checksum, an impossible field:
/// that is corruption.
pub fn decode<'r>(
    seed: Seed,
    bytes: &'r [u8],
    at: ByteOffset,
    lane: u16,
    geometry: &Geometry,
) -> Result<(RecordHeader, Vec<Operation<'r>>), FormatError> {
    const WHAT: &str = "journal record";
    let place = Place::Byte(at);
    seal::verify(seed, bytes, MAGIC, WHAT, place)?;
    let bad = |field, value| FormatError::Field {
        what: WHAT,
        place,
        field,
        value,
    };
    let (raw, mut rest) = RawRecordHeader::ref_from_prefix(bytes).map_err(|_| bad("length", 0))?;
    if raw.lane.get() != lane {
        return Err(bad("lane", u64::from(raw.lane.get())));
    }
    let header = RecordHeader {
        sequence: Sequence(raw.sequence.get()),
        lane,
        free_blocks_delta: raw.free_blocks_delta.get(),
        inodes_delta: raw.inodes_delta.get(),
    };
    let mut operations = Vec::new();
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        let (operation, tail) = decode_operation(u64::from_le_bytes(*word), tail, geometry)
            .ok_or_else(|| bad("operation word", u64::from_le_bytes(*word)))?;
        operations.push(operation);
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(bad("trailing bytes", u64::try_from(rest.len()).unwrap_or(0)));
    }
    Ok((header, operations))
}

fn decode_operation<'r>(word: u64, tail: &'r [u8], geometry: &Geometry) -> Option<(Operation<'r>, &'r [u8])> {
    let low = word & LOW_MASK;
    let length = usize::try_from((word >> LENGTH_SHIFT) & 0x1fff).ok()?;
    let kind = word >> KIND_SHIFT;
    if kind == WRITE {
        let bytes = tail.get(..length * 8)?;
        let end = (low * 8).checked_add(u64::try_from(bytes.len()).ok()?)?;
        let fits = length > 0 && end <= geometry.total_blocks() * BLOCK_BYTES;
        let first = ByteOffset(low * 8).block();
        let blocks = BlockRange::new(first, end.div_ceil(BLOCK_BYTES).saturating_sub(first.raw()));
        return (fits && !geometry.is_unlogged(blocks)).then_some((
            Operation::Write {
                at: ByteOffset(low * 8),
                bytes,
            },
            tail.get(length * 8..)?,
        ));
    }
    let (count, tail) = tail.split_first_chunk::<8>()?;
    let range = BlockRange::new(BlockNo(low), u64::from_le_bytes(*count));
    // Blocks of the pool itself are never given out, so that none is new or freed.
    if length != 0 || range.count == 0 || !geometry.contains(range) || geometry.is_own(range) {
        return None;
    }
    match kind {
        ALLOCATE => Some((Operation::Allocate(range), tail)),
        FREE => Some((Operation::Free(range), tail)),
        // Metadata, which is never on the data device.
        ZERO if range.count <= MAX_ZERO_BLOCKS && !range.start.is_on_device() => {
            Some((Operation::Zero(range), tail))
        }
        _ => None,
    }
}
