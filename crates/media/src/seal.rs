//! The checksum that every metadata unit carries.
//!
//! A *unit* is a whole 4 KiB block, or one 256-byte inode of an inode chunk, or a 64-byte checkpoint slot. Each
//! begins with its magic number (bytes 0..4) and its CRC-32C (bytes 4..8), which covers the unit with the
//! checksum field as zero and is seeded with the pool's identity: a block of another pool does not verify.
//!
//! Units that the journal changes are sealed by the checkpoint, not by each operation: between two checkpoints
//! their checksum is stale, and recovery seals what it replays (see the journal's head).

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::{BLOCK_SIZE, bitmap, inode, node, roots, sum};

/// The first eight bytes of every unit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Prefix {
    /// Which structure this is.
    pub magic: U32,
    /// CRC-32C of the unit, this field taken as zero, seeded with [`Seed`].
    pub checksum: U32,
}

/// The checksum's start value: the CRC-32C of the pool's uuid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(u32);

impl Seed {
    /// The seed of the pool with this uuid.
    pub fn new(uuid: uuid::Uuid) -> Self {
        Self(crc32c::crc32c(uuid.as_bytes()))
    }

    /// The seed continued over eight more bytes, for what must also be unlike its earlier self (journal records).
    #[must_use]
    pub fn with(self, nonce: u64) -> Self {
        Self(crc32c::crc32c_append(self.0, &nonce.to_le_bytes()))
    }

    /// The CRC-32C of `bytes` from this seed.
    pub fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// The checksum of `unit` with its checksum field as zero.
///
/// A unit shorter than its prefix has the checksum of no bytes.
pub fn compute(seed: Seed, unit: &[u8]) -> u32 {
    let Some((prefix, rest)) = unit.split_first_chunk::<8>() else {
        return seed.checksum(&[]);
    };
    let head = crc32c::crc32c_append(seed.0, &[prefix[0], prefix[1], prefix[2], prefix[3], 0, 0, 0, 0]);
    crc32c::crc32c_append(head, rest)
}

/// Sets the checksum of `unit`.
pub fn seal(seed: Seed, unit: &mut [u8]) {
    let checksum = compute(seed, unit);
    if let Some(field) = unit.get_mut(4..8) {
        field.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Checks the magic number and the checksum of `unit`.
///
/// # Errors
/// [`FormatError::Magic`] or [`FormatError::Checksum`] with `what` and `place`.
pub fn verify(
    seed: Seed,
    unit: &[u8],
    magic: u32,
    what: &'static str,
    place: Place,
) -> Result<(), FormatError> {
    let Ok((prefix, _)) = Prefix::ref_from_prefix(unit) else {
        return Err(FormatError::Field {
            what,
            place,
            field: "length",
            value: u64::try_from(unit.len()).unwrap_or(0),
        });
    };
    let found = prefix.magic.get();
    if found != magic {
        return Err(FormatError::Magic {
            what,
            place,
            found,
            expected: magic,
        });
    }
    let stored = prefix.checksum.get();
    let computed = compute(seed, unit);
    if stored != computed {
        return Err(FormatError::Checksum {
            what,
            place,
            stored,
            computed,
        });
    }
    Ok(())
}

/// Seals the units of a journalled metadata block that the lines in `touched` (bit `n` for line `n`) belong to, and
/// gives the lines whose bytes it changed.
///
/// A node, bitmap, sum or roots block is one unit. Any other block that the journal writes is an inode chunk, sealed
/// inode by inode; a slot that was never used is zero and needs no seal.
pub fn seal_block(seed: Seed, block: &mut [u8; BLOCK_SIZE], touched: u64) -> u64 {
    let magic = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    if matches!(magic, node::MAGIC | bitmap::MAGIC | roots::MAGIC | sum::MAGIC) {
        seal(seed, block.as_mut_slice());
        return u64::from(touched != 0);
    }
    const UNIT_LINES: u32 = 4;
    let mut changed = 0;
    for (unit, bytes) in (0_u32..).zip(block.as_chunks_mut::<{ inode::INODE_SIZE }>().0) {
        let first_line = unit * UNIT_LINES;
        if (touched >> first_line) & 0b1111 != 0 && bytes.starts_with(&inode::MAGIC.to_le_bytes()) {
            seal(seed, bytes.as_mut_slice());
            changed |= 1 << first_line;
        }
    }
    changed
}
