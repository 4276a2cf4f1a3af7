//! The data device of a pool: its blocks' numbers, and the header by which it is known.
//!
//! The device is a block device or file beside the pool, with file data only. Its blocks have numbers from
//! [`DEVICE_START`] on, in the same space as those of the pool; block `DEVICE_START + n` is its `n`-th 4 KiB. Its first
//! and last block are its header and the header's copy; the bitmaps of its blocks are in the pool.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{FormatError, Place};
use crate::kinds::{BlockNo, BlockRange};
use crate::seal::{self, Prefix, Seed};
use crate::superblock::VERSION;
use crate::{BLOCK_BYTES, BLOCK_SIZE};

/// `uDEV`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uDEV");
/// The number of the device's first block. No pool has as many blocks.
pub const DEVICE_START: BlockNo = BlockNo(1 << 40);
/// The smallest data device, in bytes.
pub const MIN_DEVICE_BYTES: u64 = 1 << 20;
/// The largest data device, in bytes (1 PiB).
pub const MAX_DEVICE_BYTES: u64 = 1 << 50;
/// Bytes of the path that the superblock remembers.
pub const PATH_BYTES: usize = 256;

/// Which blocks there are: those of the pool, and those of its data device. A number is a pool without a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Blocks of the pool.
    pub pool: u64,
    /// Blocks of the device; 0 without one.
    pub device: u64,
}

impl From<u64> for Reach {
    fn from(pool: u64) -> Self {
        Self { pool, device: 0 }
    }
}

impl Reach {
    /// Whether all of `range` is there, in one place.
    pub const fn contains(self, range: BlockRange) -> bool {
        let end = range.end().raw();
        match range.start.is_on_device() {
            true => end <= DEVICE_START.raw().saturating_add(self.device),
            false => end <= self.pool,
        }
    }

    /// Blocks in both places.
    pub const fn total(self) -> u64 {
        self.pool.saturating_add(self.device)
    }

    /// The same without the device.
    pub const fn of_pool(self) -> Self {
        Self { device: 0, ..self }
    }
}

impl BlockNo {
    /// Whether it is a block of the data device.
    #[inline]
    pub const fn is_on_device(self) -> bool {
        self.0 >= DEVICE_START.0
    }
}

/// What the superblock says of the data device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataDevice {
    /// Its identity.
    pub uuid: uuid::Uuid,
    /// Its blocks, headers included.
    pub blocks: u64,
    /// The first of its bitmaps, in the pool.
    pub bitmap_start: BlockNo,
    /// Where it was last: a hint, at most [`PATH_BYTES`] bytes.
    pub path: Vec<u8>,
}

impl DataDevice {
    /// Its blocks.
    pub const fn range(&self) -> BlockRange {
        BlockRange::new(DEVICE_START, self.blocks)
    }

    /// Its header and the header's copy.
    pub const fn headers(&self) -> [BlockRange; 2] {
        let last = BlockNo(DEVICE_START.0.saturating_add(self.blocks).saturating_sub(1));
        [BlockRange::new(DEVICE_START, 1), BlockRange::new(last, 1)]
    }
}

/// The header of a data device: its first block, and its last one.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawDeviceHeader {
    /// Magic number and checksum, seeded with the pool's uuid.
    pub prefix: Prefix,
    /// [`VERSION`].
    pub version: U16,
    /// Binary logarithm of the block size: 12.
    pub block_shift: U16,
    /// 0 in the first block, 1 in the last.
    pub copy: U32,
    /// The pool's identity.
    pub pool_uuid: [u8; 16],
    /// The device's own.
    pub device_uuid: [u8; 16],
    /// Its blocks, headers included.
    pub blocks: U64,
    /// Zero.
    pub reserved: [u8; 4040],
}
const _: () = assert!(size_of::<RawDeviceHeader>() == BLOCK_SIZE);

/// A verified header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceHeader {
    /// The pool that it belongs to.
    pub pool: uuid::Uuid,
    /// The device.
    pub device: uuid::Uuid,
    /// Its blocks, headers included.
    pub blocks: u64,
}

impl DeviceHeader {
    /// The bytes of copy `copy` (0 or 1), sealed.
    pub fn encode(&self, copy: u32) -> Box<[u8; BLOCK_SIZE]> {
        let mut raw = RawDeviceHeader::new_zeroed();
        raw.prefix.magic = U32::new(MAGIC);
        raw.version = U16::new(VERSION);
        raw.block_shift = U16::new(12);
        raw.copy = U32::new(copy);
        raw.pool_uuid = *self.pool.as_bytes();
        raw.device_uuid = *self.device.as_bytes();
        raw.blocks = U64::new(self.blocks);
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        bytes.copy_from_slice(raw.as_bytes());
        seal::seal(Seed::new(self.pool), bytes.as_mut_slice());
        bytes
    }

    /// Verifies copy `copy`, whichever pool it belongs to.
    ///
    /// # Errors
    /// A wrong magic number or checksum, or the first field out of its range.
    pub fn decode(bytes: &[u8; BLOCK_SIZE], copy: u32) -> Result<Self, FormatError> {
        const WHAT: &str = "data device's header";
        let place = Place::Block(DEVICE_START);
        let bad = |field, value| FormatError::Field {
            what: WHAT,
            place,
            field,
            value,
        };
        let raw = RawDeviceHeader::ref_from_bytes(bytes).map_err(|_| bad("length", 0))?;
        let pool = uuid::Uuid::from_bytes(raw.pool_uuid);
        seal::verify(Seed::new(pool), bytes, MAGIC, WHAT, place)?;
        for (field, found, expected) in [
            ("version", u64::from(raw.version.get()), u64::from(VERSION)),
            ("block size shift", u64::from(raw.block_shift.get()), 12),
            ("copy", u64::from(raw.copy.get()), u64::from(copy)),
        ] {
            if found != expected {
                return Err(bad(field, found));
            }
        }
        let blocks = raw.blocks.get();
        let fits = (MIN_DEVICE_BYTES / BLOCK_BYTES..=MAX_DEVICE_BYTES / BLOCK_BYTES).contains(&blocks);
        fits.then_some(Self {
            pool,
            device: uuid::Uuid::from_bytes(raw.device_uuid),
            blocks,
        })
        .ok_or_else(|| bad("blocks", blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_each_flipped_bit_is_found() {
        let header = DeviceHeader {
            pool: uuid::Uuid::from_u128(7),
            device: uuid::Uuid::from_u128(8),
            blocks: 1000,
        };
        let bytes = header.encode(1);
        assert_eq!(DeviceHeader::decode(&bytes, 1), Ok(header));
        assert!(DeviceHeader::decode(&bytes, 0).is_err());
        for at in 0..BLOCK_SIZE {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(DeviceHeader::decode(&damaged, 1).is_err(), "byte {at}");
        }
    }

    #[test]
    fn reach_is_of_two_places_without_a_bridge() {
        let reach = Reach {
            pool: 100,
            device: 10,
        };
        let range = |start, count| BlockRange::new(BlockNo(start), count);
        assert!(reach.contains(range(90, 10)) && !reach.contains(range(90, 11)));
        let start = DEVICE_START.raw();
        assert!(reach.contains(range(start, 10)) && !reach.contains(range(start + 1, 10)));
        assert!(!reach.contains(range(start - 1, 2)) && !reach.contains(range(start, u64::MAX)));
        assert!(!Reach::from(100).contains(range(start, 1)));
    }
}
